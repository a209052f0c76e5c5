"""The wire formats of rerank, embedding and moderation models, in both directions."""

import base64
import json
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)
from modelyard.models.capabilities import Capabilities, InputTypeField
from modelyard.models.embedding import (
    EmbeddingInputType,
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
)
from modelyard.models.moderation import (
    ModerationRequest,
    ModerationResult,
    ModerationUsage,
    ModerationVerdict,
)
from modelyard.models.rerank import (
    RerankDocument,
    RerankRequest,
    RerankResult,
    RerankUsage,
)
from modelyard.providers.formats import EMBEDDING, RERANK
from modelyard.wire import (
    cohere_retrieval,
    dashscope_rerank,
    gemini_embeddings,
    ollama_embeddings,
    openai_embeddings,
    openai_moderations,
    openai_rerank,
    tei,
)

DEFAULT = Capabilities()
QUERY, DOCUMENT = EmbeddingInputType.QUERY, EmbeddingInputType.DOCUMENT

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1)
queries = texts.filter(lambda text: bool(text.strip()))
scores = st.floats(-1, 1, allow_nan=False)
vectors = st.lists(
    st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2), min_size=1, max_size=4
)
Parse = Callable[[Any], Any]


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def refusal_of(parse: Parse, body: Any) -> tuple[str | None, str]:
    """Return the field and the message with which a request is refused."""
    with pytest.raises(InvokeBadRequestError) as raised:
        parse(body)
    return raised.value.param, str(raised.value)


# rerank: answers of every format

RERANKED: dict[str, Any] = {
    "openai": {
        "model": "jina-reranker-v2",
        "results": [
            {"index": 2, "relevance_score": 0.25, "document": {"text": "c"}},
            {"index": 0, "relevance_score": 0.75},
            {"index": 1, "relevance_score": 0},
        ],
        "usage": {"total_tokens": 38},
    },
    "cohere": {
        "id": "07734bd2",
        "results": [
            {"index": 2, "relevance_score": 0.25},
            {"index": 0, "relevance_score": 0.75},
            {"index": 1, "relevance_score": 0},
        ],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 3}},
    },
    "tei": [
        {"index": 2, "score": 0.25, "text": "c"},
        {"index": 0, "score": 0.75},
        {"index": 1, "score": 0},
    ],
    "dashscope": {
        "output": {
            "results": [
                {"index": 2, "relevance_score": 0.25},
                {"index": 0, "relevance_score": 0.75},
                {"index": 1, "relevance_score": 0},
            ]
        },
        "usage": {"total_tokens": 79},
        "request_id": "4b0805c0",
    },
}
RANKED_USAGE = {
    "openai": RerankUsage(tokens=38, searches=1),
    "cohere": RerankUsage(searches=3),
    "tei": RerankUsage(searches=1),
    "dashscope": RerankUsage(tokens=79, searches=1),
}
ABC = RerankRequest(query="q", docs=["a", "b", "c"])
RANKED = [
    RerankDocument(index=0, text="a", score=0.75),
    RerankDocument(index=2, text="c", score=0.25),
    RerankDocument(index=1, text="b", score=0.0),
]


def with_results(name: str, results: Any) -> Any:
    """Return the answer of a format with other results."""
    match name:
        case "tei":
            return results
        case "dashscope":
            return {**RERANKED[name], "output": {"results": results}}
        case _:
            return {**RERANKED[name], "results": results}


def test_a_ranking_is_recorded_for_every_format():
    assert RERANKED.keys() == RERANK.keys() == RANKED_USAGE.keys()


@pytest.mark.parametrize("name", sorted(RERANK))
def test_every_format_reads_the_same_ranking(name: str):
    parse = RERANK[name].parse_result
    model = "jina-reranker-v2" if name == "openai" else ""
    usage = RANKED_USAGE[name]
    assert parse(RERANKED[name], ABC) == RerankResult(
        model=model, docs=RANKED, usage=usage
    )
    best = RerankRequest(query="q", docs=["a", "b", "c"], top_n=1)
    assert parse(RERANKED[name], best).docs == RANKED[:1]
    good = RerankRequest(query="q", docs=["a", "b", "c"], score_threshold=0.25)
    assert parse(RERANKED[name], good).docs == RANKED[:2]
    assert parse(with_results(name, []), ABC).docs == []


