"""What a search reads: before it is looked for, and of what was found, one trip to a reader each."""

from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.knowledge.entities import Dataset, Document
from modelyard.knowledge.rows import Detail
from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.knowledge.stored.documents import StoredDocuments
from modelyard.knowledge.stored.entries import StoredEntries
from modelyard.knowledge.stored.segments import StoredSegments
from modelyard.storage.database import Connection, Database


@dataclass(frozen=True, slots=True)
class Searched:
    """A dataset that is to be searched."""

    dataset: Dataset
    has_exceptions: bool
    """Whether there is a document that not everybody finds."""


@dataclass(frozen=True, slots=True)
class Details:
    """What entries stand for, of those that may be found."""

    of_entries: dict[int, Detail]
    documents: dict[str, Document]
    """Of all those segments, by id."""


class Searches:
    def __init__(
        self, database: Database, *, datasets: StoredDatasets, documents: StoredDocuments, segments: StoredSegments,
        entries: StoredEntries,
    ) -> None:  # fmt: skip
        self._database = database
        self._datasets = datasets
        self._documents = documents
        self._segments = segments
        self._entries = entries

    async def of(self, tenant: str, datasets: Sequence[str]) -> list[Searched]:
        """Raises NotFoundError."""

        def work(connection: Connection) -> list[Searched]:
            return [
                Searched(
                    self._datasets.read(connection, tenant, each), self._documents.has_exceptions(connection, each)
                )
                for each in datasets
            ]

        return await self._database.at_once(work)

    async def details(self, tenant: str, dataset: str, entries: Sequence[int]) -> Details:
        """What entries stand for, and whose documents' it is."""

        def work(connection: Connection) -> Details:
            details = self._details(connection, tenant, dataset, entries)
            wanted = {each.segment.document for each in details.values()}
            return Details(details, self._documents.read(connection, tenant, sorted(wanted)))

        return await self._database.at_once(work)

    def _details(self, connection: Connection, tenant: str, dataset: str, entries: Sequence[int]) -> dict[int, Detail]:
        rows = self._entries.standing_for(connection, dataset, entries)
        # Children of one segment share it.
        segments = self._segments.read(connection, tenant, list({row["segment"] for row in rows}))
        children = self._segments.read_children(connection, tenant, [row["child"] for row in rows if row["child"]])
        details: dict[int, Detail] = {}
        for row in rows:
            segment = segments.get(row["segment"])
            if segment is not None:
                details[row["id"]] = Detail(segment, children.get(row["child"]))
        return details
