"""The database reads of a search: one trip before the index is queried, and one for its
hits."""

from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.knowledge.entities import Dataset, Document
from modelyard.knowledge.rows import EntryContent
from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.knowledge.stored.documents import StoredDocuments
from modelyard.knowledge.stored.entries import StoredEntries
from modelyard.knowledge.stored.segments import StoredSegments
from modelyard.storage.database import Connection, Database


@dataclass(frozen=True, slots=True)
class SearchTarget:
    """A dataset to be searched."""

    dataset: Dataset
    has_exceptions: bool
    """Whether any document is hidden from some users or not searchable."""


@dataclass(frozen=True, slots=True)
class EntryContents:
    """The content of index entries, as far as it may be found."""

    of_entries: dict[int, EntryContent]
    documents: dict[str, Document]
    """The documents of those segments, by id."""


class SearchReader:
    """Reads what a search needs from several tables."""

    def __init__(
        self,
        database: Database,
        *,
        datasets: StoredDatasets,
        documents: StoredDocuments,
        segments: StoredSegments,
        entries: StoredEntries,
    ) -> None:
        self._database = database
        self._datasets = datasets
        self._documents = documents
        self._segments = segments
        self._entries = entries

    async def targets(self, tenant: str, datasets: Sequence[str]) -> list[SearchTarget]:
        """Return the datasets to be searched. Raises NotFoundError."""

        def work(connection: Connection) -> list[SearchTarget]:
            """Read all datasets on one connection."""
            return [
                SearchTarget(
                    self._datasets.read(connection, tenant, dataset_id),
                    self._documents.has_restricted(connection, dataset_id),
                )
                for dataset_id in datasets
            ]

        return await self._database.read_together(work)

    async def load_entries(
        self, tenant: str, dataset: str, entries: Sequence[int]
    ) -> EntryContents:
        """Return the segments, children and documents of index entries. Deleted entries
        are left out."""

        def work(connection: Connection) -> EntryContents:
            """Read everything on one connection."""
            details = self._details(connection, tenant, dataset, entries)
            document_ids = {detail.segment.document for detail in details.values()}
            return EntryContents(
                details, self._documents.read(connection, tenant, sorted(document_ids))
            )

        return await self._database.read_together(work)

    def _details(
        self, connection: Connection, tenant: str, dataset: str, entries: Sequence[int]
    ) -> dict[int, EntryContent]:
        """Return the segment, and the child if there is one, of each index entry.

        Entries that no longer exist, or whose segment is not found, are left out.
        """
        rows = self._entries.entry_targets(connection, dataset, entries)
        # Several children share one segment, which is read once.
        segments = self._segments.read(
            connection, tenant, list({row["segment"] for row in rows})
        )
        children = self._segments.read_children(
            connection, tenant, [row["child"] for row in rows if row["child"]]
        )
        details: dict[int, EntryContent] = {}
        for row in rows:
            segment = segments.get(row["segment"])
            # The segment may have been disabled since its entry was indexed.
            if segment is not None:
                details[row["id"]] = EntryContent(segment, children.get(row["child"]))
        return details
