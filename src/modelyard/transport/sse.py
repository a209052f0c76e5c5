"""Incremental parser of server-sent events (WHATWG HTML), data fields only. No I/O."""

from modelyard.base.errors import InvokeServerUnavailableError

MAX_EVENT_BYTES = 16 * 1024 * 1024
DONE = b"[DONE]"
_ERROR_LINE = b"error: {"
"""Start of an error as older builds of llama.cpp write it, which is no field of a
server-sent event."""


def _with_newlines(buffer: bytes) -> bytes:
    """Replace CRLF and CR by newlines, except for a trailing CR: it may be the first
    half of a CRLF that the next chunk completes."""
    if b"\r" not in buffer:
        return buffer
    tail = b"\r" if buffer.endswith(b"\r") else b""
    complete = buffer[: len(buffer) - len(tail)]
    return complete.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + tail


class EventStream:
    """Turns body chunks into the data of complete events."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._partial_line: list[bytes] = []
        """Chunks of an unfinished line, joined only when it ends, so that a long line
        is not copied repeatedly."""
        self._rest_length = 0
        self._data: list[bytes] = []
        self._max = max_event_bytes
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of each event completed by this chunk. Raises
        InvokeServerUnavailableError if an event is too large."""
        is_within_line = b"\n" not in chunk and b"\r" not in chunk
        # A trailing CR may still turn out to be a line end, so it needs the full path.
        if (
            is_within_line
            and self._partial_line
            and not self._partial_line[-1].endswith(b"\r")
        ):
            self._store_partial(chunk)
            return []
        buffer = b"".join((*self._partial_line, chunk)) if self._partial_line else chunk
        self._partial_line.clear()
        self._rest_length = 0
        lines = _with_newlines(buffer).split(b"\n")
        remainder = lines.pop()
        events: list[bytes] = []
        for line in lines:
            if not line:
                self._end_event(events)
            elif line.startswith(b"data:"):
                # One optional space after the colon is not part of the value. Other
                # fields and comments are ignored.
                value = line[6:] if line[5:6] == b" " else line[5:]
                self._data.append(value)
                self._data_bytes += len(value)
            elif line.startswith(_ERROR_LINE):
                self._data.append(b'{"error":%b}' % line[len(_ERROR_LINE) - 1 :])
                self._data_bytes += len(line)
        self._store_partial(remainder)
        return events

    def _store_partial(self, chunk: bytes) -> None:
        """Store part of an unfinished line. Raises InvokeServerUnavailableError if the
        event is too large."""
        if chunk:
            self._partial_line.append(chunk)
            self._rest_length += len(chunk)
        if self._data_bytes + self._rest_length > self._max:
            raise InvokeServerUnavailableError(
                f"An event of the stream exceeds {self._max:,} bytes"
            )

    def _end_event(self, events: list[bytes]) -> None:
        """Append the data of the event that an empty line ends to `events`.

        Several data fields are joined by newlines; an event without data is dropped.
        """
        # An event without data is not dispatched.
        if self._data:
            events.append(
                self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            )
            self._data.clear()
            self._data_bytes = 0

    def finish(self) -> list[bytes]:
        """Return the events left when the body ends: many servers omit the last empty
        line."""
        return self.feed(b"\n\n") if self._partial_line or self._data else []
