"""OpenAI embeddings <-> our types. Pure: no network, no clock."""

import base64
import binascii
from array import array
from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import count, in_range, may, typed, wrong
from modelyard.models.embedding import EmbeddingUsage, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.types import JSON

_KNOWN = {"model", "input", "dimensions", "encoding_format", "user"}
_MAX_TEXTS = 2048


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
    extra = {key: value for key, value in body.items() if key not in _KNOWN}
    return TextEmbeddingRequest(texts=texts, dimensions=dimensions, user=may(body, "user", str), extra=extra)


def dump_request(request: TextEmbeddingRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    body: JSON = {"model": model, "input": request.texts, "encoding_format": "float", **request.extra}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    if request.user is not None:
        body["user"] = request.user
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    return body


def parse_result(body: JSON) -> TextEmbeddingResult:
    data = body.get("data")
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
