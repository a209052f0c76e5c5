"""What datasets were asked."""

from collections.abc import Callable

from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository

_MOST_CHARACTERS = 2000


class StoredQueries(Repository):
    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        super().__init__(database, "dataset_queries")
        self._now = now

    def remember(self, tenant: str, dataset: str, content: str, source: str) -> None:
        """Soon, and not waited for. Raises StorageUnavailableError where too much waits."""
        values = (tenant, dataset, content[:_MOST_CHARACTERS], source, self._now())
        self._database.write(self._sql["asked"], values)

    async def newest(self, tenant: str, dataset: str, most: int) -> list[Row]:
        return await self._rows("newest", tenant=tenant, dataset=dataset, most=most)

    def remove_all(self, connection: Connection, dataset: str) -> None:
        """A step of a transaction: the dataset is gone."""
        self._step(connection, "delete_of_dataset", dataset)
