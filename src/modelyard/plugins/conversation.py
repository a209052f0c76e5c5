"""Requests and answers of many sessions over one line to a plugin, whatever carries it: pipes, a TCP connection.

One JSON object a line, both ways. A plugin cannot be told to stop: a session that nobody listens to any more is
forgotten, and what still comes for it is dropped until the plugin says that it has ended.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import aclosing
from contextvars import copy_context
from typing import Any, Protocol

import msgspec

from modelyard.base.errors import ModelyardError, PluginError
from modelyard.base.ids import new_id
from modelyard.models.types import JSON
from modelyard.plugins.manifest import Permissions

logger = logging.getLogger("modelyard.plugins")

MAX_LINE = 256 * 1024 * 1024
"""No sound message is longer; a plugin that sends more without a line's end would fill the memory."""
MAX_WAITING = 64 * 1024 * 1024
"""Bytes of one session's answers that nobody has taken yet."""
_NOISE_SHOWN = 20
_encode = msgspec.json.Encoder().encode


class PluginDiedError(PluginError):
    """The process is gone, or its line is: whatever it was doing is lost."""

    code = "plugin_died"


class PluginCall(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a plugin, and for whom it is made."""

    tenant: str
    type: str
    """`model`, `tool`, `agent_strategy`, `endpoint`, `oauth`, `dynamic_parameter`, `datasource` or `trigger`."""
    action: str
    data: dict[str, Any]
    user: str = ""
    permissions: Permissions = Permissions()
    """What the tenant granted of what the manifest asks for."""
    plugin: str = ""
    """`author/name`."""
    conversation_id: str | None = None
    message_id: str | None = None
    app_id: str | None = None
    endpoint_id: str | None = None
    context: dict[str, Any] | None = None


def envelope(session: str, call: PluginCall, event: str, data: JSON) -> bytes:
    """What the host says within a session, as JSON."""
    return _encode(
        {
            "session_id": session,
            "conversation_id": call.conversation_id,
            "message_id": call.message_id,
            "app_id": call.app_id,
            "endpoint_id": call.endpoint_id,
            "context": call.context,
            "event": event,
            "data": data,
        }
    )


def request_of(session: str, call: PluginCall) -> bytes:
    """What a session begins with."""
    asked = {"user_id": call.user, "type": call.type, "action": call.action, **call.data}
    return envelope(session, call, "request", asked)


class Backwards(Protocol):
    """What plugins may ask of their host while they serve a request."""

    def answer(self, call: PluginCall, kind: str, request: JSON) -> AsyncIterable[JSON]:
        """Objects, one or more. Raises ModelyardError, which the plugin is told."""
        ...


class _Envelope(msgspec.Struct, frozen=True, gc=False):
    event: str = ""
    session_id: str | None = None
    data: Any = None


_decode = msgspec.json.Decoder(_Envelope).decode


class Session:
    """One request while it is open."""

    __slots__ = ("_pending", "_waiter", "asking", "call", "context", "error", "id", "is_over", "waiting")

    def __init__(self, call: PluginCall) -> None:
        self.id = new_id("session")
        self.call = call
        self.context = copy_context()
        """That of whoever called the plugin: what it asks of its host is asked on that caller's behalf."""
        self.is_over = False
        self.error: PluginError | None = None
        self.waiting = 0
        """Bytes that nobody has taken yet."""
        self.asking: set[asyncio.Task[None]] = set()
        """What the plugin asks of its host meanwhile."""
        self._pending: deque[tuple[Any, int]] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, data: Any, size: int) -> None:
        self._pending.append((data, size))
        self.waiting += size
        self._wake()

    def end(self, error: PluginError | None = None) -> None:
        self.error = self.error or error
        self.is_over = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> Any:
        """The next object; None when there are no more. Raises the error that ended it."""
        while not self._pending:
            if self.error is not None:
                raise self.error
            if self.is_over:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data, size = self._pending.popleft()
        self.waiting -= size
        return data


