"""Messages of chat and completion apps: read, rated, and what may be asked next."""

import json
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import CHATS, Call, ServiceError, end_user_id, iso, made_id
from modelyard.gateway.service.shapes import (
    FeedbackShown,
    MessageFileShown,
    MessageShown,
    Rating,
    Result,
    SuggestedQuestions,
)
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import SystemPromptMessage, UserPromptMessage
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.tenancy.caller import Caller
from modelyard.workflow.chats import Chats
from modelyard.workflow.conversations import Conversations, Message
from modelyard.workflow.services import TenantFiles, upload_id

_LATEST = 1e15
"""Later than any message: seconds since 1970."""
_ASKING_NEXT = (
    "Read the exchange and write three short questions that the user may ask next, in the language of the "
    'exchange. Answer with a JSON array of strings and nothing else, as ["…", "…", "…"].'
)
_MOST_QUESTIONS = 3


@dataclass(frozen=True, slots=True)
class Messages:
    """Each is its user's alone; what was rated is for all who have the app's key."""

    conversations: Conversations
    chats: Chats
    models: ModelManager

    async def list(self, call: Call) -> Reply:
        """GET /v1/messages: a conversation's newest, in the order in which they were said."""
        call.must_be(*CHATS)
        user, limit = call.user, call.number("limit", 20)
        wanted = call.request.query("conversation_id") or ""
        conversation = await self.conversations.find(call.tenant, call.found.id, user, wanted)
        before = await self._before(call, conversation.id)
        newest = await self.conversations.thread(call.tenant, conversation.id, before=before, most=limit + 1)
        files = self.chats.files_of(call.tenant)
        shown = [_shown(message, files) for message in reversed(newest[:limit])]
        return json_reply({"limit": limit, "has_more": len(newest) > limit, "data": shown})

    async def _before(self, call: Call, conversation: str) -> float:
        """When the message was said before which others are wanted. Raises NotFoundError."""
        first = call.request.query("first_id")
        if not first:
            return _LATEST
        message = await self.conversations.message(call.tenant, call.found.id, first)
        if message.conversation != conversation:
            raise NotFoundError("First Message Not Exists.")
        return message.created_at

    async def _own(self, call: Call) -> Message:
        """The message that the address names. Raises NotFoundError where it is another user's."""
        message = await self.conversations.message(call.tenant, call.found.id, call.names["message_id"])
        if message.user != call.user:
            raise NotFoundError("Message Not Exists.")
        return message

    async def suggested(self, call: Call) -> Reply:
        """GET /v1/messages/ID/suggested: what the user may ask next, as a model thinks."""
        call.must_be(*CHATS)
        message = await self._own(call)
        call.must_have("suggested_questions_after_answer", "bad_request", "Suggested Questions Is Disabled.")
        said = f"User: {message.query}\nAssistant: {message.answer}"
        model = self.models.find(Caller(tenant=call.tenant), "default", ModelType.LLM)
        messages: list[Any] = [SystemPromptMessage(content=_ASKING_NEXT), UserPromptMessage(content=said)]
        result = await model.invoke_llm(LLMRequest(messages=messages, model_parameters={"max_tokens": 256}))
        return json_reply(SuggestedQuestions(data=_questions(result.text)))

    async def rate(self, call: Call) -> Reply:
        """POST /v1/messages/ID/feedbacks."""
        rating = call.body.get("rating")
        if rating not in ("like", "dislike", None):
            raise ServiceError(400, "invalid_param", f"rating must be like, dislike or null, not {str(rating)[:40]!r}")
        message = await self._own(call)
        content = str(call.body.get("content") or "")
        await self.conversations.rate(call.tenant, call.found.id, message.id, rating or "", content)
        return json_reply(Result())

    async def feedbacks(self, call: Call) -> Reply:
        """GET /v1/app/feedbacks: what users said of answers."""
        page, limit = call.number("page", 1, 10_000), call.number("limit", 20)
        rated = await self.conversations.rated(call.tenant, call.found.id, most=limit, skip=(page - 1) * limit)
        return json_reply({"data": [_feedback(message) for message in rated]})


def _shown(message: Message, files: TenantFiles) -> MessageShown:
    usage = message.metadata.get("usage") or {}
    return MessageShown(
        id=message.id, conversation_id=message.conversation, parent_message_id=message.parent, inputs=message.inputs,
        query=message.query, answer=message.answer, status=message.status, error=message.error or None,
        message_files=[_file(file, files) for file in message.files],
        feedback=Rating(rating=message.rating) if message.rating else None,
        retriever_resources=message.metadata.get("retriever_resources") or [],
        agent_thoughts=message.metadata.get("agent_thoughts") or [],
        created_at=int(message.created_at), extra_contents=[], total_tokens=usage.get("total_tokens", 0),
        message_tokens=usage.get("prompt_tokens", 0), answer_tokens=usage.get("completion_tokens", 0),
        provider_response_latency=usage.get("latency", 0.0), total_price=usage.get("total_price", "0"),
        currency=usage.get("currency", "USD"),
    )  # fmt: skip


def _file(file: JSON, files: TenantFiles) -> MessageFileShown:
    url = file.get("remote_url") or files.address_of(file)
    return MessageFileShown(
        id=made_id(str(file.get("related_id") or url)), filename=file.get("filename"), type=file.get("type"), url=url,
        mime_type=file.get("mime_type"), size=file.get("size"), transfer_method=file.get("transfer_method"),
        belongs_to="user", upload_file_id=upload_id(str(file.get("related_id") or "")) or None,
    )  # fmt: skip


def _feedback(message: Message) -> FeedbackShown:
    rated_at = iso(message.rated_at)
    return FeedbackShown(
        id=made_id(f"feedback/{message.id}"), app_id=message.app, conversation_id=message.conversation,
        message_id=message.id, rating=message.rating, content=message.feedback, from_source="user",
        from_end_user_id=end_user_id(message.tenant, message.app, message.user), from_account_id=None,
        created_at=rated_at, updated_at=rated_at,
    )  # fmt: skip


def _questions(text: str) -> list[str]:
    """Those of the JSON array somewhere in what a model said; none where there is none."""
    start, end = text.find("["), text.rfind("]")
    try:
        questions = json.loads(text[start : end + 1]) if 0 <= start < end else []
    except ValueError:
        questions = []
    return [question for question in questions if isinstance(question, str)][:_MOST_QUESTIONS]
