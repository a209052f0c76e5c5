"""POST /v1beta/models/NAME:generateContent and the other methods in the format of
Google's API; also under /v1."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import unquote

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.base.fields import required_field
from modelyard.base.json_types import JsonValue
from modelyard.gateway.chat_response import (
    complete_reply,
    complete_response,
    name_left_out,
    plain_events,
    prepare_request,
    stream_response,
)
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.gateway.keep_alive import LINE_BREAK
from modelyard.gateway.model_lists import dump_list, dump_model, list_models
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import gemini, gemini_embeddings

# The part of the path after the model and a colon.
METHODS = (
    "generateContent",
    "streamGenerateContent",
    "countTokens",
    "embedContent",
    "batchEmbedContents",
)
"""The methods of a model, which follow its name in the path after a colon."""


@dataclass(frozen=True, slots=True)
class ModelCalls:
    """Routes whose path names the model and the method:
    `…/models/openai/gpt-5:generateContent`."""

    manager: ModelManager
    clock: Clock

    async def generate(self, request: Request) -> Reply | StreamReply:
        """POST …:generateContent: answer a chat."""
        return await self._generate(
            request,
            _model(request),
            await request.json(),
            stream=False,
        )

    async def stream(self, request: Request) -> Reply | StreamReply:
        """POST …:streamGenerateContent: stream the answer, as SSE with `alt=sse`,
        otherwise as one JSON array."""
        return await self._generate(
            request,
            _model(request),
            await request.json(),
            stream=True,
        )

    async def count(self, request: Request) -> Reply:
        """POST …:countTokens: count the tokens of a request."""
        return await self._count(request, _model(request), await request.json())

    async def embed(self, request: Request) -> Reply:
        """POST …:embedContent: return the embedding of one text."""
        return await self._embed(
            request,
            _model(request),
            await request.json(),
            is_batch=False,
        )

    async def embed_many(self, request: Request) -> Reply:
        """POST …:batchEmbedContents: return the embeddings of several texts."""
        return await self._embed(
            request,
            _model(request),
            await request.json(),
            is_batch=True,
        )

    async def unknown_method(self, request: Request) -> Reply:
        """POST to a model with an unknown method, or with none.

        Raises NotFoundError that lists the methods.
        """
        verbs = ", ".join(f":{verb}" for verb in METHODS)
        raise NotFoundError(
            f"Not found: {request.path[:200]}; available methods: {verbs}",
            code="unknown_url",
        )

    async def _generate(
        self, request: Request, name: str, body: JSON, *, stream: bool
    ) -> Reply | StreamReply:
        """Answer a chat, complete or streamed."""
        chat_request = gemini.parse_request(body, stream=stream)
        instance = request.find(self.manager, name, ModelType.LLM)
        chat_request, headers = prepare_request(request, instance, chat_request)
        if not stream:
            result = await complete_response(
                request, instance, chat_request, self.clock, prefix="resp"
            )
            document = gemini.dump_result(result)
            return complete_reply(
                request, document, result, "gemini", headers, gemini.FORMAT
            )
        answer = stream_response(
            request,
            instance,
            chat_request,
            self.clock,
            gemini.StreamDumper,
            prefix="resp",
            frame=plain_events,
            shape="gemini",
            headers=headers,
        )
        # Google's own clients use SSE; plain HTTP clients get a JSON array by default.
        return answer if request.query("alt") == "sse" else as_json_array(answer)

    async def _count(self, request: Request, name: str, body: JSON) -> Reply:
        """Count the tokens of a chat."""
        # The request can be nested, or be the body itself.
        inner: JsonValue = body.get("generateContentRequest")
        chat_request = gemini.parse_request(inner if isinstance(inner, dict) else body)
        instance = request.find(self.manager, name, ModelType.LLM)
        token_count = await request.cancel_on_disconnect(
            instance.count_tokens(chat_request)
        )
        # Providers without a counting endpoint are estimated locally.
        headers = {"x-modelyard-estimated": "true"} if token_count.estimated else {}
        return json_reply(gemini.dump_token_count(token_count.tokens), headers=headers)

    async def _embed(
        self, request: Request, name: str, body: JSON, *, is_batch: bool
    ) -> Reply:
        """Embed one text or several."""
        # A batch without `requests` would otherwise be parsed as a single request.
        if is_batch:
            required_field(body, "requests", list)
        embedding_request = gemini_embeddings.parse_request(body)
        instance = request.find(self.manager, name, ModelType.TEXT_EMBEDDING)
        name_left_out(request, instance, embedding_request)
        result = await request.cancel_on_disconnect(
            instance.invoke_text_embedding(embedding_request)
        )
        return json_reply(gemini_embeddings.dump_result(result, is_batch=is_batch))


def as_json_array(answer: StreamReply) -> StreamReply:
    """Convert an SSE stream to one JSON array, which Google sends without `alt=sse`."""
    events, on_error = answer.chunks, answer.on_error
    has_started = False

    async def array_chunks() -> AsyncGenerator[bytes, None]:
        """Yield the array, one element per event."""
        nonlocal has_started
        async with aclosing(events):
            async for chunk in events:
                # One chunk can hold several events; each ends with an empty line.
                for event in chunk.split(b"\n\n"):
                    if event:
                        yield (b",\r\n" if has_started else b"[") + event.removeprefix(
                            b"data: "
                        )
                        has_started = True
        # An empty stream is still a valid array.
        yield b"]" if has_started else b"[]"

    def error_chunk(error: ModelyardError) -> bytes:
        """Return the error as the last element of the array."""
        event = on_error(error) if on_error is not None else b""
        # The event is followed by the same document outside of events.
        document = event.partition(b"\n\n")[0].removeprefix(b"data: ")
        # Close the array, so that the response stays valid JSON.
        return (b",\r\n" if has_started else b"[") + document + b"]"

    headers = [
        (b"content-type", b"application/json"),
        *(header for header in answer.headers if header[0] != b"content-type"),
    ]
    return StreamReply(array_chunks(), error_chunk, headers, keep_alive=LINE_BREAK)


def _model(request: Request) -> str:
    """Return the model's name. Some clients encode its slashes twice."""
    return unquote(request.names["model"])


@dataclass(frozen=True, slots=True)
class ModelList:
    """Routes that list the models which a caller may use."""

    manager: ModelManager

    async def list_models(self, request: Request) -> Reply:
        """GET /v1beta/models: list the models, page by page."""
        models = list(list_models(self.manager, request.caller))
        return json_reply(dump_list(models, "google", request))

    async def get_model(self, request: Request) -> Reply:
        """GET /v1beta/models/NAME: return one model, named with or without its
        provider.

        Raises NotFoundError.
        """
        name = request.names["model"]
        for model in list_models(self.manager, request.caller):
            if name in (model.id, model.bare_name):
                return json_reply(dump_model(model, "google"))
        problem = f"Model {name!r} does not exist; GET /v1beta/models lists the models"
        raise NotFoundError(problem, code="not_found")
