"""POST /v1/chat/completions, complete and streamed."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.call_headers import call_headers_of
from modelyard.gateway.chat_response import (
    ADDED_FIELDS,
    UNSUPPORTED,
    complete_reply,
    complete_response,
    name_left_out,
    passthrough_response,
    plain_events,
    prepare_request,
    stream_response,
)
from modelyard.gateway.direct import AnswerFormat, DirectChat
from modelyard.gateway.http import (
    SSE_DONE,
    Reply,
    Request,
    StreamReply,
    read_json,
)
from modelyard.models.passthrough import PassthroughRequest
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_chat, openai_passthrough

FORMAT = AnswerFormat(
    prefix="chatcmpl",
    shape="openai",
    frame=plain_events,
    dump=openai_chat.dump_result,
    last=SSE_DONE,
)
"""How this API writes its answers."""


@dataclass(frozen=True, slots=True)
class Route:
    """POST /v1/chat/completions: answer a chat.

    A request is passed through unparsed if the provider speaks the same format.
    """

    manager: ModelManager
    clock: Clock
    wire_format: ClassVar[str] = openai_chat.FORMAT
    """Name of the wire format of the requests."""

    def read_direct(self, body: bytes) -> DirectChat | None:
        """Read a request that is answered straight from the protocol class."""
        peeked = openai_passthrough.peek_request(body, openai_chat.parse_request)
        if peeked is not None:
            name, plain = peeked
            make = partial(openai_chat.StreamDumper, include_usage=plain.wants_usage)
            added_fields = () if plain.wants_usage else ADDED_FIELDS
            return DirectChat(name, plain, FORMAT, make, added_fields)
        document = read_json(body)
        includes_usage = _includes_usage(document)
        make = partial(openai_chat.StreamDumper, include_usage=includes_usage)
        name = required_field(document, "model", str)
        chat_request = openai_chat.parse_request(document)
        added_fields = () if includes_usage else ADDED_FIELDS
        return DirectChat(name, chat_request, FORMAT, make, added_fields)

    async def __call__(self, request: Request) -> Reply | StreamReply:
        """Answer a chat request. The provider gets the original body if it can."""
        data = await request.body()
        # The fast path: read only what routing needs, and pass the body through
        # unchanged.
        glimpsed = openai_passthrough.peek_request(data, openai_chat.parse_request)
        # Unsupported parameters, and headers that the provider must not get, are found
        # in a parsed request only.
        headers = call_headers_of(request.scope, openai_chat.FORMAT)
        is_plain = request.header(UNSUPPORTED) is None and not headers.account
        # A model that the path names is written into the parsed body.
        is_plain = is_plain and not request.model
        if glimpsed is not None and is_plain:
            name, plain = glimpsed
            plain = msgspec.structs.replace(plain, headers=headers)
            instance = request.find(self.manager, name, ModelType.LLM)
            if instance.can_pass_through(plain):
                return await self._passthrough(request, instance, plain)
        body = read_json(data)
        if request.model:
            body["model"] = request.model
        chat_request = openai_chat.parse_request(body)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.LLM
        )
        added_fields = () if _includes_usage(body) else ADDED_FIELDS
        chat_request, headers = prepare_request(
            request, instance, chat_request, added_fields=added_fields
        )
        if not chat_request.stream:
            result = await complete_response(
                request, instance, chat_request, self.clock, prefix="chatcmpl"
            )
            document = openai_chat.dump_result(result)
            return complete_reply(
                request, document, result, "openai", headers, openai_chat.FORMAT
            )
        return stream_response(
            request,
            instance,
            chat_request,
            self.clock,
            partial(openai_chat.StreamDumper, include_usage=_includes_usage(body)),
            prefix="chatcmpl",
            frame=plain_events,
            shape="openai",
            headers=headers,
            last=SSE_DONE,
        )

    async def _passthrough(
        self,
        request: Request,
        instance: ModelInstance,
        verbatim_request: PassthroughRequest,
    ) -> Reply | StreamReply:
        """Pass a request through to the provider, complete or streamed."""
        added_fields = () if verbatim_request.wants_usage else ADDED_FIELDS
        name_left_out(request, instance, verbatim_request, added_fields=added_fields)
        if not verbatim_request.stream:
            return await passthrough_response(
                request, instance, verbatim_request, self.clock, openai_chat.dump_result
            )
        return stream_response(
            request,
            instance,
            verbatim_request,
            self.clock,
            partial(
                openai_chat.StreamDumper, include_usage=verbatim_request.wants_usage
            ),
            prefix="chatcmpl",
            frame=plain_events,
            shape="openai",
            headers={},
            last=SSE_DONE,
        )


def _includes_usage(body: JSON) -> bool:
    """Return whether a stream ends with the usage: OpenAI sends it only on request."""
    options = optional_field(body, "stream_options", dict) or {}
    return bool(options.get("include_usage"))
