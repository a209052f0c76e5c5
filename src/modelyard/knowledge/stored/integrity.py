"""Consistency check of a dataset across several tables."""

from collections import Counter

from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.knowledge.stored.documents import StoredDocuments
from modelyard.knowledge.stored.entries import StoredEntries
from modelyard.knowledge.stored.segments import StoredSegments
from modelyard.storage.database import Connection, Database


class IntegrityCheck:
    """Checks a dataset's rows for contradictions."""

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

    async def problems(self, tenant: str, dataset: str) -> list[str]:
        """Return the inconsistencies of a dataset; an empty list if there are none.
        Raises NotFoundError."""

        def work(connection: Connection) -> list[str]:
            """Run all checks on one connection."""
            # This only verifies that the dataset exists.
            self._datasets.read(connection, tenant, dataset)
            return self._problems(connection, tenant, dataset)

        return await self._database.read_together(work, is_long=True)

    def _problems(self, connection: Connection, tenant: str, dataset: str) -> list[str]:
        """Return a message for each inconsistency found in the dataset's rows.

        Checked are each document's segment count, entries without a segment, and
        enabled segments without an entry.
        """
        sizes = self._documents.segment_counts(connection, tenant, dataset)
        segments = self._segments.of_dataset(connection, dataset)
        entries = self._entries.segments(connection, dataset)
        counts = Counter(row["document"] for row in segments)
        segment_ids = {row["id"] for row in segments}
        # Entries without a segment, and enabled segments without an entry, point to an
        # interrupted change.
        stray = sum(
            count for segment, count in entries.items() if segment not in segment_ids
        )
        unindexed = sum(
            1 for row in segments if row["is_enabled"] and row["id"] not in entries
        )
        problems = [
            f"Document {document} should have {size} segments, has {counts[document]}"
            for document, size in sizes.items()
            if size != counts[document]
        ]
        if stray:
            problems.append(f"{stray} index entries have no segment")
        if unindexed:
            problems.append(f"{unindexed} enabled segments have no index entry")
        return problems
