"""DashScope's text-rerank <-> our types. Pure: no network, no clock."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.base.fields import counted
from modelyard.models.rerank import RerankRequest, RerankResult, RerankUsage, ranked
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
    docs = ranked(((one.get("index"), one.get("relevance_score")) for one in results), request)
    tokens = counted(body, "usage", "total_tokens")
    return RerankResult(docs=docs, usage=RerankUsage(tokens=tokens, searches=1))
