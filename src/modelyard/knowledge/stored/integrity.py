"""Whether what several tables say of a dataset fits together."""

from collections import Counter

from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.knowledge.stored.documents import StoredDocuments
from modelyard.knowledge.stored.entries import StoredEntries
from modelyard.knowledge.stored.segments import StoredSegments
from modelyard.storage.database import Connection, Database


class Integrity:
    def __init__(
        self, database: Database, *, datasets: StoredDatasets, documents: StoredDocuments, segments: StoredSegments,
        entries: StoredEntries,
    ) -> None:  # fmt: skip
        self._database = database
        self._datasets = datasets
        self._documents = documents
        self._segments = segments
        self._entries = entries

    async def problems(self, tenant: str, dataset: str) -> list[str]:
        """What does not fit together; nothing, unless something is wrong. Raises NotFoundError."""

        def work(connection: Connection) -> list[str]:
            self._datasets.read(connection, tenant, dataset)
            return self._problems(connection, dataset)

        return await self._database.at_once(work, is_long=True)

    def _problems(self, connection: Connection, dataset: str) -> list[str]:
        sizes = self._documents.sizes(connection, dataset)
        segments = self._segments.of_dataset(connection, dataset)
        entries = self._entries.segments(connection, dataset)
        counts = Counter(row["document"] for row in segments)
        known = {row["id"] for row in segments}
        stray = sum(count for segment, count in entries.items() if segment not in known)
        silent = sum(1 for row in segments if row["is_enabled"] and row["id"] not in entries)
        problems = [
            f"document {document} has other segments than it says"
            for document, size in sizes.items()
            if size != counts[document]
        ]
        if stray:
            problems.append(f"{stray} index entries stand for no segment")
        if silent:
            problems.append(f"{silent} segments cannot be found")
        return problems
