"""Laws of datasets: whatever changes were made, a search finds the current text of
every enabled document, and nothing else."""

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.knowledge.entities import (
    Dataset,
    Document,
    RetrievalSettings,
    Technique,
)
from tests.knowledge.conftest import Bench, Run

_EVERYTHING = RetrievalSettings(top_k=100)
_COUNTER = itertools.count()
"""Numbers of texts and datasets: each text has a word that no other one has."""

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["add", "update", "disable", "enable", "delete", "same"]),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=10,
)


class _Model:
    """The documents that the dataset should have, and the same changes to both."""

    def __init__(self, bench: Bench, dataset: Dataset) -> None:
        self._bench = bench
        self._dataset = dataset
        self._documents: dict[str, Document] = {}
        self._texts: dict[str, str] = {}
        self._disabled: set[str] = set()
        self._old_texts: list[str] = []

    async def change(self, name: str, number: int) -> None:
        """Make one change, to the document that the number selects."""
        if name == "add" or not self._documents:
            await self._add()
            return
        ids = list(self._documents)
        document = self._documents[ids[number % len(ids)]]
        if name in ("update", "same"):
            await self._update(document, is_same=name == "same")
        elif name == "delete":
            await self._bench.datasets.delete_documents(self._dataset, [document.id])
            self._old_texts.append(self._texts.pop(document.id))
            del self._documents[document.id]
        else:
            await self._set_enabled(document, is_enabled=name == "enable")

    async def _add(self) -> None:
        text = f"word{next(_COUNTER)} of a parcel"
        (document,) = await self._bench.add(self._dataset, text)
        self._documents[document.id] = document
        self._texts[document.id] = text

    async def _update(self, document: Document, *, is_same: bool) -> None:
        old_text = self._texts[document.id]
        text = old_text if is_same else f"word{next(_COUNTER)} of a parcel"
        if not is_same:
            self._old_texts.append(old_text)
        changed = await self._bench.datasets.update_text(
            self._dataset, document, text=text
        )
        await self._bench.datasets.wait(self._dataset, changed.batch, 60)
        self._documents[document.id] = changed
        self._texts[document.id] = text

    async def _set_enabled(self, document: Document, *, is_enabled: bool) -> None:
        await self._bench.parts.stored.library.set_flags(
            "default", self._dataset.id, [document.id], enabled=is_enabled
        )
        if is_enabled:
            self._disabled.discard(document.id)
        else:
            self._disabled.add(document.id)

    async def check(self) -> None:
        """Search for everything, and for each text that is or was there."""
        expected = set(self._documents) - self._disabled
        assert await self._found("parcel") == expected
        for document_id, text in self._texts.items():
            word = text.split()[0]
            assert await self._found(word) == {document_id} & expected
        for text in self._old_texts:
            assert await self._found(text.split()[0]) == set()
        problems = await self._bench.parts.stored.integrity.problems(
            "default", self._dataset.id
        )
        assert problems == []

    async def _found(self, query: str) -> set[str]:
        retrieval: Any = await self._bench.find(
            self._dataset, query, settings=_EVERYTHING
        )
        return {hit.document.id for hit in retrieval.hits}


def test_every_sequence_of_changes_leaves_the_enabled_documents(run: Run):
    # One application for all examples: starting it takes longer than the changes.
    examples: list[list[tuple[str, int]]] = []

    @settings(
        max_examples=8,
        deadline=None,
        database=None,
        derandomize=True,
    )
    @given(CHANGES)
    def collect(changes: list[tuple[str, int]]) -> None:
        examples.append(changes)

    collect()

    async def work(bench: Bench) -> None:
        for changes in examples:
            dataset = await bench.dataset(
                f"d{next(_COUNTER)}", indexing_technique=Technique.ECONOMY
            )
            model = _Model(bench, dataset)
            for name, number in changes:
                await model.change(name, number)
                await model.check()

    run(work)
