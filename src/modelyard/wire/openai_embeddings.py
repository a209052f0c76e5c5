"""OpenAI embeddings, and what Jina, Voyage and others add to them <-> our types. Pure: no network, no clock."""

import base64
import binascii
from array import array
from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import count, in_range, kept, may, typed, wrong
from modelyard.base.shapes import reads_request
from modelyard.models.embedding import EmbeddingInputType, EmbeddingUsage, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.types import JSON

FORMAT = "openai_embeddings"

_KNOWN = {"model", "input", "dimensions", "encoding_format", "user", "input_type"}
_QUERIES = ("query", "search_query", "retrieval.query")
_MAX_TEXTS = 2048


@reads_request
def parse_request(body: JSON) -> TextEmbeddingRequest:
    raw = body.get("input")
    texts = [raw] if isinstance(raw, str) else raw
    if not isinstance(texts, list) or not texts:
        raise wrong("input", raw, "a string or a list of strings that is not empty")
    if all(isinstance(one, int | list) for one in texts):
        message = "'input' holds token ids; send text, since token ids fit one tokenizer alone"
        raise InvokeBadRequestError(message, param="input")
    if len(texts) > _MAX_TEXTS:
        raise InvokeBadRequestError(f"'input' holds {len(texts)} texts; at most {_MAX_TEXTS} at once", param="input")
    for place, text in enumerate(texts):
        if not typed(text, str, f"input[{place}]"):
            raise InvokeBadRequestError(f"'input[{place}]' is empty; there is nothing to embed", param="input")
    if body.get("encoding_format", "float") not in ("float", "base64"):
        raise wrong("encoding_format", body["encoding_format"], "float or base64")
    dimensions = may(body, "dimensions", int)
    in_range(dimensions, 1, 65_536, "dimensions")
    kind = may(body, "input_type", str)  # Voyage's and NVIDIA's word
    rest = {key: value for key, value in body.items() if key not in _KNOWN and value is not None}
    return TextEmbeddingRequest(
        texts=texts,
        dimensions=dimensions,
        input_type=EmbeddingInputType.QUERY if kind in _QUERIES else EmbeddingInputType.DOCUMENT,
        user=may(body, "user", str),
        extra=kept(FORMAT, rest),
    )


def dump_request(request: TextEmbeddingRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    """The request as a server wants it.

    Quirks: `drop`, `rename`, `input_type` (its field for what the text is for, and its words for `query` and
    `document`).
    """
    body: JSON = {"model": model, "input": request.texts, "encoding_format": "float", **request.extra.get(FORMAT, {})}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    if request.user is not None:
        body["user"] = request.user
    if (told := quirks.get("input_type")) is not None:
        body.setdefault(told["field"], told[request.input_type.value])
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    for name, other in quirks.get("rename", {}).items():
        if name in body:
            body[other] = body.pop(name)
    return body


def parse_result(body: Any, request: TextEmbeddingRequest | None = None) -> TextEmbeddingResult:
    del request
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list):
        raise InvokeServerUnavailableError("the answer holds no embeddings")
    ordered = sorted(data, key=lambda one: one.get("index", 0))
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    tokens = count(usage.get("prompt_tokens")) if usage else None
    total = count(usage.get("total_tokens")) if usage else None
    return TextEmbeddingResult(
        model=body.get("model") or "",
        embeddings=[_vector(one.get("embedding")) for one in ordered],
        usage=EmbeddingUsage(tokens=tokens or total or 0, total_tokens=total or tokens or 0, estimated=tokens is None),
    )


def _vector(value: Any) -> list[float]:
    if isinstance(value, str):
        try:
            return array("f", base64.b64decode(value, validate=True)).tolist()
        except (binascii.Error, ValueError) as error:
            raise InvokeServerUnavailableError("an embedding is not base64 of 32-bit floats") from error
    if not isinstance(value, list):
        raise InvokeServerUnavailableError("an embedding is no list of numbers")
    return value


def dump_result(result: TextEmbeddingResult, *, encoding_format: str = "float") -> JSON:
    encode = _as_base64 if encoding_format == "base64" else list[float]
    data = [
        {"object": "embedding", "index": place, "embedding": encode(vector)}
        for place, vector in enumerate(result.embeddings)
    ]
    usage = {"prompt_tokens": result.usage.tokens, "total_tokens": result.usage.total_tokens}
    return {"object": "list", "data": data, "model": result.model, "usage": usage}


def _as_base64(vector: list[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode("ascii")
