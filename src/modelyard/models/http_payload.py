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
    fields: frozenset[str] = frozenset()
    """Names of the body's fields."""


def as_json(path: str, body: Mapping[str, object]) -> HttpPayload:
    """Encode a body as JSON."""
    return HttpPayload(path=path, body=[_encode(body)], fields=frozenset(body))


def as_form(
    path: str,
    fields: Mapping[str, str | list[str]],
    *,
    file: bytes,
    filename: str,
    mime_type: str,
    file_field: str = "file",
) -> HttpPayload:
    """Encode fields and one file as a multipart form.

    A list becomes one field for each of its values. The file's bytes are not copied.
    """
    boundary = secrets.token_hex(16)
    head = "".join(
        f"--{boundary}\r\ncontent-disposition: form-data;"
        f' name="{_header_text(field)}"\r\n\r\n{value}\r\n'
        for field, values in fields.items()
        for value in ([values] if isinstance(values, str) else values)
    )
    head += (
        f'--{boundary}\r\ncontent-disposition: form-data; name="{file_field}";'
        f' filename="{_header_text(filename)}"\r\n'
        f"content-type: {mime_type or 'application/octet-stream'}\r\n\r\n"
    )
    # Parts are sent separately, so that a large file is not concatenated.
    body = [head.encode(), file, f"\r\n--{boundary}--\r\n".encode()]
    return HttpPayload(
        path=path,
        body=body,
        content_type=f"multipart/form-data; boundary={boundary}",
        fields=frozenset(name.removesuffix("[]") for name in fields),
    )


def _header_text(text: str) -> str:
    """Return a text without the characters that would break out of a part's header."""
    return text.replace('"', "").replace("\r", "").replace("\n", "")
