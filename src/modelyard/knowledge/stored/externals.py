"""Other people's servers that are asked, with their keys encrypted."""

from modelyard.storage.database import Database, Row
from modelyard.storage.repository import Repository


class StoredExternals(Repository):
    def __init__(self, database: Database) -> None:
        super().__init__(database, "external_knowledge")

    async def add(self, tenant: str, id: str, name: str, endpoint: str, secret: str) -> None:  # noqa: A002
        await self._do("add", tenant, id, name, endpoint, secret)

    async def of(self, tenant: str) -> list[Row]:
        """By name."""
        return await self._rows("of_tenant", tenant=tenant)

    async def reseal(self, tenant: str, id: str, secret: str, before: str) -> bool:  # noqa: A002
        """False where somebody else changed it meanwhile."""
        return bool(await self._do("reseal", secret, tenant, id, before))

    async def delete(self, tenant: str, id: str) -> bool:  # noqa: A002
        """False where it was not there."""
        return bool(await self._do("delete", tenant, id))
