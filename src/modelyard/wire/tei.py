"""Translate between Hugging Face text-embeddings-inference (`/embed` and `/rerank`) and
modelyard's types.

Pure functions: no network, no clock.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.base.reader_errors import reads_answer
from modelyard.models.capabilities import Capabilities
from modelyard.models.embedding import (
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
)
from modelyard.models.rerank import (
    RerankRequest,
    RerankResult,
    RerankUsage,
    to_ranked_documents,
)
from modelyard.models.types import JSON

FORMAT = "tei"


def dump_embed_request(
    request: TextEmbeddingRequest, model: str, _capabilities: Capabilities
) -> JSON:
    """Build an embed request. The model is not named, since a server runs exactly one."""
    del model  # a server runs one model
    # Without `truncate` the server rejects texts that exceed the model's input length.
    body: JSON = {"inputs": request.texts, "truncate": True}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return body | request.extra.get(FORMAT, {})


@reads_answer
def parse_embed_result(body: Any, request: TextEmbeddingRequest) -> TextEmbeddingResult:
    """Parse an embed response, a bare list of vectors. Raises
    InvokeServerUnavailableError if it is none.

    The server reports no token counts, so the usage is marked as estimated.
    """
    del request
    if not isinstance(body, list) or not all(isinstance(row, list) for row in body):
        problem = "Upstream response is not a list of embeddings"
        raise InvokeServerUnavailableError(problem)
    return TextEmbeddingResult(embeddings=body, usage=EmbeddingUsage(estimated=True))


def dump_rerank_request(
    request: RerankRequest, model: str, _capabilities: Capabilities
) -> JSON:
    """Build a rerank request."""
    del model
    return {
        "query": request.query,
        "texts": request.docs,
        "truncate": True,
        **request.extra.get(FORMAT, {}),
    }


@reads_answer
def parse_rerank_result(body: Any, request: RerankRequest) -> RerankResult:
    """Parse a rerank response into documents, best first. Raises
    InvokeServerUnavailableError if it is no list."""
    if not isinstance(body, list):
        raise InvokeServerUnavailableError("Upstream response is not a list of scores")
    docs = to_ranked_documents(
        ((result.get("index"), result.get("score")) for result in body), request
    )
    return RerankResult(docs=docs, usage=RerankUsage(searches=1))
