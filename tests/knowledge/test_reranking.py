"""When the order of a rerank model counts."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.knowledge.entities import RetrievalSettings
from modelyard.knowledge.reranking import (
    QueryTooLongError,
    check_query_length,
    combined_order,
    finds_nothing,
)
from modelyard.knowledge.retrieve import Retrieval, Retriever, SearchRequest
from tests.knowledge.conftest import Bench, Models, Run

pytestmark = pytest.mark.proof("retrieval")
SCORES = st.lists(
    st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), max_size=30
)


@given(SCORES)
@settings(max_examples=200, deadline=None)
def test_what_both_find_better_comes_first(scores: list[tuple[float, float]]):
    search, rerank = [pair[0] for pair in scores], [pair[1] for pair in scores]
    order = combined_order(search, rerank)
    assert sorted(order) == list(range(len(scores)))
    ranks = {index: rank for rank, index in enumerate(order)}
    for first in ranks:
        for second in ranks:
            if search[first] > search[second] and rerank[first] > rerank[second]:
                assert ranks[first] < ranks[second]


def test_a_model_that_separates_decides_and_one_that_does_not_leaves_the_order():
    search = [0.60, 0.59, 0.58]
    assert combined_order(search, [0.01, 0.02, 0.98]) == [2, 0, 1]
    # Nothing fits: the differences of such scores are noise.
    assert combined_order([0.9, 0.5, 0.1], [0.001, 0.002, 0.003]) == [0, 1, 2]
    assert combined_order([0.9, 0.5, 0.1], [0.97, 0.97, 0.97]) == [0, 1, 2]
    assert combined_order([0.5, 0.5], [0.1, 0.4]) == [1, 0]
    assert combined_order([], []) == []
    assert finds_nothing([0.02, 0.001])
    assert not finds_nothing([0.02, 0.3])


def test_a_question_longer_than_the_model_reads_is_not_sent():
    long = "word " * 300
    with pytest.raises(QueryTooLongError, match="about 375 tokens, and rerank model 'm' reads 512"):  # fmt: skip
        check_query_length(long, "m", 512)
    check_query_length(long, "m", 1024)
    # Of many models the length is not known.
    check_query_length(long, "m", None)


def test_the_result_says_why_the_model_did_not_decide(run: Run):
    class Unsure(Models):
        async def rerank(self, tenant: str, model: str, query: str, docs: Any) -> Any:
            check_query_length(query, model, 64)
            return [(index, 0.001 * index) for index in range(len(docs))]

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        await bench.add(dataset, "Parcels leave before noon.", "Gifts are wrapped at noon.")  # fmt: skip
        retriever = Retriever(
            bench.parts.stored, bench.parts.indexes.of, bench.embedder, Unsure()
        )

        async def search(query: str, *, reranks: bool = True) -> Retrieval:
            request = SearchRequest(
                tenant="default",
                query=query,
                settings=RetrievalSettings(reranking_enable=reranks),
            )
            return await retriever.search([dataset.id], request)

        plain = await search("gifts at noon", reranks=False)
        for query, note in (
            ("gifts at noon", "finds that no hit fits"),
            ("gifts at noon " * 20, "Hits are in search order: The question has about"),
        ):
            retrieval = await search(query)
            assert [note in text for text in retrieval.notes] == [True]
            assert [hit.text for hit in retrieval.hits] == [
                hit.text for hit in plain.hits
            ]

    run(work)
