"""What an agent answers, held to the official package's types: protobuf for revision 1.0, pydantic for 0.3."""

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
    """Raises where a response, or one piece of a stream, is not as the official type has it."""
    if "error" in body:
        old.JSONRPCErrorResponse.model_validate(body)
    elif method in _OLD_ANSWERS:
        answer = _OLD_ANSWERS[method].model_validate(body).root
        # The models take what they do not know, and leave it out when they are written: so nothing may be missing then.
        assert answer.model_dump(by_alias=True, exclude_unset=True, mode="json") == body
    else:
        ParseDict(
            dict(body["result"]), _ANSWERS[method]()
        )  # refuses what the type does not know


def hold_card(card: Mapping[str, Any]) -> None:
    """One card for both revisions: each leaves out what is the other's."""
    ParseDict(dict(card), new.AgentCard(), ignore_unknown_fields=True)
    old.AgentCard.model_validate(card)
