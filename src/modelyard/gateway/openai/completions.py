"""POST /v1/completions: continue a prompt with any chat model."""

from dataclasses import dataclass
from functools import partial

from modelyard.base.clock import Clock
from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.chat_response import (
    complete_response,
    plain_events,
    prepare_request,
    stream_response,
)
from modelyard.gateway.http import SSE_DONE, Reply, Request, StreamReply, json_reply
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_completions


@dataclass(frozen=True, slots=True)
class Route:
    """POST /v1/completions: complete a prompt, complete or streamed."""

    manager: ModelManager
    clock: Clock

    async def __call__(self, request: Request) -> Reply | StreamReply:
        body = await request.json()
        completion_request = openai_completions.parse_request(body)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.LLM
        )
        completion_request, headers = prepare_request(
            request, instance, completion_request
        )
        if not completion_request.stream:
            result = await complete_response(
                request, instance, completion_request, self.clock, prefix="cmpl"
            )
            return json_reply(openai_completions.dump_result(result), headers=headers)
        # OpenAI sends usage in a stream only on request.
        include_usage = bool(
            (optional_field(body, "stream_options", dict) or {}).get("include_usage")
        )
        return stream_response(
            instance,
            completion_request,
            self.clock,
            partial(openai_completions.StreamDumper, include_usage=include_usage),
            prefix="cmpl",
            frame=plain_events,
            shape="openai",
            headers=headers,
            last=SSE_DONE,
        )
