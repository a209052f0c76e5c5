"""uvicorn's HTTP protocol with limits of time, size and number that apply before a
client is authenticated.

Parsing and response writing remain uvicorn's. This module adds what has no hooks there.
Sizes are in `http_limits`, closing is in `http_closing`.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import (
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from modelyard.cli.connection_limits import ClientNetwork, ConnectionLimiter
from modelyard.cli.direct_client import DirectAnswering
from modelyard.cli.http_closing import (
    BODY,
    HEAD,
    OVER,
    WHOLE,
    ConnectionEnding,
    Lingering,
    Refusal,
)
from modelyard.cli.http_limits import BodyRateMeter, HeadLimits
from modelyard.gateway.direct import DirectGateway
from modelyard.gateway.early_refusals import EarlyRefusals
from modelyard.gateway.http import (
    SMALL_BODY,
    RefusedError,
    RequestTimeoutError,
    ServerBusyError,
)
from modelyard.gateway.server import Gateway
from modelyard.transport.turn_writes import TurnWrites

# Allowance for the first chunk sizes and extensions of any body.
_SPARE = 1 << 14
_PER_BYTE = 8
"""Overhead bytes allowed per content byte of a chunked body. A one-byte chunk has five.
"""


class _DiscardedHeaders:
    """Discards trailers: headers after the body must not be mistaken for those before
    it."""

    def append(self, pair: tuple[bytes, bytes]) -> None:
        """Discard a header."""
        pass

    def __iter__(self) -> Any:
        return iter(())


_NOWHERE = _DiscardedHeaders()


class _LazyFlowControl(FlowControl):
    """uvicorn's flow control, whose event is created when it is first needed: an event
    takes half of the memory of an idle connection."""

    read_paused = False
    write_paused = False

    def __init__(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportMissingSuperCall]
        self._transport = transport

    @cached_property
    def _is_writable_event(self) -> asyncio.Event:  # pyright: ignore[reportIncompatibleVariableOverride]
        event = asyncio.Event()
        event.set()
        return event


class _RequestCycle(RequestResponseCycle):
    """One request and its response. Initial values shared by all requests are class
    attributes, to save memory."""

    access_log = False
    disconnected = False
    response_started = False
    response_complete = False
    more_body = True
    chunked_encoding: bool | None = None
    expected_content_length = 0
    error: RefusedError | None = None
    """Why no more of the request is accepted."""

    def __init__(self, protocol: "GuardedProtocol") -> None:  # pyright: ignore[reportMissingSuperCall]
        self.protocol = protocol
        self.scope = protocol.scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.default_headers = protocol.server_state.default_headers
        self.message_event = asyncio.Event()
        self.on_response = protocol.on_response_complete
        self.waiting_for_100_continue = protocol.expect_100_continue
        # HTTP/1.0 connections are always closed after the response.
        self.keep_alive = (
            self.scope["http_version"] != "1.0" and protocol.parser.should_keep_alive()
        )
        self.body = bytearray()

    def await_body(self) -> None:
        """Mark that the response may start before the body is complete.

        The application's task starts after this read, so it only ever sees the new
        class.
        """
        # Changing the class keeps the common case, a complete body, free of extra
        # checks.
        self.__class__ = _IncompleteCycle  # pyright: ignore[reportAttributeAccessIssue]

    def fail(self, error: RefusedError) -> None:
        """Deliver an error to the application instead of the remaining request."""
        self.await_body()
        self.error = error
        self.body = bytearray()
        self.close_after()
        self.message_event.set()

    def close_after(self) -> None:
        """Close the connection after this response, although more of the request may
        arrive."""
        self.keep_alive = False
        self.transport = Lingering(self.protocol.transport, self.protocol.ending)  # pyright: ignore[reportAttributeAccessIssue]


class _IncompleteCycle(_RequestCycle):
    """A request whose body was incomplete when its response was started."""

    # An awaitable does as well as a coroutine function.
    def receive(self) -> Coroutine[Any, Any, Any]:  # pyright: ignore
        """Return the next body message, or a disconnect that carries the error."""
        return self._refused() if self.error is not None else super().receive()

    async def _refused(self) -> dict[str, Any]:
        """Return a disconnect that carries the error."""
        return {"type": "http.disconnect", "error": self.error}

    def send(self, message: Any) -> Coroutine[Any, Any, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Send a response message; the first one decides whether the connection
        survives."""
        if self.more_body and not self.response_started:
            self._answer_early()
        return super().send(message)

    def _answer_early(self) -> None:
        """Called if the response starts before the request is complete. A small
        remainder is read; otherwise the connection closes."""
        if self.error is not None:
            return
        length = next(
            (
                value
                for name, value in self.scope["headers"]
                if name == b"content-length"
            ),
            b"",
        )
        # Without a content length the remainder is unknown and counts as too large.
        remaining_bytes = (
            int(length) - self.protocol.content if length.isdigit() else SMALL_BODY + 1
        )
        # A client that waits for 100 Continue has not sent the body, and may never do
        # so.
        if self.waiting_for_100_continue or remaining_bytes > SMALL_BODY:
            self.close_after()