@pytest.mark.parametrize("name", sorted(RERANK))
@pytest.mark.parametrize(
    ("index", "score"),
    [(3, 0.5), (-1, 0.5), ("0", 0.5), (None, 0.5), (True, 0.5), (0, None), (0, "1"),
     (0, True), (1.0, 0.5)],
)  # fmt: skip
def test_a_result_needs_a_valid_index_and_score(name: str, index: Any, score: Any):
    result = {"index": index, "relevance_score": score, "score": score}
    with pytest.raises(InvokeServerUnavailableError, match="invalid index or score"):
        RERANK[name].parse_result(with_results(name, [result]), ABC)


@pytest.mark.parametrize("name", sorted(RERANK))
@pytest.mark.parametrize("results", [None, "x", {}, 5])
def test_an_answer_without_results_is_the_providers_fault(name: str, results: Any):
    message = "not a list of scores" if name == "tei" else "has no 'results'"
    with pytest.raises(InvokeServerUnavailableError, match=message):
        RERANK[name].parse_result(with_results(name, results), ABC)


@pytest.mark.parametrize("name", sorted(RERANK))
@pytest.mark.parametrize("results", [["x"], [None], [[]]])
def test_results_that_are_no_objects_are_the_providers_fault(name: str, results: Any):
    with pytest.raises(InvokeServerUnavailableError, match="does not match its format"):
        RERANK[name].parse_result(with_results(name, results), ABC)


@pytest.mark.parametrize(
    ("name", "body"),
    [("openai", []), ("openai", "x"), ("openai", {"error": "x"}), ("cohere", {}),
     ("cohere", []), ("dashscope", {}), ("dashscope", []), ("tei", {"error": "x"})],
)  # fmt: skip
def test_an_answer_of_another_shape_is_the_providers_fault(name: str, body: Any):
    with pytest.raises(InvokeServerUnavailableError):
        RERANK[name].parse_result(body, ABC)


@pytest.mark.parametrize(
    ("code", "error_class"),
    [
        ("InvalidApiKey", InvokeAuthorizationError),
        ("Throttling", InvokeRateLimitError),
        ("InvalidParameter", InvokeBadRequestError),
        ("SomethingNew", InvokeServerUnavailableError),
    ],
)
def test_dashscope_reports_errors_of_a_ranking_with_status_200(
    code: str, error_class: type[InvokeError]
):
    with pytest.raises(error_class, match=r"^Not today\.$") as raised:
        dashscope_rerank.parse_result({"code": code, "message": "Not today."}, ABC)
    assert type(raised.value) is error_class


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        ({"usage": {"total_tokens": 12.0}}, RerankUsage(tokens=12, searches=1)),
        ({"usage": {"total_tokens": -1}}, RerankUsage(searches=1)),
        ({"meta": {"billed_units": {"search_units": 2}}}, RerankUsage(searches=2)),
        ({"meta": None, "usage": None}, RerankUsage(searches=1)),
        ({}, RerankUsage(searches=1)),
    ],
)
def test_servers_of_the_common_rerank_format_bill_differently(
    body: dict[str, Any], usage: RerankUsage
):
    # Some servers name the list `data`.
    result = openai_rerank.parse_result({"data": [], **body}, ABC)
    assert result == RerankResult(docs=[], usage=usage)


def test_cohere_bills_at_least_one_search():
    for meta in ({}, {"billed_units": {}}, None):
        body = {"results": [], "meta": meta}
        result = cohere_retrieval.parse_rerank_result(body, ABC)
        assert result.usage == RerankUsage(searches=1)


# rerank: requests to every format

RANKING = RerankRequest(
    query="q",
    docs=["a", "b"],
    top_n=2,
    extra={
        "openai_rerank": {"truncation": True},
        "cohere": {"max_tokens_per_doc": 64},
        "tei": {"raw_scores": True},
        "dashscope": {"instruct": "Rank."},
    },
)
RERANK_BODIES: dict[str, Any] = {
    "openai": {
        "model": "m",
        "query": "q",
        "documents": ["a", "b"],
        "truncation": True,
        "top_n": 2,
    },
    "cohere": {
        "model": "m",
        "query": "q",
        "documents": ["a", "b"],
        "top_n": 2,
        "max_tokens_per_doc": 64,
    },
    "tei": {"query": "q", "texts": ["a", "b"], "truncate": True, "raw_scores": True},
    "dashscope": {
        "model": "m",
        "input": {"query": "q", "documents": ["a", "b"]},
        "parameters": {"return_documents": False, "instruct": "Rank.", "top_n": 2},
    },
}


