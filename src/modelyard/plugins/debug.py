"""Debug runtime: a plugin that its author runs locally connects here by TCP, registers,
and serves calls until it disconnects. Nothing of it is stored."""

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
from modelyard.base.json_types import is_array, is_object
from modelyard.models.types import JSON
from modelyard.plugins.connection import (
    HostCalls,
    PluginCall,
    PluginConnection,
    PluginDiedError,
)
from modelyard.plugins.declaration import Declaration, build_declaration
from modelyard.plugins.manifest import read_manifest

logger = logging.getLogger("modelyard.plugins")

# A plugin sends heartbeats, so a minute of silence means that it is gone.
_HANDSHAKE_SECONDS = 10.0
_SILENCE_SECONDS = 60.0
# The limits of Dify's daemon, which authors of plugins are used to.
_MAX_ASSETS = 50 * 1024 * 1024
_MAX_REGISTRATION = 64 * 1024 * 1024
_MAX_CONNECTIONS = 256
# Message type → kind of provider that it declares.
_PROVIDER_KINDS = {
    "tool_declaration": "tool",
    "model_declaration": "model",
    "endpoint_declaration": "endpoint",
    "agent_strategy_declaration": "agent_strategy",
    "datasource_declaration": "datasource",
    "trigger_declaration": "trigger",
}


class DebugHost(Protocol):
    """Receives the plugins that connect for debugging."""

    def tenant_of_key(self, key: str) -> str | None:
        """Return the tenant that owns the debugging key; None if it is invalid."""
        ...

    def add_connected(
        self,
        tenant: str,
        identifier: str,
        declaration: Declaration,
        runtime: "DebugRuntime",
    ) -> None:
        """Called after a plugin has registered."""
        ...

    def remove_disconnected(
        self, tenant: str, identifier: str, runtime: "DebugRuntime"
    ) -> None:
        """Called after a registered plugin's connection has ended."""
        ...


class DebugRuntime:
    """Runtime of one connected plugin."""

    def __init__(
        self,
        conversation: PluginConnection,
        close: Callable[[], None],
        assets: dict[str, bytes],
    ) -> None:
        self.conversation = conversation
        self.assets = assets
        self._close = close

    async def call(self, call: PluginCall) -> AsyncGenerator[JSON, None]:
        """Send a call to the connected plugin and yield its answers.

        Raises PluginError: the plugin's own error, or PluginDiedError if it has
        disconnected. A caller that stops early only abandons the call; the plugin is
        not told.
        """
        async with aclosing(self.conversation.call(call)) as answers:
            async for answer in answers:
                yield answer

    async def aclose(self) -> None:
        """Close the connection."""
        self._close()


