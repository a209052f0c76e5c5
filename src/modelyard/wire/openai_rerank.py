"""Rerank as Jina, Cohere, vLLM and others agree on it (`POST /rerank`) <-> our types. Pure: no network, no clock."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import count, few, in_range, kept, may, need, typed, wrong
from modelyard.base.shapes import reads_request
from modelyard.models.rerank import RerankRequest, RerankResult, RerankUsage, ranked
from modelyard.models.types import JSON

FORMAT = "openai_rerank"

_KNOWN = {"model", "query", "documents", "top_n", "return_documents", "score_threshold", "user"}
_MAX_DOCUMENTS = 1000


@reads_request
def parse_request(body: JSON) -> RerankRequest:
    query = need(body, "query", str)
    if not query.strip():
        raise InvokeBadRequestError("'query' is empty; there is nothing to rank by", param="query")
    documents = few(need(body, "documents", list), _MAX_DOCUMENTS, "documents")
    if not documents:
        raise InvokeBadRequestError("'documents' is empty; there is nothing to rank", param="documents")
    top_n = may(body, "top_n", int)
    in_range(top_n, 1, 1 << 31, "top_n")
    return RerankRequest(
        query=query,
        docs=[_text(document, f"documents[{place}]") for place, document in enumerate(documents)],
        top_n=top_n,
        score_threshold=may(body, "score_threshold", float),
        user=may(body, "user", str),
        extra=kept(FORMAT, {key: value for key, value in body.items() if key not in _KNOWN and value is not None}),
    )


def _text(document: Any, where: str) -> str:
    if isinstance(document, str):
        return document
    if isinstance(document, dict):
        return typed(document.get("text"), str, f"{where}.text")
    raise wrong(where, document, "a string or an object with text")


def dump_request(request: RerankRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    body: JSON = {"model": model, "query": request.query, "documents": request.docs, **request.extra.get(FORMAT, {})}
    if request.top_n is not None:
        body["top_n"] = request.top_n
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    for name, other in quirks.get("rename", {}).items():  # Voyage says `top_k`
        if name in body:
            body[other] = body.pop(name)
    return body


def parse_result(body: Any, request: RerankRequest) -> RerankResult:
    results = body.get("results", body.get("data")) if isinstance(body, dict) else None
    if not isinstance(results, list):
        raise InvokeServerUnavailableError("the answer holds no results")
    docs = ranked(((one.get("index"), one.get("relevance_score", one.get("score"))) for one in results), request)
    usage = body.get("usage") or (body.get("meta") or {}).get("billed_units") or {}
    return RerankResult(
        model=body.get("model") or "",
        docs=docs,
        usage=RerankUsage(tokens=count(usage.get("total_tokens")) or 0, searches=count(usage.get("search_units")) or 1),
    )


def dump_result(result: RerankResult, *, response_id: str = "", return_documents: bool = True) -> JSON:
    results: list[JSON] = []
    for doc in result.docs:
        one: JSON = {"index": doc.index, "relevance_score": doc.score}
        if return_documents:
            one["document"] = {"text": doc.text}
        results.append(one)
    return {
        "id": response_id,
        "model": result.model,
        "results": results,
        "usage": {"total_tokens": result.usage.tokens},
    }
