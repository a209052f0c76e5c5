"""uvicorn's HTTP protocol with a door before it: limits of time, size and number hold before anybody is known.

What a request is, and how answers are written, stays uvicorn's. Here is what it has no hooks for: when a head or a body
takes too long or too much. How large they may be is in `http_limits`, what is said then in `http_ending`.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from modelyard.cli.door import Door, Origin
from modelyard.cli.http_ending import BODY, HEAD, OVER, WHOLE, Ending, Lingering, Refusal
from modelyard.cli.http_limits import HeadLimits, Pace
from modelyard.gateway.http import SMALL_BODY, RefusedError, RequestTimeoutError, ServerBusyError
from modelyard.gateway.server import Gateway

_SPARE = 1 << 14
_PER_BYTE = 8
"""Of chunked bodies: bytes that may be around each byte of content. One of a byte takes five."""


class _Nowhere:
    """Takes trailers, which nobody here asks for: headers that come behind the body would pass for those before it."""

    def append(self, pair: tuple[bytes, bytes]) -> None:
        pass

    def __iter__(self) -> Any:
        return iter(())


_NOWHERE = _Nowhere()


class _Cycle(RequestResponseCycle):
    """One request and its answer. What is the same for every one when it begins is the class's."""

    access_log = False
    disconnected = False
    response_started = False
    response_complete = False
    more_body = True
    chunked_encoding: bool | None = None
    expected_content_length = 0
    error: RefusedError | None = None
    """Why no more of the request is taken."""

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
        self.keep_alive = self.scope["http_version"] != "1.0" and protocol.parser.should_keep_alive()
        self.body = bytearray()

    def await_body(self) -> None:
        """Its body is not complete, and its answer may begin before it is.

        The task that runs it begins after the read that it came with: it sees no other class.
        """
        self.__class__ = _Unfinished  # pyright: ignore[reportAttributeAccessIssue]  of its own kind

    def fail(self, error: RefusedError) -> None:
        """Tell the application instead of the rest of the request."""
        self.await_body()
        self.error = error
        self.body = bytearray()
        self.close_after()
        self.message_event.set()

    def close_after(self) -> None:
        """The connection ends with this answer, although more of the request may come."""
        self.keep_alive = False
        self.transport = Lingering(self.protocol.transport, self.protocol.ending)  # pyright: ignore[reportAttributeAccessIssue]


