"""Files in messages: `data:` URLs, base64, media types, and recognition of images by
their first bytes."""

import base64
import binascii
from typing import Any

from modelyard.base.fields import invalid_field
from modelyard.models.messages import (
    AudioPromptMessageContent,
    DocumentPromptMessageContent,
    ImagePromptMessageContent,
    MultiModalPromptMessageContent,
    VideoPromptMessageContent,
)

_MIME = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "mpeg": "audio/mpeg",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "m4a": "audio/mp4",
    "pcm16": "audio/pcm",
    "webm": "video/webm",
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "mkv": "video/x-matroska",
    "flv": "video/x-flv",
    "wmv": "video/wmv",
    "mpg": "video/mpeg",
    "three_gp": "video/3gpp",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "html": "text/html",
    "csv": "text/csv",
    "doc": "application/msword",
    "xls": "application/vnd.ms-excel",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
# The first entry of `_MIME` for a type is its preferred short name; reversing makes it
# win.
_SHORT_FORMATS = {mime: short for short, mime in reversed(_MIME.items())} | {
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mp3": "mp3",
    "image/jpg": "jpeg",
    "image/jpeg": "jpeg",
}

# Signatures: PNG, JPEG, GIF, RIFF (WebP), BMP, TIFF, ICO, SVG, JPEG 2000 and Photoshop.
_IMAGE_STARTS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"RIFF",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"\x00\x00\x01\x00",
    b"<svg",
    b"<?xml",
    b"\x0a\x0a",
    b"8BPS",
)


def mime_type_of(short_format: str, top_level_type: str = "application") -> str:
    """Return the MIME type of a short format, `png` → `image/png`; an unknown one
    becomes `<top_level_type>/…`."""
    return _MIME.get(short_format.lower()) or (
        f"{top_level_type}/{short_format}"
        if short_format
        else "application/octet-stream"
    )


def format_of(mime: str) -> str:
    """Return the short format of a MIME type, `image/png` → `png`."""
    mime = mime.partition(";")[0].strip().lower()
    return _SHORT_FORMATS.get(mime) or mime.rpartition("/")[2]


def checked_base64(data: str, where: str) -> str:
    """Return the data if it is valid base64, otherwise raise InvokeBadRequestError."""
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_field(where, data[:40], "base64") from error
    return data


def checked_image(data: str, where: str) -> str:
    """Return the data if it is the base64 of an image, otherwise raise
    InvokeBadRequestError."""
    checked_base64(data, where)
    # Only the first bytes are decoded. HEIF and AVIF have `ftyp` at offset 4.
    head = base64.b64decode(data[:32] + "=" * (-len(data[:32]) % 4))
    if head.lstrip().startswith(_IMAGE_STARTS) or head[4:8] == b"ftyp":
        return data
    expected = "the bytes of an image, as PNG, JPEG, GIF or WebP"
    raise invalid_field(where, data[:40], expected)


def from_url(url: str, where: str, *, is_image: bool = False) -> dict[str, Any]:
    """Return the fields of a file part for a URL or a `data:` URL.

    Raises InvokeBadRequestError if the `data:` URL is invalid, or is not an image
    although one is required.
    """
    if not url.startswith("data:"):
        return {"url": url}
    head, comma, data = url[5:].partition(",")
    mime, _, encoding = head.partition(";")
    if not comma or "base64" not in encoding:
        # `data:` URLs with percent-encoded content are not supported by providers.
        raise invalid_field(
            where, url[:40], "an address, or data:<type>;base64,<bytes>"
        )
    check = checked_image if is_image else checked_base64
    return {
        "base64_data": check(data, where),
        "mime_type": mime,
        "format": format_of(mime),
    }


_KINDS: dict[str, type[MultiModalPromptMessageContent]] = {
    "image": ImagePromptMessageContent,
    "audio": AudioPromptMessageContent,
    "video": VideoPromptMessageContent,
}


def part_of(mime: str, **fields: Any) -> Any:
    """Return a message part for a MIME type: image, audio or video, and document for
    all others."""
    part_class = _KINDS.get(mime.partition("/")[0], DocumentPromptMessageContent)
    return part_class(mime_type=mime, format=format_of(mime) if mime else "", **fields)
