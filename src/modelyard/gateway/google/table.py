"""Route table of Google's API."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from modelyard.base.clock import Clock
from modelyard.gateway.errors import GOOGLE
from modelyard.gateway.google import schemas
from modelyard.gateway.google.generate_content import ModelCalls, ModelList
from modelyard.gateway.http import Request
from modelyard.gateway.table import (
    DEVELOPER,
    Answered,
    Api,
    Body,
    Content,
    OneOf,
    Row,
    Schema,
)
from modelyard.models.types import JSON
from modelyard.runtime.model_manager import ModelManager

Handler = Callable[[Request], Awaitable[Answered]]
_VERSIONS = ("/v1beta", "/v1")
"""Clients use either version."""


@dataclass(frozen=True, slots=True)
class _Operation:
    """A method of a model, named after the colon of the path."""

    name: str
    summary: str
    handler: Handler
    request_schema: JSON
    answer: Body


def api(manager: ModelManager, clock: Clock) -> Api:
    """Return Google's API for the models of `manager`."""
    calls, models = ModelCalls(manager, clock), ModelList(manager)
    rows = [
        Row(
            method="GET",
            path="/v1beta/models",
            auth=DEVELOPER,
            summary="List the models that the caller may call.",
            answer=Schema(schemas.MODELS),
            handler=models.list_models,
        ),
        Row(
            method="GET",
            path="/v1beta/models/{model:path}",
            auth=DEVELOPER,
            summary="Get one model.",
            answer=Schema(schemas.MODEL),
            handler=models.get_model,
        ),
    ]
    for version in _VERSIONS:
        rows += _model_rows(version, calls)
    # /v1 is not listed as a prefix, because it belongs to OpenAI's API; only the rows
    # below it are added.
    return Api(
        name="google",
        title="Google's API",
        about="Generated content and embeddings, for Google's clients.",
        prefixes=("/v1beta",),
        errors=GOOGLE,
        rows=tuple(rows),
    )


def _model_rows(version: str, calls: ModelCalls) -> Iterator[Row]:
    """Yield the routes of all methods of a model below one version's path."""
    for operation in _operations(calls):
        yield Row(
            method="POST",
            path=f"{version}/models/{{model:path}}:{operation.name}",
            auth=DEVELOPER,
            summary=operation.summary,
            handler=operation.handler,
            calls_model=operation.name != "countTokens",
            takes=Schema(operation.request_schema),
            answer=operation.answer,
        )
    # A path without a known method gets an error that lists the methods.
    yield Row(
        method="POST",
        path=f"{version}/models/{{model:path}}",
        auth=DEVELOPER,
        handler=calls.unknown_method,
        summary="Answer a path without a known method with the list of methods.",
        status=404,
    )


def _operations(calls: ModelCalls) -> tuple[_Operation, ...]:
    """Return the methods of a model."""
    streamed = OneOf(
        (
            Schema({"type": "array", "items": schemas.ANSWER}),
            Content("text/event-stream"),
        )
    )
    return (
        _Operation(
            "generateContent",
            "Generate content.",
            calls.generate,
            schemas.REQUEST,
            Schema(schemas.ANSWER),
        ),
        _Operation(
            "streamGenerateContent",
            "Generate content as a stream.",
            calls.stream,
            schemas.REQUEST,
            streamed,
        ),
        _Operation(
            "countTokens",
            "Count the input tokens of a request.",
            calls.count,
            schemas.COUNT_REQUEST,
            Schema(schemas.COUNT),
        ),
        _Operation(
            "embedContent",
            "Create the embedding of a text.",
            calls.embed,
            schemas.EMBED_REQUEST,
            Schema(schemas.EMBED_ANSWER),
        ),
        _Operation(
            "batchEmbedContents",
            "Create embeddings of texts.",
            calls.embed_many,
            schemas.BATCH_REQUEST,
            Schema(schemas.BATCH_ANSWER),
        ),
    )
