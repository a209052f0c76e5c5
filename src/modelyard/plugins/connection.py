"""Multiplexes many sessions over one connection to a plugin, whether it uses pipes or
TCP.

The protocol has one JSON object per line in both directions. A plugin cannot be told to
stop: an abandoned session is forgotten, and its further messages are dropped until the
plugin reports its end.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import aclosing
from contextvars import copy_context
from typing import Any, Protocol

import msgspec

from modelyard.base.bounded_json import decode_json
from modelyard.base.errors import ModelyardError, PluginError
from modelyard.base.ids import new_id
from modelyard.base.json_types import JsonValue, is_object
from modelyard.models.messages import AssistantPromptMessage
from modelyard.models.types import JSON
from modelyard.plugins.manifest import Permissions

logger = logging.getLogger("modelyard.plugins")

MAX_LINE = 256 * 1024 * 1024
"""Maximum length of a line. A plugin that sends more without a newline would exhaust
memory."""
MAX_WAITING = 64 * 1024 * 1024
"""Maximum number of bytes of a session's answers that are buffered because the caller
has not read them."""
# A plugin that prints without end must not fill the log.
_MAX_NOISE_LINES = 20
_encode = msgspec.json.Encoder().encode


class PluginDiedError(PluginError):
    """The plugin's process or connection has ended; running calls are lost."""

    code = "plugin_died"


class PluginStoppedError(PluginDiedError):
    """The plugin was stopped from outside, as by an upgrade, before the call reached
    it."""


class PluginCall(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a plugin, with the tenant and user that it is made for."""

    tenant: str
    type: str
    """`model`, `tool`, `agent_strategy`, `endpoint`, `oauth`, `dynamic_parameter`,
    `datasource` or `trigger`."""
    action: str
    data: dict[str, Any]
    user: str = ""
    permissions: Permissions = Permissions()
    """The requested permissions that the tenant granted."""
    plugin: str = ""
    """`author/name`."""
    conversation_id: str | None = None
    message_id: str | None = None
    app_id: str | None = None
    endpoint_id: str | None = None
    context: dict[str, Any] | None = None
    answers: dict[tuple[str, ...], AssistantPromptMessage] = msgspec.field(
        default_factory=dict[tuple[str, ...], AssistantPromptMessage]
    )
    """Answers of models that the plugin has called, by the ids of their calls of tools.
    The plugin sends them back without their thoughts."""


def envelope(session: str, call: PluginCall, event: str, data: JSON) -> bytes:
    """Encode a message from the host within a session as JSON."""
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


def encode_request(session: str, call: PluginCall) -> bytes:
    """Encode the message that opens a session, without its newline.

    It is an envelope with the event `request`, whose data has `user_id`, `type` and
    `action` in addition to the fields of `call.data`, which take precedence.
    """
    request_data = {
        "user_id": call.user,
        "type": call.type,
        "action": call.action,
        **call.data,
    }
    return envelope(session, call, "request", request_data)


class HostCalls(Protocol):
    """Handler for requests of plugins to their host."""

    def answer(
        self, call: PluginCall, request_type: str, request: JSON
    ) -> AsyncIterable[JSON]:
        """Yield one or more answers. Raises ModelyardError, which is reported to the
        plugin."""
        ...


# One for each line of every plugin; plain JSON in it cannot form a cycle.
class _Envelope(msgspec.Struct, frozen=True, gc=False):
    event: str = ""
    session_id: str | None = None
    data: Any = None


_decode = msgspec.json.Decoder(_Envelope).decode


class Session:
    """One open request to a plugin and the buffer of its answers."""

    __slots__ = (
        "_pending",
        "_waiter",
        "call",
        "context",
        "error",
        "host_call_tasks",
        "id",
        "is_over",
        "waiting",
    )

    def __init__(self, call: PluginCall) -> None:
        self.id = new_id("session")
        self.call = call
        self.context = copy_context()
        """Context variables of the caller; the plugin's requests to the host run in
        them, on behalf of that caller."""
        self.is_over = False
        self.error: PluginError | None = None
        self.waiting = 0
        """Bytes that are buffered and not read yet."""
        self.host_call_tasks: set[asyncio.Task[None]] = set()
        """Tasks that handle the plugin's requests to the host during this session."""
        self._pending: deque[tuple[Any, int]] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, data: Any, size: int) -> None:
        """Append an answer to the buffer and wake the waiting reader.

        `size` is its length on the wire in bytes, by which the caller limits the
        buffer; nothing is limited here.
        """
        self._pending.append((data, size))
        self.waiting += size
        self._wake()

    def end(self, error: PluginError | None = None) -> None:
        """End the session, with an error if there is one. The first error is reported."""
        self.error = self.error or error
        self.is_over = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> Any:
        """Return the next answer; None after the last one. Raises the error that ended
        the session."""
        while not self._pending:
            # Buffered answers are delivered before an error is raised.
            if self.error is not None:
                raise self.error
            if self.is_over:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            # The waiter is replaced for each wait; `_wake` completes it.
            try:
                await self._waiter
            finally:
                self._waiter = None
        data, size = self._pending.popleft()
        self.waiting -= size
        return data


