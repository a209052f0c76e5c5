"""Keep-alives: bytes that a stream sends while it has no chunk to send, so that no
balancer between the server and its client takes the connection for idle."""

import asyncio
from collections.abc import Callable

SSE_COMMENT = b": keep-alive\n\n"
"""A comment, which parsers of server-sent events skip."""
ANTHROPIC_PING = b'event: ping\ndata: {"type": "ping"}\n\n'
"""The event that Anthropic's API sends, and its clients skip."""
BLANK_LINES = b"\n\n"
"""For Google's clients. They parse a comment as JSON and fail, but skip blank lines;
some only an even number of them."""
LINE_BREAK = b"\n"
"""White space between the tokens of a JSON document."""

_EARLY_SECONDS = 0.001
"""Tolerance for an event loop that calls slightly too early."""


class SilenceTimer:
    """Calls `on_silence` when a stream has been waiting for a chunk for some seconds,
    and again after each further period.

    The event loop's timer is set once and postponed if it fires too early. Setting one
    for each chunk would cost more than the chunk itself.
    """

    __slots__ = ("_handle", "_loop", "_on_silence", "_seconds", "waiting_since")

    def __init__(self, seconds: float, on_silence: Callable[[], None]) -> None:
        """Start waiting. Must be called on the event loop; with 0 seconds there are no
        calls."""
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._on_silence = on_silence
        self.waiting_since: float | None = self._loop.time()
        """Time of the event loop since when the stream has been waiting for its next
        chunk; None while it sends one. Set by the stream: a call for each chunk would
        cost more."""
        self._handle: asyncio.TimerHandle | None = None
        if seconds > 0:
            self._handle = self._loop.call_later(seconds, self._fire)

    def stop(self) -> None:
        """Make no more calls."""
        if self._handle is not None:
            self._handle.cancel()

    def _fire(self) -> None:
        """Call if the stream is silent for long enough; then set the timer again."""
        now = self._loop.time()
        # While a chunk is being sent, the next silence has not begun.
        since = now if self.waiting_since is None else self.waiting_since
        remaining = since + self._seconds - now
        if remaining <= _EARLY_SECONDS:
            self.waiting_since = now
            remaining = self._seconds
            self._on_silence()
        self._handle = self._loop.call_later(remaining, self._fire)
