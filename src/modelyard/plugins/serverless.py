"""Serverless runtime: a plugin that is served over HTTP. Each call is one request; the
plugin's requests to its host arrive as separate HTTP requests that name the session."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import Context, copy_context
from typing import Any

import msgspec

from modelyard.base.bounded_json import decode_json
from modelyard.base.errors import (
    InvokeError,
    ModelyardError,
    NotFoundError,
    PluginError,
)
from modelyard.base.ids import new_id
from modelyard.base.json_types import is_object
from modelyard.models.types import JSON
from modelyard.plugins.connection import (
    HostCalls,
    PluginCall,
    PluginDiedError,
    encode_request,
    error_from_message,
)
from modelyard.transport.http import HttpClient, Timeouts

# Dify's limit for the requests of this protocol.
_MAX_REQUEST = 5 * 1024 * 1024
_encode = msgspec.json.Encoder().encode


class ServerlessRuntime:
    """Runtime of one plugin at a URL."""

    def __init__(
        self,
        plugin: str,
        address: str,
        client: HttpClient,
        sessions: "ServerlessSessions",
        timeouts: Timeouts,
    ) -> None:
        self._plugin = plugin
        self._address = address.rstrip("/")
        self._client = client
        self._sessions = sessions
        self._timeouts = timeouts

    async def call(self, call: PluginCall) -> AsyncGenerator[JSON, None]:
        """Send a call to the plugin and yield its answers. Raises PluginError: its own
        error, or that it cannot be reached."""
        session = new_id("session")
        body = encode_request(session, call)
        # Checked here, so that an oversized request fails with a clear error before it
        # is sent.
        if len(body) > _MAX_REQUEST:
            raise PluginError(
                f"The request has {len(body):,} bytes; the limit is {_MAX_REQUEST:,}",
                plugin=self._plugin,
            )
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "dify-plugin-session-id": session,
        }
        # Registered before the request is sent: the plugin may call back at any time.
        self._sessions.open(session, call)
        try:
            url = f"{self._address}/invoke"
            response = await self._client.send(
                "POST", url, headers=headers, body=[body], timeouts=self._timeouts
            )
            try:
                if response.status != 200:
                    raise PluginDiedError(
                        f"HTTP status {response.status}",
                        plugin=self._plugin,
                    )
                async for data in self._read(response):
                    yield data
            finally:
                # Closing the response aborts the call if the caller gave up.
                response.close()
        except InvokeError as error:
            raise PluginDiedError(str(error), plugin=self._plugin) from error
        finally:
            self._sessions.close(session)

    async def _read(self, response: Any) -> AsyncGenerator[JSON, None]:
        """Yield the plugin's answers from the body of its HTTP response.

        The body has one JSON message per line. An `error` message is raised at `end`.
        Raises PluginError for an invalid message, and PluginDiedError if the body stops
        without `end` or `error`.
        """
        partial_line, error = b"", None
        async for chunk in response.chunks():
            *lines, partial_line = (partial_line + chunk).split(b"\n")
            # Blank lines separate messages.
            for line in filter(bytes.strip, lines):
                message = self._parse_message(line)
                message_type, data = message.get("type"), message.get("data")
                if message_type == "stream" and isinstance(data, dict):
                    yield data
                elif message_type == "error":
                    # The error is raised at `end`, after the answers that came before
                    # it.
                    error = error or error_from_message(data, self._plugin)
                elif message_type == "end":
                    _raise_if_failed(error)
                    return
        # The connection ended without an `end` message.
        raise error or PluginDiedError(
            "The response was truncated", plugin=self._plugin
        )

    def _parse_message(self, line: bytes) -> Mapping[str, Any]:
        """Return the message in one line, which is a `session` envelope.

        Empty for envelopes with another event. Raises PluginError if the line is not
        JSON or has no `data`.
        """
        try:
            envelope = decode_json(line)
            data = envelope["data"]
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
            raise PluginError(
                "The response contains an invalid message", plugin=self._plugin
            ) from None
        return data if envelope.get("event") == "session" and is_object(data) else {}

    async def aclose(self) -> None:
        """Nothing to release; connections belong to the HTTP client."""


class ServerlessSessions:
    """Open calls to serverless plugins, by session, and the handler of their requests
    to the host."""

    def __init__(
        self, backwards: HostCalls, shuts_out: Callable[[str, str], bool]
    ) -> None:
        """`shuts_out` returns whether a tenant, or one of its users, has been disabled."""
        self._backwards = backwards
        self._shuts_out = shuts_out
        self._open: dict[str, tuple[PluginCall, Context]] = {}

    def open(self, session: str, call: PluginCall) -> None:
        """Register a call, so that the plugin may make requests in its name.

        `session` is the id that is sent to the plugin. The caller's context variables
        are stored with it. Must be undone with `close`.
        """
        self._open[session] = (call, copy_context())

    def close(self, session: str) -> None:
        """Unregister a session."""
        self._open.pop(session, None)

    def context(self, session: str) -> Context:
        """Return the context variables of the session's caller. Raises NotFoundError."""
        return self._entry(session)[1]

    def tenant_of(self, session: str) -> str:
        """Return the tenant of a session. Raises NotFoundError."""
        return self._entry(session)[0].tenant

    def _entry(self, session: str) -> tuple[PluginCall, Context]:
        """Return the call and the context of an open session.

        Raises NotFoundError if it is not open, or if its tenant or user has been
        disabled meanwhile.
        """
        entry = self._open.get(session)
        # Checked for each request, because a tenant may be disabled during a call.
        if entry is None or self._shuts_out(entry[0].tenant, entry[0].user):
            raise NotFoundError("Plugin session not found", code="session_not_found")
        return entry

    async def answer(self, session: str, line: bytes) -> AsyncGenerator[bytes, None]:
        """Handle one request of a plugin and yield the lines of the answer. Raises
        NotFoundError."""
        call, _ = self._entry(session)
        invocation = _parse_invocation(line)
        name = str(invocation.get("backwards_request_id", ""))

        def encode_event(event: str, message: str, data: Any) -> bytes:
            """Encode one line of the answer."""
            return (
                _encode(
                    {
                        "session_id": session,
                        "event": "backwards_response",
                        "data": {
                            "backwards_request_id": name,
                            "event": event,
                            "message": message,
                            "data": data,
                        },
                    }
                )
                + b"\n"
            )

        request = invocation.get("request")
        document: JSON = request if is_object(request) else {}
        try:
            async for data in self._backwards.answer(
                call, str(invocation.get("type", "")), document
            ):
                yield encode_event("response", "stream", data)
        except ModelyardError as error:
            yield encode_event("error", str(error), None)
        yield encode_event("end", "", None)


def _raise_if_failed(error: PluginError | None) -> None:
    if error is not None:
        raise error


def _parse_invocation(line: bytes) -> Mapping[str, Any]:
    """Return the request, however many envelopes it is wrapped in. Raises PluginError."""
    try:
        document = decode_json(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise PluginError("Invalid transaction: not a JSON message") from None
    # The request may be nested in any number of `data` envelopes.
    while is_object(document) and "backwards_request_id" not in document:
        document = document.get("data")
    if not is_object(document):
        raise PluginError("Invalid transaction: no request")
    return document
