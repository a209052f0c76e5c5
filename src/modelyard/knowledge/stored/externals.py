"""The table of external knowledge APIs, with their keys encrypted."""

from modelyard.storage.database import Database, Row
from modelyard.storage.repository import Repository


class StoredExternals(Repository):
    """Repository of external knowledge APIs."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "external_knowledge")

    async def add(
        self, tenant: str, id: str, name: str, endpoint: str, secret: str
    ) -> None:
        """Add an external API with its encrypted key."""
        await self._execute("add", tenant, id, name, endpoint, secret)

    async def list(self, tenant: str) -> list[Row]:
        """Return the tenant's external APIs, ordered by name."""
        return await self._rows("of_tenant", tenant=tenant)

    async def reseal(self, tenant: str, id: str, secret: str, old_secret: str) -> bool:
        """Replace the encrypted key. Returns False if it has been changed meanwhile."""
        return bool(await self._execute("reseal", secret, tenant, id, old_secret))

    async def delete(self, tenant: str, id: str) -> bool:
        """Delete an external API. Returns False if it did not exist."""
        return bool(await self._execute("delete", tenant, id))
