"""Questions to chat and completion apps: asked, asked again for another answer, stopped."""

from dataclasses import dataclass

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import Reply, StreamReply
from modelyard.gateway.service.calls import CHATS, Call, ServiceError, is_uuid, list_of, mapping_of
from modelyard.gateway.service.runs import AppRuns
from modelyard.gateway.service.versions import Versions
from modelyard.workflow.chats import Chats
from modelyard.workflow.conversations import Conversations


@dataclass(frozen=True, slots=True)
class Questions:
    """Each is a run of the app; its answer is kept as a message."""

    chats: Chats
    runs: AppRuns
    versions: Versions
    conversations: Conversations

    async def chat(self, call: Call) -> Reply | StreamReply:
        """POST /v1/chat-messages."""
        call.must_be(*CHATS)
        # What is wrong with the call is said before a run begins.
        user, is_streaming = call.user, call.is_streaming
        query = call.body.get("query")
        if not isinstance(query, str):
            raise ServiceError(400, "invalid_param", "query is required")
        call = await self._at_version(call)
        run, _ = await self.chats.send(
            call.found, call.app, query=query, inputs=mapping_of(call.body, "inputs"), user=user,
            conversation_id=_conversation_id(call), files=list_of(call.body, "files"),
            names=call.body.get("auto_generate_name", True) is not False,
        )  # fmt: skip
        return await self.runs.answer(run, call, is_streaming=is_streaming)

    async def _at_version(self, call: Call) -> Call:
        """The call, about the version that it names. Only chatflows have versions to choose. Raises ServiceError."""
        version = call.body.get("workflow_id")
        if not version or call.app.mode != "advanced-chat":
            return call
        if not is_uuid(version):
            raise ServiceError(400, "bad_request", f"workflow_id {str(version)[:80]!r} is not a valid uuid.")
        return await self.versions.at(call, str(version))

    async def complete(self, call: Call) -> Reply | StreamReply:
        """POST /v1/completion-messages."""
        call.must_be("completion")
        user, is_streaming = call.user, call.is_streaming
        inputs = dict(mapping_of(call.body, "inputs"))
        query = call.body.get("query")
        if isinstance(query, str) and query:
            inputs.setdefault("query", query)
        files = list_of(call.body, "files")
        run = await self.chats.run(call.found, call.app, inputs=inputs, user=user, files=files)
        return await self.runs.answer(run, call, is_streaming=is_streaming)

    async def more_like_this(self, call: Call) -> Reply | StreamReply:
        """POST /v1/messages/ID/more-like-this: another answer to what a message answered, with more chance in it."""
        call.must_be("completion")
        call.must_have("more_like_this", "bad_request", "More Like This Is Disabled.")
        user, is_streaming = call.user, call.is_streaming
        message = await self.conversations.message(call.tenant, call.found.id, call.names["message_id"])
        if message.user != user:
            raise NotFoundError("Message Not Exists.")
        run = await self.chats.run(
            call.found, call.app, inputs=message.inputs, user=user, files=message.files, is_varied=True
        )
        return await self.runs.answer(run, call, is_streaming=is_streaming)

    async def stop_chat(self, call: Call) -> Reply:
        """POST /v1/chat-messages/ID/stop."""
        call.must_be(*CHATS)
        return await self.runs.stop(call)

    async def stop_completion(self, call: Call) -> Reply:
        """POST /v1/completion-messages/ID/stop."""
        call.must_be("completion")
        return await self.runs.stop(call)


def _conversation_id(call: Call) -> str:
    """Of the conversation that goes on; empty for a new one. Raises ServiceError for what is no id."""
    conversation = call.body.get("conversation_id") or ""
    if conversation and not is_uuid(conversation):
        raise ServiceError(400, "invalid_param", f"{str(conversation)[:80]} is not a valid uuid.")
    return str(conversation)
