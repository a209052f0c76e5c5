"""Event streams, as bytes come in: WHATWG server-sent events, data fields alone. Pure."""

from modelyard.base.errors import InvokeServerUnavailableError

MAX_EVENT_BYTES = 16 * 1024 * 1024
DONE = b"[DONE]"


class EventStream:
    """Turns pieces of a body into the data of whole events."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._rest: list[bytes] = []
        """The pieces of a line that has not ended yet: joined when it does, so that a long one is looked at once."""
        self._rest_length = 0
        self._data: list[bytes] = []
        self._max = max_event_bytes
        self._held = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of each event that this piece completes. Raises where one event grows beyond bounds."""
        is_within_line = b"\n" not in piece and b"\r" not in piece
        if is_within_line and self._rest and not self._rest[-1].endswith(b"\r"):
            self._keep(piece)
            return []
        buffer = b"".join((*self._rest, piece)) if self._rest else piece
        self._rest.clear()
        self._rest_length = 0
        if b"\r" in buffer:
            # A lone CR may be half of a CRLF that the next piece completes.
            tail = b"\r" if buffer.endswith(b"\r") else b""
            buffer = buffer[: len(buffer) - len(tail)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + tail
        lines = buffer.split(b"\n")
        rest = lines.pop()
        events: list[bytes] = []
        for line in lines:
            if not line:
                self._end_event(events)
            elif line.startswith(b"data:"):
                value = line[6:] if line[5:6] == b" " else line[5:]
                self._data.append(value)
                self._held += len(value)
        self._keep(rest)
        return events

    def _keep(self, piece: bytes) -> None:
        """Part of a line that has not ended. Raises where the event grows beyond bounds."""
        if piece:
            self._rest.append(piece)
            self._rest_length += len(piece)
        if self._held + self._rest_length > self._max:
            raise InvokeServerUnavailableError(f"an event of the stream is larger than {self._max:,} bytes")

    def _end_event(self, events: list[bytes]) -> None:
        if self._data:
            events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
            self._data.clear()
            self._held = 0

    def finish(self) -> list[bytes]:
        """What is left when the body ends: servers forget the last blank line."""
        return self.feed(b"\n\n") if self._rest or self._data else []