class PluginConnection:
    """The host's end of the connection to one plugin."""

    def __init__(
        self,
        plugin: str,
        write: Callable[[bytes], None],
        backwards: HostCalls,
        clock: Callable[[], float],
        on_noise: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.plugin = plugin
        self._write = write
        self._backwards = backwards
        self._now = clock
        self._on_noise = on_noise
        self._sessions: dict[str, Session] = {}
        self._abandoned_ids: set[str] = set()
        self._partial_line: list[bytes] = []
        self._partial_size = 0
        self._noise_count = 0
        self.last_message_at = clock()
        """Time of the plugin's last message, by `clock`."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Completed by the first heartbeat; fails if the connection ends before it."""
        self.error: PluginError | None = None

    @property
    def open_count(self) -> int:
        """Number of requests that a caller is waiting for."""
        return len(self._sessions)

    @property
    def abandoned_count(self) -> int:
        """Number of abandoned requests that the plugin is still working on."""
        return len(self._abandoned_ids)

    # to the plugin

    async def call(self, call: PluginCall) -> AsyncGenerator[JSON, None]:
        """Send a request and yield the plugin's answers. Raises PluginError: its own
        error, or that it died."""
        if self.error is not None:
            raise self.error
        session = Session(call)
        self._sessions[session.id] = session
        try:
            self._write(encode_request(session.id, call) + b"\n")
            while (data := await session.next()) is not None:
                yield data
        finally:
            del self._sessions[session.id]
            # The caller gave up: remember the id, so that late answers are not reported
            # as noise.
            if not session.is_over and self.error is None:
                self._abandoned_ids.add(session.id)
            for task in session.host_call_tasks:
                task.cancel()

    def _send(self, session: Session, event: str, data: JSON) -> None:
        self._write(envelope(session.id, session.call, event, data) + b"\n")

    # from the plugin

    def feed(self, data: bytes) -> None:
        """Process bytes received from the plugin, in chunks of any size.

        Complete lines are dispatched immediately, the rest is kept for the next call. A
        line longer than MAX_LINE ends the connection with PluginDiedError, which fails
        all sessions; nothing is raised here.
        """
        self.last_message_at = self._now()
        # The fast path: most chunks contain no newline, or exactly one at the end.
        lines = data.split(b"\n")
        if len(lines) == 1:
            self._partial_line.append(data)
            self._partial_size += len(data)
            if self._partial_size > MAX_LINE:
                self.end(
                    PluginDiedError(
                        f"Output line exceeds {MAX_LINE:,} bytes",
                        plugin=self.plugin,
                    )
                )
            return
        # Chunks are joined only when a line is complete, which keeps long lines linear.
        if self._partial_line:
            lines[0] = b"".join([*self._partial_line, lines[0]])
        last = lines.pop()
        self._partial_line, self._partial_size = (
            ([last], len(last)) if last else ([], 0)
        )
        for line in lines:
            if line:
                self._handle_line(line)

    def _handle_line(self, line: bytes) -> None:
        """Dispatch one line from the plugin by the `event` field of its envelope.

        `session` goes to the session it names, the first `heartbeat` completes `ready`,
        `log` and `error` are passed to `on_noise`, and other events are ignored. `line`
        has no newline; it need not be valid JSON.
        """
        try:
            # A message must not be lost because a text in it was cut inside of an emoji.
            envelope: _Envelope = decode_json(line, _decode)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._handle_unusual_line(line)
            return
        match envelope.event:
            case "session":
                self._handle_message(envelope, len(line))
            case "heartbeat":
                if not self.ready.done():
                    self.ready.set_result(None)
            case "log":
                message = (
                    envelope.data.get("message")
                    if is_object(envelope.data)
                    else envelope.data
                )
                self._on_noise(str(message))
            case "error":
                self._on_noise(f"the plugin could not read a request: {envelope.data}")
            case _:
                pass  # its manifest, which is known, or an event of a later version

    def _handle_unusual_line(self, line: bytes) -> None:
        """Handle a line that is not one JSON object: several concatenated objects, or
        printed text."""
        text = line.decode("utf-8", "replace").strip()
        if text.startswith("{") and "}{" in text:
            # Imported here, because this is rare: msgspec cannot decode concatenated
            # objects.
            import json

            decoder, position = json.JSONDecoder(), 0
            try:
                while position < len(text):
                    document, position = decoder.raw_decode(text, position)
                    self._handle_line(_encode(document))
            except ValueError:
                self._handle_invalid_line(text[position:])
            return
        self._handle_invalid_line(text)

    def _handle_invalid_line(self, text: str) -> None:
        """Report text that is not a protocol message to `on_noise`.

        At most 20 lines are reported per connection, each cut to 500 characters; the
        last one says that further lines are omitted. Empty text is counted, but not
        reported.
        """
        self._noise_count += 1
        if text and self._noise_count <= _MAX_NOISE_LINES:
            suffix = (
                "; further lines that are not JSON are omitted"
                if self._noise_count == _MAX_NOISE_LINES
                else ""
            )
            self._on_noise(text[:500] + suffix)

    def _handle_message(self, envelope: _Envelope, size: int) -> None:
        """Process one `session` event: `stream`, `end`, `error` or `invoke`.

        `size` is the length of its line, which counts towards MAX_WAITING; beyond that
        the session fails. An `error` is raised to the caller after the answers before
        it; `invoke` starts a host call in a task. Messages of sessions that have ended
        are dropped.
        """
        name = envelope.session_id or ""
        payload: JsonValue = envelope.data
        message = payload if isinstance(payload, dict) else {}
        message_type = message.get("type")
        session = self._sessions.get(name)
        if session is None:
            self._handle_unknown_session(name, message_type)
            return
        if session.is_over:
            return
        data = message.get("data")
        match message_type:
            case "stream":
                # A slow caller must not make the host buffer without limit; the session
                # fails instead.
                if session.waiting + size > MAX_WAITING:
                    session.end(
                        PluginError(
                            f"Output buffer exceeded {MAX_WAITING:,} bytes",
                            plugin=self.plugin,
                        )
                    )
                    self._abandoned_ids.add(name)
                else:
                    session.put(data, size)
            case "end":
                session.end()
            case "error":
                # The error is raised at the `end` message, after the answers that came
                # before it.
                session.error = session.error or error_from_message(data, self.plugin)
            case "invoke" if is_object(data):
                self._start_host_call(session, data)
            case _:
                self._handle_invalid_line(f"unknown message type {message_type!r}")

    def _handle_unknown_session(self, name: str, message_type: Any) -> None:
        """Handle a message of a session that is not open: of an abandoned call, or a
        mistake of the plugin."""
        if message_type == "end":
            self._abandoned_ids.discard(name)
        elif name not in self._abandoned_ids:
            self._handle_invalid_line(f"message for unknown session {name!r}")

    def _start_host_call(self, session: Session, data: Mapping[str, Any]) -> None:
        """Handle a plugin's request to the host in a task."""
        # The calling task reads for all sessions and has the context of the first
        # caller; use that of this session's caller.
        context = session.context.copy()
        task = asyncio.get_running_loop().create_task(
            self._handle_host_call(session, data), context=context
        )
        # Keep a reference, or the task could be garbage collected.
        session.host_call_tasks.add(task)
        task.add_done_callback(session.host_call_tasks.discard)

    async def _handle_host_call(
        self, session: Session, invocation: Mapping[str, Any]
    ) -> None:
        """Handle a plugin's request to the host. An `end` message follows in every
        case."""
        name = str(invocation.get("backwards_request_id", ""))
        request_type, request = (
            str(invocation.get("type", "")),
            invocation.get("request"),
        )

        def say(event: str, message: str, data: Any) -> None:
            """Send one message about this request, unless the connection has ended."""
            if self.error is None:
                answer = {
                    "backwards_request_id": name,
                    "event": event,
                    "message": message,
                    "data": data,
                }
                self._send(session, "backwards_response", answer)

        try:
            document: JSON = request if is_object(request) else {}
            stream: Any = self._backwards.answer(session.call, request_type, document)
            async with aclosing(stream) as answers:
                async for data in answers:
                    say("response", "stream", data)
        except ModelyardError as error:
            say("error", str(error), None)
        # Tell the plugin even if the session was abandoned, because it waits for an
        # answer.
        except asyncio.CancelledError:
            say("error", "The request was cancelled", None)
            raise
        except Exception:  # an error of the host; the plugin must get an answer
            logger.exception(
                "plugin host call failed",
                extra={"fields": {"plugin": self.plugin}},
            )
            say(
                "error",
                "Internal error of the host; see its log",
                None,
            )
        finally:
            say("end", "", None)

    def end(self, error: PluginError) -> None:
        """Mark the connection as ended and fail all its sessions with `error`.

        Later calls raise the same error, and `ready` fails unless it was completed.
        Only the first call has an effect.
        """
        if self.error is not None:
            return
        self.error = error
        for session in self._sessions.values():
            session.end(error)
        self._abandoned_ids.clear()
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # marks it as retrieved, in case no call waits


def error_from_message(data: Any, plugin: str) -> PluginError:
    """Convert the data of a plugin's `error` message to a PluginError.

    `data` should have `error_type`, the name of the plugin's exception class, which
    becomes `kind`, and `message`. Missing fields, or data that is not a mapping, give
    the type `Exception`.
    """
    document: JSON = data if is_object(data) else {}
    error_type = str(document.get("error_type") or "Exception")
    message = str(document.get("message") or error_type)
    return PluginError(message, plugin=plugin, kind=error_type)
