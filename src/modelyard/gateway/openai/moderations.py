"""POST /v1/moderations. The model may be left out, as OpenAI's clients do."""

from dataclasses import dataclass

from modelyard.base.fields import may
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_moderations


@dataclass(frozen=True, slots=True)
class Route:
    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        body = await request.json()
        asked = openai_moderations.parse_request(body)
        name = may(body, "model", str) or "default-moderation"
        instance = request.find(self.manager, name, ModelType.MODERATION)
        result = await request.while_here(instance.invoke_moderation(asked))
        return json_reply(openai_moderations.dump_result(result, response_id=request.id))
