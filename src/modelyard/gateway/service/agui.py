"""`/v1/ag-ui`: apps for front ends that speak AG-UI."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.gateway.http import StreamReply
from modelyard.gateway.service.agui_events import AgUiEvents
from modelyard.gateway.service.calls import Call, ServiceError, is_uuid, list_of, mapping_of
from modelyard.gateway.service.runs import AppRuns, Watching
from modelyard.models.types import JSON
from modelyard.workflow.chats import Chats
from modelyard.workflow.conversations import Conversations
from modelyard.workflow.journal import RunRecord


@dataclass(frozen=True, slots=True)
class AgUiRuns:
    """Runs, begun and told as AG-UI has them: its thread is our conversation, its state our inputs."""

    chats: Chats
    runs: AppRuns
    conversations: Conversations

    async def begin(self, call: Call) -> StreamReply:
        """POST /v1/ag-ui."""
        run = await (self._send(call) if call.app.is_chat else self._run(call))
        return self.stream(run, str(call.body.get("runId") or ""))

    def stream(self, run: RunRecord, run_id: str = "") -> StreamReply:
        """The run's events. `run_id`: what the front end calls it; empty for its own id."""
        return self.runs.stream(run, AgUiEvents(run, run_id=run_id), _error_event, Watching())

    async def _send(self, call: Call) -> RunRecord:
        """The last message of the user's, said to the thread. Raises ServiceError where there is none."""
        user, query = _user(call), _query(call)
        if not query:
            raise ServiceError(400, "invalid_param", "messages must hold one of the user")
        conversation = await self._known_thread(call, user)
        run, _ = await self.chats.send(
            call.found, call.app, query=query, inputs=_state(call), user=user, conversation_id=conversation
        )
        return run

    async def _known_thread(self, call: Call, user: str) -> str:
        """The conversation that the thread is; empty where it is a new one."""
        thread = str(call.body.get("threadId") or "")
        if not is_uuid(thread):
            return ""
        try:
            conversation = await self.conversations.find(call.tenant, call.found.id, user, thread)
        except NotFoundError:
            return ""
        return conversation.id

    async def _run(self, call: Call) -> RunRecord:
        query, inputs = _query(call), dict(_state(call))
        if query and call.app.mode == "completion":
            inputs["query"] = query
        return await self.chats.run(call.found, call.app, inputs=inputs, user=_user(call))


def _user(call: Call) -> str:
    """AG-UI names no user: front ends hand one on beside the protocol."""
    props = call.body.get("forwardedProps")
    named = props.get("user") if isinstance(props, dict) else ""
    return str(named or call.request.query("user") or "ag-ui")


def _state(call: Call) -> Mapping[str, Any]:
    """The front end's state; empty where it is no object: then it holds no inputs."""
    return mapping_of(call.body, "state") if isinstance(call.body.get("state"), dict) else {}


def _query(call: Call) -> str:
    """What the user said last; empty where nothing was said."""
    for message in reversed(list_of(call.body, "messages")):
        if isinstance(message, dict) and message.get("role") == "user":
            return _words(message.get("content"))
    return ""


def _words(content: Any) -> str:
    """A message's text: as it is, or its parts' together."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return "\n".join(str(part.get("text") or "") for part in texts)


def _error_event(error: ModelyardError) -> JSON:
    return {"type": "RUN_ERROR", "message": str(error), "code": error.code}
