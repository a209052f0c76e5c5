"""AWS's binary event stream, as bytes come in and as they go out (vnd.amazon.eventstream). Pure.

A message: total length, length of its headers, their checksum, headers, payload, checksum of all before it; numbers
are big-endian. https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html#streaming-event-stream
"""

import struct
import zlib
from collections.abc import Iterator

from modelyard.base.errors import InvokeServerUnavailableError

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_MAX_MESSAGE = 16 * 1024 * 1024
_STRING = 7
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value, by its type; 6 and 7 say their own length."""


class AwsEventStream:
    """Turns pieces of a body into events: (name, payload)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """Raises InvokeServerUnavailableError where the bytes are no event stream."""
        self._buffer += data
        return list(self._messages())

    def finish(self) -> None:
        """Raises InvokeServerUnavailableError where the body ended inside a message."""
        if self._buffer:
            raise InvokeServerUnavailableError("the stream broke off in the middle of a message")

    def _messages(self) -> Iterator[tuple[str, bytes]]:
        while len(self._buffer) >= 12:
            total, headers, checksum = struct.unpack_from(">III", self._buffer)
            if not 16 <= total <= _MAX_MESSAGE or headers > total - 16:
                raise InvokeServerUnavailableError("the stream is no AWS event stream: a message's length is wrong")
            if zlib.crc32(self._buffer[:8]) != checksum:
                raise InvokeServerUnavailableError("the stream is damaged: a message's head does not fit its checksum")
            if len(self._buffer) < total:
                return
            message = bytes(self._buffer[:total])
            del self._buffer[:total]
            if zlib.crc32(message[:-4]) != struct.unpack(">I", message[-4:])[0]:
                raise InvokeServerUnavailableError("the stream is damaged: a message does not fit its checksum")
            yield _name(_headers(message[12 : 12 + headers])), message[12 + headers : -4]


def _name(headers: dict[str, str]) -> str:
    return headers.get(":exception-type") or headers.get(":event-type") or headers.get(":error-code") or ""


def _headers(data: bytes) -> dict[str, str]:
    """The headers that are text."""
    found: dict[str, str] = {}
    place = 0
    try:
        while place < len(data):
            length = data[place]
            name = data[place + 1 : place + 1 + length].decode()
            kind = data[place + 1 + length]
            place += 2 + length
            if kind in _SIZES:
                place += _SIZES[kind]
                continue
            (size,) = struct.unpack_from(">H", data, place)
            if kind == _STRING:
                found[name] = data[place + 2 : place + 2 + size].decode()
            place += 2 + size
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise InvokeServerUnavailableError("the stream is damaged: a message's headers cannot be read") from error
    return found


def dump_event(name: str, payload: bytes, *, is_exception: bool = False) -> bytes:
    """One message, as AWS sends it."""
    kind = "exception" if is_exception else "event"
    texts = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    headers = b"".join(
        struct.pack(">B", len(key)) + key.encode() + struct.pack(">BH", _STRING, len(value)) + value
        for key, value in ((key, text.encode()) for key, text in texts.items())
    )
    head = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    body = head + struct.pack(">I", zlib.crc32(head)) + headers + payload
    return body + struct.pack(">I", zlib.crc32(body))
