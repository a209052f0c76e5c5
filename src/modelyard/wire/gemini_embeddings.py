"""Google's embedContent and batchEmbedContents <-> our types. Pure: no network, no clock."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import in_range, may, need, typed
from modelyard.base.shapes import reads_request
from modelyard.models.embedding import EmbeddingInputType, EmbeddingUsage, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.types import JSON

FORMAT = "gemini"
_KINDS = {EmbeddingInputType.DOCUMENT: "RETRIEVAL_DOCUMENT", EmbeddingInputType.QUERY: "RETRIEVAL_QUERY"}


@reads_request
def parse_request(body: JSON) -> TextEmbeddingRequest:
    """One request, or a batch of them. Raises InvokeBadRequestError that names the field."""
    requests = may(body, "requests", list)
    bodies = [body] if requests is None else requests
    if not bodies:
        raise InvokeBadRequestError("'requests' must hold at least one request", param="requests")
    first = typed(bodies[0], dict, "requests[0]")
    dimensions = may(first, "outputDimensionality", int)
    in_range(dimensions, 1, 65_536, "outputDimensionality")
    kind = first.get("taskType")
    return TextEmbeddingRequest(
        texts=[_text(typed(one, dict, f"requests[{i}]"), f"requests[{i}].") for i, one in enumerate(bodies)],
        dimensions=dimensions,
        input_type=EmbeddingInputType.QUERY if kind == "RETRIEVAL_QUERY" else EmbeddingInputType.DOCUMENT,
        extra={FORMAT: {"taskType": kind}} if kind and kind not in _KINDS.values() else {},
    )


def _text(body: JSON, where: str) -> str:
    parts = need(need(body, "content", dict, where), "parts", list, f"{where}content.")
    return "".join(
        need(typed(part, dict, f"{where}content.parts"), "text", str, f"{where}content.parts.") for part in parts
    )


def dump_request(request: TextEmbeddingRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    del quirks
    shared: JSON = {"model": f"models/{model}", "taskType": _KINDS[request.input_type], **request.extra.get(FORMAT, {})}
    if request.dimensions is not None:
        shared["outputDimensionality"] = request.dimensions
    return {"requests": [{**shared, "content": {"parts": [{"text": text}]}} for text in request.texts]}


def parse_result(body: Any, request: TextEmbeddingRequest) -> TextEmbeddingResult:
    del request
    found = body.get("embeddings") if isinstance(body, dict) else None
    if not isinstance(found, list) or not all(isinstance(one.get("values"), list) for one in found):
        raise InvokeServerUnavailableError("the answer holds no embeddings")
    vectors = [one["values"] for one in found]
    return TextEmbeddingResult(embeddings=vectors, usage=EmbeddingUsage(estimated=True))


def dump_result(result: TextEmbeddingResult, *, is_batch: bool) -> JSON:
    vectors = [{"values": vector} for vector in result.embeddings]
    return {"embeddings": vectors} if is_batch else {"embedding": vectors[0]}
