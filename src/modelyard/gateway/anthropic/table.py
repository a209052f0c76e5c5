"""Route table of Anthropic's API."""

from modelyard.base.clock import Clock
from modelyard.gateway.anthropic import messages, schemas
from modelyard.gateway.errors import ANTHROPIC
from modelyard.gateway.table import DEVELOPER, Api, Row, Schema, json_or_events
from modelyard.runtime.model_manager import ModelManager


def api(manager: ModelManager, clock: Clock) -> Api:
    """Return Anthropic's API for the models of `manager`."""
    rows = (
        Row(
            method="POST",
            path="/v1/messages",
            auth=DEVELOPER,
            summary="Create a message.",
            takes=Schema(schemas.REQUEST),
            answer=json_or_events(schemas.ANSWER),
            handler=messages.chat_route(manager, clock),
            calls_model=True,
        ),
        Row(
            method="POST",
            path="/v1/messages/count_tokens",
            auth=DEVELOPER,
            summary="Count the input tokens of a request.",
            takes=Schema(schemas.COUNT_REQUEST),
            answer=Schema(schemas.COUNT),
            handler=messages.CountRoute(manager),
        ),
    )
    return Api(
        name="anthropic",
        title="Anthropic's API",
        about="Messages, for Anthropic's clients.",
        prefixes=("/v1/messages",),
        errors=ANTHROPIC,
        rows=rows,
    )
