"""POST /v1/completions: a prompt and its continuation, by any chat model."""

from dataclasses import dataclass
from functools import partial

from modelyard.base.clock import Clock
from modelyard.base.fields import may, need
from modelyard.gateway.answers import plain_events, prepared, streamed, whole
from modelyard.gateway.http import SSE_DONE, Reply, Request, StreamReply, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_completions


@dataclass(frozen=True, slots=True)
class Route:
    manager: ModelManager
    clock: Clock

    async def __call__(self, request: Request) -> Reply | StreamReply:
        body = await request.json()
        asked = openai_completions.parse_request(body)
        instance = request.find(self.manager, need(body, "model", str), ModelType.LLM)
        asked, headers = prepared(request, instance, asked)
        if not asked.stream:
            result = await whole(request, instance, asked, self.clock, prefix="cmpl")
            return json_reply(openai_completions.dump_result(result), headers=headers)
        include_usage = bool((may(body, "stream_options", dict) or {}).get("include_usage"))
        return streamed(
            instance, asked, self.clock, partial(openai_completions.StreamDumper, include_usage=include_usage),
            prefix="cmpl", frame=plain_events, shape="openai", headers=headers, last=SSE_DONE,
        )  # fmt: skip
