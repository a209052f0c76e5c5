"""Handlers for messages of chat and completion apps: list and rate them."""

from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import (
    CHATS,
    Call,
    ServiceError,
    derived_id,
    end_user_id,
    iso,
)
from modelyard.gateway.service.shapes import (
    FeedbackShown,
    MessageFileShown,
    MessageShown,
    Rating,
    Result,
)
from modelyard.models.types import JSON
from modelyard.workflow.chats import Chats
from modelyard.workflow.conversations import Conversations, Message
from modelyard.workflow.services import TenantFiles, upload_id

_LATEST = 1e15
"""A timestamp (seconds since 1970) later than any message."""


@dataclass(frozen=True, slots=True)
class Messages:
    """Handlers for messages. A message is accessible to its user only; ratings are
    visible to all holders of the app's key."""

    conversations: Conversations
    chats: Chats

    async def list(self, call: Call) -> Reply:
        """GET /v1/messages: the newest messages of a conversation, oldest first."""
        call.require_mode(*CHATS)
        user, limit = call.user, call.positive_int("limit", 20)
        conversation_id = call.request.query("conversation_id") or ""
        conversation = await self.conversations.find(
            call.tenant,
            call.found.id,
            user,
            conversation_id,
        )
        before_timestamp = await self._before_timestamp(call, conversation.id)
        # One more than requested is read to learn whether another page exists.
        newest = await self.conversations.list_messages(
            call.tenant,
            conversation.id,
            created_before=before_timestamp,
            limit=limit + 1,
        )
        files = self.chats.files_of(call.tenant)
        message_views = [
            _message_view(message, files) for message in reversed(newest[:limit])
        ]
        return json_reply(
            {
                "limit": limit,
                "has_more": len(newest) > limit,
                "data": message_views,
            }
        )

    async def _before_timestamp(self, call: Call, conversation: str) -> float:
        """Return the time before which messages are listed: that of `first_id`, or the
        far future. Raises NotFoundError."""
        first = call.request.query("first_id")
        if not first:
            return _LATEST
        message = await self.conversations.get_message(
            call.tenant, call.found.id, first
        )
        if message.conversation != conversation:
            raise NotFoundError("First Message Not Exists.")
        return message.created_at

    async def _own_message(self, call: Call) -> Message:
        """Return the message in the path. Raises NotFoundError if it does not exist or
        belongs to another user."""
        message = await self.conversations.get_message(
            call.tenant, call.found.id, call.names["message_id"]
        )
        # The same error as for a missing one: ids of others cannot be found out.
        if message.user != call.user:
            raise NotFoundError("Message Not Exists.")
        return message

    async def rate(self, call: Call) -> Reply:
        """POST /v1/messages/ID/feedbacks."""
        rating = call.body.get("rating")
        if rating not in ("like", "dislike", None):
            raise ServiceError(
                400,
                "invalid_param",
                f"'rating' must be like, dislike or null, not {str(rating)[:40]!r}",
            )
        message = await self._own_message(call)
        # A null rating removes an earlier one; it is stored as an empty text.
        content = str(call.body.get("content") or "")
        await self.conversations.set_rating(
            call.tenant,
            call.found.id,
            message.id,
            rating or "",
            content,
        )
        return json_reply(Result())

    async def feedbacks(self, call: Call) -> Reply:
        """GET /v1/app/feedbacks: ratings and comments of all users."""
        page, limit = (
            call.positive_int("page", 1, 10_000),
            call.positive_int("limit", 20),
        )
        rated = await self.conversations.list_rated(
            call.tenant,
            call.found.id,
            limit=limit,
            skip=(page - 1) * limit,
        )
        return json_reply({"data": [_feedback(message) for message in rated]})


def _message_view(message: Message, files: TenantFiles) -> MessageShown:
    """Return a message as the API's clients read it."""
    usage: dict[str, Any] = message.metadata.get("usage") or {}
    # Usage is stored with the answer's metadata; messages without model calls have
    # none.
    return MessageShown(
        id=message.id,
        conversation_id=message.conversation,
        parent_message_id=message.parent,
        inputs=message.inputs,
        query=message.query,
        answer=message.answer,
        status=message.status,
        error=message.error or None,
        message_files=[_file(file, files) for file in message.files],
        feedback=Rating(rating=message.rating) if message.rating else None,
        retriever_resources=message.metadata.get("retriever_resources") or [],
        agent_thoughts=message.metadata.get("agent_thoughts") or [],
        created_at=int(message.created_at),
        extra_contents=[],
        total_tokens=usage.get("total_tokens", 0),
        message_tokens=usage.get("prompt_tokens", 0),
        answer_tokens=usage.get("completion_tokens", 0),
        provider_response_latency=usage.get("latency", 0.0),
        total_price=usage.get("total_price", "0"),
        currency=usage.get("currency", "USD"),
    )


def _file(file: JSON, files: TenantFiles) -> MessageFileShown:
    """Return a file of a message as the API's clients read it."""
    # Uploaded files get a freshly signed address.
    url = file.get("remote_url") or files.address_of(file)
    return MessageFileShown(
        id=derived_id(str(file.get("related_id") or url)),
        filename=file.get("filename"),
        type=file.get("type"),
        url=url,
        mime_type=file.get("mime_type"),
        size=file.get("size"),
        transfer_method=file.get("transfer_method"),
        belongs_to="user",
        upload_file_id=upload_id(str(file.get("related_id") or "")) or None,
    )


def _feedback(message: Message) -> FeedbackShown:
    """Return a message's rating as the API's clients read it."""
    rated_at = iso(message.rated_at)
    return FeedbackShown(
        id=derived_id(f"feedback/{message.id}"),
        app_id=message.app,
        conversation_id=message.conversation,
        message_id=message.id,
        rating=message.rating,
        content=message.feedback,
        from_source="user",
        from_end_user_id=end_user_id(message.tenant, message.app, message.user),
        from_account_id=None,
        created_at=rated_at,
        updated_at=rated_at,
    )