@pytest.mark.parametrize("name", sorted(RERANK))
def test_the_rerank_request_of_every_format(name: str):
    dump = RERANK[name].dump_request
    assert dump(RANKING, "m", DEFAULT) == RERANK_BODIES[name]
    # Without a limit none is sent, and fields of other formats never are.
    bare = dump(
        RerankRequest(query="q", docs=["a"], extra={"x": {"y": 1}}), "m", DEFAULT
    )
    assert "top_n" not in json.dumps(bare)
    assert '"y"' not in json.dumps(bare)


def test_fields_of_a_rerank_request_are_dropped_and_renamed():
    capabilities = Capabilities(
        drop=("truncation",), rename={"top_n": "top_k", "user": "u"}
    )
    assert openai_rerank.dump_request(RANKING, "m", capabilities) == {
        "model": "m",
        "query": "q",
        "documents": ["a", "b"],
        "top_k": 2,
    }
    body = cohere_retrieval.dump_rerank_request(
        RANKING, "m", Capabilities(drop=("max_tokens_per_doc", "absent"))
    )
    assert body == {"model": "m", "query": "q", "documents": ["a", "b"], "top_n": 2}


# rerank: requests and answers of callers

RERANK_READERS: list[Parse] = [
    openai_rerank.parse_request,
    cohere_retrieval.parse_rerank_request,
]


@given(
    st.builds(
        RerankRequest,
        query=queries,
        docs=st.lists(texts, min_size=1, max_size=4),
        top_n=st.none() | st.integers(1, 9),
    )
)
def test_a_rerank_request_survives_a_round_trip(request: RerankRequest):
    body = through_json(openai_rerank.dump_request(request, "m", DEFAULT))
    assert openai_rerank.parse_request(body) == request
    body = through_json(cohere_retrieval.dump_rerank_request(request, "m", DEFAULT))
    assert cohere_retrieval.parse_rerank_request(body) == request


def test_the_fields_of_a_rerank_request():
    body = {
        "model": "m",
        "query": "q",
        "documents": ["a", {"text": "b", "title": "B"}],
        "top_n": 1,
        "return_documents": False,
        "score_threshold": 1,
        "user": "u",
        "truncation": True,
        "unset": None,
    }
    assert openai_rerank.parse_request(body) == RerankRequest(
        query="q",
        docs=["a", "b"],
        top_n=1,
        score_threshold=1.0,
        user="u",
        extra={"openai_rerank": {"truncation": True}},
    )
    body = {
        "model": "m",
        "query": "q",
        "documents": ["a", {"text": "b"}],
        "max_tokens_per_doc": 64,
        "priority": None,
    }
    assert cohere_retrieval.parse_rerank_request(body) == RerankRequest(
        query="q", docs=["a", "b"], extra={"cohere": {"max_tokens_per_doc": 64}}
    )


@pytest.mark.parametrize("parse", RERANK_READERS)
@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"query": None}, "query", "'query' is required: a string"),
        ({"query": ["q"]}, "query", "'query' must be a string, not ['q']"),
        ({"query": " \t"}, "query", "'query' must not be empty"),
        ({"documents": None}, "documents", "'documents' is required: a list"),
        ({"documents": "a"}, "documents", "'documents' must be a list, not 'a'"),
        ({"documents": []}, "documents", "'documents' must not be empty"),
        ({"documents": [{}]}, "documents[0].text", "is required: a string"),
        ({"documents": ["a", {"text": 5}]}, "documents[1].text", "a string, not 5"),
        ({"top_n": 0}, "top_n", "'top_n' must be between 1 and"),
        ({"top_n": 1.5}, "top_n", "'top_n' must be a whole number, not 1.5"),
        ({"top_n": True}, "top_n", "'top_n' must be a whole number, not True"),
    ],
)
def test_invalid_rerank_fields_are_named(
    parse: Parse, fields: dict[str, Any], param: str, message: str
):
    actual = refusal_of(parse, {"query": "q", "documents": ["a"], **fields})
    assert (actual[0], message in actual[1]) == (param, True), actual


@pytest.mark.parametrize(
    ("parse", "message"),
    [
        (openai_rerank.parse_request, "a string or an object with text, not 5"),
        (cohere_retrieval.parse_rerank_request, "an object, not 5"),
    ],
)
def test_a_document_is_a_text_or_an_object(parse: Parse, message: str):
    param, text = refusal_of(parse, {"query": "q", "documents": ["a", 5]})
    assert (param, text) == ("documents[1]", f"'documents[1]' must be {message}")


