"""The clients of the MCP servers that tenants added, each kept for as long as its server stays as it is stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelyard.base.errors import ConfigError, suggestion
from modelyard.tenancy.kinds import ToolProvider
from modelyard.tools.mcp.client import McpClient, StdioChannel, http_client
from modelyard.tools.provider_store import ProviderStore
from modelyard.transport.egress import Egress


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioServer:
    """A program that an administrator registered."""

    command: str
    arguments: Sequence[str] = ()
    environ: Mapping[str, str] | None = None


class McpClients:
    """Owns the connections to MCP servers, by tenant and row. `stdio` are the programs that may be named."""

    def __init__(self, store: ProviderStore, egress: Egress, stdio: Mapping[str, StdioServer]) -> None:
        self._store = store
        self._egress = egress
        self._stdio = stdio
        self._clients: dict[tuple[str, str], tuple[tuple[str, str, str], McpClient]] = {}
        """(tenant, row) → the address and the encrypted secret that the client was made with, and the client."""
        store.on_replaced(self._drop)

    def made(self, stored: ToolProvider, headers: Mapping[str, str]) -> McpClient:
        """A client that is nobody's yet: whoever has it made closes it. Raises ConfigError."""
        if stored.stdio:
            program = self._stdio.get(stored.stdio)
            if program is None:
                hint = suggestion(stored.stdio, self._stdio, label="there are")
                raise ConfigError(f"no program is registered as {stored.stdio[:60]!r} under tools.mcp_stdio; {hint}")
            return McpClient(StdioChannel(program.command, program.arguments, program.environ))
        return http_client(self._egress, stored.url, list(headers.items()))

    async def of(self, tenant: str, row: str, stored: ToolProvider) -> McpClient:
        """The client of a provider as it is stored now; what was changed elsewhere is called no more."""
        place = (stored.url, stored.stdio, stored.secret)
        known = self._clients.get((tenant, row))
        if known is not None and known[0] == place:
            return known[1]
        await self._drop(tenant, row)
        client = self.made(stored, self._store.secret(tenant, row, stored).headers)
        self._clients[tenant, row] = (place, client)
        return client

    async def _drop(self, tenant: str, row: str) -> None:
        if (known := self._clients.pop((tenant, row), None)) is not None:
            await known[1].aclose()

    async def aclose(self) -> None:
        clients, self._clients = [client for _, client in self._clients.values()], {}
        for client in clients:
            await client.aclose()
