"""POST /v1/rerank, in the shape that Jina's, Cohere's and vLLM's clients share."""

from dataclasses import dataclass

from modelyard.base.fields import may, need
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_rerank


@dataclass(frozen=True, slots=True)
class Route:
    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        body = await request.json()
        asked = openai_rerank.parse_request(body)
        with_documents = may(body, "return_documents", bool)
        instance = request.find(self.manager, need(body, "model", str), ModelType.RERANK)
        result = await request.while_here(instance.invoke_rerank(asked))
        return json_reply(
            openai_rerank.dump_result(result, response_id=request.id, return_documents=with_documents is not False)
        )
