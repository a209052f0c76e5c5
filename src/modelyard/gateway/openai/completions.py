"""POST /v1/completions: continue a prompt with any chat model."""

from dataclasses import dataclass
from functools import partial

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.chat_response import (
    ADDED_FIELDS,
    UNSUPPORTED,
    ChatBackend,
    complete_reply,
    complete_response,
    plain_events,
    prepare_request,
    stream_response,
)
from modelyard.gateway.http import SSE_DONE, Reply, Request, StreamReply
from modelyard.gateway.openai.several_prompts import SeveralPrompts
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_completions


@dataclass(frozen=True, slots=True)
class Route:
    """POST /v1/completions: complete a prompt, complete or streamed."""

    manager: ModelManager
    clock: Clock

    async def __call__(self, request: Request) -> Reply | StreamReply:
        """Continue one prompt or several."""
        body = await request.json()
        prompt_requests = openai_completions.parse_requests(body)
        completion_request = prompt_requests[0]
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.LLM
        )
        # OpenAI sends usage in a stream only on request.
        include_usage = bool(
            (optional_field(body, "stream_options", dict) or {}).get("include_usage")
        )
        completion_request, headers = prepare_request(
            request,
            instance,
            completion_request,
            added_fields=() if include_usage else ADDED_FIELDS,
            other_names=_native_fields(request, instance, body),
        )
        # The headers and the handling of unsupported fields hold for each prompt.
        prompt_requests = [
            msgspec.structs.replace(
                prompt_request,
                unsupported=completion_request.unsupported,
                headers=completion_request.headers,
            )
            for prompt_request in prompt_requests
        ]
        backend: ChatBackend = (
            SeveralPrompts(instance, prompt_requests)
            if len(prompt_requests) > 1
            else instance
        )
        if not completion_request.stream:
            result = await complete_response(
                request, backend, completion_request, self.clock, prefix="cmpl"
            )
            document = openai_completions.dump_result(result)
            return complete_reply(
                request, document, result, "openai", headers, openai_completions.FORMAT
            )
        return stream_response(
            request,
            backend,
            completion_request,
            self.clock,
            partial(openai_completions.StreamDumper, include_usage=include_usage),
            prefix="cmpl",
            frame=plain_events,
            shape="openai",
            headers=headers,
            last=SSE_DONE,
        )


def _native_fields(request: Request, instance: ModelInstance, body: JSON) -> list[str]:
    """Return the fields of a text completion with which a chat model can do nothing.

    Raises InvokeBadRequestError if the caller wants such a request to be refused.
    """
    # A server of text completions gets the fields as they are.
    if instance.supports_wire_format(openai_completions.FORMAT):
        return []
    unknown = [
        name
        for name in openai_completions.NATIVE_FIELDS
        if body.get(name) not in (None, False, "")
    ]
    if unknown and request.header(UNSUPPORTED) == "refuse":
        raise InvokeBadRequestError(
            f"{instance.model!r} does not support {unknown[0]!r}", param=unknown[0]
        )
    return unknown
