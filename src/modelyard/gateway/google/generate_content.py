"""POST /v1beta/models/NAME:generateContent and its neighbours, as Google's clients call them; under /v1 too."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.base.fields import need
from modelyard.gateway.answers import plain_events, prepared, streamed, whole
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.models.entities import AIModelEntity
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import gemini, gemini_embeddings

VERBS = ("generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents")
"""What may be asked of a model, after a colon in its address."""


@dataclass(frozen=True, slots=True)
class ModelCalls:
    """The model and what is to be done stand in the address: `…/models/openai/gpt-5:generateContent`."""

    manager: ModelManager
    clock: Clock

    async def generate(self, request: Request) -> Reply | StreamReply:
        """POST …:generateContent."""
        return await self._generate(request, _model(request), await request.json(), stream=False)

    async def stream(self, request: Request) -> Reply | StreamReply:
        """POST …:streamGenerateContent, as server-sent events with `alt=sse`, as one JSON array without."""
        return await self._generate(request, _model(request), await request.json(), stream=True)

    async def count(self, request: Request) -> Reply:
        """POST …:countTokens."""
        return await self._count(request, _model(request), await request.json())

    async def embed(self, request: Request) -> Reply:
        """POST …:embedContent."""
        return await self._embed(request, _model(request), await request.json(), is_batch=False)

    async def embed_many(self, request: Request) -> Reply:
        """POST …:batchEmbedContents."""
        return await self._embed(request, _model(request), await request.json(), is_batch=True)

    async def unknown_verb(self, request: Request) -> Reply:
        """POST to a model with a verb that is none. Raises NotFoundError."""
        verbs = ", ".join(f":{verb}" for verb in VERBS)
        raise NotFoundError(f"Not found: {request.path[:200]}; there are {verbs}", code="unknown_url")

    async def _generate(self, request: Request, name: str, body: JSON, *, stream: bool) -> Reply | StreamReply:
        asked = gemini.parse_request(body, stream=stream)
        instance = request.find(self.manager, name, ModelType.LLM)
        asked, headers = prepared(request, instance, asked)
        if not stream:
            result = await whole(request, instance, asked, self.clock, prefix="resp")
            return json_reply(gemini.dump_result(result), headers=headers)
        answer = streamed(
            instance, asked, self.clock, gemini.StreamDumper,
            prefix="resp", frame=plain_events, shape="gemini", headers=headers,
        )  # fmt: skip
        return answer if request.query("alt") == "sse" else as_list(answer)

    async def _count(self, request: Request, name: str, body: JSON) -> Reply:
        inner = body.get("generateContentRequest")
        asked = gemini.parse_request(inner if isinstance(inner, dict) else body)
        instance = request.find(self.manager, name, ModelType.LLM)
        counted = await request.while_here(instance.count_tokens(asked))
        headers = {"x-modelyard-estimated": "true"} if counted.estimated else {}
        return json_reply(gemini.dump_token_count(counted.tokens), headers=headers)

    async def _embed(self, request: Request, name: str, body: JSON, *, is_batch: bool) -> Reply:
        if is_batch:
            need(body, "requests", list)
        asked = gemini_embeddings.parse_request(body)
        instance = request.find(self.manager, name, ModelType.TEXT_EMBEDDING)
        result = await request.while_here(instance.invoke_text_embedding(asked))
        return json_reply(gemini_embeddings.dump_result(result, is_batch=is_batch))


def as_list(answer: StreamReply) -> StreamReply:
    """Without `alt=sse` Google streams one JSON array, an element at a time."""
    events, on_error = answer.pieces, answer.on_error
    begun = False

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal begun
        async with aclosing(events):
            async for piece in events:
                for event in piece.split(b"\n\n"):
                    if event:
                        yield (b",\r\n" if begun else b"[") + event.removeprefix(b"data: ")
                        begun = True
        yield b"]" if begun else b"[]"

    def last_words(error: ModelyardError) -> bytes:
        """The error is the array's last element."""
        said = on_error(error) if on_error is not None else b""
        return (b",\r\n" if begun else b"[") + said.removeprefix(b"data: ").rstrip() + b"]"

    headers = [(b"content-type", b"application/json"), *(one for one in answer.headers if one[0] != b"content-type")]
    return StreamReply(pieces(), last_words, headers)


def _model(request: Request) -> str:
    """The model's name; some clients encode its slashes once more."""
    return unquote(request.names["model"])


@dataclass(frozen=True, slots=True)
class ModelList:
    """The models that a caller may call, in Google's words."""

    manager: ModelManager

    async def all(self, request: Request) -> Reply:
        """GET /v1beta/models."""
        return json_reply({"models": self._shown(request)})

    async def named(self, request: Request) -> Reply:
        """GET /v1beta/models/NAME. Raises NotFoundError."""
        wanted = request.names["model"]
        for model in self._shown(request):
            if wanted in (model["name"].removeprefix("models/"), model["baseModelId"]):
                return json_reply(model)
        raise NotFoundError(
            f"model {wanted!r} does not exist; GET /v1beta/models lists what there is", code="not_found"
        )

    def _shown(self, request: Request) -> list[JSON]:
        return [
            _shown(owner, model)
            for owner, model in self.manager.providers.get_models(request.tenant)
            if request.caller.may_call(f"{owner}/{model.model}")
        ]


_VERBS_OF = {
    ModelType.LLM: ["generateContent", "streamGenerateContent", "countTokens"],
    ModelType.TEXT_EMBEDDING: ["embedContent", "batchEmbedContents"],
}


def _shown(owner: str, model: AIModelEntity) -> JSON:
    limits: dict[str, Any] = {"inputTokenLimit": model.context_size} if model.context_size else {}
    return {
        "name": f"models/{owner}/{model.model}",
        "baseModelId": model.model,
        "version": "",
        "displayName": model.label.en_us,
        "supportedGenerationMethods": _VERBS_OF.get(model.model_type, []),
        **limits,
    }
