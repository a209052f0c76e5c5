"""POST /v1/embeddings: floats or base64."""

from dataclasses import dataclass

from modelyard.base.fields import need
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_embeddings


@dataclass(frozen=True, slots=True)
class Route:
    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        body = await request.json()
        asked = openai_embeddings.parse_request(body)
        instance = request.find(self.manager, need(body, "model", str), ModelType.TEXT_EMBEDDING)
        result = await request.while_here(instance.invoke_text_embedding(asked))
        return json_reply(openai_embeddings.dump_result(result, encoding_format=body.get("encoding_format") or "float"))