class _Unfinished(_Cycle):
    """A request whose body was not complete when its answer began to be made."""

    def receive(self) -> Coroutine[Any, Any, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # as good
        return self._refused() if self.error is not None else super().receive()

    async def _refused(self) -> dict[str, Any]:
        return {"type": "http.disconnect", "error": self.error}

    def send(self, message: Any) -> Coroutine[Any, Any, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.more_body and not self.response_started:
            self._answer_early()
        return super().send(message)

    def _answer_early(self) -> None:
        """The answer begins before the request is complete. A small rest of it is read; else the connection ends."""
        if self.error is not None:
            return
        length = next((value for name, value in self.scope["headers"] if name == b"content-length"), b"")
        rest = int(length) - self.protocol.content if length.isdigit() else SMALL_BODY + 1
        if self.waiting_for_100_continue or rest > SMALL_BODY:
            self.close_after()


class GuardedProtocol(HttpToolsProtocol):
    """One connection. See `door.Connection`.

    Ten thousand of them may be open and idle, so each holds what is its own alone: what is the server's is the class's,
    of which `protocol_of` makes one a server, and what a request needs is there while there is one.
    """

    door: Door
    limits: HeadLimits
    refusal: Refusal
    origin: Origin
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
    """The newest request's, a `_Cycle`; None where all are answered."""
    _running: _Cycle | None = None
    """Whose answer is written: the first of those that are not complete."""
    state = HEAD
    fed = 0
    """Bytes of the head, or of the body with what is around it, of the reads since it began."""
    content = 0
    """Bytes of the body."""
    _pace: Pace
    """Of a body that took more than one read."""
    _refused_by: RefusedError | None = None
    """Why the parser was stopped."""

    def __init__(  # pyright: ignore[reportMissingSuperCall]  it sets what is the class's here
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
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
        """Take what uvicorn's protocol sets for every connection, once."""
        whole = HttpToolsProtocol(config, server_state, app_state, loop)
        for name, value in vars(whole).items():
            if name not in vars(GuardedProtocol) and name not in ("transport", "flow", "server", "client", "scheme"):
                setattr(cls, name, value)
        cls.server_state = server_state
        cls.limits = HeadLimits(cls.door.settings)

    # uvicorn's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.door.enter(self, self.client[0] if self.client else ""):
            self.ending.say(ServerBusyError("the server has as many connections as it can have; try again in a moment"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = OVER
        self.door.exit(self)
        self.pipeline = ()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.state == OVER:
            self.ending.drop(data)
            return
        self.fed += len(data)
        if self.parser is None:
            self.parser = httptools.HttpRequestParser(self)
            # What is pipelined behind a request that closes the connection is not answered, nor is it an error.
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # to nothing that is spoken here: it is answered as the plain request that it is as well
        except httptools.HttpParserError:
            # Without one of ours behind it, what came is not HTTP.
            self.ending.refuse(self._refused_by or RefusedError("the request is not HTTP/1.1 as RFC 9112 has it"))
            return
        if self.state == BODY:
            self._check_body()
        elif self.state == HEAD:
            self._check_head()

    def on_message_begin(self) -> None:
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
        self.state, self.fed = HEAD, self.fed or 1

    def on_headers_complete(self) -> None:
        limits = self.limits
        if self.fed > limits.harmless or self.pipeline or len(self.headers) > limits.most_headers:
            self._check_whole_head()
        scope, version, url = self.scope, self.parser.get_http_version(), httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        is_free = self.cycle is None or self.cycle.response_complete
        cycle = self.cycle = _Cycle(self)
        self.state, self.fed, self.content = BODY, 0, 0
        self.headers = _NOWHERE
        if is_free:
            self._start(cycle)
        else:
            self.flow.pause_reading()
            self.pipeline = deque((cycle, *self.pipeline))

    def on_body(self, body: bytes) -> None:
        self.content += len(body)
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self.state, self.fed = WHOLE, 0
        self.door.answer(self)
        cycle = self.cycle
        if cycle.response_complete:
            self._rest()
        else:
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start(self.pipeline.pop())
        elif self.state == WHOLE:
            self._rest()
        elif self.state == HEAD:
            self.door.begin(self)

    def _start(self, cycle: _Cycle) -> None:
        self._running = cycle
        task = self.loop.create_task(cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _rest(self) -> None:
        self.cycle = self._running = self.scope = None
        self.headers = _NOWHERE
        self.door.rest(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.door.block(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.door.unblock(self)

    def _should_upgrade(self) -> bool:
        return False

    # the door's

    def end_head(self) -> None:
        if not self.fed:  # nothing was asked, so there is nothing to be answered
            self.abort()
            return
        seconds = self.door.settings.head_seconds
        self.ending.refuse(RequestTimeoutError(f"the request's head was not complete after {seconds:g} seconds"))

    def is_body_slow(self, now: float) -> bool:
        is_held = self.flow.read_paused or self.cycle.waiting_for_100_continue
        return self._pace.is_slow(now, self.content, is_held=is_held)

    def end_body(self) -> None:
        self.ending.fail_body(RequestTimeoutError("the request's body comes too slowly, or not at all"))

    def unread(self) -> int:
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        self.state = OVER
        self.transport.abort()

    # what is too much

    @cached_property
    def ending(self) -> Ending:
        """How it ends, once something ends it."""
        return Ending(self, type(self).refusal, self.fed)

    def _check_head(self) -> None:
        """After a read that did not complete it."""
        if (error := self.limits.broken_by_part(self.url, self.fed)) is not None:
            self.ending.refuse(error)
        elif self.cycle is None or self.cycle.response_complete:
            self.door.begin(self)

    def _check_whole_head(self) -> None:
        """When it is complete. Raises, which stops the parser."""
        error = self.limits.broken_by(self.url, self.headers, self.fed)
        if error is None and len(self.pipeline) >= self.door.settings.pipelined:
            error = ServerBusyError("too many requests were sent before the first was answered")
        if error is not None:
            self._refused_by = error
            raise error

    def _check_body(self) -> None:
        """After a read that did not complete it."""
        if self.fed - self.content > _SPARE + _PER_BYTE * self.content:
            self.ending.fail_body(RefusedError("the request's body has too much around its chunks"))
        elif self.door.send(self):
            self.cycle.await_body()
            self._pace = Pace(self.door.settings, self.door.now(), self.content)


def protocol_of(door: Door, refusal: Refusal) -> type[GuardedProtocol]:
    """For one server."""
    return type("Protocol", (GuardedProtocol,), {"door": door, "refusal": staticmethod(refusal)})


class GuardedConfig(uvicorn.Config):
    """How servers of ours run on uvicorn, whoever starts them."""

    def __init__(self, gateway: Gateway, door: Door, **options: Any) -> None:
        super().__init__(
            gateway,  # pyright: ignore[reportArgumentType]  uvicorn's types of scopes are its own
            http=protocol_of(door, gateway.refusal),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # nobody may say for others who they are
            **options,
        )