@pytest.mark.parametrize(
    ("parse", "maximum"),
    [
        (openai_rerank.parse_request, 1000),
        (cohere_retrieval.parse_rerank_request, 10_000),
    ],
)
def test_the_number_of_documents_is_limited(parse: Parse, maximum: int):
    assert len(parse({"query": "q", "documents": ["a"] * maximum}).docs) == maximum
    refusal = refusal_of(parse, {"query": "q", "documents": ["a"] * (maximum + 1)})
    assert refusal == (
        "documents",
        f"'documents' has {maximum + 1:,} entries; maximum {maximum:,}",
    )


@st.composite
def rankings(draw: st.DrawFn) -> tuple[RerankRequest, RerankResult]:
    docs = draw(st.lists(texts, min_size=1, max_size=4))
    ranked = [
        RerankDocument(index=index, text=text, score=draw(scores))
        for index, text in enumerate(docs)
    ]
    ranked.sort(key=lambda doc: -doc.score)
    usage = RerankUsage(tokens=draw(st.integers(0, 99)), searches=1)
    result = RerankResult(model="m", docs=ranked, usage=usage)
    return RerankRequest(query="q", docs=docs), result


@given(rankings())
def test_a_ranking_survives_a_round_trip(ranking: tuple[RerankRequest, RerankResult]):
    request, result = ranking
    body = through_json(openai_rerank.dump_result(result, response_id="r"))
    assert openai_rerank.parse_result(body, request) == result
    body = through_json(cohere_retrieval.dump_rerank_result(result, response_id="r"))
    assert cohere_retrieval.parse_rerank_result(body, request).docs == result.docs


def test_the_ranking_that_callers_get():
    usage = RerankUsage(tokens=7, searches=2)
    result = RerankResult(model="m", docs=RANKED[:1], usage=usage)
    entry = {"index": 0, "relevance_score": 0.75}
    assert openai_rerank.dump_result(result, response_id="r") == {
        "id": "r",
        "model": "m",
        "results": [{**entry, "document": {"text": "a"}}],
        "usage": {"total_tokens": 7},
    }
    plain = openai_rerank.dump_result(result, return_documents=False)
    assert plain["results"] == [entry]
    assert cohere_retrieval.dump_rerank_result(result, response_id="r") == {
        "id": "r",
        "results": [entry],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 2}},
    }


# embeddings: answers of every format

EMBEDDED: dict[str, Any] = {
    "openai": {
        "model": "m",
        "data": [
            {"index": 1, "embedding": [0.5, 2]},
            {
                "index": 0,
                "embedding": base64.b64encode(
                    array("f", [1.0, 0.25]).tobytes()
                ).decode(),
            },
        ],
        "usage": {"prompt_tokens": 5, "total_tokens": 6},
    },
    "cohere": {
        "id": "da6e531f",
        "embeddings": {"float": [[1.0, 0.25], [0.5, 2]]},
        "meta": {"billed_units": {"input_tokens": 5}},
    },
    "gemini": {"embeddings": [{"values": [1.0, 0.25]}, {"values": [0.5, 2]}]},
    "ollama": {
        "model": "m",
        "embeddings": [[1.0, 0.25], [0.5, 2]],
        "prompt_eval_count": 5,
    },
    "tei": [[1.0, 0.25], [0.5, 2]],
}
EMBEDDED_USAGE = {
    "openai": EmbeddingUsage(tokens=5, total_tokens=6),
    "cohere": EmbeddingUsage(tokens=5, total_tokens=5),
    "gemini": EmbeddingUsage(estimated=True),
    "ollama": EmbeddingUsage(tokens=5, total_tokens=5),
    "tei": EmbeddingUsage(estimated=True),
}
TWO_TEXTS = TextEmbeddingRequest(texts=["a", "b"])


def test_embeddings_are_recorded_for_every_format():
    assert EMBEDDED.keys() == EMBEDDING.keys() == EMBEDDED_USAGE.keys()


