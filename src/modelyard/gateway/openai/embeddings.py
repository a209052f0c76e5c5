"""POST /v1/embeddings, as floats or base64."""

from dataclasses import dataclass

from modelyard.base.fields import required_field
from modelyard.gateway.chat_response import settle_left_out
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_embeddings


@dataclass(frozen=True, slots=True)
class Route:
    """POST /v1/embeddings: return the embeddings of texts."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        """Return the vectors of texts."""
        body = await request.json()
        embedding_request = openai_embeddings.parse_request(body)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.TEXT_EMBEDDING
        )
        embedding_request = settle_left_out(request, instance, embedding_request)
        result = await request.cancel_on_disconnect(
            instance.invoke_text_embedding(embedding_request)
        )
        return json_reply(
            openai_embeddings.dump_result(
                result, encoding_format=body.get("encoding_format") or "float"
            )
        )
