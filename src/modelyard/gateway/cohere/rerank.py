"""POST /v1/rerank, in the format that clients of Jina, Cohere and vLLM share."""

from dataclasses import dataclass

from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_rerank


@dataclass(frozen=True, slots=True)
class Route:
    """POST /v1/rerank: order documents by relevance to a query."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        """Sort documents by how well they answer a query."""
        body = await request.json()
        rerank_request = openai_rerank.parse_request(body)
        # Documents are returned unless the request says no.
        with_documents = optional_field(body, "return_documents", bool)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.RERANK
        )
        result = await request.cancel_on_disconnect(
            instance.invoke_rerank(rerank_request)
        )
        return json_reply(
            openai_rerank.dump_result(
                result,
                response_id=request.id,
                return_documents=with_documents is not False,
            )
        )