@pytest.mark.parametrize("name", sorted(EMBEDDING))
def test_every_format_reads_the_same_embeddings(name: str):
    result = EMBEDDING[name].parse_result(EMBEDDED[name], TWO_TEXTS)
    assert result == TextEmbeddingResult(
        model="m" if name in ("openai", "ollama") else "",
        embeddings=[[1.0, 0.25], [0.5, 2]],
        usage=EMBEDDED_USAGE[name],
    )


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("openai", {}, "has no 'data'"),
        ("openai", [], "has no 'data'"),
        ("openai", {"data": [5]}, "does not match its format"),
        ("openai", {"data": [{"embedding": "%"}]}, "is not base64 of 32-bit floats"),
        ("openai", {"data": [{"embedding": "AAA="}]}, "not base64 of 32-bit floats"),
        ("openai", {"data": [{"embedding": None}]}, "must be a list of numbers"),
        ("cohere", {}, "has no 'embeddings'"),
        ("cohere", {"embeddings": {"int8": [[1]]}}, "has no 'embeddings'"),
        ("cohere", [], "does not match its format"),
        ("gemini", {}, "has no 'embeddings'"),
        ("gemini", [], "has no 'embeddings'"),
        ("gemini", {"embeddings": [{}]}, "has no 'embeddings'"),
        ("gemini", {"embeddings": [5]}, "does not match its format"),
        ("ollama", {}, "has no 'embeddings'"),
        ("ollama", {"embedding": 5}, "has no 'embeddings'"),
        ("ollama", [], "does not match its format"),
        ("tei", {"error": "x"}, "is not a list of embeddings"),
        ("tei", [[0.5], None], "is not a list of embeddings"),
    ],
)
def test_an_answer_without_embeddings_is_the_providers_fault(
    name: str, body: Any, message: str
):
    with pytest.raises(InvokeServerUnavailableError, match=message):
        EMBEDDING[name].parse_result(body, TWO_TEXTS)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 5}, EmbeddingUsage(tokens=5, total_tokens=5)),
        (
            {"total_tokens": 6},
            EmbeddingUsage(tokens=6, total_tokens=6, estimated=True),
        ),
        ({"prompt_tokens": "5"}, EmbeddingUsage(estimated=True)),
        ({}, EmbeddingUsage(estimated=True)),
        ("x", EmbeddingUsage(estimated=True)),
        (None, EmbeddingUsage(estimated=True)),
    ],
)
def test_embeddings_may_come_without_a_token_count(
    usage: Any, expected: EmbeddingUsage
):
    body = {"data": [], "usage": usage}
    assert openai_embeddings.parse_result(body).usage == expected


def test_older_servers_answer_with_fewer_fields():
    older = ollama_embeddings.parse_result({"embedding": [0.5]}, TWO_TEXTS)
    estimated = EmbeddingUsage(estimated=True)
    assert older == TextEmbeddingResult(embeddings=[[0.5]], usage=estimated)
    older = cohere_retrieval.parse_embed_result({"embeddings": [[0.5]]}, TWO_TEXTS)
    assert older == TextEmbeddingResult(embeddings=[[0.5]], usage=estimated)


# embeddings: requests to every format

EMBEDDING_REQUEST = TextEmbeddingRequest(
    texts=["a", "b"],
    dimensions=256,
    input_type=QUERY,
    user="u",
    extra={
        "openai_embeddings": {"late_chunking": True},
        "cohere": {"truncate": "END"},
        "gemini": {"taskType": "CLUSTERING"},
        "ollama": {"keep_alive": "5m"},
        "tei": {"normalize": False},
    },
)
EMBEDDING_BODIES: dict[str, Any] = {
    "openai": {
        "model": "m",
        "input": ["a", "b"],
        "encoding_format": "float",
        "late_chunking": True,
        "dimensions": 256,
        "user": "u",
    },
    "cohere": {
        "model": "m",
        "texts": ["a", "b"],
        "input_type": "search_query",
        "embedding_types": ["float"],
        "output_dimension": 256,
        "truncate": "END",
    },
    "gemini": {
        "requests": [
            {
                "model": "models/m",
                "taskType": "CLUSTERING",
                "outputDimensionality": 256,
                "content": {"parts": [{"text": text}]},
            }
            for text in "ab"
        ]
    },
    "ollama": {
        "model": "m",
        "input": ["a", "b"],
        "dimensions": 256,
        "keep_alive": "5m",
    },
    "tei": {
        "inputs": ["a", "b"],
        "truncate": True,
        "dimensions": 256,
        "normalize": False,
    },
}


@pytest.mark.parametrize("name", sorted(EMBEDDING))
def test_the_embedding_request_of_every_format(name: str):
    dump = EMBEDDING[name].dump_request
    assert dump(EMBEDDING_REQUEST, "m", DEFAULT) == EMBEDDING_BODIES[name]
    bare = json.dumps(dump(TextEmbeddingRequest(texts=["a"]), "m", DEFAULT)).lower()
    assert "dimension" not in bare
    assert "user" not in bare


