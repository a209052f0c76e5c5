"""Parser and writer of AWS's binary event stream (vnd.amazon.eventstream). No I/O.

A message consists of its total length, the length of its headers, a checksum of both,
headers, payload, and a checksum of everything before; integers are big-endian.
https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html#streaming-event-stream
"""

import struct
import zlib
from collections.abc import Iterator

from modelyard.base.errors import InvokeServerUnavailableError

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_MAX_MESSAGE = 16 * 1024 * 1024
# Header value type 7 is a string; the other types are skipped.
_STRING = 7
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Size of a header value by its type. Types 6 and 7 are preceded by their own length.
"""


class AwsEventStream:
    """An incremental parser that turns body chunks into (event name, payload) pairs."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """Return the messages completed by these bytes. Raises
        InvokeServerUnavailableError for an invalid stream."""
        self._buffer += data
        return list(self._parse_messages())

    def finish(self) -> None:
        """Raise InvokeServerUnavailableError if the body ended inside a message."""
        if self._buffer:
            raise InvokeServerUnavailableError(
                "The stream ended in the middle of a message"
            )

    def _parse_messages(self) -> Iterator[tuple[str, bytes]]:
        """Yield (event name, payload) of each complete message in the buffer.

        They are removed; an incomplete one stays. Raises InvokeServerUnavailableError
        for an invalid length, a wrong checksum or invalid headers.
        """
        while len(self._buffer) >= 12:
            # The prelude: total length, header length and checksum. It is verified
            # before its lengths are trusted.
            total, headers, checksum = struct.unpack_from(">III", self._buffer)
            if not 16 <= total <= _MAX_MESSAGE or headers > total - 16:
                raise InvokeServerUnavailableError(
                    "Not an AWS event stream: invalid length of a message"
                )
            if zlib.crc32(self._buffer[:8]) != checksum:
                raise InvokeServerUnavailableError(
                    "The stream is damaged: the checksum of a message's prelude"
                    " does not match"
                )
            # The message is incomplete: wait for more bytes.
            if len(self._buffer) < total:
                return
            message = bytes(self._buffer[:total])
            del self._buffer[:total]
            if zlib.crc32(message[:-4]) != struct.unpack(">I", message[-4:])[0]:
                raise InvokeServerUnavailableError(
                    "The stream is damaged: the checksum of a message does not match"
                )
            yield (
                _event_name(_headers(message[12 : 12 + headers])),
                message[12 + headers : -4],
            )


def _event_name(headers: dict[str, str]) -> str:
    """Return a message's name from its headers; empty if it has none.

    It is `:exception-type` for an exception, `:event-type` for an event and
    `:error-code` for an error.
    """
    # Exceptions and errors have their own header in place of the event type.
    return (
        headers.get(":exception-type")
        or headers.get(":event-type")
        or headers.get(":error-code")
        or ""
    )


def _headers(data: bytes) -> dict[str, str]:
    """Parse the headers of a message and return those with text values."""
    text_headers: dict[str, str] = {}
    position = 0
    try:
        while position < len(data):
            length = data[position]
            name = data[position + 1 : position + 1 + length].decode()
            # One byte for the name's length, the name, one byte for the type.
            value_type = data[position + 1 + length]
            position += 2 + length
            if value_type in _SIZES:
                position += _SIZES[value_type]
                continue
            (size,) = struct.unpack_from(">H", data, position)
            if value_type == _STRING:
                text_headers[name] = data[position + 2 : position + 2 + size].decode()
            position += 2 + size
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise InvokeServerUnavailableError(
            "The stream is damaged: invalid headers of a message"
        ) from error
    return text_headers


def dump_event(name: str, payload: bytes, *, is_exception: bool = False) -> bytes:
    """Encode one message of AWS's event stream as the service sends it.

    `payload` is JSON text. `name` becomes the header `:event-type`, or
    `:exception-type` with `is_exception`.
    """
    message_type = "exception" if is_exception else "event"
    texts = {
        f":{message_type}-type": name,
        ":content-type": "application/json",
        ":message-type": message_type,
    }
    headers = b"".join(
        struct.pack(">B", len(key))
        + key.encode()
        + struct.pack(">BH", _STRING, len(value))
        + value
        for key, value in ((key, text.encode()) for key, text in texts.items())
    )
    head = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    body = head + struct.pack(">I", zlib.crc32(head)) + headers + payload
    return body + struct.pack(">I", zlib.crc32(body))
