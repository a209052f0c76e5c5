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

_VERBS = ("generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents")


@dataclass(frozen=True, slots=True)
class Route:
    """The model and what is to be done stand in the address: `…/models/openai/gpt-5:generateContent`."""

    manager: ModelManager
    clock: Clock

    async def __call__(self, request: Request) -> Reply | StreamReply:
        name, _, verb = unquote(request.path.partition("/models/")[2]).rpartition(":")
        if not name or verb not in _VERBS:
            raise NotFoundError(
                f"there is nothing at {request.path!r}; there are {', '.join(f':{one}' for one in _VERBS)}",
                code="unknown_url",
            )
        body = await request.json()
        if verb in ("embedContent", "batchEmbedContents"):
            return await self._embed(request, name, body, is_batch=verb == "batchEmbedContents")
        if verb == "countTokens":
            return await self._count(request, name, body)
        return await self._generate(request, name, body, stream=verb == "streamGenerateContent")

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


@dataclass(frozen=True, slots=True)
class ListRoute:
    """GET /v1beta/models, and one by its name."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        wanted = request.path.removeprefix("/v1beta/models").strip("/")
        every = [
            _shown(owner, model)
            for owner, model in self.manager.providers.get_models(request.tenant)
            if request.caller.may_call(f"{owner}/{model.model}")
        ]
        if not wanted:
            return json_reply({"models": every})
        for one in every:
            if wanted in (one["name"].removeprefix("models/"), one["baseModelId"]):
                return json_reply(one)
        raise NotFoundError(
            f"model {wanted!r} does not exist; GET /v1beta/models lists what there is", code="not_found"
        )


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