def test_fields_of_an_embedding_request_are_dropped_and_renamed():
    capabilities = Capabilities(
        drop=("encoding_format", "user"),
        rename={"dimensions": "output_dimension", "absent": "x"},
        input_type=InputTypeField(field="task", query="search", document="store"),
    )
    assert openai_embeddings.dump_request(EMBEDDING_REQUEST, "m", capabilities) == {
        "model": "m",
        "input": ["a", "b"],
        "late_chunking": True,
        "output_dimension": 256,
        "task": "search",
    }
    # The caller's own value of the server's field takes precedence.
    request = TextEmbeddingRequest(
        texts=["a"], extra={"openai_embeddings": {"task": "classify"}}
    )
    body = openai_embeddings.dump_request(request, "m", capabilities)
    assert body == {"model": "m", "input": ["a"], "task": "classify"}
    body = openai_embeddings.dump_request(TWO_TEXTS, "m", capabilities)
    assert body == {"model": "m", "input": ["a", "b"], "task": "store"}
    body = cohere_retrieval.dump_embed_request(
        TWO_TEXTS, "m", Capabilities(drop=("embedding_types",))
    )
    assert body == {"model": "m", "texts": ["a", "b"], "input_type": "search_document"}


# embeddings: requests and answers of callers


@given(
    st.lists(texts, min_size=1, max_size=4),
    st.none() | st.integers(1, 65_536),
    st.sampled_from(EmbeddingInputType),
)
def test_an_embedding_request_survives_a_round_trip(
    text_list: list[str], dimensions: int | None, input_type: EmbeddingInputType
):
    request = TextEmbeddingRequest(
        texts=text_list, dimensions=dimensions, input_type=input_type
    )
    body = through_json(cohere_retrieval.dump_embed_request(request, "m", DEFAULT))
    assert cohere_retrieval.parse_embed_request(body) == request
    body = through_json(gemini_embeddings.dump_request(request, "m", DEFAULT))
    assert gemini_embeddings.parse_request(body) == request


@given(vectors)
def test_embeddings_survive_a_round_trip(embeddings: list[list[float]]):
    usage = EmbeddingUsage(tokens=9, total_tokens=9)
    result = TextEmbeddingResult(embeddings=embeddings, usage=usage)
    texts_sent = ["x"] * len(embeddings)
    body = through_json(
        cohere_retrieval.dump_embed_result(result, response_id="r", texts=texts_sent)
    )
    assert body["texts"] == texts_sent
    assert cohere_retrieval.parse_embed_result(body, TWO_TEXTS) == result
    body = through_json(gemini_embeddings.dump_result(result, is_batch=True))
    assert gemini_embeddings.parse_result(body, TWO_TEXTS).embeddings == embeddings
    first = gemini_embeddings.dump_result(result, is_batch=False)
    assert first == {"embedding": {"values": embeddings[0]}}


def test_a_purpose_without_a_counterpart_reaches_its_own_vendor():
    request = cohere_retrieval.parse_embed_request(
        {
            "model": "m",
            "texts": ["a"],
            "input_type": "classification",
            "embedding_types": ["float"],
            "truncate": "END",
            "priority": None,
        }
    )
    fields = {"input_type": "classification", "truncate": "END"}
    assert request == TextEmbeddingRequest(texts=["a"], extra={"cohere": fields})
    body = cohere_retrieval.dump_embed_request(request, "m", DEFAULT)
    assert body["input_type"] == "classification"

    content = {"parts": [{"text": "a"}, {"text": "b"}]}
    fields = {"taskType": "CLUSTERING", "title": "A"}
    request = gemini_embeddings.parse_request(
        {"content": content, "outputDimensionality": 8, "x": None, **fields}
    )
    assert request == TextEmbeddingRequest(
        texts=["ab"], dimensions=8, extra={"gemini": fields}
    )
    body = gemini_embeddings.dump_request(request, "m", DEFAULT)
    assert body["requests"][0].items() >= fields.items()


