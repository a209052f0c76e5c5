"""Clients of a Valkey or Redis server, and of a cluster of them."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote

from modelyard.base.errors import ConfigError
from modelyard.base.fields import whole_number
from modelyard.storage.engine import StorageUnavailableError

try:
    import valkey.asyncio
    from valkey.asyncio.cluster import ClusterNode
    from valkey.exceptions import ValkeyClusterException, ValkeyError
except ImportError as missing:
    raise ConfigError(
        "valkey:// needs its driver: pip install 'modelyard[valkey]'"
    ) from missing

logger = logging.getLogger("modelyard.valkey")

_CLUSTER = "+cluster"
"""Added to a scheme for a cluster."""
_MAX_CONNECTIONS = 32
_SECONDS = 5.0
"""How long a command may take, and how long it may wait for a free connection."""
_FAILURES = (ValkeyError, ValkeyClusterException, OSError, TimeoutError)
_USE_CLUSTER = "the server belongs to a cluster; set shared to valkey+cluster://…"
_DEFAULT_PORT = 6379
_MAX_PORT = 65535
# An IPv6 address has colons of its own, and stands in brackets.
_NODE = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]{2,60}\]|[A-Za-z0-9._-]{1,255})(?::(?P<port>[0-9]{1,5}))?"
)


class Valkey:
    """A connection pool shared by all components that use the server."""

    is_cluster = False
    """Whether keys lie on several servers, so that a command or script may only name
    keys with the same hash tag."""
    _failures: tuple[type[Exception], ...] = _FAILURES
    """What the driver raises if the server cannot be used."""

    def __init__(self, client: Any) -> None:
        """`client` is one of the driver's, which has no types."""
        self._client = client
        self._scripts: dict[str, Any] = {}
        self.trouble: str | None = None
        """Why the server cannot be used, or None if its last answer was one."""

    async def ping(self) -> None:
        """Ask for a sign of life, so that `trouble` is known without calls."""
        with suppress(StorageUnavailableError):
            await self.call("PING")

    async def run(self, script: str, keys: Sequence[str], values: Sequence[Any]) -> Any:
        """Run a Lua script, given as its text, and return its result.

        A caller waits up to five seconds for a free connection. Raises
        StorageUnavailableError if the server does not answer or refuses.
        """
        command = self._scripts.get(script)
        # Only a hash of the text is sent, after the first time.
        if command is None:
            command = self._scripts[script] = self._client.register_script(script)
        return await self._answer(command(keys=keys, args=values))

    async def call(self, *args: Any) -> Any:
        """Run a single command. Raises StorageUnavailableError."""
        return await self._answer(self._client.execute_command(*args))

    async def delete(self, keys: Sequence[Any]) -> None:
        """Delete keys. Raises StorageUnavailableError."""
        if keys:
            await self.call("DEL", *keys)

    async def find(self, pattern: str) -> AsyncIterator[Sequence[bytes]]:
        """Yield the keys that match a pattern, some at a time. Raises
        StorageUnavailableError."""
        cursor: Any = 0
        while True:
            # SCAN iterates in small steps; KEYS would block the server.
            cursor, keys = await self.call("SCAN", cursor, "MATCH", pattern)
            yield keys
            if int(cursor) == 0:
                return

    async def _answer(self, command: Awaitable[Any]) -> Any:
        """Return the answer of a command, and note whether there was one. Raises
        StorageUnavailableError."""
        try:
            answer = await self._ask(command)
        except StorageUnavailableError as error:
            self._note(str(error))
            raise
        self._note(None)
        return answer

    async def _ask(self, command: Awaitable[Any]) -> Any:
        """Return the answer of a command. Raises StorageUnavailableError."""
        try:
            return await command
        except self._failures as error:
            # The driver's own text says where the key is, and not what to do.
            is_elsewhere = str(error).startswith("MOVED ")
            reason = _USE_CLUSTER if is_elsewhere else str(error)
            raise StorageUnavailableError(f"Valkey cannot be used: {reason}") from error

    def _note(self, trouble: str | None) -> None:
        """Store how the server is, and log when that changes."""
        if trouble is not None and self.trouble is None:
            logger.error("Valkey cannot be used", extra={"fields": {"error": trouble}})
        elif trouble is None and self.trouble is not None:
            logger.info("Valkey can be used again")
        self.trouble = trouble

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()


