"""Reindexing of a dataset with another embedding model, into a shadow index while the
old one answers."""

from collections.abc import Callable, Sequence
from typing import Any

from modelyard.knowledge import prepare
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.rows import Entry, IndexContent
from modelyard.knowledge.stored.repositories import KnowledgeStore
from modelyard.knowledge.vectors import DatasetEmbedder
from modelyard.storage.database import Row


class Reindexer:
    """Rebuilds a dataset's index with another embedding model."""

    def __init__(self, store: KnowledgeStore, vectors: DatasetEmbedder) -> None:
        self._store = store
        self._vectors = vectors

    async def change_model(
        self,
        dataset: Dataset,
        on_progress: Callable[[int, int], None] = lambda completed_count, of: None,
    ) -> Dataset:
        """Reindex a dataset with the model in its settings and return it. The old index
        answers until the new one is complete.

        `on_progress` is called with (completed, total) after each document.
        """
        space = dataset.space + 1
        dimensions, resolved = 0, ""
        # Documents may change during the run: repeat until the swap finds the new index
        # complete.
        while True:
            documents = await self._store.documents.list_all(dataset.tenant, dataset.id)
            for document_index, document in enumerate(documents):
                moved = await self._copy_document(dataset, space, document.id)
                if moved is not None:
                    dimensions = moved.dimensions or dimensions
                    resolved = moved.model or resolved
                on_progress(document_index + 1, len(documents))
            # The swap is one transaction, and fails if the shadow index lacks entries.
            if await self._store.publisher.swap_index(
                dataset, space, dimensions, resolved
            ):
                return await self._store.datasets.get(dataset.tenant, dataset.id)

    async def _copy_document(
        self, dataset: Dataset, space: int, document: str
    ) -> IndexContent | None:
        """Write a document's entries with new vectors to the shadow index, and return
        them. None if an interrupted or previous pass has already written them."""
        rows = await self._store.entries.list_of_document(document, dataset.space)
        shadow_rows = await self._store.entries.list_of_document(document, space)
        if _entry_keys(rows) == _entry_keys(shadow_rows):
            return None
        moved = await self._reembedded(dataset, rows)
        await self._store.publisher.write_shadow_index(
            dataset.id, space, document, moved.entries
        )
        return moved

    async def _reembedded(self, dataset: Dataset, rows: Sequence[Any]) -> IndexContent:
        """Return a document's entries with vectors of the dataset's current model."""
        entries = [row["id"] for row in rows]
        details = (
            await self._store.searches.load_entries(dataset.tenant, dataset.id, entries)
        ).of_entries
        # The entry stores only a digest: find the text of the segment, child or summary
        # that it was made from.
        texts: dict[str, str] = {}
        for row in rows:
            if (detail := details.get(row["id"])) is None:
                continue
            segment = detail.segment
            plain = detail.child.content if detail.child else segment.content
            for text in (
                prepare.searchable_text(segment.heading, plain),
                segment.summary,
            ):
                if prepare.digest_of(text) == row["digest"]:
                    texts[row["digest"]] = text
        # Full-text terms do not depend on the model, and are copied.
        indexed = IndexContent(
            entries=[
                Entry(
                    row["segment"],
                    row["child"],
                    row["digest"],
                    b"",
                    row["terms"],
                    row["length"],
                )
                for row in rows
            ]
        )
        if dataset.settings.uses_vectors:
            await self._vectors.fill_vectors(dataset, indexed, texts)
        return indexed


def _entry_keys(rows: Sequence[Row]) -> set[tuple[str, str, str]]:
    """Return what identifies the entries of a document in every index."""
    return {(row["segment"], row["child"], row["digest"]) for row in rows}
