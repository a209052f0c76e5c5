"""The MCP client: negotiates the protocol revision, lists what a server has, and calls
its tools.

The newest revision is tried first, then the handshake of the earlier ones, then the
original SSE transport; nothing is guessed from the URL. Whatever a server sends is
validated and bounded, since it may be slow, huge or malicious.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import is_array, is_mapping
from modelyard.base.urls import join
from modelyard.tools.mcp import protocol
from modelyard.tools.mcp.protocol import McpError
from modelyard.transport.egress import EgressClient, EgressError, StreamedResponse
from modelyard.transport.sse import EventStream

logger = logging.getLogger("modelyard.tools.mcp")

# A tool may work for minutes before it sends anything.
CONNECT_SECONDS, READ_SECONDS = 30.0, 300.0
_MAX_RESPONSE_BYTES = 32 << 20
# A server could answer with a next page forever.
_MAX_PAGES = 100
# Every listed tool is offered to models, which choose badly among so many.
_MAX_LISTED = 2000


class Channel(Protocol):
    """A transport to a server."""

    async def open(self) -> None:
        """Open the connection."""
        ...

    async def ask(
        self, message: Mapping[str, Any], *, seconds: float
    ) -> Mapping[str, Any]:
        """Send a request and return the complete response message. Raises McpError."""
        ...

    async def notify(self, message: Mapping[str, Any]) -> None:
        """Send a notification, which has no response."""
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...

    def set_protocol_version(self, version: str) -> None:
        """Set the protocol revision of the following messages."""
        ...


class McpClient:
    """A client of one server. Requests connect first if needed; every method raises
    McpError."""

    def __init__(
        self,
        channel: Channel,
        *,
        fallback: Channel | None = None,
        seconds: float = READ_SECONDS,
    ) -> None:
        self._channel = channel
        self._fallback = fallback
        self._seconds = seconds
        # JSON-RPC request ids; unique within this client.
        self._request_ids = itertools.count(1)
        self._lock = asyncio.Lock()
        self.version = ""
        self.server: Mapping[str, Any] = {}
        self.capabilities: Mapping[str, Any] = {}
        self.instructions = ""

    @property
    def is_modern(self) -> bool:
        """Whether the server uses the revision without a handshake."""
        return self.version == protocol.MODERN

    async def connect(self) -> None:
        """Negotiate with the server, unless that has been done. Concurrent calls wait
        for each other."""
        async with self._lock:
            if self.version:
                return
            try:
                await self._negotiate()
            except McpError:
                if self._fallback is None:
                    raise
                # Without streamable HTTP, the server may use the original transport,
                # which exists only in revisions with a handshake.
                failed_channel = self._channel
                self._channel, self._fallback = self._fallback, None
                await failed_channel.aclose()
                await self._negotiate(only_handshake=True)

    async def _negotiate(self, *, only_handshake: bool = False) -> None:
        """Negotiate the revision: first the modern discovery, then the handshake."""
        await self._channel.open()
        if only_handshake or not await self._discover():
            await self._shake_hands()

    async def _discover(self) -> bool:
        """Return whether the server supports the revision without a handshake.

        Raises McpError if it supports neither that revision nor one with a handshake.
        """
        self._channel.set_protocol_version(protocol.MODERN)
        try:
            result = await self._ask("server/discover", {}, version=protocol.MODERN)
        except McpError as error:
            # An error that lists supported revisions is an answer; any other means
            # that the server does not know the method.
            data: Mapping[str, Any] = error.data if is_mapping(error.data) else {}
            supported = data.get("supported")
            if supported and not set(protocol.names_of(supported)) & set(
                protocol.HANDSHAKE
            ):
                raise McpError(
                    f"No common protocol revision: the server supports {supported},"
                    f" this client {', '.join((protocol.MODERN, *protocol.HANDSHAKE))}"
                ) from error
            return False
        supported = protocol.names_of(result.get("supportedVersions") or ())
        if protocol.MODERN not in supported:
            return False
        self._store_server_info(protocol.MODERN, result)
        return True

    async def _shake_hands(self) -> None:
        """Agree on one of the earlier revisions. Raises McpError."""
        # The handshake itself is sent without a version header.
        self._channel.set_protocol_version("")
        result = await self._ask(
            "initialize",
            {
                "protocolVersion": protocol.HANDSHAKE[0],
                "capabilities": {},
                "clientInfo": protocol.info(),
            },
        )
        version = str(result.get("protocolVersion") or "")
        if version not in protocol.HANDSHAKE:
            raise McpError(
                f"Unsupported protocol revision {version[:40]!r}; expected one of"
                f" {', '.join(protocol.HANDSHAKE)}"
            )
        self._channel.set_protocol_version(version)
        self._store_server_info(version, result)
        await self._channel.notify(
            {"jsonrpc": "2.0", "method": "notifications/initialized"}
        )

    def _store_server_info(self, version: str, result: Mapping[str, Any]) -> None:
        """Store the negotiated revision and what the server says about itself."""
        self.version = version
        self.server = _server_info(result)
        capabilities = result.get("capabilities")
        self.capabilities = capabilities if is_mapping(capabilities) else {}
        # Bounded, because the text ends up in prompts.
        self.instructions = str(result.get("instructions") or "")[:4000]

    async def _ask(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        version: str = "",
        seconds: float | None = None,
    ) -> Mapping[str, Any]:
        """Send one request and return its result.

        Raises McpError for an error response or a response that does not follow the
        protocol.
        """
        request_params = dict(params)
        # The modern revision has no session, so each request carries the client's
        # information.
        if version or self.is_modern:
            request_params["_meta"] = {
                protocol.VERSION_META: version or self.version,
                protocol.CLIENT_META: protocol.info(),
                protocol.CAPABILITIES_META: {},
            }
        message = protocol.request(next(self._request_ids), method, request_params)
        response = await self._channel.ask(message, seconds=seconds or self._seconds)
        if response.get("id") != message["id"]:
            raise McpError(f"The response to {method} has the id of another request")
        if (error := response.get("error")) is not None:
            details: Mapping[str, Any] = error if is_mapping(error) else {}
            number = details.get("code")
            raise McpError(
                str(details.get("message") or "Request refused")[:2000],
                number=number if isinstance(number, int) else 0,
                data=details.get("data"),
            )
        result = response.get("result")
        if not is_mapping(result):
            raise McpError(
                f"The response to {method} has neither a result nor an error"
            )
        # The server requires input from a user first, which is not supported.
        if result.get("resultType") == "input_required":
            raise McpError(
                f"{method} requires user input first, which is not supported"
            )
        return result

    async def ask(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        seconds: float | None = None,
    ) -> Mapping[str, Any]:
        """Send a request. If the server has lost the session, connect again and repeat
        it once."""
        await self.connect()
        try:
            return await self._ask(method, params or {}, seconds=seconds)
        except SessionLostError:
            self.version = ""
            await self.connect()
            return await self._ask(method, params or {}, seconds=seconds)

    async def _pages(self, method: str, key: str) -> list[Mapping[str, Any]]:
        """Return a complete listing, following its pages up to a limit."""
        listed_objects: list[Mapping[str, Any]] = []
        cursor: Any = None
        used_cursors: set[str] = set()
        for _ in range(_MAX_PAGES):
            page = await self.ask(
                method, {"cursor": cursor} if cursor is not None else {}
            )
            listed = page.get(key)
            listed_objects += (
                [listed_object for listed_object in listed if is_mapping(listed_object)]
                if is_array(listed)
                else []
            )
            cursor = page.get("nextCursor")
            # A repeated cursor would loop forever.
            if (
                not isinstance(cursor, str)
                or cursor in used_cursors
                or len(listed_objects) >= _MAX_LISTED
            ):
                break
            used_cursors.add(cursor)
        return listed_objects[:_MAX_LISTED]

    async def tools(self) -> list[Mapping[str, Any]]:
        """Return the server's tools."""
        return await self._pages("tools/list", "tools")

    async def resources(self) -> list[Mapping[str, Any]]:
        """Return the server's resources; empty if it has none."""
        return (
            await self._pages("resources/list", "resources")
            if "resources" in self.capabilities
            else []
        )

    async def prompts(self) -> list[Mapping[str, Any]]:
        """Return the server's prompts; empty if it has none."""
        return (
            await self._pages("prompts/list", "prompts")
            if "prompts" in self.capabilities
            else []
        )

    async def read(self, uri: str) -> list[Mapping[str, Any]]:
        """Return the contents of a resource."""
        result = await self.ask("resources/read", {"uri": uri})
        contents = result.get("contents")
        return (
            [content for content in contents if is_mapping(content)]
            if is_array(contents)
            else []
        )

    async def prompt(
        self, name: str, arguments: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """Return a prompt with its arguments filled in."""
        return await self.ask(
            "prompts/get", {"name": name, "arguments": dict(arguments)}
        )

    async def call(
        self, name: str, arguments: Mapping[str, Any], *, seconds: float | None = None
    ) -> Mapping[str, Any]:
        """Call a tool and return its result. `seconds` overrides the client's timeout."""
        return await self.ask(
            "tools/call", {"name": name, "arguments": dict(arguments)}, seconds=seconds
        )

    async def aclose(self) -> None:
        """Close the connection. The client can connect again."""
        self.version = ""
        await self._channel.aclose()
        if self._fallback is not None:
            await self._fallback.aclose()


class SessionLostError(McpError):
    """The server no longer knows the session."""


# --------------------------------------------------------------------------------- HTTP


class HttpChannel:
    """The streamable HTTP transport: each request is a POST, answered with JSON or an
    event stream."""

    def __init__(
        self, egress: EgressClient, url: str, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._egress = egress
        self._url = url
        self._headers = list(headers)
        self._session = ""
        self._version = ""

    async def open(self) -> None:
        """Start without a session; there is no connection to open."""
        self._session = ""

    def set_protocol_version(self, version: str) -> None:
        """Set the revision that is sent in the headers."""
        self._version = version

    def _request_headers(self, message: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the headers for a message."""
        headers = [
            *self._headers,
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ]
        if self._version:
            headers.append(("mcp-protocol-version", self._version))
        # The modern revision repeats method and subject in headers, so that proxies can
        # route without reading the body.
        if self._version == protocol.MODERN:
            method = str(message.get("method"))
            headers.append(("mcp-method", method))
            if (key := protocol.NAMED.get(method)) is not None:
                headers.append(
                    ("mcp-name", protocol.header_value(str(message["params"].get(key))))
                )
        if self._session:
            headers.append(("mcp-session-id", self._session))
        return headers

    async def ask(
        self, message: Mapping[str, Any], *, seconds: float
    ) -> Mapping[str, Any]:
        """Send a request and return its response. Raises McpError or SessionLostError."""
        body = msgspec.json.encode(dict(message))
        try:
            async with self._egress.stream(
                "POST",
                self._url,
                headers=self._request_headers(message),
                body=body,
                connect=CONNECT_SECONDS,
                read=seconds,
                max_bytes=_MAX_RESPONSE_BYTES,
            ) as answer:
                return await self._read_response(message, answer)
        except EgressError as error:
            raise McpError(str(error)) from error

    async def _read_response(
        self, message: Mapping[str, Any], answer: StreamedResponse
    ) -> Mapping[str, Any]:
        """Read the response from JSON or from an event stream."""
        # With a session, 404 means that the server has dropped it.
        if answer.status == 404 and self._session:
            self._session = ""
            raise SessionLostError("Session not found on the server")
        if session := answer.headers.get("mcp-session-id"):
            self._session = session[:512]
        content_type = (
            answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        )
        if content_type == "text/event-stream" and answer.status < 400:
            return await _reply_in_stream(answer, message.get("id"))
        return await _reply_in_body(answer, message.get("id"))

    async def notify(self, message: Mapping[str, Any]) -> None:
        """Send a notification. Failures are ignored, since nothing depends on it."""
        with suppress(EgressError):
            await self._egress.fetch(
                "POST",
                self._url,
                headers=self._request_headers(message),
                body=msgspec.json.encode(dict(message)),
                connect=CONNECT_SECONDS,
                read=CONNECT_SECONDS,
                max_bytes=1 << 20,
            )

    async def aclose(self) -> None:
        """End the session, if there is one. Failures are ignored."""
        if self._session:
            with suppress(EgressError):
                await self._egress.fetch(
                    "DELETE",
                    self._url,
                    headers=self._request_headers({}),
                    connect=5,
                    read=5,
                    max_bytes=1 << 16,
                )
            self._session = ""


async def _reply_in_stream(
    answer: StreamedResponse, request_id: Any
) -> Mapping[str, Any]:
    """Return the response to a request from an event stream. Raises McpError if the
    stream ends without it."""
    events = EventStream(max_event_bytes=_MAX_RESPONSE_BYTES)
    async with aclosing(answer.chunks()) as chunks:
        async for chunk in chunks:
            # The stream may contain notifications and requests of the server before
            # the response.
            for data in events.feed(chunk):
                reply = _message(data)
                if reply is None or "method" in reply:
                    continue
                if reply.get("id") == request_id:
                    return reply
    raise McpError("The event stream ended without a response")


async def _reply_in_body(
    answer: StreamedResponse, request_id: Any
) -> Mapping[str, Any]:
    """Return the response to a request from a JSON body. Raises McpError."""
    reply = _message(await answer.read())
    if reply is None or ("result" not in reply and "error" not in reply):
        if answer.status >= 400:
            raise McpError(
                f"The server returned status {answer.status}", number=answer.status
            )
        raise McpError("The response is not a JSON-RPC message")
    # The server could not read the request's id, so its error belongs to this request.
    if answer.status >= 400 and reply.get("id") is None:
        return {**reply, "id": request_id}
    return reply


class SseChannel:
    """The original transport (2024-11-05): an event stream names an address, requests
    are posted there, and responses arrive in the stream."""

    def __init__(
        self, egress: EgressClient, url: str, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._egress = egress
        self._url = url
        self._headers = list(headers)
        self._post = ""
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[Any, asyncio.Future[Mapping[str, Any]]] = {}
        self._endpoint: asyncio.Future[str] | None = None

    def set_protocol_version(self, version: str) -> None:
        """Do nothing; this transport has no version header."""
        del version

    async def open(self) -> None:
        """Open the stream and wait for the address. Raises McpError."""
        loop = asyncio.get_running_loop()
        self._endpoint = loop.create_future()
        self._reading = asyncio.ensure_future(self._read())
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                # Shielded, so that a timeout does not cancel the future that the reader
                # completes.
                self._post = await asyncio.shield(self._endpoint)
        except TimeoutError:
            await self.aclose()
            raise McpError(
                f"The event stream named no endpoint within {CONNECT_SECONDS:g} s"
            ) from None

    async def _read(self) -> None:
        """Read the stream until it ends, then fail all pending requests."""
        failure: ModelyardError = McpError("The event stream ended")
        try:
            async with self._egress.stream(
                "GET",
                self._url,
                headers=[*self._headers, ("accept", "text/event-stream")],
                connect=CONNECT_SECONDS,
                read=READ_SECONDS,
                max_bytes=1 << 30,
            ) as answer:
                content_type = (
                    answer.headers.get("content-type", "")
                    .partition(";")[0]
                    .strip()
                    .lower()
                )
                if answer.status != 200 or content_type != "text/event-stream":
                    raise McpError(
                        f"Not an MCP server: status {answer.status}, content type"
                        f" {content_type or 'missing'}; expected text/event-stream"
                    )
                events = EventStream(max_event_bytes=_MAX_RESPONSE_BYTES)
                async with aclosing(answer.chunks()) as chunks:
                    async for chunk in chunks:
                        for data in events.feed(chunk):
                            self._handle_event(data)
        except ModelyardError as error:
            failure = error if isinstance(error, McpError) else McpError(str(error))
        finally:
            for waiter in [
                *self._waiting.values(),
                *([self._endpoint] if self._endpoint else []),
            ]:
                if not waiter.done():
                    waiter.set_exception(failure)
                    # Retrieved once here, so that asyncio logs no warning if nobody
                    # awaits it.
                    waiter.exception()

    def _handle_event(self, data: bytes) -> None:
        """Handle one event: the address first, then responses."""
        if self._endpoint is not None and not self._endpoint.done():
            url = join(self._url, data.decode("utf-8", "replace").strip())
            # Credentials are sent to that address, so it must be on the same host.
            if not url or urlsplit(self._url)[:2] != urlsplit(url)[:2]:
                self._endpoint.set_exception(
                    McpError("The server's endpoint is on another host")
                )
                return
            self._endpoint.set_result(url)
            return
        reply = _message(data)
        # Requests of the server are ignored.
        if reply is None or ("method" in reply and "id" in reply):
            return
        waiter = self._waiting.pop(reply.get("id"), None)
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)

    async def ask(
        self, message: Mapping[str, Any], *, seconds: float
    ) -> Mapping[str, Any]:
        """Post a request and wait for its response in the stream. Raises McpError."""
        waiter: asyncio.Future[Mapping[str, Any]] = (
            asyncio.get_running_loop().create_future()
        )
        # Registered before sending, because the response may arrive before the POST
        # returns.
        self._waiting[message["id"]] = waiter
        try:
            await self.notify(message)
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError:
            raise McpError(f"No response within {seconds:g} s") from None
        finally:
            self._waiting.pop(message["id"], None)

    async def notify(self, message: Mapping[str, Any]) -> None:
        """Post a message. Raises SessionLostError if the stream has ended, McpError if
        the server refuses it."""
        if self._reading is None or self._reading.done():
            raise SessionLostError("The event stream is closed")
        try:
            answer = await self._egress.fetch(
                "POST",
                self._post,
                headers=[*self._headers, ("content-type", "application/json")],
                body=msgspec.json.encode(dict(message)),
                connect=CONNECT_SECONDS,
                read=CONNECT_SECONDS,
                max_bytes=1 << 20,
            )
        except EgressError as error:
            raise McpError(str(error)) from error
        if answer.status >= 400:
            raise McpError(f"The server returned status {answer.status}")

    async def aclose(self) -> None:
        """Close the stream."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None


def _message(data: bytes) -> Mapping[str, Any] | None:
    """Decode a message; None if it is not a JSON object."""
    try:
        decoded = decode_body(data)
    except BodyError:
        return None
    return decoded if is_mapping(decoded) else None


# -------------------------------------------------------------------------------- stdio


class StdioChannel:
    """A server that runs as a local program, one message per line. Only programs that
    an administrator registered are started."""

    def __init__(
        self,
        command: str,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._arguments = list(arguments)
        self._environ = dict(environ or {})
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._is_over = False
        """Whether the program's output has ended."""
        self._waiting: dict[Any, asyncio.Future[Mapping[str, Any]]] = {}

    def set_protocol_version(self, version: str) -> None:
        """Do nothing; this transport has no version header."""
        del version

    async def open(self) -> None:
        """Start the program, unless it is running. Raises McpError."""
        if self._process is not None and self._process.returncode is None:
            return
        try:
            self._process = await asyncio.create_subprocess_exec(
                # Only the configured environment is passed on: ours contains secrets.
                self._command,
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._environ,
                limit=_MAX_RESPONSE_BYTES,
                start_new_session=True,
            )
        except OSError as error:
            raise McpError(f"Cannot start the server's program: {error}") from error
        self._is_over = False
        self._reading = asyncio.ensure_future(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Read the program's output until it ends, then fail all pending requests."""
        output: Any = process.stdout
        try:
            while line := await output.readline():
                await self._handle_line(line)
        # The line is longer than the limit, or the program has exited.
        except (ValueError, ConnectionError) as error:
            logger.warning(
                "MCP server output not readable",
                extra={"fields": {"error": str(error)}},
            )
        finally:
            self._is_over = True
            for reply in self._waiting.values():
                if not reply.done():
                    reply.set_exception(SessionLostError("The server's program exited"))
            self._waiting.clear()

    async def _handle_line(self, line: bytes) -> None:
        """Handle one message of the program; lines that are not messages are ignored."""
        reply = _message(line)
        if reply is None:
            return
        if "method" not in reply:
            waiter = self._waiting.pop(reply.get("id"), None)
            if waiter is not None and not waiter.done():
                waiter.set_result(reply)
        # Requests of the server are refused, so that it does not wait for a response;
        # notifications are ignored.
        elif "id" in reply:
            await self._write(
                protocol.error_of(
                    reply.get("id"), protocol.METHOD_NOT_FOUND, "Method not found"
                )
            )

    async def _write(self, message: Mapping[str, Any]) -> None:
        """Write a message to the program. Raises SessionLostError if it has ended."""
        process = self._process
        if (
            process is None
            or process.stdin is None
            or process.returncode is not None
            or self._is_over
        ):
            raise SessionLostError("The server's program is not running")
        try:
            process.stdin.write(msgspec.json.encode(dict(message)) + b"\n")
            await process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise SessionLostError(f"The server's program exited: {error}") from error

    async def ask(
        self, message: Mapping[str, Any], *, seconds: float
    ) -> Mapping[str, Any]:
        """Send a request and wait for its response. A timeout cancels it at the server.
        Raises McpError."""
        waiter: asyncio.Future[Mapping[str, Any]] = (
            asyncio.get_running_loop().create_future()
        )
        self._waiting[message["id"]] = waiter
        try:
            await self._write(message)
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError:
            cancelled = {"requestId": message["id"], "reason": "too slow"}
            # The server would otherwise go on working for nobody.
            with suppress(McpError):
                await self.notify(
                    {
                        "jsonrpc": "2.0",
                        "method": "notifications/cancelled",
                        "params": cancelled,
                    }
                )
            raise McpError(f"No response within {seconds:g} s") from None
        finally:
            self._waiting.pop(message["id"], None)

    async def notify(self, message: Mapping[str, Any]) -> None:
        """Send a notification."""
        await self._write(message)

    async def aclose(self) -> None:
        """Stop the program: close its input, then terminate it, then kill it, with two
        seconds before each step."""
        process = self._process
        self._process = None
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        for end in (None, process.terminate, process.kill):
            if end is not None:
                with suppress(ProcessLookupError):
                    end()
            try:
                async with asyncio.timeout(2):
                    await process.wait()
                    return
            except TimeoutError:
                continue


def http_client(
    egress: EgressClient,
    url: str,
    headers: Sequence[tuple[str, str]] = (),
    *,
    seconds: float = READ_SECONDS,
) -> McpClient:
    """Return a client for a URL, which tries streamable HTTP first and the SSE
    transport second."""
    return McpClient(
        HttpChannel(egress, url, headers),
        fallback=SseChannel(egress, url, headers),
        seconds=seconds,
    )


async def list_tools(client: McpClient) -> AsyncGenerator[Mapping[str, Any], None]:
    """Yield a server's tools that have a usable name, each name once."""
    used_names: set[str] = set()
    for tool in await client.tools():
        name = tool.get("name")
        if (
            isinstance(name, str)
            and name
            and len(name) <= 128
            and name not in used_names
        ):
            used_names.add(name)
            yield tool


def _server_info(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a server says about itself; empty if it says nothing."""
    meta = result.get("_meta")
    # Revisions without a handshake send it with each result.
    in_meta = meta.get(protocol.SERVER_META) if is_mapping(meta) else None
    server_info = result.get("serverInfo") or in_meta
    return server_info if is_mapping(server_info) else {}
