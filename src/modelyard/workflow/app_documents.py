"""Apps' files as they were when runs began with them, by what they say."""

from collections.abc import Callable

from modelyard.storage.database import Database
from modelyard.storage.repository import Repository


class AppDocuments(Repository):
    """A run that goes on after a crash goes on with the file that it began with."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        super().__init__(database, "app_documents")
        self._now = now

    async def keep(self, tenant: str, digest: str, text: str) -> None:
        """Raises StorageUnavailableError."""
        await self._do("put_document", tenant, digest, text, self._now())

    async def find(self, tenant: str, digest: str) -> str | None:
        """Raises StorageUnavailableError."""
        rows = await self._rows("document", tenant=tenant, digest=digest)
        return rows[0]["body"] if rows else None
