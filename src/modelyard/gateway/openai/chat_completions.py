"""POST /v1/chat/completions, whole and streamed."""

from dataclasses import dataclass
from functools import partial

from modelyard.base.clock import Clock
from modelyard.base.fields import may, need
from modelyard.gateway.answers import UNSUPPORTED, passed_on, plain_events, prepared, streamed, whole
from modelyard.gateway.http import SSE_DONE, Reply, Request, StreamReply, json_reply, read_json
from modelyard.models.types import ModelType
from modelyard.models.verbatim import VerbatimRequest
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_chat, openai_verbatim


@dataclass(frozen=True, slots=True)
class Route:
    manager: ModelManager
    clock: Clock

    async def __call__(self, request: Request) -> Reply | StreamReply:
        data = await request.body()
        glimpsed = openai_verbatim.glance_request(data, openai_chat.parse_request)
        if glimpsed is not None and request.header(UNSUPPORTED) is None:
            name, plain = glimpsed
            instance = request.find(self.manager, name, ModelType.LLM)
            if instance.passes_on(plain):
                return await self._passed_on(request, instance, plain)
        body = read_json(data)
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

    async def _passed_on(
        self, request: Request, instance: ModelInstance, asked: VerbatimRequest
    ) -> Reply | StreamReply:
        if not asked.stream:
            return await passed_on(request, instance, asked, self.clock, openai_chat.dump_result)
        return streamed(
            instance, asked, self.clock, partial(openai_chat.StreamDumper, include_usage=asked.wants_usage),
            prefix="chatcmpl", frame=plain_events, shape="openai", headers={}, last=SSE_DONE,
        )  # fmt: skip
