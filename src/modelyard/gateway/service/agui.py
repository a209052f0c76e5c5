"""`/v1/ag-ui`: apps for front ends that use the AG-UI protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.base.json_types import is_array, is_object
from modelyard.gateway.http import StreamReply
from modelyard.gateway.service.agui_events import AgUiEvents
from modelyard.gateway.service.calls import (
    Call,
    ServiceError,
    is_uuid,
    list_of,
    mapping_of,
)
from modelyard.gateway.service.runs import AppRuns, WatchOptions
from modelyard.models.types import JSON
from modelyard.workflow.chats import Chats
from modelyard.workflow.conversations import Conversations
from modelyard.workflow.journal import RunRecord


@dataclass(frozen=True, slots=True)
class AgUiRuns:
    """Runs that are started and streamed by AG-UI: a thread is a conversation here, the
    state holds the inputs."""

    chats: Chats
    runs: AppRuns
    conversations: Conversations

    async def start(self, call: Call) -> StreamReply:
        """POST /v1/ag-ui: start a run and stream its events."""
        run = await (self._send(call) if call.app.is_chat else self._run(call))
        call.request.is_recorded = True
        return self.stream(run, str(call.body.get("runId") or ""))

    def stream(self, run: RunRecord, run_id: str = "") -> StreamReply:
        """Stream the run's events. `run_id` is the front end's name of the run; empty
        to use its own id."""
        return self.runs.stream(
            run, AgUiEvents(run, run_id=run_id), _error_event, WatchOptions()
        )

    async def _send(self, call: Call) -> RunRecord:
        """Send the user's last message to the thread's conversation. Raises
        ServiceError if there is no user message."""
        user, query = _user(call), _query(call)
        if not query:
            raise ServiceError(
                400, "invalid_param", "'messages' must contain a user message"
            )
        # An unknown thread starts a new conversation; front ends invent thread ids.
        conversation = await self._conversation_of_thread(call, user)
        run, _ = await self.chats.send(
            call.found,
            call.app,
            query=query,
            inputs=_state(call),
            user=user,
            conversation_id=conversation,
        )
        return run

    async def _conversation_of_thread(self, call: Call, user: str) -> str:
        """Return the id of the thread's conversation, or an empty string for a new
        thread."""
        thread = str(call.body.get("threadId") or "")
        # Conversation ids are UUIDs; any other thread id cannot be one of ours.
        if not is_uuid(thread):
            return ""
        try:
            conversation = await self.conversations.find(
                call.tenant, call.found.id, user, thread
            )
        except NotFoundError:
            return ""
        return conversation.id

    async def _run(self, call: Call) -> RunRecord:
        """Start a run of an app without conversations.

        The front end's state gives the inputs. The user's last message becomes the
        input `query` of a completion app.
        """
        query, inputs = _query(call), dict(_state(call))
        # Completion apps take the message as the input `query`.
        if query and call.app.mode == "completion":
            inputs["query"] = query
        return await self.chats.run(
            call.found, call.app, inputs=inputs, user=_user(call)
        )


def _user(call: Call) -> str:
    """Return the user's name. AG-UI has no field for it, so it comes from
    `forwardedProps` or the query string."""
    props = call.body.get("forwardedProps")
    user_name = props.get("user") if is_object(props) else ""
    return str(user_name or call.request.query("user") or "ag-ui")


def _state(call: Call) -> Mapping[str, Any]:
    """Return the front end's state as inputs, or nothing if it is not an object."""
    return (
        mapping_of(call.body, "state")
        if isinstance(call.body.get("state"), dict)
        else {}
    )


def _query(call: Call) -> str:
    """Return the user's last message, or an empty string if there is none."""
    for message in reversed(list_of(call.body, "messages")):
        if is_object(message) and message.get("role") == "user":
            return _message_text(message.get("content"))
    return ""


def _message_text(content: Any) -> str:
    """Return a message's text. Text parts are joined by newlines; other parts are
    ignored."""
    if isinstance(content, str):
        return content
    parts = content if is_array(content) else []
    texts = [part for part in parts if is_object(part) and part.get("type") == "text"]
    return "\n".join(str(part.get("text") or "") for part in texts)


def _error_event(error: ModelyardError) -> JSON:
    """Return AG-UI's event for a stream that ends with an error."""
    return {"type": "RUN_ERROR", "message": error.public_text, "code": error.code}
