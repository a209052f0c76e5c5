"""An exchange with a provider that is driven by callbacks instead of being awaited."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from modelyard.base.errors import InvokeError


class PreparedExchange(Protocol):
    """Makes the exchanges of requests to one model, with everything looked up that does
    not depend on the request."""

    def exchange(self, request: Any) -> "Exchange":
        """Return the exchange of a request."""
        ...


class Exchange(Protocol):
    """A chat request that is ready to be sent, and its response.

    `connect` or `open`, `send`, then `receive` each time the listener is called, until
    `is_complete`; then `finish`. At the end, however it comes, `close`.
    """

    def connect(self) -> bool:
        """Take a connection if one is free at once; return whether it was."""
        ...

    async def open(self) -> None:
        """Take a connection, and wait for it if none is free. Raises InvokeError, and
        ConfigError for an address that must not be called."""
        ...

    def send(self, listener: Callable[[], None]) -> None:
        """Send the request. `listener` is called whenever something has arrived."""
        ...

    @property
    def byte_gap(self) -> float:
        """The seconds within which the next bytes have to arrive."""
        ...

    def receive_whole(self) -> Iterable[Any] | None:
        """Return all chunks of a complete response if it is the usual one; None if it
        has to be taken step by step. Raises InvokeError."""
        ...

    def receive(self) -> Iterable[Any]:
        """Return the chunks that have arrived since. Raises InvokeError, perhaps while
        they are iterated."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the whole response has arrived and been taken."""
        ...

    @property
    def error(self) -> Exception | None:
        """Why the response will not be completed; None if it may be."""
        ...

    @property
    def large_body(self) -> bytes | None:
        """The complete body if it is too large to be read on the event loop."""
        ...

    async def read_large(self, body: bytes) -> Iterable[Any]:
        """Return the chunks of a large body. Raises InvokeError."""
        ...

    def finish(self) -> Iterable[Any]:
        """Return the last chunks of a complete response. Raises InvokeError."""
        ...

    def timeout_error(self) -> InvokeError:
        """Return the error for a server that has sent nothing within `byte_gap`."""
        ...

    def pause(self) -> None:
        """Stop reading, because the caller does not keep up."""
        ...

    def resume(self) -> None:
        """Go on reading."""
        ...

    def close(self) -> None:
        """End the exchange, at any time and once or more."""
        ...