@pytest.mark.parametrize(
    "fields", [{"title": "B"}, {"taskType": "CLUSTERING"}, {"outputDimensionality": 8}]
)
def test_the_requests_of_a_batch_differ_in_their_content_alone(fields: dict[str, Any]):
    first = {"model": "models/m", "content": {"parts": [{"text": "a"}]}}
    second = {**first, "model": "m", **fields}
    body = {"requests": [second, second]}
    assert gemini_embeddings.parse_request(body).texts == ["a", "a"]
    for requests in ([first, second], [second, first]):
        assert refusal_of(gemini_embeddings.parse_request, {"requests": requests}) == (
            "requests[1]",
            "'requests[1]' must have the same settings as the first request",
        )


@pytest.mark.parametrize("input_type", ["query", "search_query", "retrieval.query"])
def test_every_name_of_a_query_is_known(input_type: str):
    body = {"input": "a", "input_type": input_type, "truncate": None, "task": "x"}
    assert openai_embeddings.parse_request(body) == TextEmbeddingRequest(
        texts=["a"], input_type=QUERY, extra={"openai_embeddings": {"task": "x"}}
    )
    body["input_type"] = "passage"
    assert openai_embeddings.parse_request(body).input_type is DOCUMENT


@pytest.mark.parametrize(
    ("parse", "body", "param", "message"),
    [
        (openai_embeddings.parse_request, {"input": {}}, "input", "non-empty list"),
        (
            openai_embeddings.parse_request,
            {"input": ["a", ""]},
            "input",
            "not be empty",
        ),
        (
            openai_embeddings.parse_request,
            {"input": ["a"] * 2049},
            "input",
            "has 2049 texts; at most 2048",
        ),
        (
            openai_embeddings.parse_request,
            {"input": "a", "user": 5},
            "user",
            "a string, not 5",
        ),
        (cohere_retrieval.parse_embed_request, {}, "texts", "is required: a list"),
        (
            cohere_retrieval.parse_embed_request,
            {"texts": []},
            "texts",
            "at least one text",
        ),
        (
            cohere_retrieval.parse_embed_request,
            {"texts": ["a", 5]},
            "texts[1]",
            "a string, not 5",
        ),
        (
            cohere_retrieval.parse_embed_request,
            {"texts": ["a"], "embedding_types": ["int8"]},
            "embedding_types",
            "must be ['float'], not ['int8']",
        ),
        (
            cohere_retrieval.parse_embed_request,
            {"texts": ["a"], "output_dimension": 0},
            "output_dimension",
            "between 1 and 65536",
        ),
        (
            cohere_retrieval.parse_embed_request,
            {"texts": ["a"], "input_type": ["x"]},
            "input_type",
            "a string, not ['x']",
        ),
        (
            gemini_embeddings.parse_request,
            {"requests": []},
            "requests",
            "at least one request",
        ),
        (
            gemini_embeddings.parse_request,
            {"requests": [5]},
            "requests[0]",
            "an object",
        ),
        (
            gemini_embeddings.parse_request,
            {"requests": [{"content": {"parts": []}}, 5]},
            "requests[1]",
            "an object, not 5",
        ),
        (
            gemini_embeddings.parse_request,
            {},
            "requests[0].content",
            "is required: an object",
        ),
        (
            gemini_embeddings.parse_request,
            {"content": {}},
            "requests[0].content.parts",
            "is required: a list",
        ),
        (
            gemini_embeddings.parse_request,
            {"content": {"parts": [{}]}},
            "requests[0].content.parts.text",
            "is required: a string",
        ),
        (
            gemini_embeddings.parse_request,
            {"content": {"parts": ["a"]}},
            "requests[0].content.parts",
            "an object, not 'a'",
        ),
        (
            gemini_embeddings.parse_request,
            {"outputDimensionality": 70_000},
            "outputDimensionality",
            "between 1 and 65536",
        ),
    ],
)
def test_invalid_embedding_fields_are_named(
    parse: Parse, body: Any, param: str, message: str
):
    actual = refusal_of(parse, body)
    assert (actual[0], message in actual[1]) == (param, True), actual


def test_a_request_that_is_no_object_is_refused():
    for parse in (*RERANK_READERS, cohere_retrieval.parse_embed_request):
        with pytest.raises(InvokeBadRequestError, match="has an invalid type"):
            parse([])


# moderation


@given(st.lists(texts, min_size=1, max_size=4))
def test_a_moderation_request_survives_a_round_trip(text_list: list[str]):
    request = ModerationRequest(
        texts=text_list, extra={"openai_moderations": {"x": [1]}}
    )
    body = openai_moderations.dump_request(request, "m", DEFAULT)
    assert body == {"input": text_list, "x": [1], "model": "m"}
    assert openai_moderations.parse_request(through_json(body)) == request
    dropped = openai_moderations.dump_request(
        request, "m", Capabilities(drop=("x", "absent"))
    )
    assert dropped == {"input": text_list, "model": "m"}


