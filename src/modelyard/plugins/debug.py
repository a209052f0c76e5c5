"""The debug runtime: a plugin that its author runs from their own folder connects here, says what it offers, and serves
calls until it goes. It is the TCP client; nothing of it is stored."""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol

import msgspec

from modelyard.base.errors import PackageError
from modelyard.models.types import JSON
from modelyard.plugins.conversation import Backwards, Conversation, PluginCall, PluginDiedError
from modelyard.plugins.declaration import Declaration, declared
from modelyard.plugins.manifest import read_manifest

logger = logging.getLogger("modelyard.plugins")

_HANDSHAKE_SECONDS = 10.0
_SILENCE_SECONDS = 60.0
_MAX_ASSETS = 50 * 1024 * 1024
_MAX_REGISTRATION = 64 * 1024 * 1024
_MAX_CONNECTIONS = 256
_PARTS = {
    "tool_declaration": "tool",
    "model_declaration": "model",
    "endpoint_declaration": "endpoint",
    "agent_strategy_declaration": "agent_strategy",
    "datasource_declaration": "datasource",
    "trigger_declaration": "trigger",
}


class DebugHost(Protocol):
    """Who takes plugins that connect."""

    def tenant_of_key(self, key: str) -> str | None:
        """Whose debugging key it is."""
        ...

    def connected(self, tenant: str, identifier: str, declaration: Declaration, runtime: "DebugRuntime") -> None: ...

    def disconnected(self, tenant: str, identifier: str, runtime: "DebugRuntime") -> None: ...


class DebugRuntime:
    """One plugin that is connected."""

    def __init__(self, conversation: Conversation, close: Callable[[], None], assets: dict[str, bytes]) -> None:
        self.conversation = conversation
        self.assets = assets
        self._close = close

    async def call(self, call: PluginCall) -> AsyncGenerator[JSON, None]:
        async with aclosing(self.conversation.call(call)) as answers:
            async for answer in answers:
                yield answer

    async def aclose(self) -> None:
        self._close()


class DebugServer:
    """Listens for plugins."""

    def __init__(self, host: DebugHost, backwards: Backwards, now: Callable[[], float]) -> None:
        self._host = host
        self._backwards = backwards
        self._now = now
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def start(self, address: str, port: int) -> int:
        """The port that it listens on. Raises OSError where that cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, address, port)
        return self._server.sockets[0].getsockname()[1]

    def _accept(self) -> "_Connection":
        connection = _Connection(self._host, self._backwards, self._now, self._connections.discard)
        self._connections.add(connection)
        connection.is_one_too_many = len(self._connections) > _MAX_CONNECTIONS
        return connection

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()


class _Message(msgspec.Struct, frozen=True):
    type: str
    data: Any = None


class RefusedError(Exception):
    """The plugin is told so in plain words, and the connection closed."""


class _Connection(asyncio.Protocol):
    def __init__(
        self,
        host: DebugHost,
        backwards: Backwards,
        now: Callable[[], float],
        on_gone: Callable[["_Connection"], None],
    ) -> None:
        self._host = host
        self._backwards = backwards
        self._now = now
        self._on_gone = on_gone
        self.is_one_too_many = False
        self._transport: Any = None
        self._tenant: str | None = None
        self._rest = b""
        self._taken = 0
        self._manifest: JSON | None = None
        self._parts: dict[str, JSON] = {}
        self._assets: dict[str, list[bytes]] = {}
        self._assets_size = 0
        self._identifier = ""
        self._runtime: DebugRuntime | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self.is_one_too_many:
            self._refuse("server is busy now, please try again later")
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_HANDSHAKE_SECONDS, self._refuse, "no registration came in time")

    def data_received(self, data: bytes) -> None:
        if self._runtime is not None:
            self._runtime.conversation.feed(data)
            return
        self._taken += len(data)
        if self._taken > _MAX_REGISTRATION:
            self._refuse("the registration is too large")
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for place, line in enumerate(lines):
                if line.strip() and self._register(line):
                    rest = b"\n".join([*lines[place + 1 :], self._rest])
                    self._rest = b""
                    self._begin(rest)
                    return
        except RefusedError as error:
            self._refuse(str(error))

    def _register(self, line: bytes) -> bool:
        """Take one word of the registration; whether it was the last. Raises RefusedError."""
        try:
            message = msgspec.json.decode(line, type=_Message)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise RefusedError("handshake failed, invalid handshake message") from None
        if self._tenant is None:
            key = message.data.get("key") if message.type == "handshake" and isinstance(message.data, dict) else None
            self._tenant = self._host.tenant_of_key(str(key)) if key else None
            if self._tenant is None:
                raise RefusedError("handshake failed, invalid key")
        elif message.type == "manifest_declaration" and isinstance(message.data, dict):
            self._manifest = message.data
        elif message.type in _PARTS and isinstance(message.data, list) and message.data:
            self._parts[_PARTS[message.type]] = message.data[0]
        elif message.type == "asset_chunk" and isinstance(message.data, dict):
            self._take_asset(message.data)
        elif message.type == "end":
            return True
        return False

    def _take_asset(self, data: JSON) -> None:
        try:
            piece = base64.b64decode(data.get("data") or "", validate=True)
        except (binascii.Error, ValueError):
            raise RefusedError("an asset is damaged") from None
        self._assets_size += len(piece)
        if self._assets_size > _MAX_ASSETS:
            raise RefusedError("assets too large, at most 50MB")
        self._assets.setdefault(str(data.get("filename")), []).append(piece)

    def _begin(self, rest: bytes) -> None:
        """All is said: the plugin is there from now on. Raises RefusedError."""
        if self._manifest is None or not self._parts:
            raise RefusedError("no registration transferred, cannot initialize")
        try:
            declaration = declared(read_manifest(self._manifest, "the manifest"), self._parts)
        except PackageError as error:
            raise RefusedError(f"register failed, invalid manifest: {error}") from error
        tenant = self._tenant or ""
        digest = hashlib.sha256(msgspec.json.encode(declaration.document) + tenant.encode()).hexdigest()
        self._identifier = str(declaration.manifest.identifier(digest))
        plugin = declaration.manifest.id
        conversation = Conversation(plugin, self._transport.write, self._backwards, self._now, _told(plugin))
        assets = {name: b"".join(pieces) for name, pieces in self._assets.items()}
        self._runtime = DebugRuntime(conversation, self.close, assets)
        self._host.connected(tenant, self._identifier, declaration, self._runtime)
        logger.info("a plugin is here for debugging", extra={"fields": {"plugin": plugin, "tenant": tenant}})
        self._listen()
        if rest:
            conversation.feed(rest)

    def _listen(self) -> None:
        """End the connection where nothing is heard for long."""
        if self._timer is not None:
            self._timer.cancel()
        runtime = self._runtime
        if runtime is None:
            return
        silent = self._now() - runtime.conversation.heard_at
        if silent > _SILENCE_SECONDS:
            self.close()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_SILENCE_SECONDS - silent + 0.1, self._listen)

    def _refuse(self, why: str) -> None:
        if self._transport is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._transport.write(why.encode() + b"\n")
        logger.warning("a plugin was refused", extra={"fields": {"why": why}})
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._on_gone(self)
        if self._runtime is not None and self._tenant is not None:
            error = PluginDiedError("the plugin in debug is gone", plugin=self._runtime.conversation.plugin)
            self._runtime.conversation.end(error)
            self._host.disconnected(self._tenant, self._identifier, self._runtime)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _told(plugin: str) -> Callable[[str], None]:
    return lambda text: logger.info(text, extra={"fields": {"plugin": plugin}})