class DebugServer:
    """TCP server for plugins in debug mode."""

    def __init__(
        self, host: DebugHost, backwards: HostCalls, clock: Callable[[], float]
    ) -> None:
        self._host = host
        self._backwards = backwards
        self._now = clock
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def start(self, address: str, port: int) -> int:
        """Start listening and return the port. Raises OSError if the address is not
        available."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, address, port)
        return self._server.sockets[0].getsockname()[1]

    def _accept(self) -> "_Connection":
        """Create the protocol object of a new connection.

        Beyond 256 connections it is marked to be refused once the connection is
        established.
        """
        connection = _Connection(
            self._host, self._backwards, self._now, self._connections.discard
        )
        self._connections.add(connection)
        # Accepted first and refused in `connection_made`, so that the plugin gets a
        # message.
        connection.is_over_limit = len(self._connections) > _MAX_CONNECTIONS
        return connection

    async def aclose(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()


class _Message(msgspec.Struct, frozen=True):
    type: str
    data: Any = None


class RefusedError(Exception):
    """The registration is rejected: the reason is sent to the plugin and the connection
    is closed."""


class _Connection(asyncio.Protocol):
    def __init__(
        self,
        host: DebugHost,
        backwards: HostCalls,
        clock: Callable[[], float],
        on_gone: Callable[["_Connection"], None],
    ) -> None:
        self._host = host
        self._backwards = backwards
        self._now = clock
        self._on_gone = on_gone
        self.is_over_limit = False
        self._transport: Any = None
        self._tenant: str | None = None
        self._partial_line = b""
        self._received_bytes = 0
        self._manifest: JSON | None = None
        self._parts: dict[str, JSON] = {}
        self._assets: dict[str, list[bytes]] = {}
        self._assets_size = 0
        self._identifier = ""
        self._runtime: DebugRuntime | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake timeout, or refuse if there are too many connections."""
        self._transport = transport
        if self.is_over_limit:
            self._refuse("server is busy now, please try again later")
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(
                _HANDSHAKE_SECONDS, self._refuse, "No registration came in time"
            )

    def data_received(self, data: bytes) -> None:
        """Process received bytes: registration messages first, then the plugin's
        answers."""
        if self._runtime is not None:
            self._runtime.conversation.feed(data)
            return
        self._received_bytes += len(data)
        # The total is limited too: the messages before `end` are kept in memory.
        if self._received_bytes > _MAX_REGISTRATION:
            self._refuse("The registration is too large")
            return
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        try:
            for index, line in enumerate(lines):
                if line.strip() and self._register(line):
                    # Bytes after the registration already belong to the protocol of
                    # calls.
                    remaining = b"\n".join([*lines[index + 1 :], self._partial_line])
                    self._partial_line = b""
                    self._complete_registration(remaining)
                    return
        except RefusedError as error:
            self._refuse(str(error))

    def _register(self, line: bytes) -> bool:
        """Handle one registration message. Returns True if it was the last. Raises
        RefusedError."""
        try:
            message = msgspec.json.decode(line, type=_Message)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise RefusedError("handshake failed, invalid handshake message") from None
        # The first message must be the handshake with the key.
        if self._tenant is None:
            self._tenant = self._authenticate(message)
            return False
        data = message.data
        match message.type:
            case "end":
                return True
            case "manifest_declaration" if is_object(data):
                self._manifest = data
            case "asset_chunk" if is_object(data):
                self._add_asset_chunk(data)
            # The protocol sends a list, but a plugin has at most one provider of each
            # kind.
            case kind if kind in _PROVIDER_KINDS and is_array(data) and data:
                self._parts[_PROVIDER_KINDS[kind]] = data[0]
            case _:
                pass
        return False

    def _authenticate(self, message: _Message) -> str:
        """Return the tenant of the handshake's key. Raises RefusedError."""
        key = None
        if message.type == "handshake" and is_object(message.data):
            key = message.data.get("key")
        tenant = self._host.tenant_of_key(str(key)) if key else None
        if tenant is None:
            raise RefusedError("handshake failed, invalid key")
        return tenant

    def _add_asset_chunk(self, data: JSON) -> None:
        """Append one chunk of a file from an `asset_chunk` message.

        `data` has `filename` and the chunk as base64 in `data`; chunks of one file are
        joined in order of arrival. Raises RefusedError for invalid base64, or if all
        files together exceed 50 MiB.
        """
        try:
            chunk = base64.b64decode(data.get("data") or "", validate=True)
        except (binascii.Error, ValueError):
            raise RefusedError("An asset is damaged") from None
        self._assets_size += len(chunk)
        if self._assets_size > _MAX_ASSETS:
            raise RefusedError("assets too large, at most 50MB")
        self._assets.setdefault(str(data.get("filename")), []).append(chunk)

    def _complete_registration(self, remaining: bytes) -> None:
        """Complete the registration and make the plugin available. Raises RefusedError."""
        if self._manifest is None or not self._parts:
            raise RefusedError("no registration transferred, cannot initialize")
        try:
            declaration = build_declaration(
                read_manifest(self._manifest, "The manifest"), self._parts
            )
        except PackageError as error:
            raise RefusedError(f"register failed, invalid manifest: {error}") from error
        tenant = self._tenant or ""
        # There is no package, so the identifier's checksum is derived from the
        # declaration and the tenant.
        digest = hashlib.sha256(
            msgspec.json.encode(declaration.document) + tenant.encode()
        ).hexdigest()
        self._identifier = str(declaration.manifest.identifier(digest))
        plugin = declaration.manifest.id
        conversation = PluginConnection(
            plugin, self._transport.write, self._backwards, self._now, _log_line(plugin)
        )
        assets = {name: b"".join(chunks) for name, chunks in self._assets.items()}
        self._runtime = DebugRuntime(conversation, self.close, assets)
        self._host.add_connected(tenant, self._identifier, declaration, self._runtime)
        logger.info(
            "debug plugin connected",
            extra={"fields": {"plugin": plugin, "tenant": tenant}},
        )
        # From here on the timer supervises heartbeats instead of the handshake.
        self._check_silence()
        if remaining:
            conversation.feed(remaining)

    def _check_silence(self) -> None:
        """Close the connection if the plugin has been silent too long, and schedule the
        next check."""
        if self._timer is not None:
            self._timer.cancel()
        runtime = self._runtime
        if runtime is None:
            return
        silent = self._now() - runtime.conversation.last_message_at
        if silent > _SILENCE_SECONDS:
            self.close()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(
            _SILENCE_SECONDS - silent + 0.1, self._check_silence
        )

    def _refuse(self, reason: str) -> None:
        """Send the reason as a line of text, log it, and close the connection."""
        if self._transport is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._transport.write(reason.encode() + b"\n")
        logger.warning("debug plugin refused", extra={"fields": {"why": reason}})
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end of the connection to the running calls and the host."""
        if self._timer is not None:
            self._timer.cancel()
        self._on_gone(self)
        if self._runtime is not None and self._tenant is not None:
            error = PluginDiedError(
                "The debug plugin has disconnected",
                plugin=self._runtime.conversation.plugin,
            )
            self._runtime.conversation.end(error)
            self._host.remove_disconnected(
                self._tenant, self._identifier, self._runtime
            )

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


def _log_line(plugin: str) -> Callable[[str], None]:
    return lambda text: logger.info(text, extra={"fields": {"plugin": plugin}})
