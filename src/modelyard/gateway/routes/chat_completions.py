"""POST /v1/chat/completions, whole and streamed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError
from modelyard.base.fields import may, need
from modelyard.base.ids import new_id
from modelyard.gateway.errors import error_document
from modelyard.gateway.http import SSE_DONE, Reply, Request, StreamReply, json_reply, sse, sse_reply
from modelyard.models.llm import LLMRequest
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_chat


@dataclass(frozen=True, slots=True)
class Route:
    manager: ModelManager
    clock: Clock

    async def __call__(self, request: Request) -> Reply | StreamReply:
        body = await request.json()
        asked = openai_chat.parse_request(body)
        instance = self.manager.find(request.tenant, need(body, "model", str), ModelType.LLM)
        if asked.stream:
            options = may(body, "stream_options", dict) or {}
            return sse_reply(self._events(instance, asked, bool(options.get("include_usage"))), _last_words)
        result = await request.while_here(instance.invoke_llm(asked))
        whole = msgspec.structs.replace(
            result,
            id=result.id or new_id("chatcmpl"),
            created=result.created or int(self.clock.time()),
            model=result.model or instance.model,
        )
        return json_reply(openai_chat.dump_result(whole))

    async def _events(
        self, instance: ModelInstance, asked: LLMRequest, include_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        dumper: openai_chat.StreamDumper | None = None
        async with aclosing(instance.stream_llm(asked)) as chunks:
            async for chunk in chunks:
                if dumper is None:
                    dumper = openai_chat.StreamDumper(
                        response_id=chunk.id or new_id("chatcmpl"),
                        created=chunk.created or int(self.clock.time()),
                        model=chunk.model or instance.model,
                        include_usage=include_usage,
                    )
                for event in dumper.feed(chunk):
                    yield sse(event)
        for event in dumper.finish() if dumper is not None else ():
            yield sse(event)
        yield SSE_DONE


def _last_words(error: ModelyardError) -> bytes:
    """An error event and no [DONE]: official clients raise on it, and nobody takes a broken answer for a whole one."""
    document: JSON = error_document(error)
    return sse(document)
