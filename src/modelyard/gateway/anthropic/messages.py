"""POST /v1/messages and /v1/messages/count_tokens in the format of Anthropic's API."""

from dataclasses import dataclass

from modelyard.base.clock import Clock
from modelyard.base.fields import required_field
from modelyard.gateway.chat_response import named_events, with_call_headers
from modelyard.gateway.chat_route import ChatRoute
from modelyard.gateway.direct import AnswerFormat
from modelyard.gateway.http import Reply, Request, json_reply
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


def chat_route(manager: ModelManager, clock: Clock) -> ChatRoute:
    """Return the handler of POST /v1/messages."""
    return ChatRoute(
        manager,
        clock,
        anthropic.parse_request,
        anthropic.StreamDumper,
        FORMAT,
        anthropic.FORMAT,
        begins_with_usage=True,
    )


@dataclass(frozen=True, slots=True)
class CountRoute:
    """POST /v1/messages/count_tokens: count the tokens of a request."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        """Count the tokens of a request, without a call to the model."""
        body = await request.json()
        parsed = anthropic.parse_request(body, is_count=True)
        chat_request = with_call_headers(request, parsed)
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
