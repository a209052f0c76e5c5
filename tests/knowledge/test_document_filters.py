"""Laws of metadata filters: the index in memory agrees with each document on its own,
and follows changes without reading unchanged documents."""

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.knowledge.access import may_read
from modelyard.knowledge.document_filters import DocumentFilters, MetadataIndex
from modelyard.knowledge.entities import (
    Condition,
    Conditions,
    Document,
    RetrievalSettings,
)
from modelyard.knowledge.filters import OPERATORS, matches
from modelyard.knowledge.rows import FilterRow
from modelyard.knowledge.stored.documents import StoredDocuments
from tests.knowledge.conftest import Bench, Run

FIELDS = ("colour", "size")
VALUES: Any = st.sampled_from(
    ["", "red", "re", "1", "1.0", "2026-01-02", "red,1", "True", None, 1, 1.0, 2.5, True, ["red"], [], {"a": 1}]
)  # fmt: skip
ROWS = st.builds(
    FilterRow,
    id=st.sampled_from(["a", "b", "c", "d"]),
    values=st.dictionaries(st.sampled_from(FIELDS), VALUES),
    readers=st.lists(
        st.sampled_from(["user:ada", "group:all", "everyone", "nobody"]),
        max_size=2,
        unique=True,
    ),
    is_searchable=st.sampled_from([True, True, True, False]),
)
PRINCIPALS = [
    frozenset({"everyone", "user:ada"}),
    frozenset({"everyone", "user:carl", "group:all"}),
    frozenset({"everyone"}),
    frozenset[str](),
]
CONDITIONS = st.builds(
    Conditions,
    logical_operator=st.sampled_from(["and", "or"]),
    conditions=st.lists(
        st.builds(
            Condition,
            name=st.sampled_from(FIELDS),
            comparison_operator=st.sampled_from([*OPERATORS, "==", "!="]),
            value=VALUES,
        ),
        max_size=3,
    ),
)


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(
        st.tuples(
            st.lists(ROWS, max_size=4, unique_by=lambda row: row.id),
            CONDITIONS,
            st.sampled_from([None, *PRINCIPALS]),
            st.sampled_from(["everyone", "nobody"]),
        ),
        max_size=5,
    )
)
def test_the_index_agrees_with_each_document_on_its_own(
    steps: list[tuple[list[FilterRow], Conditions, frozenset[str] | None, Any]],
):
    """Law: after every change, exactly those documents are allowed whose own metadata
    meets the conditions, and whose access list, or the default, names the reader."""
    index = MetadataIndex()
    current: dict[str, FilterRow] = {}
    for generation, (rows, conditions, principals, default) in enumerate(steps):
        current.update((row.id, row) for row in rows)
        index.apply(list(rows), generation)
        assert index.allowed(conditions, principals, default) == {
            row.id
            for row in current.values()
            if row.is_searchable
            and may_read(principals, row.readers, default)
            and matches(row.values, conditions)
        }


def _is(name: str, value: Any) -> Conditions:
    return Conditions(
        conditions=[Condition(name=name, comparison_operator="is", value=value)]
    )


Change = Callable[[Bench, Document], Awaitable[Any]]


async def _describe(bench: Bench, document: Document) -> None:
    changed = msgspec.structs.replace(document, metadata={"team": "blue"})
    await bench.parts.stored.library.update_description(changed)


async def _update_text(bench: Bench, document: Document) -> None:
    dataset = await bench.datasets.get_by_id_or_name("default", "d")
    changed = await bench.datasets.update_text(
        dataset, document, text="New text", metadata={"team": "blue"}
    )
    await bench.datasets.wait(dataset, changed.batch, 60)


async def _add(bench: Bench, document: Document) -> None:
    del document
    dataset = await bench.datasets.get_by_id_or_name("default", "d")
    await bench.add(dataset, "A further text", metadata={"team": "blue"})


@pytest.mark.parametrize("change", [_describe, _update_text, _add])
def test_a_change_is_followed_by_reading_the_changed_document_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, change: Change
):
    reads: list[int] = []
    threads: set[int] = set()
    read_changes = StoredDocuments.filter_changes
    apply, allowed = MetadataIndex.apply, MetadataIndex.allowed

    async def counted(self: StoredDocuments, *arguments: Any) -> list[FilterRow]:
        rows = await read_changes(self, *arguments)
        reads.append(len(rows))
        return rows

    def noted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            threads.add(threading.get_ident())
            return method(*arguments)

        return call

    monkeypatch.setattr(StoredDocuments, "filter_changes", counted)
    monkeypatch.setattr(MetadataIndex, "apply", noted(apply))
    monkeypatch.setattr(MetadataIndex, "allowed", noted(allowed))

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        documents = await bench.add(
            dataset, *[f"Text {index}" for index in range(30)], metadata={"team": "red"}
        )
        filters = DocumentFilters(bench.parts.stored.documents)
        assert len(await _allowed(bench, filters, "red")) == 30
        await change(bench, documents[3])
        assert len(await _allowed(bench, filters, "blue")) == 1
        assert reads == [30, 1]
        # Disabled documents leave the index, and a second question reads nothing.
        store = bench.parts.stored
        await store.library.set_flags(
            "default", dataset.id, [documents[4].id], enabled=False
        )
        assert documents[4].id not in await _allowed(bench, filters, "red")
        await _allowed(bench, filters, "blue")
        assert reads == [30, 1, 1]
        assert threading.get_ident() not in threads

    run(work)


async def _allowed(bench: Bench, filters: DocumentFilters, team: str) -> set[str]:
    dataset = await bench.datasets.get_by_id_or_name("default", "d")
    return set(await filters.allowed(dataset, _is("team", team), None))


def test_an_index_of_mostly_replaced_documents_is_built_again():
    """Deleted documents are never reported: a new index does not hold them."""
    index = MetadataIndex()
    row = FilterRow("a", {"team": "red"}, [], True)
    index.apply([row], 1)
    assert not index.is_outdated
    index.apply([row] * 1100, 2)
    assert index.is_outdated


def test_a_search_with_a_filter_equals_a_search_filtered_afterwards(run: Run):
    """Law: with a large top k, the filter changes neither the hits nor their scores.

    Scores of the adaptive fusion are relative to what is searched, so weights are set.
    """

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        texts = [(f"n{index}", f"parcel {index} of {index % 7}", {"n": index % 3}) for index in range(60)]  # fmt: skip
        added = await bench.datasets.add_texts(dataset, texts)
        await bench.datasets.wait(dataset, added[0].batch, 60)
        options = {"settings": RetrievalSettings(top_k=100, fusion="weights")}
        everything = await bench.find(dataset, "parcel 3", **options)
        for operator, value in (("=", 1), ("≠", 1), ("in", "0,2"), ("<", 1), ("empty", None)):  # fmt: skip
            conditions = Conditions(
                conditions=[
                    Condition(name="n", comparison_operator=operator, value=value)
                ]
            )
            filtered = await bench.find(
                dataset, "parcel 3", conditions=conditions, **options
            )
            # Products of other numbers of vectors differ in the last bits.
            assert {
                hit.segment.id: pytest.approx(hit.score, abs=1e-6)
                for hit in filtered.hits
            } == {
                hit.segment.id: hit.score
                for hit in everything.hits
                if matches(hit.document.metadata, conditions)
            }

    run(work)
