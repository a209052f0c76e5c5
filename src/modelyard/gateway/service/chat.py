"""Handlers for questions to chat and completion apps: send, regenerate, stop."""

from dataclasses import dataclass

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import Reply, StreamReply
from modelyard.gateway.service.calls import (
    CHATS,
    Call,
    ServiceError,
    is_uuid,
    list_of,
    mapping_of,
)
from modelyard.gateway.service.runs import AppRuns
from modelyard.gateway.service.versions import Versions
from modelyard.workflow.chats import Chats
from modelyard.workflow.conversations import Conversations


@dataclass(frozen=True, slots=True)
class Questions:
    """Handlers that start runs of chat and completion apps. The answer of each run is
    stored as a message."""

    chats: Chats
    runs: AppRuns
    versions: Versions
    conversations: Conversations

    async def chat(self, call: Call) -> Reply | StreamReply:
        """POST /v1/chat-messages: send a message to a chat app."""
        call.require_mode(*CHATS)
        # Validate the request before a run starts.
        user, is_streaming = call.user, call.is_streaming
        query = call.body.get("query")
        if not isinstance(query, str):
            raise ServiceError(400, "invalid_param", "query is required")
        # Must precede `send`: the version decides which graph runs.
        call = await self._at_version(call)
        run, _ = await self.chats.send(
            call.found,
            call.app,
            query=query,
            inputs=mapping_of(call.body, "inputs"),
            user=user,
            conversation_id=_conversation_id(call),
            files=list_of(call.body, "files"),
            # Only an explicit false disables the generated name.
            names=call.body.get("auto_generate_name", True) is not False,
        )
        return await self.runs.answer(run, call, is_streaming=is_streaming)

    async def _at_version(self, call: Call) -> Call:
        """Return the call for the app version that `workflow_id` selects. Only
        chatflows have selectable versions. Raises ServiceError."""
        version = call.body.get("workflow_id")
        if not version or call.app.mode != "advanced-chat":
            return call
        if not is_uuid(version):
            raise ServiceError(
                400,
                "bad_request",
                f"workflow_id {str(version)[:80]!r} is not a valid uuid.",
            )
        return await self.versions.at_version(call, str(version))

    async def complete(self, call: Call) -> Reply | StreamReply:
        """POST /v1/completion-messages: run a completion app."""
        call.require_mode("completion")
        user, is_streaming = call.user, call.is_streaming
        inputs = dict(mapping_of(call.body, "inputs"))
        query = call.body.get("query")
        if isinstance(query, str) and query:
            # An explicit input named `query` takes precedence.
            inputs.setdefault("query", query)
        files = list_of(call.body, "files")
        run = await self.chats.run(
            call.found, call.app, inputs=inputs, user=user, files=files
        )
        return await self.runs.answer(run, call, is_streaming=is_streaming)

    async def more_like_this(self, call: Call) -> Reply | StreamReply:
        """POST /v1/messages/ID/more-like-this: generate another answer to the same
        question, with more randomness."""
        call.require_mode("completion")
        call.require_feature(
            "more_like_this", "bad_request", "More Like This Is Disabled."
        )
        user, is_streaming = call.user, call.is_streaming
        message = await self.conversations.get_message(
            call.tenant, call.found.id, call.names["message_id"]
        )
        if message.user != user:
            # Another user's message is reported as missing, so its existence is not
            # revealed.
            raise NotFoundError("Message Not Exists.")
        run = await self.chats.run(
            call.found,
            call.app,
            inputs=message.inputs,
            user=user,
            files=message.files,
            is_varied=True,
        )
        return await self.runs.answer(run, call, is_streaming=is_streaming)

    async def stop_chat(self, call: Call) -> Reply:
        """POST /v1/chat-messages/ID/stop."""
        call.require_mode(*CHATS)
        return await self.runs.stop(call)

    async def stop_completion(self, call: Call) -> Reply:
        """POST /v1/completion-messages/ID/stop."""
        call.require_mode("completion")
        return await self.runs.stop(call)


def _conversation_id(call: Call) -> str:
    """Return the id of the conversation to continue, or an empty string for a new one.
    Raises ServiceError if it is not a UUID."""
    conversation = call.body.get("conversation_id") or ""
    if conversation and not is_uuid(conversation):
        raise ServiceError(
            400, "invalid_param", f"{str(conversation)[:80]} is not a valid uuid."
        )
    return str(conversation)
