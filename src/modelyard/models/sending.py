"""What goes to a provider that is more than JSON at a fixed address: a path, a body, and what kind of body it is."""

import secrets
from collections.abc import Mapping

import msgspec

_encode = msgspec.json.Encoder().encode


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """Behind the base URL; with its query."""
    body: list[bytes]
    content_type: str = "application/json"


def as_json(path: str, body: object) -> Sending:
    return Sending(path=path, body=[_encode(body)])


def as_form(
    path: str, fields: Mapping[str, str], *, file: bytes, filename: str, mime_type: str, file_field: str = "file"
) -> Sending:
    """A multipart form: its fields, and one file, which is not copied."""
    boundary = secrets.token_hex(16)
    name = filename.replace('"', "").replace("\r", "").replace("\n", "")
    head = "".join(
        f'--{boundary}\r\ncontent-disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    )
    head += (
        f'--{boundary}\r\ncontent-disposition: form-data; name="{file_field}"; filename="{name}"\r\n'
        f"content-type: {mime_type or 'application/octet-stream'}\r\n\r\n"
    )
    body = [head.encode(), file, f"\r\n--{boundary}--\r\n".encode()]
    return Sending(path=path, body=body, content_type=f"multipart/form-data; boundary={boundary}")
