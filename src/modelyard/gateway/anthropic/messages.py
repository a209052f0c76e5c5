"""POST /v1/messages and /v1/messages/count_tokens in the format of Anthropic's API."""

from dataclasses import dataclass

from modelyard.base.clock import Clock
from modelyard.base.fields import required_field
from modelyard.gateway.chat_response import (
    complete_response,
    named_events,
    prepare_request,
    stream_response,
)
from modelyard.gateway.direct import AnswerFormat, DirectChat
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply, read_json
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import anthropic

FORMAT = AnswerFormat(
    prefix="msg",
    shape="anthropic",
    frame=named_events,
    dump=anthropic.dump_result,
)
"""How this API writes its answers."""


@dataclass(frozen=True, slots=True)
class Route:
    """POST /v1/messages: answer a chat, complete or streamed."""

    manager: ModelManager
    clock: Clock

    def read_direct(self, body: bytes) -> DirectChat:
        """Read a request that is answered straight from the protocol class."""
        document = read_json(body)
        request = anthropic.parse_request(document)
        name = required_field(document, "model", str)
        return DirectChat(name, request, FORMAT, anthropic.StreamDumper)

    async def __call__(self, request: Request) -> Reply | StreamReply:
        body = await request.json()
        # Parse the body before looking the model up, so that format errors are reported
        # first.
        chat_request = anthropic.parse_request(body)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.LLM
        )
        chat_request, headers = prepare_request(request, instance, chat_request)
        if not chat_request.stream:
            result = await complete_response(
                request, instance, chat_request, self.clock, prefix="msg"
            )
            return json_reply(anthropic.dump_result(result), headers=headers)
        return stream_response(
            instance,
            chat_request,
            self.clock,
            anthropic.StreamDumper,
            prefix="msg",
            frame=named_events,
            shape="anthropic",
            headers=headers,
        )


@dataclass(frozen=True, slots=True)
class CountRoute:
    """POST /v1/messages/count_tokens: count the tokens of a request."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        body = await request.json()
        chat_request = anthropic.parse_request(body, is_count=True)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.LLM
        )
        token_count = await request.cancel_on_disconnect(
            instance.count_tokens(chat_request)
        )
        # Providers without a counting endpoint are estimated locally.
        headers = {"x-modelyard-estimated": "true"} if token_count.estimated else {}
        return json_reply(
            anthropic.dump_token_count(token_count.tokens), headers=headers
        )
