"""The query history of datasets."""

from collections.abc import Callable

from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository

_MAX_QUERY_LENGTH = 2000


class StoredQueries(Repository):
    """Repository of past queries."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        super().__init__(database, "dataset_queries")
        self._clock = clock

    def record(self, tenant: str, dataset: str, content: str, source: str) -> None:
        """Record a query in the background. Raises StorageUnavailableError if too many
        writes are pending."""
        values = (tenant, dataset, content[:_MAX_QUERY_LENGTH], source, self._clock())
        self._database.write(self._sql["asked"], values)

    async def newest(self, tenant: str, dataset: str, limit: int) -> list[Row]:
        """Return the newest queries of a dataset, at most `limit`."""
        return await self._rows("newest", tenant=tenant, dataset=dataset, most=limit)

    def delete_all(self, connection: Connection, tenant: str, dataset: str) -> None:
        """Delete the history of a deleted dataset; a step of a transaction."""
        self._step(connection, "delete_of_dataset", tenant, dataset)
