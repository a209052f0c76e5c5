"""POST /v1/moderations. The model is optional, as in OpenAI's API."""

from dataclasses import dataclass

from modelyard.base.fields import optional_field
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_moderations


@dataclass(frozen=True, slots=True)
class Route:
    """POST /v1/moderations: classify texts by harm categories."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        """Classify texts as harmful or not."""
        body = await request.json()
        moderation_request = openai_moderations.parse_request(body)
        # Without a model, the tenant's default moderation model is used.
        name = optional_field(body, "model", str) or "default-moderation"
        instance = request.find(self.manager, name, ModelType.MODERATION)
        result = await request.cancel_on_disconnect(
            instance.invoke_moderation(moderation_request)
        )
        return json_reply(
            openai_moderations.dump_result(result, response_id=request.id)
        )
