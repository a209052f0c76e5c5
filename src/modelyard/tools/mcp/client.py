"""The client: asks a server which revision it speaks, lists what it has, calls its tools.

The newest revision first, then the handshake of those before it, then the transport of the first ones; never guessed
from a path. What a server says is checked and bounded: it may be slow, huge, or lie.
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

from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import ModelyardError
from modelyard.base.urls import join
from modelyard.tools.mcp import protocol
from modelyard.tools.mcp.protocol import McpError
from modelyard.transport.egress import Egress, EgressError, Streamed
from modelyard.transport.sse import EventStream

logger = logging.getLogger("modelyard.tools.mcp")

CONNECT_SECONDS, READ_SECONDS = 30.0, 300.0
_MOST_ANSWER = 32 << 20
_MOST_PAGES = 100
_MOST_LISTED = 2000


class Channel(Protocol):
    """A way to a server. `ask` gives the result of one request."""

    async def open(self) -> None: ...

    async def ask(self, message: Mapping[str, Any], *, seconds: float) -> Mapping[str, Any]:
        """The whole response. Raises McpError."""
        ...

    async def tell(self, message: Mapping[str, Any]) -> None: ...

    async def aclose(self) -> None: ...

    def speak(self, version: str) -> None:
        """From now on in this revision."""
        ...


class McpClient:
    """One server. `connect` first; every method raises McpError."""

    def __init__(self, channel: Channel, *, fallback: Channel | None = None, seconds: float = READ_SECONDS) -> None:
        self._channel = channel
        self._fallback = fallback
        self._seconds = seconds
        self._numbers = itertools.count(1)
        self._lock = asyncio.Lock()
        self.version = ""
        self.server: Mapping[str, Any] = {}
        self.capabilities: Mapping[str, Any] = {}
        self.instructions = ""

    @property
    def is_modern(self) -> bool:
        return self.version == protocol.MODERN

    async def connect(self) -> None:
        async with self._lock:
            if self.version:
                return
            try:
                await self._negotiate()
            except McpError:
                if self._fallback is None:
                    raise
                # Not one that is asked by POST: the first transport, a stream that names where to send to.
                first, self._channel, self._fallback = self._channel, self._fallback, None
                await first.aclose()
                await self._negotiate(only_handshake=True)

    async def _negotiate(self, *, only_handshake: bool = False) -> None:
        await self._channel.open()
        if not only_handshake:
            self._channel.speak(protocol.MODERN)
            try:
                found = await self._ask("server/discover", {}, version=protocol.MODERN)
                if protocol.MODERN in protocol.names_of(found.get("supportedVersions") or ()):
                    self._settled(protocol.MODERN, found)
                    return
            except McpError as error:
                supported = error.data.get("supported") if isinstance(error.data, Mapping) else None
                if supported and not set(protocol.names_of(supported)) & set(protocol.HANDSHAKE):
                    raise McpError(f"the server speaks {supported}, and we {protocol.MODERN}") from error
        self._channel.speak("")
        found = await self._ask("initialize", {
            "protocolVersion": protocol.HANDSHAKE[0], "capabilities": {}, "clientInfo": protocol.info(),
        })  # fmt: skip
        version = str(found.get("protocolVersion") or "")
        if version not in protocol.HANDSHAKE:
            raise McpError(f"the server speaks revision {version[:40]!r}, which we do not know")
        self._channel.speak(version)
        self._settled(version, found)
        await self._channel.tell({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def _settled(self, version: str, found: Mapping[str, Any]) -> None:
        self.version = version
        meta = found.get("_meta")
        named = found.get("serverInfo") or (meta.get(protocol.SERVER_META) if isinstance(meta, Mapping) else None)
        self.server = named if isinstance(named, Mapping) else {}
        capabilities = found.get("capabilities")
        self.capabilities = capabilities if isinstance(capabilities, Mapping) else {}
        self.instructions = str(found.get("instructions") or "")[:4000]

    async def _ask(
        self, method: str, params: Mapping[str, Any], *, version: str = "", seconds: float | None = None
    ) -> Mapping[str, Any]:
        given = dict(params)
        if version or self.is_modern:
            given["_meta"] = {
                protocol.VERSION_META: version or self.version, protocol.CLIENT_META: protocol.info(),
                protocol.CAPABILITIES_META: {},
            }  # fmt: skip
        message = protocol.request(next(self._numbers), method, given)
        response = await self._channel.ask(message, seconds=seconds or self._seconds)
        if response.get("id") != message["id"]:
            raise McpError(f"the server answered another request than {method}")
        if (error := response.get("error")) is not None:
            told = error if isinstance(error, Mapping) else {}
            number = told.get("code")
            raise McpError(
                str(told.get("message") or "it refused")[:2000], number=number if isinstance(number, int) else 0,
                data=told.get("data"),
            )  # fmt: skip
        found = response.get("result")
        if not isinstance(found, Mapping):
            raise McpError(f"the server answered {method} with neither a result nor an error")
        if found.get("resultType") == "input_required":
            raise McpError(f"the server wants more from its user before it answers {method}; it cannot be asked here")
        return found

    async def ask(
        self, method: str, params: Mapping[str, Any] | None = None, *, seconds: float | None = None
    ) -> Mapping[str, Any]:
        """A request; once more, with a new session, where the server forgot the old one."""
        await self.connect()
        try:
            return await self._ask(method, params or {}, seconds=seconds)
        except SessionLostError:
            self.version = ""
            await self.connect()
            return await self._ask(method, params or {}, seconds=seconds)

    async def _pages(self, method: str, key: str) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        cursor: Any = None
        seen: set[str] = set()
        for _ in range(_MOST_PAGES):
            page = await self.ask(method, {"cursor": cursor} if cursor is not None else {})
            listed = page.get(key)
            found += [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
            cursor = page.get("nextCursor")
            if not isinstance(cursor, str) or cursor in seen or len(found) >= _MOST_LISTED:
                break
            seen.add(cursor)
        return found[:_MOST_LISTED]

    async def tools(self) -> list[Mapping[str, Any]]:
        return await self._pages("tools/list", "tools")

    async def resources(self) -> list[Mapping[str, Any]]:
        return await self._pages("resources/list", "resources") if "resources" in self.capabilities else []

    async def prompts(self) -> list[Mapping[str, Any]]:
        return await self._pages("prompts/list", "prompts") if "prompts" in self.capabilities else []

    async def read(self, uri: str) -> list[Mapping[str, Any]]:
        found = await self.ask("resources/read", {"uri": uri})
        contents = found.get("contents")
        return [one for one in contents if isinstance(one, Mapping)] if isinstance(contents, list) else []

    async def prompt(self, name: str, arguments: Mapping[str, str]) -> Mapping[str, Any]:
        return await self.ask("prompts/get", {"name": name, "arguments": dict(arguments)})

    async def call(self, name: str, arguments: Mapping[str, Any], *, seconds: float | None = None) -> Mapping[str, Any]:
        return await self.ask("tools/call", {"name": name, "arguments": dict(arguments)}, seconds=seconds)

    async def aclose(self) -> None:
        self.version = ""
        await self._channel.aclose()
        if self._fallback is not None:
            await self._fallback.aclose()


class SessionLostError(McpError):
    """The server does not know the session any more."""


# ------------------------------------------------------------------------------------------------ HTTP


class HttpChannel:
    """Streamable HTTP: each request a POST, answered by JSON or by a stream of events."""

    def __init__(self, egress: Egress, url: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        self._egress = egress
        self._url = url
        self._headers = list(headers)
        self._session = ""
        self._version = ""

    async def open(self) -> None:
        self._session = ""

    def speak(self, version: str) -> None:
        self._version = version

    def _sent(self, message: Mapping[str, Any]) -> list[tuple[str, str]]:
        headers = [
            *self._headers, ("content-type", "application/json"), ("accept", "application/json, text/event-stream"),
        ]  # fmt: skip
        if self._version:
            headers.append(("mcp-protocol-version", self._version))
        if self._version == protocol.MODERN:
            method = str(message.get("method"))
            headers.append(("mcp-method", method))
            if (key := protocol.NAMED.get(method)) is not None:
                headers.append(("mcp-name", protocol.header_value(str(message["params"].get(key)))))
        if self._session:
            headers.append(("mcp-session-id", self._session))
        return headers

    async def ask(self, message: Mapping[str, Any], *, seconds: float) -> Mapping[str, Any]:
        body = msgspec.json.encode(dict(message))
        try:
            async with self._egress.stream(
                "POST", self._url, headers=self._sent(message), body=body, connect=CONNECT_SECONDS, read=seconds,
                most_bytes=_MOST_ANSWER,
            ) as answer:  # fmt: skip
                return await self._answered(message, answer)
        except EgressError as error:
            raise McpError(str(error)) from error

    async def _answered(self, message: Mapping[str, Any], answer: Streamed) -> Mapping[str, Any]:
        if answer.status == 404 and self._session:
            self._session = ""
            raise SessionLostError("the server forgot the session")
        if session := answer.headers.get("mcp-session-id"):
            self._session = session[:512]
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream" and answer.status < 400:
            events = EventStream(max_event_bytes=_MOST_ANSWER)
            async with aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    for data in events.feed(piece):
                        one = _message(data)
                        if one is not None and one.get("id") == message.get("id") and "method" not in one:
                            return one
            raise McpError("the server ended its stream without an answer")
        data = await answer.whole()
        found = _message(data)
        if found is None or ("result" not in found and "error" not in found):
            if answer.status >= 400:
                raise McpError(f"the server answers with status {answer.status}", number=answer.status)
            raise McpError("the server's answer is no message of the protocol")
        if answer.status >= 400 and found.get("id") is None:  # refused before it was read
            return {**found, "id": message.get("id")}
        return found

    async def tell(self, message: Mapping[str, Any]) -> None:
        with suppress(EgressError):
            await self._egress.fetch(
                "POST", self._url, headers=self._sent(message), body=msgspec.json.encode(dict(message)),
                connect=CONNECT_SECONDS, read=CONNECT_SECONDS, most_bytes=1 << 20,
            )  # fmt: skip

    async def aclose(self) -> None:
        if self._session:
            with suppress(EgressError):
                await self._egress.fetch(
                    "DELETE", self._url, headers=self._sent({}), connect=5, read=5, most_bytes=1 << 16
                )
            self._session = ""


class SseChannel:
    """The first transport: a stream that names an address, requests posted there, answers in the stream."""

    def __init__(self, egress: Egress, url: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        self._egress = egress
        self._url = url
        self._headers = list(headers)
        self._post = ""
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[Any, asyncio.Future[Mapping[str, Any]]] = {}
        self._endpoint: asyncio.Future[str] | None = None

    def speak(self, version: str) -> None:
        del version

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._endpoint = loop.create_future()
        self._reading = asyncio.ensure_future(self._read())
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                self._post = await asyncio.shield(self._endpoint)
        except TimeoutError:
            await self.aclose()
            raise McpError("the server does not say where to send to") from None

    async def _read(self) -> None:
        why: ModelyardError = McpError("the server ended its stream")
        try:
            async with self._egress.stream(
                "GET", self._url, headers=[*self._headers, ("accept", "text/event-stream")], connect=CONNECT_SECONDS,
                read=READ_SECONDS, most_bytes=1 << 30,
            ) as answer:  # fmt: skip
                kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
                if answer.status != 200 or kind != "text/event-stream":
                    raise McpError(f"no server of this protocol: status {answer.status}, {kind or 'no type'}")
                events = EventStream(max_event_bytes=_MOST_ANSWER)
                async with aclosing(answer.pieces()) as pieces:
                    async for piece in pieces:
                        for data in events.feed(piece):
                            self._take(data)
        except ModelyardError as error:
            why = error if isinstance(error, McpError) else McpError(str(error))
        finally:
            for one in [*self._waiting.values(), *([self._endpoint] if self._endpoint else [])]:
                if not one.done():
                    one.set_exception(why)
                    one.exception()  # whoever waits sees it; nobody has to

    def _take(self, data: bytes) -> None:
        if self._endpoint is not None and not self._endpoint.done():
            url = join(self._url, data.decode("utf-8", "replace").strip())
            if not url or urlsplit(self._url)[:2] != urlsplit(url)[:2]:
                self._endpoint.set_exception(McpError("the server wants messages sent to another host"))
                return
            self._endpoint.set_result(url)
            return
        one = _message(data)
        if one is None:
            return
        if "method" in one and "id" in one:
            return  # it asks us for something: nothing of that is offered
        waiter = self._waiting.pop(one.get("id"), None)
        if waiter is not None and not waiter.done():
            waiter.set_result(one)

    async def ask(self, message: Mapping[str, Any], *, seconds: float) -> Mapping[str, Any]:
        waiter: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[message["id"]] = waiter
        try:
            await self.tell(message)
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError:
            raise McpError(f"the server did not answer within {seconds:g} s") from None
        finally:
            self._waiting.pop(message["id"], None)

    async def tell(self, message: Mapping[str, Any]) -> None:
        if self._reading is None or self._reading.done():
            raise SessionLostError("the server's stream is over")
        try:
            answer = await self._egress.fetch(
                "POST", self._post, headers=[*self._headers, ("content-type", "application/json")],
                body=msgspec.json.encode(dict(message)), connect=CONNECT_SECONDS, read=CONNECT_SECONDS,
                most_bytes=1 << 20,
            )  # fmt: skip
        except EgressError as error:
            raise McpError(str(error)) from error
        if answer.status >= 400:
            raise McpError(f"the server answers with status {answer.status}")

    async def aclose(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None


def _message(data: bytes) -> Mapping[str, Any] | None:
    try:
        found = decode_body(data)
    except BodyError:
        return None
    return found if isinstance(found, Mapping) else None


# ------------------------------------------------------------------------------------------------ stdio


class StdioChannel:
    """A server that is a program of ours: a line a message. Only what an administrator registered is ever started."""

    def __init__(self, command: str, arguments: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._arguments = list(arguments)
        self._environ = dict(environ or {})
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._is_over = False
        """Nothing comes from it any more."""
        self._waiting: dict[Any, asyncio.Future[Mapping[str, Any]]] = {}

    def speak(self, version: str) -> None:
        del version

    async def open(self) -> None:
        if self._process is not None and self._process.returncode is None:
            return
        try:
            self._process = await asyncio.create_subprocess_exec(
                self._command, *self._arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL, env=self._environ, limit=_MOST_ANSWER, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise McpError(f"the server's program does not start: {error}") from error
        self._is_over = False
        self._reading = asyncio.ensure_future(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        output: Any = process.stdout
        try:
            while line := await output.readline():
                one = _message(line)
                if one is None or ("method" in one and "id" not in one):
                    continue
                if "method" in one:
                    await self._write(protocol.error_of(one.get("id"), protocol.METHOD_NOT_FOUND, "not offered"))
                    continue
                waiter = self._waiting.pop(one.get("id"), None)
                if waiter is not None and not waiter.done():
                    waiter.set_result(one)
        except (ValueError, ConnectionError) as error:  # a line without end, or the program is gone
            logger.warning("an MCP server's output cannot be read", extra={"fields": {"error": str(error)}})
        finally:
            self._is_over = True
            for one in self._waiting.values():
                if not one.done():
                    one.set_exception(SessionLostError("the server's program ended"))
            self._waiting.clear()

    async def _write(self, message: Mapping[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None or process.returncode is not None or self._is_over:
            raise SessionLostError("the server's program is not running")
        try:
            process.stdin.write(msgspec.json.encode(dict(message)) + b"\n")
            await process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise SessionLostError(f"the server's program is gone: {error}") from error

    async def ask(self, message: Mapping[str, Any], *, seconds: float) -> Mapping[str, Any]:
        waiter: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[message["id"]] = waiter
        try:
            await self._write(message)
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError:
            cancelled = {"requestId": message["id"], "reason": "too slow"}
            with suppress(McpError):
                await self.tell({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled})
            raise McpError(f"the server did not answer within {seconds:g} s") from None
        finally:
            self._waiting.pop(message["id"], None)

    async def tell(self, message: Mapping[str, Any]) -> None:
        await self._write(message)

    async def aclose(self) -> None:
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
    egress: Egress, url: str, headers: Sequence[tuple[str, str]] = (), *, seconds: float = READ_SECONDS
) -> McpClient:
    return McpClient(HttpChannel(egress, url, headers), fallback=SseChannel(egress, url, headers), seconds=seconds)


async def listed(client: McpClient) -> AsyncGenerator[Mapping[str, Any], None]:
    """A server's tools whose names can be used, each name once."""
    seen: set[str] = set()
    for one in await client.tools():
        name = one.get("name")
        if isinstance(name, str) and name and len(name) <= 128 and name not in seen:
            seen.add(name)
            yield one
