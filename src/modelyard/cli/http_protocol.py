"""uvicorn's HTTP protocol with a door before it: limits of time, size and number hold before anybody is known.

What a request is, and how answers are written, stays uvicorn's. Here is what it has no hooks for: when a head or a body
takes too long or too much, what is said then, and that a connection is closed only when its caller could read why.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from modelyard.cli.door import Door, Origin
from modelyard.gateway.http import (
    SMALL_BODY,
    HeadTooLargeError,
    RefusedError,
    Reply,
    RequestTimeoutError,
    ServerBusyError,
    TargetTooLongError,
)
from modelyard.gateway.server import Gateway

Refusal = Callable[[str, str, RefusedError], Reply]
"""(method, path, why) → what is answered, in the words of those who ask there."""

# What a connection waits for. Numbers, since this is asked at every read.
_HEAD, _BODY, _WHOLE, _OVER = range(4)
"""A head, or its rest · the rest of a body · nothing, a request is complete · nothing any more: what comes is not
read."""

_SPARE = 1 << 14
_PER_BYTE = 8
"""Of chunked bodies: bytes that may be around each byte of content. One of a byte takes five."""


_MOST_DROPPED = 1 << 23
_DROP_SECONDS = 0.02
"""Of what still comes when the last was said: how much is read at most, and how long each read waits for the next."""


class _Nowhere:
    """Takes trailers, which nobody here asks for: headers that come behind the body would pass for those before it."""

    def append(self, pair: tuple[bytes, bytes]) -> None:
        pass

    def __iter__(self) -> Any:
        return iter(())


_NOWHERE = _Nowhere()


class _Lingering:
    """What an answer is written to whose request is not complete: closing it at once would take the answer from a
    caller who is still sending (RFC 9112, 9.6)."""

    def __init__(self, protocol: "GuardedProtocol") -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        self._protocol.transport.write(data)

    def close(self) -> None:
        self._protocol.linger()

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()


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

    def fail(self, error: RefusedError) -> None:
        """Tell the application instead of the rest of the request."""
        self.error = error
        self.body = bytearray()
        self.close_after()
        self.message_event.set()

    def close_after(self) -> None:
        """The connection ends with this answer, although more of the request may come."""
        self.keep_alive = False
        self.transport = _Lingering(self.protocol)  # pyright: ignore[reportAttributeAccessIssue]


class _Unfinished(_Cycle):
    """A request whose body was not complete when its answer began to be made."""

    def receive(self) -> Coroutine[Any, Any, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # as good
        return self._refused() if self.error is not None else super().receive()

    async def _refused(self) -> dict[str, Any]:
        return {"type": "http.disconnect", "error": self.error}

    def send(self, message: Any) -> Coroutine[Any, Any, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.more_body and not self.response_started:
            self.protocol.answer_early(self)
        return super().send(message)


class GuardedProtocol(HttpToolsProtocol):
    """One connection. See `door.Connection`.

    Ten thousand of them may be open and idle, so each holds what is its own alone: what is the server's is the class's,
    of which `protocol_of` makes one a server, and what a request needs is there while there is one.
    """

    door: Door
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
    _state = _HEAD
    _fed = 0
    """Bytes of the head, or of the body with what is around it, of the reads since it began."""
    _content = 0
    """Bytes of the body."""
    _patience = 0.0
    _looked_at = 0.0
    _content_then = 0
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
        cls._most_head = cls.door.settings.head_kb << 10
        cls._most_headers = cls.door.settings.headers
        cls._most_target = cls.door.settings.target_kb << 10
        cls._unchecked = min(cls._most_head, cls._most_target)

    _most_head: int
    _most_headers: int
    _most_target: int
    _unchecked: int
    """A head that came in no more bytes than these is not too large in any way."""

    # uvicorn's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.door.enter(self, self.client[0] if self.client else ""):
            self._say(ServerBusyError("the server has as many connections as it can have; try again in a moment"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _OVER
        self.door.exit(self)
        self.pipeline = ()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._state == _OVER:
            self._drop(data)
            return
        self._fed += len(data)
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
            self._refuse(self._refused_by or RefusedError("the request is not HTTP/1.1 as RFC 9112 has it"))
            return
        if self._state == _BODY:
            self._check_body()
        elif self._state == _HEAD:
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
        self._state, self._fed = _HEAD, self._fed or 1

    def on_headers_complete(self) -> None:
        if self._fed > self._unchecked or self.pipeline or len(self.headers) > self._most_headers:
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
        self._state, self._fed, self._content = _BODY, 0, 0
        self.headers = _NOWHERE
        if is_free:
            self._start(cycle)
        else:
            self.flow.pause_reading()
            self.pipeline = deque((cycle, *self.pipeline))

    def on_body(self, body: bytes) -> None:
        self._content += len(body)
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._state, self._fed = _WHOLE, 0
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
        elif self._state == _WHOLE:
            self._rest()
        elif self._state == _HEAD:
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
        if not self._fed:  # nothing was asked, so there is nothing to be answered
            self.abort()
            return
        seconds = self.door.settings.head_seconds
        self._refuse(RequestTimeoutError(f"the request's head was not complete after {seconds:g} seconds"))

    def is_body_slow(self, now: float) -> bool:
        """Patience is lost with time, and won by bytes."""
        elapsed, self._looked_at = now - self._looked_at, now
        came, self._content_then = self._content - self._content_then, self._content
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:  # it is we who keep it waiting
            return False
        settings = self.door.settings
        self._patience = min(settings.body_seconds, self._patience - elapsed + came / settings.body_rate)
        return self._patience < 0

    def end_body(self) -> None:
        self._fail_body(RequestTimeoutError("the request's body comes too slowly, or not at all"))

    def unread(self) -> int:
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        self._state = _OVER
        self.transport.abort()

    # what is too much

    def _check_head(self) -> None:
        """After a read that did not complete it."""
        if self._fed > self._most_head:
            self._refuse(self._too_long() if len(self.url) > self._most_target else self._too_large())
        elif self.cycle is None or self.cycle.response_complete:
            self.door.begin(self)

    def _check_whole_head(self) -> None:
        """When it is complete. Raises, which stops the parser."""
        if len(self.url) > self._most_target:
            self._stop(self._too_long())
        # The read that completes a head may hold more than it, so that only its parts say how large it was.
        if len(self.headers) > self._most_headers or (self._fed > self._most_head and self._size() > self._most_head):
            self._stop(self._too_large())
        if len(self.pipeline) >= self.door.settings.pipelined:
            self._stop(ServerBusyError("too many requests were sent before the first was answered"))

    def _size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _stop(self, error: RefusedError) -> None:
        self._refused_by = error
        raise error

    def _too_large(self) -> HeadTooLargeError:
        settings = self.door.settings
        return HeadTooLargeError(f"a request may have {settings.headers} headers, and {settings.head_kb} kB of them")

    def _too_long(self) -> TargetTooLongError:
        return TargetTooLongError(f"a request's address may have {self.door.settings.target_kb} kB")

    def _check_body(self) -> None:
        """After a read that did not complete it."""
        if self._fed - self._content > _SPARE + _PER_BYTE * self._content:
            self._fail_body(RefusedError("the request's body has too much around its chunks"))
        elif self.door.send(self):
            # The task that runs it begins after this read: it sees no other class.
            self.cycle.__class__ = _Unfinished
            self._patience, self._looked_at = self.door.settings.body_seconds, self.door.now()
            self._content_then = self._content

    # refusing

    def _refuse(self, error: RefusedError) -> None:
        """What came cannot be answered as a request. Those before it are answered first; then the connection ends."""
        if self._state == _BODY:
            self._fail_body(error)
        elif self.cycle is None or self.cycle.response_complete:
            self._say(error)
        else:
            self._state = _OVER
            self.door.answer(self)
            self.cycle.close_after()

    def _fail_body(self, error: RefusedError) -> None:
        """The request whose body comes is answered with that, where no answer has begun."""
        self._state = _OVER
        self.door.answer(self)
        if self.cycle.response_started:
            self.transport.abort()
        else:
            self.cycle.__class__ = _Unfinished
            self.cycle.fail(error)

    def _say(self, error: RefusedError) -> None:
        """Answer what never became a request, and close."""
        method = self.parser.get_method().decode("ascii") if self.url else ""
        reply = type(self).refusal(method, self.url.partition(b"?")[0].decode("latin-1"), error)
        lines = [
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
            f"content-type: {reply.content_type.decode('latin-1')}",
            f"content-length: {len(reply.body)}",
            "connection: close",
            *(f"{name}: {value}" for name, value in (reply.headers or {}).items()),
        ]
        head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
        self.transport.write(head if method == "HEAD" else head + reply.body)
        self.linger()

    def answer_early(self, cycle: _Cycle) -> None:
        """The answer begins before the request is complete. A small rest of it is read; else the connection ends."""
        if cycle.error is not None:
            return
        length = next((value for name, value in cycle.scope["headers"] if name == b"content-length"), b"")
        rest = int(length) - self._content if length.isdigit() else SMALL_BODY + 1
        if cycle.waiting_for_100_continue or rest > SMALL_BODY:
            cycle.close_after()

    def linger(self) -> None:
        """Everything was said: the caller has some seconds to read it, and what it sends meanwhile is dropped."""
        self._state = _OVER
        if self.transport.is_closing():
            return
        self.door.leave(self)
        self._fed = 0
        self.flow.resume_reading()
        self.transport.write_eof()

    def _drop(self, data: bytes) -> None:
        """What comes after the last word. A little at a time: who sends as fast as it can would hold up everybody."""
        self._fed += len(data)
        self.flow.pause_reading()
        if self._fed < _MOST_DROPPED:
            self.loop.call_later(_DROP_SECONDS, self._drop_more)

    def _drop_more(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()


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
