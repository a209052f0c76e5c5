"""Stored versions of app files, by digest."""

from collections.abc import Callable

from modelyard.storage.database import Database
from modelyard.storage.repository import Repository


class AppDocuments(Repository):
    """Repository of app files. A run that is resumed after a crash uses the file
    version with which it started."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        super().__init__(database, "app_documents")
        self._clock = clock

    async def save(self, tenant: str, digest: str, text: str) -> None:
        """Store an app file under its digest. Raises StorageUnavailableError."""
        await self._execute("put_document", tenant, digest, text, self._clock())

    async def find(self, tenant: str, digest: str) -> str | None:
        """Return an app file by its digest, or None. Raises StorageUnavailableError."""
        rows = await self._rows("document", tenant=tenant, digest=digest)
        return rows[0]["body"] if rows else None
