"""POST /v1/chat/completions, whole and streamed."""

from dataclasses import dataclass
from functools import partial

from modelyard.base.clock import Clock
from modelyard.base.fields import may, need
from modelyard.gateway.answers import plain_events, prepared, streamed, whole
from modelyard.gateway.http import SSE_DONE, Reply, Request, StreamReply, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_chat


@dataclass(frozen=True, slots=True)
class Route:
    manager: ModelManager
    clock: Clock

    async def __call__(self, request: Request) -> Reply | StreamReply:
        body = await request.json()
        asked = openai_chat.parse_request(body)
        instance = request.find(self.manager, need(body, "model", str), ModelType.LLM)
        asked, headers = prepared(request, instance, asked)
        if not asked.stream:
            result = await whole(request, instance, asked, self.clock, prefix="chatcmpl")
            return json_reply(openai_chat.dump_result(result), headers=headers)
        include_usage = bool((may(body, "stream_options", dict) or {}).get("include_usage"))
        return streamed(
            instance, asked, self.clock, partial(openai_chat.StreamDumper, include_usage=include_usage),
            prefix="chatcmpl", frame=plain_events, shape="openai", headers=headers, last=SSE_DONE,
        )  # fmt: skip
