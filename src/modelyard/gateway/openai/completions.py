"""POST /v1/completions: continue a prompt with any chat model."""

from dataclasses import dataclass
from functools import partial

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.answer_losses import DROPPED
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
        )
        headers |= _native_fields(request, instance, body, headers)
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
                document, result, "openai", headers, openai_completions.FORMAT
            )
        return stream_response(
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


def _native_fields(
    request: Request, instance: ModelInstance, body: JSON, headers: dict[str, str]
) -> dict[str, str]:
    """Return the header that names what a chat model cannot do with a text completion.

    Raises InvokeBadRequestError if the caller wants such a request to be refused.
    """
    # A server of text completions gets the fields as they are.
    if instance.supports_wire_format(openai_completions.FORMAT):
        return {}
    names = headers.get(DROPPED, "").split(", ") if headers.get(DROPPED) else []
    unknown = [
        name
        for name in openai_completions.NATIVE_FIELDS
        if body.get(name) not in (None, False, "") and name not in names
    ]
    if not unknown:
        return {}
    if request.header(UNSUPPORTED) == "refuse":
        raise InvokeBadRequestError(
            f"{instance.model!r} does not support {unknown[0]!r}", param=unknown[0]
        )
    return {DROPPED: ", ".join([*names, *unknown])}
