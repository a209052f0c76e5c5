"""A dataset indexed anew by another model, beside the index that answers meanwhile."""

from collections.abc import Callable, Sequence
from typing import Any

from modelyard.knowledge import prepare
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.rows import Entry, Indexed
from modelyard.knowledge.stored.stored import Stored
from modelyard.knowledge.vectors import Vectors


class Reindexer:
    def __init__(self, stored: Stored, vectors: Vectors) -> None:
        self._stored = stored
        self._vectors = vectors

    async def change_model(self, dataset: Dataset, told: Callable[[int, int], None] = lambda done, of: None) -> Dataset:
        """Index anew, by the model that the settings name here. The old index answers until the new is whole."""
        space = dataset.space + 1
        dimensions, resolved = 0, ""
        while True:
            documents = await self._stored.documents.every(dataset.tenant, dataset.id)
            for at, document in enumerate(documents):
                old = await self._stored.entries.of(document.id, dataset.space)
                new = {
                    (row["segment"], row["child"], row["digest"])
                    for row in await self._stored.entries.of(document.id, space)
                }
                if {(row["segment"], row["child"], row["digest"]) for row in old} != new:
                    moved = await self._moved(dataset, old)
                    dimensions, resolved = moved.dimensions or dimensions, moved.model or resolved
                    await self._stored.publisher.put_beside(dataset.id, space, document.id, moved.entries)
                told(at + 1, len(documents))
            if await self._stored.publisher.switch(dataset, space, dimensions, resolved):
                return await self._stored.datasets.get(dataset.tenant, dataset.id)

    async def _moved(self, dataset: Dataset, rows: Sequence[Any]) -> Indexed:
        """A document's entries with vectors of another model."""
        entries = [row["id"] for row in rows]
        details = (await self._stored.searches.details(dataset.tenant, dataset.id, entries)).of_entries
        texts: dict[str, str] = {}
        for row in rows:
            if (detail := details.get(row["id"])) is None:
                continue
            one = detail.segment
            plain = detail.child.content if detail.child else one.content
            for text in (prepare.searched(one.heading, plain), one.summary):
                if prepare.digest_of(text) == row["digest"]:
                    texts[row["digest"]] = text
        indexed = Indexed(entries=[
            Entry(row["segment"], row["child"], row["digest"], b"", row["terms"], row["length"]) for row in rows
        ])  # fmt: skip
        if dataset.settings.uses_vectors:
            await self._vectors.fill(dataset, indexed, texts)
        return indexed
