"""Hugging Face text-embeddings-inference: `/embed` and `/rerank` <-> our types. Pure: no network, no clock."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.models.embedding import EmbeddingUsage, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.rerank import RerankRequest, RerankResult, RerankUsage, ranked
from modelyard.models.types import JSON

FORMAT = "tei"


def dump_embed_request(request: TextEmbeddingRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    del model, quirks  # a server runs one model
    body: JSON = {"inputs": request.texts, "truncate": True}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return body | request.extra.get(FORMAT, {})


def parse_embed_result(body: Any, request: TextEmbeddingRequest) -> TextEmbeddingResult:
    del request
    if not isinstance(body, list) or not all(isinstance(one, list) for one in body):
        raise InvokeServerUnavailableError("the answer is no list of embeddings")
    return TextEmbeddingResult(embeddings=body, usage=EmbeddingUsage(estimated=True))


def dump_rerank_request(request: RerankRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    del model, quirks
    return {"query": request.query, "texts": request.docs, "truncate": True, **request.extra.get(FORMAT, {})}


def parse_rerank_result(body: Any, request: RerankRequest) -> RerankResult:
    if not isinstance(body, list):
        raise InvokeServerUnavailableError("the answer is no list of scores")
    docs = ranked(((one.get("index"), one.get("score")) for one in body), request)
    return RerankResult(docs=docs, usage=RerankUsage(searches=1))
