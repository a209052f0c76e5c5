"""DashScope's text-rerank <-> our types. Pure: no network, no clock."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.base.fields import counted
from modelyard.models.rerank import RerankDocument, RerankRequest, RerankResult, RerankUsage
from modelyard.models.types import JSON

FORMAT = "dashscope"


def dump_request(request: RerankRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    del quirks
    config: JSON = {"return_documents": False, **request.extra.get(FORMAT, {})}
    if request.top_n is not None:
        config["top_n"] = request.top_n
    return {"model": model, "input": {"query": request.query, "documents": request.docs}, "parameters": config}


def parse_result(body: Any, request: RerankRequest) -> RerankResult:
    results = (body.get("output") or {}).get("results")
    if not isinstance(results, list):
        raise InvokeServerUnavailableError("the answer holds no results")
    docs: list[RerankDocument] = []
    for one in results:
        index, score = one.get("index"), one.get("relevance_score")
        if not isinstance(index, int) or not 0 <= index < len(request.docs) or not isinstance(score, int | float):
            raise InvokeServerUnavailableError("a result of the answer has no index and score that fit")
        if request.score_threshold is None or score >= request.score_threshold:
            docs.append(RerankDocument(index=index, text=request.docs[index], score=float(score)))
    tokens = counted(body, "usage", "total_tokens")
    return RerankResult(docs=sorted(docs, key=lambda doc: -doc.score), usage=RerankUsage(tokens=tokens, searches=1))
