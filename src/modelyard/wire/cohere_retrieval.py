"""Cohere embed and rerank (v2) <-> our types. Pure: no network, no clock."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import beyond, counted, few, in_range, kept, may, need, typed, wrong
from modelyard.base.shapes import reads_request
from modelyard.models.embedding import EmbeddingInputType, EmbeddingUsage, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.rerank import RerankRequest, RerankResult, RerankUsage, ranked
from modelyard.models.types import JSON

_MOST_DOCUMENTS = 10_000
"""Cohere's own limit. Source: docs.cohere.com/v2/reference/rerank."""
FORMAT = "cohere"

_KINDS = {EmbeddingInputType.DOCUMENT: "search_document", EmbeddingInputType.QUERY: "search_query"}
_EMBED_KNOWN = frozenset({"model", "texts", "inputs", "input_type", "output_dimension", "embedding_types"})
_RERANK_KNOWN = frozenset({"model", "query", "documents", "top_n", "return_documents"})


# ------------------------------------------------------------------------------------------------ embed


@reads_request
def parse_embed_request(body: JSON) -> TextEmbeddingRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    texts = need(body, "texts", list)
    if not texts:
        raise InvokeBadRequestError("'texts' must hold at least one text", param="texts")
    kind = may(body, "input_type", str)
    known = {word: ours for ours, word in _KINDS.items()}
    types = may(body, "embedding_types", list) or ["float"]
    if types != ["float"]:
        raise wrong("embedding_types", types, "['float']")
    dimensions = may(body, "output_dimension", int)
    in_range(dimensions, 1, 65_536, "output_dimension")
    rest = {name: value for name, value in beyond(body, _EMBED_KNOWN).items() if value is not None}
    if kind is not None and kind not in known:
        rest["input_type"] = kind
    return TextEmbeddingRequest(
        texts=[typed(text, str, f"texts[{place}]") for place, text in enumerate(texts)],
        dimensions=dimensions,
        input_type=known.get(kind or "", EmbeddingInputType.DOCUMENT),
        extra=kept(FORMAT, rest),
    )


def dump_embed_request(request: TextEmbeddingRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    body: JSON = {"model": model, "texts": request.texts, "input_type": _KINDS[request.input_type]}
    body["embedding_types"] = ["float"]
    if request.dimensions is not None:
        body["output_dimension"] = request.dimensions
    body |= request.extra.get(FORMAT, {})
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    return body


def parse_embed_result(body: Any, request: TextEmbeddingRequest) -> TextEmbeddingResult:
    del request
    vectors = body.get("embeddings")
    vectors = vectors.get("float") if isinstance(vectors, dict) else vectors
    if not isinstance(vectors, list):
        raise InvokeServerUnavailableError("the answer holds no embeddings")
    tokens = counted(body, "meta", "billed_units", "input_tokens")
    usage = EmbeddingUsage(tokens=tokens, total_tokens=tokens, estimated="meta" not in body)
    return TextEmbeddingResult(embeddings=vectors, usage=usage)


def dump_embed_result(result: TextEmbeddingResult, *, response_id: str, texts: list[str]) -> JSON:
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": result.usage.tokens}}
    by_type = {"embeddings": {"float": result.embeddings}, "response_type": "embeddings_by_type"}
    return {"id": response_id, **by_type, "texts": texts, "meta": meta}


# ------------------------------------------------------------------------------------------------ rerank


@reads_request
def parse_rerank_request(body: JSON) -> RerankRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    query = need(body, "query", str)
    documents = few(need(body, "documents", list), _MOST_DOCUMENTS, "documents")
    if not query.strip() or not documents:
        name = "documents" if query.strip() else "query"
        raise InvokeBadRequestError(f"{name!r} is empty; there is nothing to rank", param=name)
    top_n = may(body, "top_n", int)
    in_range(top_n, 1, 1 << 31, "top_n")
    docs = [
        one
        if isinstance(one, str)
        else typed(typed(one, dict, f"documents[{i}]").get("text"), str, f"documents[{i}].text")
        for i, one in enumerate(documents)
    ]
    rest = {name: value for name, value in beyond(body, _RERANK_KNOWN).items() if value is not None}
    return RerankRequest(query=query, docs=docs, top_n=top_n, extra=kept(FORMAT, rest))


def dump_rerank_request(request: RerankRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    body: JSON = {"model": model, "query": request.query, "documents": request.docs}
    if request.top_n is not None:
        body["top_n"] = request.top_n
    body |= request.extra.get(FORMAT, {})
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    return body


def parse_rerank_result(body: Any, request: RerankRequest) -> RerankResult:
    results = body.get("results")
    if not isinstance(results, list):
        raise InvokeServerUnavailableError("the answer holds no results")
    docs = ranked(((one.get("index"), one.get("relevance_score")) for one in results), request)
    searches = counted(body, "meta", "billed_units", "search_units") or 1
    return RerankResult(docs=docs, usage=RerankUsage(searches=searches))


def dump_rerank_result(result: RerankResult, *, response_id: str) -> JSON:
    results = [{"index": doc.index, "relevance_score": doc.score} for doc in result.docs]
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": result.usage.searches or 1}}
    return {"id": response_id, "results": results, "meta": meta}