class ValkeyCluster(Valkey):
    """A cluster, of which some servers are named; the others are asked for."""

    is_cluster = True
    # When the driver looks for the servers again, it closes connections that other
    # commands use, which then fail with AttributeError.
    _failures = (*_FAILURES, AttributeError)

    def __init__(self, nodes: Sequence[tuple[str, int]], **options: Any) -> None:
        """`nodes` are hosts with their ports, and `options` those of the driver."""
        self._nodes, self._options = nodes, options
        super().__init__(self._new_client())
        # The driver opens a connection for each command that runs at the same time.
        self._places = asyncio.Semaphore(_MAX_CONNECTIONS)

    def _new_client(self) -> Any:
        return valkey.asyncio.ValkeyCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in self._nodes],
            # Tenants whose servers can be reached must not wait for the others.
            require_full_coverage=False,
            **self._options,
        )

    async def ping(self) -> None:
        """Ask whether the cluster serves all keys, so that `trouble` is known without
        calls."""
        try:
            information = await self.call("CLUSTER INFO")
        except StorageUnavailableError as error:
            self._note(str(error))
            return
        is_complete = information.get("cluster_state") == "ok"
        self._note(None if is_complete else "The cluster does not serve all keys")

    async def delete(self, keys: Sequence[Any]) -> None:
        """Delete keys. Raises StorageUnavailableError."""
        # One command for each: they may lie on different servers.
        for key in keys:
            await self.call("DEL", key)

    async def find(self, pattern: str) -> AsyncIterator[Sequence[bytes]]:
        """Yield the keys on all servers that match a pattern, some at a time. Raises
        StorageUnavailableError."""
        # The cluster's servers are known once something has been answered.
        await self.call("CLUSTER INFO")
        for node in self._client.get_primaries():
            cursor: Any = 0
            while True:
                command = self._client.execute_command(
                    "SCAN", cursor, "MATCH", pattern, target_nodes=node
                )
                # The driver keeps the place by the server's name.
                cursors, keys = await self._answer(command)
                (cursor,) = cursors.values()
                yield keys
                if int(cursor) == 0:
                    break

    async def _answer(self, command: Awaitable[Any]) -> Any:
        """Return the answer of a command. Raises StorageUnavailableError.

        How the cluster is only `ping` notes: one server that is away would let each
        call of another tenant change it.
        """
        async with self._place():
            try:
                return await self._ask(command)
            except StorageUnavailableError as error:
                # The driver forgets servers that it could not reach, up to the last.
                if isinstance(error.__cause__, ValkeyClusterException):
                    await self._restart()
                raise

    @asynccontextmanager
    async def _place(self) -> AsyncGenerator[None]:
        """Wait for one of the places for commands. Raises StorageUnavailableError."""
        try:
            async with asyncio.timeout(_SECONDS):
                await self._places.acquire()
        except TimeoutError as error:
            raise StorageUnavailableError(
                "Valkey cannot be used: too many commands are waiting"
            ) from error
        try:
            yield
        finally:
            self._places.release()

    async def _restart(self) -> None:
        """Begin again with the servers that are named in the settings."""
        client, self._client = self._client, self._new_client()
        self._scripts.clear()
        await _close(client)

    async def aclose(self) -> None:
        """Close all connections."""
        await _close(self._client)


async def _close(client: Any) -> None:
    """Close all connections of a cluster's client."""
    await client.aclose()
    nodes = client.nodes_manager
    # A client that is looking for its servers leaves connections open that commands
    # have made meanwhile.
    for node in (*nodes.nodes_cache.values(), *nodes.startup_nodes.values()):
        with suppress(*_FAILURES):
            await node.disconnect()


def connect(url: str) -> Valkey:
    """Return the client for `valkey://[USER:PASSWORD@]HOST[:PORT]`, or for a cluster of
    which `valkey+cluster://…@HOST:PORT,HOST:PORT` names some servers.

    With `valkeys` connections use TLS; `redis` and `rediss` mean the same. No connection
    is made yet. Raises ConfigError for an invalid address.
    """
    scheme, _, address = url.partition("://")
    if scheme.endswith(_CLUSTER):
        return _cluster(scheme, address)
    driver_url = f"redis{'s' if scheme in ('valkeys', 'rediss') else ''}://{address}"
    # With a blocking pool, callers wait for a free connection instead of failing.
    # The pool's arguments have no types.
    pool: Any = valkey.asyncio.BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
        driver_url,
        max_connections=_MAX_CONNECTIONS,
        timeout=_SECONDS,
        socket_timeout=_SECONDS,
        socket_connect_timeout=_SECONDS,
        health_check_interval=30,
    )
    return Valkey(valkey.asyncio.Valkey(connection_pool=pool))


def _cluster(scheme: str, address: str) -> ValkeyCluster:
    """Return the client of a cluster. Raises ConfigError."""
    credentials, _, hosts = address.rstrip("/").rpartition("@")
    user, _, password = credentials.partition(":")
    return ValkeyCluster(
        [_node(text) for text in hosts.split(",")],
        username=unquote(user) or None,
        password=unquote(password) or None,
        ssl=scheme in (f"valkeys{_CLUSTER}", f"rediss{_CLUSTER}"),
        socket_timeout=_SECONDS,
        socket_connect_timeout=_SECONDS,
        health_check_interval=30,
    )


def _node(text: str) -> tuple[str, int]:
    """Return a host and its port. Raises ConfigError."""
    match = _NODE.fullmatch(text)
    port = None
    if match is not None:
        port = whole_number(match["port"] or str(_DEFAULT_PORT), maximum=_MAX_PORT)
    if match is None or port is None:
        raise ConfigError(
            f"shared: invalid server {text!r} of a cluster; expected HOST:PORT"
        )
    return match["host"].strip("[]"), port
