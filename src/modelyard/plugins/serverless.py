"""The serverless runtime: a plugin that is served by HTTP somewhere. Each call is one request; what it asks of its host
comes as requests of its own, which name the session."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import Context, copy_context
from typing import Any

import msgspec

from modelyard.base.errors import InvokeError, ModelyardError, NotFoundError, PluginError
from modelyard.base.ids import new_id
from modelyard.models.types import JSON
from modelyard.plugins.conversation import Backwards, PluginCall, PluginDiedError, reported, request_of
from modelyard.transport.http import HttpClient, Timeouts

_MAX_REQUEST = 5 * 1024 * 1024
_encode = msgspec.json.Encoder().encode


class ServerlessRuntime:
    def __init__(
        self, plugin: str, address: str, client: HttpClient, sessions: "ServerlessSessions", timeouts: Timeouts
    ) -> None:
        self._plugin = plugin
        self._address = address.rstrip("/")
        self._client = client
        self._sessions = sessions
        self._timeouts = timeouts

    async def call(self, call: PluginCall) -> AsyncGenerator[JSON, None]:
        """Raises PluginError: the plugin's own, or that it cannot be reached."""
        session = new_id("session")
        body = request_of(session, call)
        if len(body) > _MAX_REQUEST:
            raise PluginError(f"the request has {len(body):,} bytes; {_MAX_REQUEST:,} are allowed", plugin=self._plugin)
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "dify-plugin-session-id": session,
        }
        self._sessions.open(session, call)
        try:
            url = f"{self._address}/invoke"
            response = await self._client.send("POST", url, headers=headers, body=[body], timeouts=self._timeouts)
            try:
                if response.status != 200:
                    raise PluginDiedError(f"it answered with HTTP status {response.status}", plugin=self._plugin)
                async for data in self._read(response):
                    yield data
            finally:
                response.close()
        except InvokeError as error:
            raise PluginDiedError(str(error), plugin=self._plugin) from error
        finally:
            self._sessions.close(session)

    async def _read(self, response: Any) -> AsyncGenerator[JSON, None]:
        rest, error = b"", None
        async for piece in response.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if not line.strip():
                    continue
                message = self._message(line)
                kind, data = message.get("type"), message.get("data")
                if kind == "stream" and isinstance(data, dict):
                    yield data
                elif kind == "error":
                    error = error or reported(data, self._plugin)
                elif kind == "end":
                    if error is not None:
                        raise error
                    return
        raise error or PluginDiedError("its answer broke off", plugin=self._plugin)

    def _message(self, line: bytes) -> Mapping[str, Any]:
        try:
            envelope = msgspec.json.decode(line)
            data = envelope["data"]
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
            raise PluginError("its answer holds a line that is no message", plugin=self._plugin) from None
        return data if envelope.get("event") == "session" and isinstance(data, dict) else {}

    async def aclose(self) -> None:
        """Nothing is held."""


class ServerlessSessions:
    """The calls that plugins elsewhere are serving: what they ask of their host names one of these."""

    def __init__(self, backwards: Backwards, shuts_out: Callable[[str, str], bool]) -> None:
        """`shuts_out`: whether a tenant, or a user of it, was switched off."""
        self._backwards = backwards
        self._shuts_out = shuts_out
        self._open: dict[str, tuple[PluginCall, Context]] = {}

    def open(self, session: str, call: PluginCall) -> None:
        self._open[session] = (call, copy_context())

    def close(self, session: str) -> None:
        self._open.pop(session, None)

    def context(self, session: str) -> Context:
        """That of whoever called the plugin. Raises NotFoundError for a session that is not open."""
        return self._entry(session)[1]

    def tenant_of(self, session: str) -> str:
        """Whose call a session is. Raises NotFoundError for one that is not open."""
        return self._entry(session)[0].tenant

    def _entry(self, session: str) -> tuple[PluginCall, Context]:
        entry = self._open.get(session)
        if entry is None or self._shuts_out(entry[0].tenant, entry[0].user):
            raise NotFoundError("there is no such session", code="session_not_found")
        return entry

    async def answer(self, session: str, line: bytes) -> AsyncGenerator[bytes, None]:
        """The lines that answer one transaction. Raises NotFoundError for a session that is not open."""
        call, _ = self._entry(session)
        asked = _asked(line)
        name = str(asked.get("backwards_request_id", ""))

        def said(event: str, message: str, data: Any) -> bytes:
            return _encode({
                "session_id": session,
                "event": "backwards_response",
                "data": {"backwards_request_id": name, "event": event, "message": message, "data": data},
            }) + b"\n"  # fmt: skip

        request = asked.get("request")
        document = request if isinstance(request, dict) else {}
        try:
            async for data in self._backwards.answer(call, str(asked.get("type", "")), document):
                yield said("response", "stream", data)
        except ModelyardError as error:
            yield said("error", str(error), None)
        yield said("end", "", None)


def _asked(line: bytes) -> Mapping[str, Any]:
    """What is asked for, however many wrappings it comes in."""
    try:
        document = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise PluginError("the transaction is no message") from None
    while isinstance(document, dict) and "backwards_request_id" not in document:
        document = document.get("data")
    if not isinstance(document, dict):
        raise PluginError("the transaction asks for nothing")
    return document
