"""Hugging Face text-embeddings-inference: `/embed` and `/rerank` <-> our types. Pure: no network, no clock."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.models.embedding import EmbeddingUsage, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.rerank import RerankDocument, RerankRequest, RerankResult, RerankUsage
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
    docs: list[RerankDocument] = []
    for one in body:
        index, score = one.get("index"), one.get("score")
        if not isinstance(index, int) or not 0 <= index < len(request.docs) or not isinstance(score, int | float):
            raise InvokeServerUnavailableError("a result of the answer has no index and score that fit")
        if request.score_threshold is None or score >= request.score_threshold:
            docs.append(RerankDocument(index=index, text=request.docs[index], score=float(score)))
    docs.sort(key=lambda doc: -doc.score)
    return RerankResult(docs=docs[: request.top_n], usage=RerankUsage(searches=1))
