"""Translate between Cohere's embed and rerank APIs (v2) and modelyard's types. Pure
functions: no network, no clock."""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import (
    expect_type,
    in_range,
    invalid_field,
    limited_list,
    nested_count,
    optional_field,
    passthrough_fields,
    required_field,
    unknown_fields,
)
from modelyard.base.reader_errors import reads_answer, reads_request
from modelyard.models.capabilities import Capabilities
from modelyard.models.embedding import (
    EmbeddingInputType,
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
    to_vectors,
)
from modelyard.models.rerank import (
    RerankRequest,
    RerankResult,
    RerankUsage,
    to_ranked_documents,
)
from modelyard.models.types import JSON

_MAX_DOCUMENTS = 10_000
"""Cohere's own limit of documents per request. Source:
docs.cohere.com/v2/reference/rerank."""
FORMAT = "cohere"

_WIRE_INPUT_TYPES = {
    EmbeddingInputType.DOCUMENT: "search_document",
    EmbeddingInputType.QUERY: "search_query",
}
# Other fields are passed on to a provider of the same format.
_KNOWN_EMBED_FIELDS = frozenset(
    {"model", "texts", "inputs", "input_type", "output_dimension", "embedding_types"}
)
_KNOWN_RERANK_FIELDS = frozenset(
    {"model", "query", "documents", "top_n", "return_documents"}
)


# -------------------------------------------------------------------------------- embed


@reads_request
def parse_embed_request(body: JSON) -> TextEmbeddingRequest:
    """Parse the JSON body of a client's embed request. Raises InvokeBadRequestError
    that names the field."""
    texts = required_field(body, "texts", list)
    if not texts:
        raise InvokeBadRequestError(
            "'texts' must contain at least one text", param="texts"
        )
    input_type = optional_field(body, "input_type", str)
    input_types = {
        wire_name: input_type for input_type, wire_name in _WIRE_INPUT_TYPES.items()
    }
    types = optional_field(body, "embedding_types", list) or ["float"]
    # Other encodings (int8, binary) have no representation in TextEmbeddingResult.
    if types != ["float"]:
        raise invalid_field("embedding_types", types, "['float']")
    dimensions = optional_field(body, "output_dimension", int)
    in_range(dimensions, 1, 65_536, "output_dimension")
    extra_fields = {
        name: value
        for name, value in unknown_fields(body, _KNOWN_EMBED_FIELDS).items()
        if value is not None
    }
    # Types such as `classification` have no counterpart; they pass through to a Cohere
    # upstream.
    if input_type is not None and input_type not in input_types:
        extra_fields["input_type"] = input_type
    return TextEmbeddingRequest(
        texts=[
            expect_type(text, str, f"texts[{index}]")
            for index, text in enumerate(texts)
        ],
        dimensions=dimensions,
        input_type=input_types.get(input_type or "", EmbeddingInputType.DOCUMENT),
        extra=passthrough_fields(FORMAT, extra_fields),
    )


def dump_embed_request(
    request: TextEmbeddingRequest, model: str, capabilities: Capabilities
) -> JSON:
    """Build Cohere's embed request. `capabilities.drop` lists fields to omit."""
    body: JSON = {
        "model": model,
        "texts": request.texts,
        "input_type": _WIRE_INPUT_TYPES[request.input_type],
    }
    body["embedding_types"] = ["float"]
    if request.dimensions is not None:
        body["output_dimension"] = request.dimensions
    body |= request.extra.get(FORMAT, {})
    for name in capabilities.drop:
        body.pop(name, None)
    return body


@reads_answer
def parse_embed_result(body: Any, request: TextEmbeddingRequest) -> TextEmbeddingResult:
    """Parse an embed response. Raises InvokeServerUnavailableError if it has no
    vectors.

    Usage is marked as estimated if the response has no `meta`.
    """
    del request
    vectors = body.get("embeddings")
    # With `embedding_types`, vectors are grouped by type; older servers return a bare
    # list.
    vectors = vectors.get("float") if isinstance(vectors, dict) else vectors
    tokens = nested_count(body, "meta", "billed_units", "input_tokens")
    usage = EmbeddingUsage(
        tokens=tokens, total_tokens=tokens, estimated="meta" not in body
    )
    return TextEmbeddingResult(embeddings=to_vectors(vectors), usage=usage)


def dump_embed_result(
    result: TextEmbeddingResult, *, response_id: str, texts: list[str]
) -> JSON:
    """Build an embed response. Cohere repeats the `texts` of the request in it."""
    meta = {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": result.usage.tokens},
    }
    by_type = {
        "embeddings": {"float": result.embeddings},
        "response_type": "embeddings_by_type",
    }
    return {"id": response_id, **by_type, "texts": texts, "meta": meta}


# ------------------------------------------------------------------------------- rerank


@reads_request
def parse_rerank_request(body: JSON) -> RerankRequest:
    """Parse the JSON body of a client's rerank request. Raises InvokeBadRequestError
    that names the field."""
    query = required_field(body, "query", str)
    documents = limited_list(
        required_field(body, "documents", list), _MAX_DOCUMENTS, "documents"
    )
    if not query.strip() or not documents:
        name = "documents" if query.strip() else "query"
        raise InvokeBadRequestError(f"{name!r} must not be empty", param=name)
    top_n = optional_field(body, "top_n", int)
    in_range(top_n, 1, 1 << 31, "top_n")
    # A document is a string, or an object with a `text` field.
    docs = [
        document
        if isinstance(document, str)
        else expect_type(
            expect_type(document, dict, f"documents[{i}]").get("text"),
            str,
            f"documents[{i}].text",
        )
        for i, document in enumerate(documents)
    ]
    extra_fields = {
        name: value
        for name, value in unknown_fields(body, _KNOWN_RERANK_FIELDS).items()
        if value is not None
    }
    return RerankRequest(
        query=query,
        docs=docs,
        top_n=top_n,
        extra=passthrough_fields(FORMAT, extra_fields),
    )


def dump_rerank_request(
    request: RerankRequest, model: str, capabilities: Capabilities
) -> JSON:
    """Build Cohere's rerank request. `capabilities.drop` lists fields to omit."""
    body: JSON = {"model": model, "query": request.query, "documents": request.docs}
    if request.top_n is not None:
        body["top_n"] = request.top_n
    body |= request.extra.get(FORMAT, {})
    for name in capabilities.drop:
        body.pop(name, None)
    return body


@reads_answer
def parse_rerank_result(body: Any, request: RerankRequest) -> RerankResult:
    """Parse a rerank response into documents, best first. Raises
    InvokeServerUnavailableError if it has no results."""
    results = body.get("results")
    if not isinstance(results, list):
        raise InvokeServerUnavailableError("Upstream response has no 'results'")
    docs = to_ranked_documents(
        ((result.get("index"), result.get("relevance_score")) for result in results),
        request,
    )
    # Cohere bills rerank by search units; a response without them counts as one.
    searches = nested_count(body, "meta", "billed_units", "search_units") or 1
    return RerankResult(docs=docs, usage=RerankUsage(searches=searches))


def dump_rerank_result(result: RerankResult, *, response_id: str) -> JSON:
    """Build a rerank response. Documents are referred to by index, their text is not
    repeated."""
    results = [
        {"index": doc.index, "relevance_score": doc.score} for doc in result.docs
    ]
    # Cohere bills by searches; other providers count none, so one is reported.
    billed_units = {"search_units": result.usage.searches or 1}
    meta = {"api_version": {"version": "2"}, "billed_units": billed_units}
    return {"id": response_id, "results": results, "meta": meta}
