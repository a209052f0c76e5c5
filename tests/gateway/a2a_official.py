"""Validation of A2A messages against the official package's types.

Revision 1.0 has protobuf messages, revision 0.3.0 pydantic models.
"""

from collections.abc import Mapping
from typing import Any

from a2a.compat.v0_3 import types as old
from a2a.types import a2a_pb2 as new
from google.protobuf.json_format import ParseDict

_ANSWERS = {
    "SendMessage": new.SendMessageResponse, "GetTask": new.Task, "CancelTask": new.Task, "ListTasks": new.ListTasksResponse,
    "SendStreamingMessage": new.StreamResponse, "SubscribeToTask": new.StreamResponse,
}  # fmt: skip
_OLD_ANSWERS = {
    "message/send": old.SendMessageResponse, "tasks/get": old.GetTaskResponse, "tasks/cancel": old.CancelTaskResponse,
    "message/stream": old.SendStreamingMessageResponse, "tasks/resubscribe": old.SendStreamingMessageResponse,
}  # fmt: skip


def hold(method: str, body: Mapping[str, Any]) -> None:
    """Raise if a response or a stream event does not match its official type."""
    if "error" in body:
        old.JSONRPCErrorResponse.model_validate(body)
    elif method in _OLD_ANSWERS:
        answer = _OLD_ANSWERS[method].model_validate(body).root
        # The models accept unknown fields but drop them when serialized, so equality
        # shows that there are none.
        assert answer.model_dump(by_alias=True, exclude_unset=True, mode="json") == body
    else:
        # Raises on unknown fields.
        ParseDict(dict(body["result"]), _ANSWERS[method]())


def hold_card(card: Mapping[str, Any]) -> None:
    """Check a card that serves both revisions: each ignores the other's fields."""
    ParseDict(dict(card), new.AgentCard(), ignore_unknown_fields=True)
    old.AgentCard.model_validate(card)
