"""Translate between DashScope's text-rerank API and modelyard's rerank types. Pure
functions: no network, no clock."""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.base.fields import nested_count
from modelyard.base.provider_errors import provider_error
from modelyard.base.reader_errors import reads_answer
from modelyard.models.capabilities import Capabilities
from modelyard.models.rerank import (
    RerankRequest,
    RerankResult,
    RerankUsage,
    to_ranked_documents,
)
from modelyard.models.types import JSON

FORMAT = "dashscope"


def dump_request(
    request: RerankRequest, model: str, _capabilities: Capabilities
) -> JSON:
    """Build DashScope's rerank request."""
    # The documents are not needed back: results refer to them by index.
    config: JSON = {"return_documents": False, **request.extra.get(FORMAT, {})}
    if request.top_n is not None:
        config["top_n"] = request.top_n
    return {
        "model": model,
        "input": {"query": request.query, "documents": request.docs},
        "parameters": config,
    }


@reads_answer
def parse_result(body: Any, request: RerankRequest) -> RerankResult:
    """Parse a rerank response into documents, best first.

    Raises InvokeServerUnavailableError if it has no results, and the InvokeError that
    fits the `code` of an error body, which DashScope may send with status 200.
    """
    if body.get("code"):
        raise provider_error(body)
    results = (body.get("output") or {}).get("results")
    if not isinstance(results, list):
        raise InvokeServerUnavailableError("Upstream response has no 'results'")
    docs = to_ranked_documents(
        ((result.get("index"), result.get("relevance_score")) for result in results),
        request,
    )
    tokens = nested_count(body, "usage", "total_tokens")
    return RerankResult(docs=docs, usage=RerankUsage(tokens=tokens, searches=1))
