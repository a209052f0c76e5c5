"""Translate between the common rerank API (`POST /rerank` of Jina, Cohere, vLLM and
others) and modelyard's types.

Pure functions: no network, no clock.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import (
    count,
    expect_type,
    in_range,
    invalid_field,
    limited_list,
    optional_field,
    passthrough_fields,
    required_field,
    text_of,
)
from modelyard.base.reader_errors import reads_answer, reads_request
from modelyard.models.capabilities import Capabilities
from modelyard.models.rerank import (
    RerankRequest,
    RerankResult,
    RerankUsage,
    to_ranked_documents,
)
from modelyard.models.types import JSON

FORMAT = "openai_rerank"

# Other fields are passed on unchanged to a provider of this format.
_KNOWN_FIELDS = {
    "model",
    "query",
    "documents",
    "top_n",
    "return_documents",
    "score_threshold",
    "user",
}
# Cohere's limit for one request.
_MAX_DOCUMENTS = 1000


@reads_request
def parse_request(body: JSON) -> RerankRequest:
    """Parse the JSON body of a client's rerank request. Raises InvokeBadRequestError
    that names the field."""
    query = required_field(body, "query", str)
    if not query.strip():
        raise InvokeBadRequestError("'query' must not be empty", param="query")
    documents = limited_list(
        required_field(body, "documents", list), _MAX_DOCUMENTS, "documents"
    )
    if not documents:
        raise InvokeBadRequestError("'documents' must not be empty", param="documents")
    top_n = optional_field(body, "top_n", int)
    in_range(top_n, 1, 1 << 31, "top_n")
    return RerankRequest(
        query=query,
        docs=[
            _text(document, f"documents[{index}]")
            for index, document in enumerate(documents)
        ],
        top_n=top_n,
        score_threshold=optional_field(body, "score_threshold", float),
        user=optional_field(body, "user", str),
        # Explicit nulls mean "not set" and are not passed on.
        extra=passthrough_fields(
            FORMAT,
            {
                key: value
                for key, value in body.items()
                if key not in _KNOWN_FIELDS and value is not None
            },
        ),
    )


def _text(document: Any, where: str) -> str:
    """Return the text of one document to rank.

    A document is a string or an object with `text`; `where` is its path for error
    messages. Raises InvokeBadRequestError for anything else.
    """
    if isinstance(document, str):
        return document
    if isinstance(document, dict):
        return expect_type(document.get("text"), str, f"{where}.text")
    raise invalid_field(where, document, "a string or an object with text")


def dump_request(
    request: RerankRequest, model: str, capabilities: Capabilities
) -> JSON:
    """Build the request body, with `capabilities.drop` and `capabilities.rename`
    applied to its fields."""
    body: JSON = {
        "model": model,
        "query": request.query,
        "documents": request.docs,
        **request.extra.get(FORMAT, {}),
    }
    if request.top_n is not None:
        body["top_n"] = request.top_n
    for name in capabilities.drop:
        body.pop(name, None)
    # For example, Voyage's name for `top_n` is `top_k`.
    for name, upstream_name in capabilities.rename.items():
        if name in body:
            body[upstream_name] = body.pop(name)
    return body


@reads_answer
def parse_result(body: Any, request: RerankRequest) -> RerankResult:
    """Parse a rerank response into documents, best first.

    The request supplies the texts, the score threshold and `top_n`. Raises
    InvokeServerUnavailableError if there is no list of results, or if a result has an
    index out of range or no numeric score.
    """
    # Servers differ in the name of the list (`results` or `data`) and of the score.
    results = body.get("results", body.get("data")) if isinstance(body, dict) else None
    if not isinstance(results, list):
        raise InvokeServerUnavailableError("Upstream response has no 'results'")
    docs = to_ranked_documents(
        (
            (
                wire_result.get("index"),
                wire_result.get("relevance_score", wire_result.get("score")),
            )
            for wire_result in results
        ),
        request,
    )
    usage = body.get("usage") or (body.get("meta") or {}).get("billed_units") or {}
    return RerankResult(
        model=text_of(body.get("model")),
        docs=docs,
        # Cohere bills by search units; any other request counts as one search.
        usage=RerankUsage(
            tokens=count(usage.get("total_tokens")) or 0,
            searches=count(usage.get("search_units")) or 1,
        ),
    )


def dump_result(
    result: RerankResult, *, response_id: str = "", return_documents: bool = True
) -> JSON:
    """Build a rerank response. `return_documents` adds each document's text."""
    results: list[JSON] = []
    for doc in result.docs:
        wire_result: JSON = {"index": doc.index, "relevance_score": doc.score}
        if return_documents:
            wire_result["document"] = {"text": doc.text}
        results.append(wire_result)
    return {
        "id": response_id,
        "model": result.model,
        "results": results,
        "usage": {"total_tokens": result.usage.tokens},
    }
