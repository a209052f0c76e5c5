"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic's clients call them."""

from dataclasses import dataclass

from modelyard.base.clock import Clock
from modelyard.base.fields import need
from modelyard.gateway.answers import named_events, prepared, streamed, whole
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import anthropic


@dataclass(frozen=True, slots=True)
class Route:
    manager: ModelManager
    clock: Clock

    async def __call__(self, request: Request) -> Reply | StreamReply:
        body = await request.json()
        asked = anthropic.parse_request(body)
        instance = request.find(self.manager, need(body, "model", str), ModelType.LLM)
        asked, headers = prepared(request, instance, asked)
        if not asked.stream:
            result = await whole(request, instance, asked, self.clock, prefix="msg")
            return json_reply(anthropic.dump_result(result), headers=headers)
        return streamed(
            instance, asked, self.clock, anthropic.StreamDumper,
            prefix="msg", frame=named_events, shape="anthropic", headers=headers,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CountRoute:
    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        body = await request.json()
        asked = anthropic.parse_request(body, is_count=True)
        instance = request.find(self.manager, need(body, "model", str), ModelType.LLM)
        counted = await request.while_here(instance.count_tokens(asked))
        headers = {"x-modelyard-estimated": "true"} if counted.estimated else {}
        return json_reply(anthropic.dump_token_count(counted.tokens), headers=headers)
