"""Translate between Ollama's `/api/embed` and modelyard's embedding types. Pure
functions: no network, no clock."""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownArgumentType=false

from typing import Any

from modelyard.base.fields import (
    count,
    text_of,
)
from modelyard.base.reader_errors import reads_answer
from modelyard.models.capabilities import Capabilities
from modelyard.models.embedding import (
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
    to_vectors,
)
from modelyard.models.types import JSON

FORMAT = "ollama"


def dump_request(
    request: TextEmbeddingRequest, model: str, _capabilities: Capabilities
) -> JSON:
    """Build an embed request. Vendor fields in `extra` take precedence."""
    body: JSON = {"model": model, "input": request.texts}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return body | request.extra.get(FORMAT, {})


@reads_answer
def parse_result(body: Any, request: TextEmbeddingRequest) -> TextEmbeddingResult:
    """Parse an embed response, also that of the older `/api/embeddings` with one
    vector.

    Raises InvokeServerUnavailableError if it has no vectors.
    """
    del request
    vectors = body.get("embeddings") or (
        [body["embedding"]] if isinstance(body.get("embedding"), list) else None
    )
    tokens = count(body.get("prompt_eval_count"))
    # Older servers report no token count; the usage is then marked as estimated.
    usage = EmbeddingUsage(
        tokens=tokens or 0, total_tokens=tokens or 0, estimated=tokens is None
    )
    return TextEmbeddingResult(
        model=text_of(body.get("model")), embeddings=to_vectors(vectors), usage=usage
    )
