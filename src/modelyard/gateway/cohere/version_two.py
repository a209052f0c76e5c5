"""POST /v2/chat, /v2/embed and /v2/rerank, as Cohere's clients call them."""

from dataclasses import dataclass

from modelyard.base.clock import Clock
from modelyard.base.fields import need
from modelyard.gateway.answers import named_events, prepared, streamed, whole
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import cohere, cohere_retrieval


@dataclass(frozen=True, slots=True)
class ChatRoute:
    manager: ModelManager
    clock: Clock

    async def __call__(self, request: Request) -> Reply | StreamReply:
        body = await request.json()
        asked = cohere.parse_request(body)
        instance = request.find(self.manager, need(body, "model", str), ModelType.LLM)
        asked, headers = prepared(request, instance, asked)
        if not asked.stream:
            result = await whole(request, instance, asked, self.clock, prefix="chat")
            return json_reply(cohere.dump_result(result), headers=headers)
        return streamed(
            instance, asked, self.clock, cohere.StreamDumper,
            prefix="chat", frame=named_events, shape="cohere", headers=headers,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class EmbedRoute:
    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        body = await request.json()
        asked = cohere_retrieval.parse_embed_request(body)
        instance = request.find(self.manager, need(body, "model", str), ModelType.TEXT_EMBEDDING)
        result = await request.while_here(instance.invoke_text_embedding(asked))
        return json_reply(cohere_retrieval.dump_embed_result(result, response_id=request.id, texts=asked.texts))


@dataclass(frozen=True, slots=True)
class RerankRoute:
    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        body = await request.json()
        asked = cohere_retrieval.parse_rerank_request(body)
        instance = request.find(self.manager, need(body, "model", str), ModelType.RERANK)
        result = await request.while_here(instance.invoke_rerank(asked))
        return json_reply(cohere_retrieval.dump_rerank_result(result, response_id=request.id))
