"""Route table of Google's API."""

from collections.abc import Awaitable, Callable, Iterator

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
    streamed: Body = OneOf(
        (
            Schema({"type": "array", "items": schemas.ANSWER}),
            Content("text/event-stream"),
        )
    )
    operations: tuple[tuple[str, str, Handler, JSON, Body], ...] = (
        (
            "generateContent",
            "Answer a chat.",
            calls.generate,
            schemas.REQUEST,
            Schema(schemas.ANSWER),
        ),
        (
            "streamGenerateContent",
            "Answer a chat, piece by piece.",
            calls.stream,
            schemas.REQUEST,
            streamed,
        ),
        (
            "countTokens",
            "Count a request's tokens.",
            calls.count,
            schemas.COUNT_REQUEST,
            Schema(schemas.COUNT),
        ),
        (
            "embedContent",
            "Turn a text into a vector.",
            calls.embed,
            schemas.EMBED_REQUEST,
            Schema(schemas.EMBED_ANSWER),
        ),
        (
            "batchEmbedContents",
            "Turn texts into vectors.",
            calls.embed_many,
            schemas.BATCH_REQUEST,
            Schema(schemas.BATCH_ANSWER),
        ),
    )
    for verb, summary, handler, request_schema, answer in operations:
        path = f"{version}/models/{{model:path}}:{verb}"
        yield Row(
            method="POST",
            path=path,
            auth=DEVELOPER,
            summary=summary,
            handler=handler,
            takes=Schema(request_schema),
            answer=answer,
        )
    # A path without a known method gets an error that lists the methods.
    yield Row(
        method="POST",
        path=f"{version}/models/{{model:path}}",
        auth=DEVELOPER,
        handler=calls.unknown_method,
        summary="Say which verbs there are: an address needs one.",
        status=404,
    )
