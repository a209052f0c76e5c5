"""The clients of tenants' MCP servers, each reused while the stored settings of its
server stay the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelyard.base.errors import ConfigError, suggestion
from modelyard.tenancy.resource_types import ToolProvider
from modelyard.tools.mcp.client import McpClient, StdioChannel, http_client
from modelyard.tools.provider_store import ProviderStore
from modelyard.transport.egress import EgressClient


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioServer:
    """A program that an administrator registered as an MCP server."""

    command: str
    arguments: Sequence[str] = ()
    environ: Mapping[str, str] | None = None


class McpClients:
    """Owns the connections to MCP servers, by tenant and row. `stdio` contains the
    registered programs."""

    def __init__(
        self,
        store: ProviderStore,
        egress: EgressClient,
        stdio: Mapping[str, StdioServer],
    ) -> None:
        self._store = store
        self._egress = egress
        self._stdio = stdio
        self._clients: dict[
            tuple[str, str], tuple[tuple[str, str, str], McpClient]
        ] = {}
        """(tenant, row) to the settings that the client was created with (address,
        program, encrypted secret) and the client."""
        store.on_replaced(self._drop)

    def new_client(
        self, provider: ToolProvider, headers: Mapping[str, str]
    ) -> McpClient:
        """Return a new client, which the caller has to close. Raises ConfigError."""
        if provider.stdio:
            program = self._stdio.get(provider.stdio)
            # A tenant may only choose among the registered programs, never name a
            # command.
            if program is None:
                hint = suggestion(provider.stdio, self._stdio, label="available:")
                raise ConfigError(
                    f"No program is registered as {provider.stdio[:60]!r} under"
                    f" tools.mcp_stdio; {hint}"
                )
            return McpClient(
                StdioChannel(program.command, program.arguments, program.environ)
            )
        return http_client(self._egress, provider.url, list(headers.items()))

    async def client_for(
        self, tenant: str, row: str, provider: ToolProvider
    ) -> McpClient:
        """Return the client of a provider. If the stored settings have changed, also by
        another process, it is replaced."""
        connection_key = (provider.url, provider.stdio, provider.secret)
        cached = self._clients.get((tenant, row))
        if cached is not None and cached[0] == connection_key:
            return cached[1]
        await self._drop(tenant, row)
        client = self.new_client(
            provider, self._store.secret(tenant, row, provider).headers
        )
        self._clients[tenant, row] = (connection_key, client)
        return client

    async def _drop(self, tenant: str, row: str) -> None:
        """Close and remove the client of a row, if there is one."""
        if (cached := self._clients.pop((tenant, row), None)) is not None:
            await cached[1].aclose()

    async def aclose(self) -> None:
        """Close all clients."""
        clients, self._clients = [client for _, client in self._clients.values()], {}
        for client in clients:
            await client.aclose()
