"""POST /v2/chat, /v2/embed and /v2/rerank in the format of Cohere's API."""

from dataclasses import dataclass

from modelyard.base.clock import Clock
from modelyard.base.fields import required_field
from modelyard.gateway.chat_response import named_events
from modelyard.gateway.chat_route import ChatRoute
from modelyard.gateway.direct import AnswerFormat
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import cohere, cohere_retrieval

FORMAT = AnswerFormat(
    prefix="chat",
    shape="cohere",
    frame=named_events,
    dump=cohere.dump_result,
)
"""How this API writes the answers of chats."""


def chat_route(manager: ModelManager, clock: Clock) -> ChatRoute:
    """Return the handler of POST /v2/chat."""
    dumper, output_format = cohere.StreamDumper, cohere.FORMAT
    return ChatRoute(
        manager, clock, cohere.parse_request, dumper, FORMAT, output_format
    )


@dataclass(frozen=True, slots=True)
class EmbedRoute:
    """POST /v2/embed: return the embeddings of texts or images."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        """Return the vectors of texts or images."""
        body = await request.json()
        embed_request = cohere_retrieval.parse_embed_request(body)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.TEXT_EMBEDDING
        )
        result = await request.cancel_on_disconnect(
            instance.invoke_text_embedding(embed_request)
        )
        # Cohere returns the texts with their embeddings.
        return json_reply(
            cohere_retrieval.dump_embed_result(
                result, response_id=request.id, texts=embed_request.texts
            )
        )


@dataclass(frozen=True, slots=True)
class RerankRoute:
    """POST /v2/rerank: order documents by relevance to a query."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        """Sort documents by how well they answer a query."""
        body = await request.json()
        rerank_request = cohere_retrieval.parse_rerank_request(body)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.RERANK
        )
        result = await request.cancel_on_disconnect(
            instance.invoke_rerank(rerank_request)
        )
        return json_reply(
            cohere_retrieval.dump_rerank_result(result, response_id=request.id)
        )
