"""Translate between Google's embedContent and batchEmbedContents APIs and modelyard's
embedding types. Pure functions."""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import (
    expect_type,
    in_range,
    optional_field,
    passthrough_fields,
    required_field,
    unknown_fields,
)
from modelyard.base.reader_errors import reads_answer, reads_request
from modelyard.models.capabilities import Capabilities
from modelyard.models.embedding import (
    EmbeddingInputType,
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
)
from modelyard.models.types import JSON

FORMAT = "gemini"
_TASK_TYPES = {
    EmbeddingInputType.DOCUMENT: "RETRIEVAL_DOCUMENT",
    EmbeddingInputType.QUERY: "RETRIEVAL_QUERY",
}
# Fields that each request of a batch has for itself, and those with a meaning of ours.
_OWN_FIELDS = frozenset({"model", "content"})
_KNOWN_SETTINGS = frozenset({"taskType", "outputDimensionality"})


@reads_request
def parse_request(body: JSON) -> TextEmbeddingRequest:
    """Parse one request or a batch of them.

    Raises InvokeBadRequestError that names the field, also if the requests of a batch
    differ in more than their content.
    """
    requests = optional_field(body, "requests", list)
    # embedContent has the request itself as body, batchEmbedContents a list of them.
    bodies = [body] if requests is None else requests
    if not bodies:
        raise InvokeBadRequestError(
            "'requests' must contain at least one request", param="requests"
        )
    first = expect_type(bodies[0], dict, "requests[0]")
    settings = unknown_fields(first, _OWN_FIELDS)
    for i, request in enumerate(bodies):
        # One call has one set of settings; a title of its own would be lost.
        expect_type(request, dict, f"requests[{i}]")
        if unknown_fields(request, _OWN_FIELDS) != settings:
            raise InvokeBadRequestError(
                f"'requests[{i}]' must have the same settings as the first request",
                param=f"requests[{i}]",
            )
    dimensions = optional_field(first, "outputDimensionality", int)
    in_range(dimensions, 1, 65_536, "outputDimensionality")
    task_type = optional_field(first, "taskType", str)
    extra_fields = {
        name: value
        for name, value in unknown_fields(settings, _KNOWN_SETTINGS).items()
        if value is not None
    }
    # Task types such as CLUSTERING have no counterpart; they pass through to a Google
    # upstream.
    if task_type and task_type not in _TASK_TYPES.values():
        extra_fields["taskType"] = task_type
    return TextEmbeddingRequest(
        texts=[_text(request, f"requests[{i}].") for i, request in enumerate(bodies)],
        dimensions=dimensions,
        input_type=EmbeddingInputType.QUERY
        if task_type == "RETRIEVAL_QUERY"
        else EmbeddingInputType.DOCUMENT,
        extra=passthrough_fields(FORMAT, extra_fields),
    )


def _text(body: JSON, where: str) -> str:
    """Return the joined text of an embedContent request's parts.

    `where` is the path prefix for error messages and ends with a dot. Raises
    InvokeBadRequestError if `content`, its `parts` or the text of a part is missing.
    """
    parts = required_field(
        required_field(body, "content", dict, where), "parts", list, f"{where}content."
    )
    return "".join(
        required_field(
            expect_type(part, dict, f"{where}content.parts"),
            "text",
            str,
            f"{where}content.parts.",
        )
        for part in parts
    )


def dump_request(
    request: TextEmbeddingRequest, model: str, _capabilities: Capabilities
) -> JSON:
    """Build a batchEmbedContents request; a single text is a batch of one.

    Every entry repeats the model as `models/<name>`, the task type and the dimensions.
    A task type without a counterpart, stored at parsing, replaces the one of the input
    type.
    """
    # Google requires the full model name in every request of a batch.
    shared: JSON = {
        "model": f"models/{model}",
        "taskType": _TASK_TYPES[request.input_type],
        **request.extra.get(FORMAT, {}),
    }
    if request.dimensions is not None:
        shared["outputDimensionality"] = request.dimensions
    return {
        "requests": [
            {**shared, "content": {"parts": [{"text": text}]}} for text in request.texts
        ]
    }


@reads_answer
def parse_result(body: Any, request: TextEmbeddingRequest) -> TextEmbeddingResult:
    """Parse a batch response. Raises InvokeServerUnavailableError if a vector is
    missing.

    Google reports no token counts here, so the usage is marked as estimated.
    """
    del request
    embeddings = body.get("embeddings") if isinstance(body, dict) else None
    if not isinstance(embeddings, list) or not all(
        isinstance(embedding.get("values"), list) for embedding in embeddings
    ):
        raise InvokeServerUnavailableError("Upstream response has no 'embeddings'")
    vectors = [embedding["values"] for embedding in embeddings]
    return TextEmbeddingResult(embeddings=vectors, usage=EmbeddingUsage(estimated=True))


def dump_result(result: TextEmbeddingResult, *, is_batch: bool) -> JSON:
    """Build the response of batchEmbedContents or of embedContent.

    With `is_batch` all vectors are returned under `embeddings`, otherwise only the
    first under `embedding`.
    """
    vectors = [{"values": vector} for vector in result.embeddings]
    return {"embeddings": vectors} if is_batch else {"embedding": vectors[0]}
