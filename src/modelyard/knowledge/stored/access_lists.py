"""The access lists of documents: a column of their table that is written apart."""

from collections.abc import Mapping, Sequence

from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.rows import to_json
from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.knowledge.stored.documents import document_not_found
from modelyard.storage.database import Connection, Database
from modelyard.storage.repository import Repository


class StoredAccessLists(Repository):
    """Repository of access lists."""

    def __init__(self, database: Database, datasets: StoredDatasets) -> None:
        super().__init__(database, "documents")
        self._datasets = datasets

    async def exist(self, dataset: str) -> bool:
        """Return whether a document of the dataset has an access list."""
        return bool(await self._rows("has_lists", dataset=dataset))

    async def set(self, dataset: Dataset, readers: Mapping[str, Sequence[str]]) -> None:
        """Replace the access lists of documents of a dataset, all of them or none.

        `readers` maps ids of documents to principals. Raises NotFoundError.
        """

        def work(connection: Connection) -> None:
            """Write all lists in one generation, so that searches see them together."""
            row = self._datasets.require_incremented(
                connection, dataset.tenant, dataset.id
            )
            for document, principals in readers.items():
                home = (dataset.tenant, dataset.id, document)
                values = (to_json(list(principals)), row["generation"], *home)
                if not self._step(connection, "set_readers", *values):
                    raise document_not_found(document)

        await self._database.transact(work)
