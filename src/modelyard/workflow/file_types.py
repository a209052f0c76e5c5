"""Types of files: by extension, by MIME type, and by the first bytes. No I/O."""

import mimetypes

_KINDS = {
    "image": "jpg jpeg png webp gif svg",
    "video": "mp4 mov mpeg webm mpga",
    "audio": "mp3 m4a wav amr mpga",
    "document": (
        "txt markdown md mdx pdf html htm xlsx xls vtt properties doc docx csv eml msg"
        " pptx xml epub ppt json"
    ),
}
# Reversed, so that the first type wins for an extension that several types list.
_BY_EXTENSION = {
    f".{extension}": kind
    for kind, extensions in reversed(_KINDS.items())
    for extension in extensions.split()
}
# The module `mimetypes` knows these only if the machine has a list of its own.
_EXTENSIONS = {
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "application/csv": ".csv",
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "text/xml": ".xml",
    "application/xml": ".xml",
    "application/json": ".json",
    "application/pdf": ".pdf",
    "application/epub+zip": ".epub",
    "application/msword": ".doc",
    "application/vnd.ms-excel": ".xls",
    "application/vnd.ms-powerpoint": ".ppt",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.ms-outlook": ".msg",
    "message/rfc822": ".eml",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "audio/mpeg": ".mp3",
    "audio/mp4": ".m4a",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
}
_UNKNOWN_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})
"""MIME types that say nothing about the content."""
_SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"#!AMR", "audio/amr"),
    (8, b"WAVE", "audio/wav"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftyp", "video/mp4"),
)
"""(offset, bytes, MIME type) of formats that start with the same bytes in every file."""
_SIGNED_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf"})
"""Extensions of formats that are always recognised by their signature."""
_ZIP_PARTS = (
    (b"word/document.xml", ".docx"),
    (b"xl/workbook.xml", ".xlsx"),
    (b"ppt/presentation.xml", ".pptx"),
    (b"application/epub+zip", ".epub"),
)
"""(name of a part, extension) of document formats that are ZIP archives."""
HEAD_BYTES = 64
"""How many of a file's first bytes `content_type_of` needs."""


def file_kind(extension: str, mime_type: str) -> str:
    """Return the file type: image, document, audio, video or custom."""
    file_type = _BY_EXTENSION.get(extension.lower())
    # A file without a usual extension has that of its MIME type.
    file_type = file_type or _BY_EXTENSION.get(extension_of(mime_type))
    if file_type is not None:
        return file_type
    # Unknown extensions are classified by their MIME type.
    family = mime_type.partition("/")[0]
    return family if family in ("image", "audio", "video") else "custom"


def extension_of(mime_type: str) -> str:
    """Return the extension of a MIME type, with its dot; empty if it has none."""
    mime_type = mime_type.partition(";")[0].strip().lower()
    if mime_type in _UNKNOWN_TYPES:
        return ""
    return _EXTENSIONS.get(mime_type) or mimetypes.guess_extension(mime_type) or ""


def named_by_type(name: str, mime_type: str) -> str:
    """Return a file name with the extension of its type if it has none."""
    if "." in name.strip("."):
        return name
    return f"{name or 'file'}{extension_of(mime_type)}"


def says_type(mime_type: str) -> bool:
    """Return whether a MIME type says anything about the content."""
    return mime_type.partition(";")[0].strip().lower() not in _UNKNOWN_TYPES


def content_type_of(head: bytes) -> str:
    """Return the MIME type that the first bytes of a file show; empty if they show
    none."""
    for offset, signature, mime_type in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return mime_type
    return ""


def extension_of_content(data: bytes) -> str:
    """Return the extension of a document by its content, with its dot; empty if the
    content shows no format."""
    if shown := content_type_of(data[:HEAD_BYTES]):
        return extension_of(shown)
    # Office documents are ZIP archives, which only their parts tell apart.
    if data.startswith(b"PK\x03\x04"):
        return next((extension for part, extension in _ZIP_PARTS if part in data), "")
    start = data[:4096]
    # Text has no NUL in any of the encodings that are common without a declaration.
    if not start or b"\0" in start:
        return ""
    is_page = start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))
    return ".html" if is_page else ".txt"


def real_kind(extension: str, mime_type: str, head: bytes) -> str:
    """Return the file type that the content has, whatever the name says.

    `head` are the first bytes; empty if they are not known. A file that lacks the
    signature of its extension is `custom`.
    """
    # Without the content, the stated type is worth more than the name.
    if not head:
        by_type = file_kind("", mime_type)
        return file_kind(extension, mime_type) if by_type == "custom" else by_type
    if shown := content_type_of(head):
        return file_kind("", shown)
    if extension.lower() in _SIGNED_EXTENSIONS:
        return "custom"
    return file_kind(extension, mime_type)
