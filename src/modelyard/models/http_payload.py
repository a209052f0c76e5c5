"""Provider requests that are more than JSON to a fixed URL: path, body, and content
type."""

import secrets
from collections.abc import Mapping

import msgspec

_encode = msgspec.json.Encoder().encode


class HttpPayload(msgspec.Struct, frozen=True, kw_only=True):
    """A request path with its encoded body."""

    path: str
    """Relative to the base URL, including the query."""
    body: list[bytes]
    content_type: str = "application/json"


def as_json(path: str, body: object) -> HttpPayload:
    """Encode a body as JSON."""
    return HttpPayload(path=path, body=[_encode(body)])


def as_form(
    path: str,
    fields: Mapping[str, str],
    *,
    file: bytes,
    filename: str,
    mime_type: str,
    file_field: str = "file",
) -> HttpPayload:
    """Encode fields and one file as a multipart form. The file's bytes are not copied."""
    boundary = secrets.token_hex(16)
    # Quotes and line breaks would break out of the header.
    name = filename.replace('"', "").replace("\r", "").replace("\n", "")
    head = "".join(
        f"--{boundary}\r\ncontent-disposition: form-data;"
        f' name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    )
    head += (
        f'--{boundary}\r\ncontent-disposition: form-data; name="{file_field}";'
        f' filename="{name}"\r\n'
        f"content-type: {mime_type or 'application/octet-stream'}\r\n\r\n"
    )
    # Parts are sent separately, so that a large file is not concatenated.
    body = [head.encode(), file, f"\r\n--{boundary}--\r\n".encode()]
    return HttpPayload(
        path=path, body=body, content_type=f"multipart/form-data; boundary={boundary}"
    )