class Conversation:
    """The host's end of the line."""

    def __init__(
        self,
        plugin: str,
        write: Callable[[bytes], None],
        backwards: Backwards,
        now: Callable[[], float],
        on_noise: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.plugin = plugin
        self._write = write
        self._backwards = backwards
        self._now = now
        self._on_noise = on_noise
        self._sessions: dict[str, Session] = {}
        self._dropped: set[str] = set()
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._noise = 0
        self.heard_at = now()
        """When the plugin last said anything."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done with the first heartbeat; an error where the line ends before."""
        self.error: PluginError | None = None

    @property
    def open(self) -> int:
        """Requests that somebody waits for."""
        return len(self._sessions)

    @property
    def abandoned(self) -> int:
        """Requests that the plugin still works on and nobody waits for."""
        return len(self._dropped)

    # to the plugin

    async def call(self, call: PluginCall) -> AsyncGenerator[JSON, None]:
        """What the plugin answers, object by object. Raises PluginError: its own, or that it died."""
        if self.error is not None:
            raise self.error
        session = Session(call)
        self._sessions[session.id] = session
        try:
            self._write(request_of(session.id, call) + b"\n")
            while (data := await session.next()) is not None:
                yield data
        finally:
            del self._sessions[session.id]
            if not session.is_over and self.error is None:
                self._dropped.add(session.id)
            for task in session.asking:
                task.cancel()

    def _send(self, session: Session, event: str, data: JSON) -> None:
        self._write(envelope(session.id, session.call, event, data) + b"\n")

    # from the plugin

    def feed(self, data: bytes) -> None:
        """Bytes as they come, in pieces of any size."""
        self.heard_at = self._now()
        lines = data.split(b"\n")
        if len(lines) == 1:
            self._rest.append(data)
            self._rest_size += len(data)
            if self._rest_size > MAX_LINE:
                self.end(PluginDiedError(f"it sent a line of more than {MAX_LINE:,} bytes", plugin=self.plugin))
            return
        if self._rest:
            lines[0] = b"".join([*self._rest, lines[0]])
        last = lines.pop()
        self._rest, self._rest_size = ([last], len(last)) if last else ([], 0)
        for line in lines:
            if line:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            envelope = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._take_apart(line)
            return
        match envelope.event:
            case "session":
                self._heed(envelope, len(line))
            case "heartbeat":
                if not self.ready.done():
                    self.ready.set_result(None)
            case "log":
                message = envelope.data.get("message") if isinstance(envelope.data, dict) else envelope.data
                self._on_noise(str(message))
            case "error":
                self._on_noise(f"it could not read a request: {envelope.data}")
            case _:
                pass  # its manifest, which we have; or a word of a later version

    def _take_apart(self, line: bytes) -> None:
        """A line that is not one object: several, perhaps, or something that was printed."""
        text = line.decode("utf-8", "replace").strip()
        if text.startswith("{") and "}{" in text:
            import json

            decoder, place = json.JSONDecoder(), 0
            try:
                while place < len(text):
                    document, place = decoder.raw_decode(text, place)
                    self._take(_encode(document))
            except ValueError:
                self._noisy(text[place:])
            return
        self._noisy(text)

    def _noisy(self, text: str) -> None:
        self._noise += 1
        if text and self._noise <= _NOISE_SHOWN:
            more = "; further lines that are not JSON are left out" if self._noise == _NOISE_SHOWN else ""
            self._on_noise(text[:500] + more)

    def _heed(self, envelope: _Envelope, size: int) -> None:
        name, message = envelope.session_id or "", envelope.data
        kind = message.get("type") if isinstance(message, dict) else None
        session = self._sessions.get(name)
        if session is None:
            if kind == "end":
                self._dropped.discard(name)
            elif name not in self._dropped:
                self._noisy(f"it answers a request that it was not asked: {name!r}")
            return
        if session.is_over:
            return
        data = message.get("data") if isinstance(message, dict) else None
        match kind:
            case "stream":
                if session.waiting + size > MAX_WAITING:
                    session.end(PluginError(f"it sent more than {MAX_WAITING:,} bytes that nobody had read",
                                            plugin=self.plugin))  # fmt: skip
                    self._dropped.add(name)
                else:
                    session.put(data, size)
            case "end":
                session.end()
            case "error":
                session.error = session.error or reported(data, self.plugin)
            case "invoke" if isinstance(data, dict):
                # This task reads for all sessions; its own context is that of whoever called the plugin first.
                context = session.context.copy()
                task = asyncio.get_running_loop().create_task(self._answer(session, data), context=context)
                session.asking.add(task)
                task.add_done_callback(session.asking.discard)
            case _:
                self._noisy(f"it says {kind!r}, which is no word of the protocol")

    async def _answer(self, session: Session, asked: Mapping[str, Any]) -> None:
        """Serve what a plugin asks for meanwhile; it is always told the end."""
        name = str(asked.get("backwards_request_id", ""))
        kind, request = str(asked.get("type", "")), asked.get("request")

        def say(event: str, message: str, data: Any) -> None:
            if self.error is None:
                answer = {"backwards_request_id": name, "event": event, "message": message, "data": data}
                self._send(session, "backwards_response", answer)

        try:
            document = request if isinstance(request, dict) else {}
            stream: Any = self._backwards.answer(session.call, kind, document)
            async with aclosing(stream) as answers:
                async for data in answers:
                    say("response", "stream", data)
        except ModelyardError as error:
            say("error", str(error), None)
        except asyncio.CancelledError:
            say("error", "the request was given up", None)
            raise
        except Exception:  # ours is wrong, and the plugin must not wait for ever
            logger.exception("a plugin's request to its host failed", extra={"fields": {"plugin": self.plugin}})
            say("error", "something is wrong with the host; its log has the reason", None)
        finally:
            say("end", "", None)

    def end(self, error: PluginError) -> None:
        """The line is gone: everybody who waits hears why."""
        if self.error is not None:
            return
        self.error = error
        for session in self._sessions.values():
            session.end(error)
        self._dropped.clear()
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # nobody may be waiting


def reported(data: Any, plugin: str) -> PluginError:
    """The plugin's own error."""
    document = data if isinstance(data, dict) else {}
    kind = str(document.get("error_type") or "Exception")
    message = str(document.get("message") or kind)
    return PluginError(message, plugin=plugin, kind=kind)