class GuardedProtocol(DirectAnswering, HttpToolsProtocol):
    """One connection with its limits. Implements `connection_limits.LimitedConnection`.

    Ten thousand may be idle at once, so an instance holds only its own state.
    Server-wide values are attributes of the class that `protocol_class` creates per
    server, and request state exists only during a request.
    """

    door: ConnectionLimiter
    limits: HeadLimits
    refusal: Refusal
    origin: ClientNetwork
    server_state: ServerState = None  # type: ignore[assignment]
    timeout_keep_alive_task = None

    parser: Any = None
    pipeline: Any = ()
    scope: Any = None
    app: Any
    headers: Any = _NOWHERE
    url = b""
    expect_100_continue = False
    cycle: Any = None
    """Cycle of the newest request, a `_RequestCycle`; None if all requests are answered."""
    running: _RequestCycle | None = None
    """The request whose response is being written: the first incomplete one."""
    state = HEAD
    fed = 0
    """Bytes read since the current head, or body including its chunk framing, began."""
    content = 0
    """Content bytes of the body."""
    _pace: BodyRateMeter
    """Speed of a body that needed more than one read."""
    _refused_by: RefusedError | None = None
    """The error with which the parser was stopped."""

    # The base class sets per connection what is stored on the class here.
    def __init__(  # pyright: ignore[reportMissingSuperCall]
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # The first connection of a server fills the class; later ones only compare.
        if self.server_state is not server_state:
            self._share(config, server_state, app_state, _loop)

    @classmethod
    def _share(
        cls,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        """Store what uvicorn's protocol sets per connection as class attributes, once
        per server."""
        template = HttpToolsProtocol(config, server_state, app_state, loop)
        for name, value in vars(template).items():
            # Attributes of a single connection, and those that this class defines, are
            # not shared.
            if name not in vars(GuardedProtocol) and name not in (
                "transport",
                "flow",
                "server",
                "client",
                "scheme",
            ):
                setattr(cls, name, value)
        cls.server_state = server_state
        cls.limits = HeadLimits(cls.door.settings)

    # uvicorn's callbacks.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register a new connection; answer 503 if there is no room."""
        super().connection_made(transport)
        self.flow = _LazyFlowControl(transport)
        if not self.door.register(self, self.client[0] if self.client else ""):
            self.ending.reply_and_close(
                ServerBusyError(
                    "Connection limit of the server reached; try again in a moment"
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister the connection and notify the running application that its client
        has disconnected."""
        self.state = OVER
        self.door.unregister(self)
        self.pipeline = ()
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()
        if (answer := self.take_answer()) is not None:
            answer.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer a request that is known by its head; parse any other input."""
        if self.state == OVER:
            self.ending.discard(data)
            return
        # A client may send its next request before it has the response to the last one.
        self.writes.flush_for(self.transport)
        if self.early_refusals.load.is_refusing and self.refuse_early(data):
            return
        if self.cycle is None and not self.fed:
            if self.answer is not None:
                self.parse_unparsed()
            elif self.answer_known(data):
                return
            else:
                self.received = data
        self.parse(data)
        self.received, self.is_declined = None, False

    def parse(self, data: bytes) -> None:
        """Parse input and check the limits of the part that is not complete yet."""
        self.fed += len(data)
        if self.parser is None:
            # Created with the first byte: idle connections hold no parser.
            self.parser = httptools.HttpRequestParser(self)
            # Ignore data that is pipelined after a request with `Connection: close`,
            # instead of treating it as an error.
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # No upgrade is supported: the request is answered as a plain HTTP request.
            pass
        except httptools.HttpParserError:
            self.release_held()
            # If a limit stopped the parser, its error explains more than a syntax
            # error.
            self.ending.refuse(
                self._refused_by
                or RefusedError("Malformed HTTP/1.1 request (RFC 9112)")
            )
            return
        # If neither applies, a request was completed by this read.
        if self.state == BODY:
            self._check_body()
        elif self.state == HEAD:
            self._check_head()

    def on_message_begin(self) -> None:
        """Start a new request."""
        self.url, self.expect_100_continue, self.headers = b"", False, []
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        # At least 1: `fed` being zero means that nothing was sent at all.
        self.state, self.fed = HEAD, self.fed or 1

    def on_headers_complete(self) -> None:
        """Check the complete head, build the ASGI scope, and start the request or queue
        it."""
        limits = self.limits
        # Small heads skip the exact check; most requests do.
        if (
            self.fed > limits.harmless
            or self.pipeline
            or len(self.headers) > limits.most_headers
        ):
            self._check_whole_head()
        scope, version, url = (
            self.scope,
            self.parser.get_http_version(),
            httptools.parse_url(self.url),
        )
        path = url.path.decode("ascii")
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        is_free = self.cycle is None or self.cycle.response_complete
        cycle = self.cycle = _RequestCycle(self)
        self.state, self.fed, self.content = BODY, 0, 0
        # From here on, trailers would be appended to the headers.
        self.headers = _NOWHERE
        if self.is_answered:
            return
        if is_free and (head := self.direct_head(cycle)) is not None:
            self.held, self.held_head = cycle, head
        elif is_free:
            self.start_usual(cycle)
        else:
            # HTTP/1.1 responses must be in order: a pipelined request waits, and no
            # more is read.
            self.flow.pause_reading()
            self.pipeline = deque((cycle, *self.pipeline))

    def on_body(self, body: bytes) -> None:
        """Add content to the body; pause reading if the application does not consume
        it."""
        self.content += len(body)
        cycle = self.cycle
        # The application has answered already: discard the body.
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The request is complete."""
        self.state, self.fed = WHOLE, 0
        self.door.start_response(self)
        cycle = self.cycle
        if cycle.response_complete:
            self._become_idle()
            return
        cycle.more_body = False
        cycle.message_event.set()
        if self.held is cycle:
            self.held = None
            self.start_direct(cycle)

    def on_response_complete(self) -> None:
        """Start the next pipelined request, or wait for more input."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            # `pop` takes the oldest: new requests are put in front.
            self.start_usual(self.pipeline.pop())
        elif self.state == WHOLE:
            self._become_idle()
        elif self.state == HEAD:
            self.door.start_head(self)

    def run_app(self, cycle: _RequestCycle, app: Any) -> None:
        """Run an ASGI application for a request. The server holds the task until it
        ends."""
        self.take_answer()
        self.running = cycle
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _become_idle(self) -> None:
        """Release the state of the answered request and wait for the next one."""
        self.cycle = self.running = self.scope = None
        self.headers = _NOWHERE
        self.door.mark_idle(self)

    def pause_writing(self) -> None:
        """The write buffer is full: start measuring whether the client reads."""
        super().pause_writing()
        self.door.mark_unread(self)
        if self.answer is not None:
            self.answer.pause()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self.door.clear_unread(self)
        if self.answer is not None:
            self.answer.resume()

    def _should_upgrade(self) -> bool:
        """Never upgrade: there is no WebSocket on this server."""
        return False

    # Callbacks of the connection limits.

    def end_head(self) -> None:
        """Answer 408 to an incomplete head, or close silently if nothing was sent."""
        # Without any input there is no request to answer.
        if not self.fed:
            self.abort()
            return
        seconds = self.door.settings.head_seconds
        problem = f"Request head incomplete after {seconds:g} seconds"
        self.ending.refuse(RequestTimeoutError(problem))

    def is_body_slow(self, current_time: float) -> bool:
        """Tell whether the body arrives too slowly. Time during which the server does
        not read does not count."""
        is_held = self.flow.read_paused or self.cycle.waiting_for_100_continue
        return self._pace.is_slow(current_time, self.content, is_held=is_held)

    def end_body(self) -> None:
        """Answer 408 to a request with a slow body."""
        self.release_held()
        self.ending.fail_body(
            RequestTimeoutError("Request body timed out: it arrives too slowly")
        )

    def unread(self) -> int:
        """Return the number of response bytes in the write buffer."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close at once."""
        self.state = OVER
        self.writes.flush_for(self.transport)
        self.transport.abort()

    # Size limits.

    @cached_property
    def ending(self) -> ConnectionEnding:
        """The ending of this connection, created when it is first needed."""
        return ConnectionEnding(self, type(self).refusal, self.fed)

    def _check_head(self) -> None:
        """Check a head that the last read did not complete."""
        if (error := self.limits.broken_by_part(self.url, self.fed)) is not None:
            self.ending.refuse(error)
        elif self.cycle is None or self.cycle.response_complete:
            self.door.start_head(self)

    def _check_whole_head(self) -> None:
        """Check a complete head. Raises the error, which stops the parser."""
        error = self.limits.broken_by(self.url, self.headers, self.fed)
        if error is None and len(self.pipeline) >= self.door.settings.pipelined:
            error = ServerBusyError(
                "Too many pipelined requests; wait for the first response"
            )
        if error is not None:
            # The parser hides the exception's type, so it is remembered.
            self._refused_by = error
            raise error

    def _check_body(self) -> None:
        """Check a body that the last read did not complete."""
        # Tiny chunks cost more to parse than they carry.
        if self.fed - self.content > _SPARE + _PER_BYTE * self.content:
            self.release_held()
            self.ending.fail_body(
                RefusedError("Chunked request body has too much framing overhead")
            )
        # Only the first incomplete read of a body starts the measurement.
        elif self.door.start_body(self):
            self.cycle.await_body()
            self._pace = BodyRateMeter(
                self.door.settings, self.door.now(), self.content
            )


def protocol_class(
    door: ConnectionLimiter,
    refusal: Refusal,
    early_refusals: EarlyRefusals,
    direct: DirectGateway | None = None,
) -> type[GuardedProtocol]:
    """Return the protocol class for one server."""
    # One class per server, because shared state is stored on the class.
    shared = {
        "door": door,
        "refusal": staticmethod(refusal),
        "early_refusals": early_refusals,
        "direct": direct,
        "writes": TurnWrites(),
    }
    return type("Protocol", (GuardedProtocol,), shared)


class GuardedConfig(uvicorn.Config):
    """uvicorn configuration for running the gateway."""

    def __init__(
        self, gateway: Gateway, door: ConnectionLimiter, **options: Any
    ) -> None:
        super().__init__(
            gateway,  # pyright: ignore[reportArgumentType]  uvicorn has its own scope types
            http=protocol_class(
                door, gateway.refusal, gateway.early_refusals, gateway.direct
            ),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            # The gateway writes its own headers and evaluates proxy headers, because it
            # knows the trusted proxies.
            server_header=False,
            date_header=False,
            proxy_headers=False,
            **options,
        )
