"""Files inside messages: `data:` addresses, base64, the kinds of media, and what an image begins with."""

import base64
import binascii
from typing import Any

from modelyard.base.fields import wrong
from modelyard.models.messages import (
    AudioPromptMessageContent,
    DocumentPromptMessageContent,
    ImagePromptMessageContent,
    MultiModalPromptMessageContent,
    VideoPromptMessageContent,
)

_MIME = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp",
    "wav": "audio/wav", "mp3": "audio/mpeg", "mpeg": "audio/mpeg", "flac": "audio/flac", "ogg": "audio/ogg",
    "opus": "audio/opus", "aac": "audio/aac", "m4a": "audio/mp4", "pcm16": "audio/pcm", "webm": "video/webm",
    "mp4": "video/mp4", "mov": "video/quicktime", "mkv": "video/x-matroska", "flv": "video/x-flv", "wmv": "video/wmv",
    "mpg": "video/mpeg", "three_gp": "video/3gpp", "pdf": "application/pdf", "txt": "text/plain", "md": "text/markdown",
    "html": "text/html", "csv": "text/csv", "doc": "application/msword", "xls": "application/vnd.ms-excel",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}  # fmt: skip
_SHORT = {mime: short for short, mime in reversed(_MIME.items())} | {
    "audio/x-wav": "wav", "audio/wave": "wav", "audio/mp3": "mp3", "image/jpg": "jpeg", "image/jpeg": "jpeg",
}  # fmt: skip

_IMAGE_STARTS = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*", b"\x00\x00\x01\x00",
    b"<svg", b"<?xml", b"\x0a\x0a", b"8BPS",
)  # fmt: skip


def mime_of(form: str, kind: str = "application") -> str:
    """`png` → `image/png`; an unknown one becomes `kind/…`."""
    return _MIME.get(form.lower()) or (f"{kind}/{form}" if form else "application/octet-stream")


def format_of(mime: str) -> str:
    """`image/png` → `png`."""
    mime = mime.partition(";")[0].strip().lower()
    return _SHORT.get(mime) or mime.rpartition("/")[2]


def checked_base64(data: str, where: str) -> str:
    """Raises InvokeBadRequestError where it is no base64."""
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise wrong(where, data[:40], "base64") from error
    return data


def checked_image(data: str, where: str) -> str:
    """Raises InvokeBadRequestError where it is no base64, or begins like no image."""
    checked_base64(data, where)
    head = base64.b64decode(data[:32] + "=" * (-len(data[:32]) % 4))
    if not head.lstrip().startswith(_IMAGE_STARTS) and head[4:8] != b"ftyp":
        raise wrong(where, data[:40], "the bytes of an image, as PNG, JPEG, GIF or WebP")
    return data


def from_url(url: str, where: str, *, is_image: bool = False) -> dict[str, Any]:
    """The fields of a file that stands at an address, or in a `data:` address.

    Raises InvokeBadRequestError where that is none, or holds no image where one is wanted.
    """
    if not url.startswith("data:"):
        return {"url": url}
    head, comma, data = url[5:].partition(",")
    mime, _, encoding = head.partition(";")
    if not comma or "base64" not in encoding:
        raise wrong(where, url[:40], "an address, or data:<type>;base64,<bytes>")
    check = checked_image if is_image else checked_base64
    return {"base64_data": check(data, where), "mime_type": mime, "format": format_of(mime)}


_KINDS: dict[str, type[MultiModalPromptMessageContent]] = {
    "image": ImagePromptMessageContent,
    "audio": AudioPromptMessageContent,
    "video": VideoPromptMessageContent,
}


def part_of(mime: str, **fields: Any) -> Any:
    """The part for a file of this MIME type: image, audio, video, or document for all others."""
    kind = _KINDS.get(mime.partition("/")[0], DocumentPromptMessageContent)
    return kind(mime_type=mime, format=format_of(mime) if mime else "", **fields)
