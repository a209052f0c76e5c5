"""Translate between OpenAI's embeddings API, with the additions of Jina, Voyage and
others, and modelyard's types.

Pure functions: no network, no clock.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

import base64
import binascii
from array import array
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import (
    count,
    expect_type,
    in_range,
    invalid_field,
    optional_field,
    passthrough_fields,
    text_of,
)
from modelyard.base.reader_errors import reads_answer, reads_request
from modelyard.models.capabilities import Capabilities
from modelyard.models.embedding import (
    EmbeddingInputType,
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
    TokenIds,
)
from modelyard.models.types import JSON

FORMAT = "openai_embeddings"

# Other fields are passed on unchanged to a provider of this format.
_KNOWN_FIELDS = {
    "model",
    "input",
    "dimensions",
    "encoding_format",
    "user",
    "input_type",
}
# What different vendors call the input type of a search query.
_QUERY_INPUT_TYPES = ("query", "search_query", "retrieval.query")
# OpenAI's limit for one request.
_MAX_TEXTS = 2048


@reads_request
def parse_request(body: JSON) -> TextEmbeddingRequest:
    """Parse the JSON body of a client's embeddings request. Raises
    InvokeBadRequestError that names the field."""
    texts = _parse_texts(body.get("input"))
    if body.get("encoding_format", "float") not in ("float", "base64"):
        raise invalid_field(
            "encoding_format", body["encoding_format"], "float or base64"
        )
    dimensions = optional_field(body, "dimensions", int)
    in_range(dimensions, 1, 65_536, "dimensions")
    # A field of Voyage and NVIDIA.
    input_type = optional_field(body, "input_type", str)
    extra_fields = {
        key: value
        for key, value in body.items()
        if key not in _KNOWN_FIELDS and value is not None
    }
    return TextEmbeddingRequest(
        texts=texts,
        dimensions=dimensions,
        input_type=EmbeddingInputType.QUERY
        if input_type in _QUERY_INPUT_TYPES
        else EmbeddingInputType.DOCUMENT,
        user=optional_field(body, "user", str),
        extra=passthrough_fields(FORMAT, extra_fields),
    )


def _parse_texts(value: Any) -> list[str]:
    """Return the texts of an embeddings request's `input`.

    A single string or a list of token ids gives a list of one. Raises
    InvokeBadRequestError for an empty list or text, for invalid token ids, and for more
    than 2,048 texts.
    """
    texts: Any = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise invalid_field("input", value, "a string or a non-empty list of strings")
    # A list of numbers is one text as token ids, and not several texts.
    if isinstance(texts[0], int):
        texts = [texts]
    if len(texts) > _MAX_TEXTS:
        raise InvokeBadRequestError(
            f"'input' has {len(texts)} texts; at most {_MAX_TEXTS} are allowed",
            param="input",
        )
    if isinstance(texts[0], list):
        return [_token_ids(ids, f"input[{index}]") for index, ids in enumerate(texts)]
    for index, text in enumerate(texts):
        if not expect_type(text, str, f"input[{index}]"):
            raise InvokeBadRequestError(
                f"'input[{index}]' must not be empty", param="input"
            )
    return texts


# Ids are 32-bit numbers with a sign in all tokenizers.
_MAX_TOKEN_ID = 1 << 31


def _token_ids(value: Any, name: str) -> TokenIds:
    """Return the token ids of one text. Raises InvokeBadRequestError if they are not a
    non-empty list of whole numbers."""
    ids = expect_type(value, list, name)
    is_valid = ids and all(
        isinstance(token, int)
        and not isinstance(token, bool)
        and 0 <= token < _MAX_TOKEN_ID
        for token in ids
    )
    if not is_valid:
        raise invalid_field(name, value, "a non-empty list of token ids")
    return TokenIds(ids)


def dump_request(
    request: TextEmbeddingRequest, model: str, capabilities: Capabilities
) -> JSON:
    """Build the request body.

    Of the capabilities it uses `drop`, `rename` and `input_type`.
    """
    # Floats are always requested; `dump_result` encodes them for a client that wants
    # base64.
    body: JSON = {
        "model": model,
        "input": [
            list(text.ids) if isinstance(text, TokenIds) else text
            for text in request.texts
        ],
        "encoding_format": "float",
        **request.extra.get(FORMAT, {}),
    }
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    if request.user is not None:
        body["user"] = request.user
    if (input_type := capabilities.input_type) is not None:
        # An input type that the client sent in the vendor's own field takes precedence.
        body.setdefault(input_type.field, input_type.value_of(request.input_type))
    for name in capabilities.drop:
        body.pop(name, None)
    for name, upstream_name in capabilities.rename.items():
        if name in body:
            body[upstream_name] = body.pop(name)
    return body


@reads_answer
def parse_result(
    body: Any, request: TextEmbeddingRequest | None = None
) -> TextEmbeddingResult:
    """Parse an embeddings response. Raises InvokeServerUnavailableError if it has no
    vectors.

    Usage is marked as estimated if the response has no token count.
    """
    del request
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list):
        raise InvokeServerUnavailableError("Upstream response has no 'data'")
    # Vectors must be in the order of the texts; not every server returns them so.
    ordered = sorted(data, key=lambda embedding: embedding.get("index", 0))
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    tokens = count(usage.get("prompt_tokens")) if usage else None
    total = count(usage.get("total_tokens")) if usage else None
    return TextEmbeddingResult(
        model=text_of(body.get("model")),
        embeddings=[_vector(embedding.get("embedding")) for embedding in ordered],
        # Some servers report only one of the two counts.
        usage=EmbeddingUsage(
            tokens=tokens or total or 0,
            total_tokens=total or tokens or 0,
            estimated=tokens is None,
        ),
    )


def _vector(value: Any) -> list[float]:
    """Return a vector as a list of floats.

    `value` is a list of numbers, or base64 of 32-bit floats as OpenAI encodes them.
    Raises InvokeServerUnavailableError for anything else; the numbers of a list are not
    checked.
    """
    # Base64 of 32-bit floats, as OpenAI encodes vectors.
    if isinstance(value, str):
        try:
            return array("f", base64.b64decode(value, validate=True)).tolist()
        except (binascii.Error, ValueError) as error:
            raise InvokeServerUnavailableError(
                "Upstream response: 'embedding' is not base64 of 32-bit floats"
            ) from error
    if not isinstance(value, list):
        raise InvokeServerUnavailableError(
            "Upstream response: 'embedding' must be a list of numbers"
        )
    return value


def dump_result(result: TextEmbeddingResult, *, encoding_format: str = "float") -> JSON:
    """Build an embeddings response in OpenAI's form.

    With `encoding_format` `base64` each vector is the base64 of its 32-bit floats in
    native byte order, otherwise a list of numbers.
    """
    encode = _as_base64 if encoding_format == "base64" else list[float]
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(result.embeddings)
    ]
    usage = {
        "prompt_tokens": result.usage.tokens,
        "total_tokens": result.usage.total_tokens,
    }
    return {"object": "list", "data": data, "model": result.model, "usage": usage}


def _as_base64(vector: list[float]) -> str:
    """Return a vector as base64 of 32-bit numbers, in which OpenAI's clients request
    it."""
    return base64.b64encode(array("f", vector).tobytes()).decode("ascii")