@given(
    st.lists(
        st.builds(
            ModerationVerdict,
            flagged=st.booleans(),
            categories=st.dictionaries(st.sampled_from(["hate", "pii"]), st.booleans()),
            category_scores=st.dictionaries(
                st.sampled_from(["hate", "pii"]), st.floats(0, 1)
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_verdicts_survive_a_round_trip(verdicts: list[ModerationVerdict]):
    result = ModerationResult(model="m", verdicts=verdicts)
    body = through_json(openai_moderations.dump_result(result, response_id="r"))
    parsed_result = openai_moderations.parse_result(body)
    assert (parsed_result.id, parsed_result.model) == ("r", "m")
    assert parsed_result.usage == ModerationUsage(texts=len(verdicts))
    for parsed_verdict, verdict in zip(parsed_result.verdicts, verdicts, strict=True):
        assert parsed_verdict.flagged == verdict.flagged
        absent = dict.fromkeys(openai_moderations.CATEGORIES, False)
        assert parsed_verdict.categories == absent | verdict.categories
        no_scores = dict.fromkeys(openai_moderations.CATEGORIES, 0.0)
        assert parsed_verdict.category_scores == no_scores | verdict.category_scores


def test_a_text_is_flagged_if_any_category_is():
    """Mistral's answers have no `flagged`."""
    results: list[Any] = [
        {"categories": {"pii": True, "law": False}, "category_scores": {"pii": 1}},
        {"categories": {"pii": False}},
        {"categories": {"pii": True}, "flagged": False},
        {},
    ]
    result = openai_moderations.parse_result(
        {"id": "m-1", "model": "mistral-moderation", "results": results}
    )
    assert result == ModerationResult(
        id="m-1",
        model="mistral-moderation",
        verdicts=[
            ModerationVerdict(
                flagged=True,
                categories={"pii": True, "law": False},
                category_scores={"pii": 1.0},
            ),
            ModerationVerdict(
                flagged=False, categories={"pii": False}, category_scores={}
            ),
            ModerationVerdict(
                flagged=False, categories={"pii": True}, category_scores={}
            ),
            ModerationVerdict(flagged=False, categories={}, category_scores={}),
        ],
        usage=ModerationUsage(texts=4),
    )
    # The id of the answer takes precedence.
    assert openai_moderations.dump_result(result, response_id="r")["id"] == "m-1"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Upstream response has no 'results'"),
        ([], "Upstream response has no 'results'"),
        ({"results": []}, "Upstream response has no 'results'"),
        ({"results": ["x"]}, "The response does not match its format"),
        ({"results": [{"categories": ["x"]}]}, "does not match its format"),
        ({"results": [{"category_scores": {"x": "y"}}]}, "does not match its format"),
    ],
)
def test_an_answer_without_verdicts_is_the_providers_fault(body: Any, message: str):
    with pytest.raises(InvokeServerUnavailableError, match=message):
        openai_moderations.parse_result(body)


@pytest.mark.parametrize(
    ("value", "param", "message"),
    [
        (None, "input", "'input' is required: a string or a non-empty list"),
        ([], "input", "'input' must be a string or a non-empty list of strings"),
        (["a"] * 257, "input", "'input' has 257 texts; at most 256 are allowed"),
        ([5], "input[0]", "'input[0]' must be a string, not 5"),
        ([{"type": "text"}], "input[0].text", "'input[0].text' is required: a str"),
        (["a", {"type": "image_url"}], "input[1].type", "images are not supported"),
    ],
)
def test_invalid_moderation_inputs_are_named(value: Any, param: str, message: str):
    actual = refusal_of(openai_moderations.parse_request, {"input": value})
    assert (actual[0], message in actual[1]) == (param, True), actual


def test_every_reader_of_answers_of_these_formats_is_covered():
    """The modules of the formats above, so that a new one is not forgotten."""
    modules = {
        parse.__module__
        for parse in (
            *(rerank.parse_result for rerank in RERANK.values()),
            *(embedding.parse_result for embedding in EMBEDDING.values()),
        )
    }
    assert modules == {
        module.__name__
        for module in (
            cohere_retrieval,
            dashscope_rerank,
            gemini_embeddings,
            ollama_embeddings,
            openai_embeddings,
            openai_rerank,
            tei,
        )
    }
