"""Messages and conversations, as callers of the service API see them."""

import json
from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import CHATS, Call, Handler, ServiceError, end_user_id, iso, made_id
from modelyard.gateway.service.parts import ServiceParts
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import SystemPromptMessage, UserPromptMessage
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.caller import Caller
from modelyard.workflow.chats import NEW_NAME
from modelyard.workflow.conversations import Conversation, Message
from modelyard.workflow.services import upload_id
from modelyard.workflow.variables import fits


class ConversationCalls:
    def __init__(self, parts: ServiceParts) -> None:
        self._parts = parts
        self.routes: Mapping[str, Mapping[str, Handler]] = {
            "/v1/messages": {"GET": self.messages},
            "/v1/messages/": {"GET": self.suggested, "POST": self.feedback},
            "/v1/app/feedbacks": {"GET": self.feedbacks},
            "/v1/conversations": {"GET": self.list_conversations},
            "/v1/conversations/": {
                "DELETE": self.delete_conversation, "POST": self.rename, "GET": self.variables,
                "PUT": self.update_variable,
            },
        }  # fmt: skip

    async def messages(self, call: Call) -> Reply:
        call.must_be(*CHATS)
        user, limit = call.user, call.number("limit", 20)
        conversation = await self._parts.conversations.find(
            call.tenant, call.found.id, user, call.request.query("conversation_id") or ""
        )
        before = 1e15
        if first := call.request.query("first_id"):
            message = await self._parts.conversations.message(call.tenant, call.found.id, first)
            if message.conversation != conversation.id:
                raise NotFoundError("First Message Not Exists.")
            before = message.created_at
        found = await self._parts.conversations.thread(call.tenant, conversation.id, before=before, most=limit + 1)
        shown = [self._message(one, call) for one in found[:limit]][::-1]
        return json_reply({"limit": limit, "has_more": len(found) > limit, "data": shown})

    def _message(self, one: Message, call: Call) -> JSON:
        usage = one.metadata.get("usage") or {}
        return {
            "id": one.id, "conversation_id": one.conversation, "parent_message_id": one.parent, "inputs": one.inputs,
            "query": one.query, "answer": one.answer, "status": one.status, "error": one.error or None,
            "message_files": [self._message_file(file, call) for file in one.files],
            "feedback": {"rating": one.rating} if one.rating else None,
            "retriever_resources": one.metadata.get("retriever_resources") or [],
            "agent_thoughts": one.metadata.get("agent_thoughts") or [],
            "created_at": int(one.created_at), "extra_contents": [], "total_tokens": usage.get("total_tokens", 0),
            "message_tokens": usage.get("prompt_tokens", 0), "answer_tokens": usage.get("completion_tokens", 0),
            "provider_response_latency": usage.get("latency", 0.0), "total_price": usage.get("total_price", "0"),
            "currency": usage.get("currency", "USD"),
        }  # fmt: skip

    def _message_file(self, file: JSON, call: Call) -> JSON:
        url = file.get("remote_url") or self._parts.chats.files_of(call.tenant).address_of(file)
        return {
            "id": made_id(str(file.get("related_id") or url)),
            "filename": file.get("filename"), "type": file.get("type"), "url": url,
            "mime_type": file.get("mime_type"), "size": file.get("size"),
            "transfer_method": file.get("transfer_method"), "belongs_to": "user",
            "upload_file_id": upload_id(str(file.get("related_id") or "")) or None,
        }  # fmt: skip

    async def suggested(self, call: Call) -> Reply:
        name = call.subject("suggested")
        call.must_be(*CHATS)
        message = await self._parts.conversations.message(call.tenant, call.found.id, name)
        if message.user != call.user:
            raise NotFoundError("Message Not Exists.")
        if not (call.app.features.get("suggested_questions_after_answer") or {}).get("enabled"):
            raise ServiceError(400, "bad_request", "Suggested Questions Is Disabled.")
        told = (
            "Read the exchange and write three short questions that the user may ask next, in the language of the "
            'exchange. Answer with a JSON array of strings and nothing else, as ["…", "…", "…"].'
        )
        said = f"User: {message.query}\nAssistant: {message.answer}"
        model = self._parts.models.find(Caller(tenant=call.tenant), "default", ModelType.LLM)
        messages: list[Any] = [SystemPromptMessage(content=told), UserPromptMessage(content=said)]
        result = await model.invoke_llm(LLMRequest(messages=messages, model_parameters={"max_tokens": 256}))
        return json_reply({"result": "success", "data": _questions(result.text)})

    async def feedback(self, call: Call) -> Reply:
        name = call.subject("feedbacks")
        rating = call.body.get("rating")
        if rating not in ("like", "dislike", None):
            raise ServiceError(400, "invalid_param", f"rating must be like, dislike or null, not {str(rating)[:40]!r}")
        message = await self._parts.conversations.message(call.tenant, call.found.id, name)
        if message.user != call.user:
            raise NotFoundError("Message Not Exists.")
        content = str(call.body.get("content") or "")
        await self._parts.conversations.rate(call.tenant, call.found.id, name, rating or "", content)
        return json_reply({"result": "success"})

    async def feedbacks(self, call: Call) -> Reply:
        page, limit = call.number("page", 1, 10_000), call.number("limit", 20)
        found = await self._parts.conversations.rated(call.tenant, call.found.id, most=limit, skip=(page - 1) * limit)
        data = [
            {
                "id": made_id(f"feedback/{one.id}"), "app_id": call.found.id,
                "conversation_id": one.conversation, "message_id": one.id, "rating": one.rating,
                "content": one.feedback, "from_source": "user",
                "from_end_user_id": end_user_id(one.tenant, one.app, one.user),
                "from_account_id": None, "created_at": iso(one.rated_at), "updated_at": iso(one.rated_at),
            }
            for one in found
        ]  # fmt: skip
        return json_reply({"data": data})

    async def list_conversations(self, call: Call) -> Reply:
        call.must_be(*CHATS)
        user, limit = call.user, call.number("limit", 20)
        sort = call.request.query("sort_by") or "-updated_at"
        field = sort.removeprefix("-")
        if field not in ("created_at", "updated_at"):
            raise ServiceError(400, "invalid_param", f"sort_by must be created_at or updated_at, not {sort[:40]!r}")
        found = await self._parts.conversations.newest(call.tenant, call.found.id, user)
        found.sort(key=lambda one: getattr(one, field), reverse=sort.startswith("-"))
        if last := call.request.query("last_id"):
            place = next((place for place, one in enumerate(found) if one.id == last), None)
            if place is None:
                raise NotFoundError("Last Conversation Not Exists.")
            found = found[place + 1 :]
        shown = [_conversation(one) for one in found[:limit]]
        return json_reply({"limit": limit, "has_more": len(found) > limit, "data": shown})

    async def _conversation(self, call: Call) -> tuple[Conversation, str]:
        """(the one that the address names, what stands behind it)."""
        call.must_be(*CHATS)
        name, _, verb = call.rest.partition("/")
        return await self._parts.conversations.find(call.tenant, call.found.id, call.user, name), verb

    async def delete_conversation(self, call: Call) -> Reply:
        conversation, _ = await self._conversation(call)
        await self._parts.conversations.delete(call.tenant, call.found.id, call.user, conversation.id)
        return Reply(b"", status=204)

    async def rename(self, call: Call) -> Reply:
        conversation, verb = await self._conversation(call)
        if verb != "name":
            raise ServiceError(404, "not_found", f"there is nothing at {call.request.path!r}")
        name = call.body.get("name")
        if not call.body.get("auto_generate") and (not isinstance(name, str) or not name.strip()):
            raise ServiceError(400, "invalid_param", "name is required when auto_generate is false")
        if call.body.get("auto_generate"):
            first = await self._parts.conversations.thread(call.tenant, conversation.id, most=500)
            query = " ".join(first[-1].query.split()) if first else ""
            named = await self._parts.features.name_of(call.tenant, call.user, query) if query else ""
            name = named or query[:40] or NEW_NAME
        renamed = await self._parts.conversations.rename(conversation, str(name)[:255])
        return json_reply(_conversation(renamed))

    async def variables(self, call: Call) -> Reply:
        conversation, verb = await self._conversation(call)
        if verb != "variables":
            raise ServiceError(404, "not_found", f"there is nothing at {call.request.path!r}")
        wanted, limit = call.request.query("variable_name"), call.number("limit", 20)
        data = [
            _variable(name, one, conversation)
            for name, one in conversation.variables.items()
            if wanted in (None, "", name)
        ]
        if last := call.request.query("last_id"):
            place = next((place for place, one in enumerate(data) if one["id"] == last), -1)
            data = data[place + 1 :]
        return json_reply({"limit": limit, "has_more": len(data) > limit, "data": data[:limit]})

    async def update_variable(self, call: Call) -> Reply:
        conversation, verb = await self._conversation(call)
        kind, _, row = verb.partition("/")
        name = next((name for name, one in conversation.variables.items() if one.get("id") == row), None)
        if kind != "variables" or name is None:
            raise ServiceError(404, "not_found", "Conversation Variable Not Exists.")
        if "value" not in call.body:
            raise ServiceError(400, "invalid_param", "value is required")
        one, value = conversation.variables[name], call.body["value"]
        if not fits(value, str(one.get("value_type") or "any")):
            raise ServiceError(400, "bad_request", f"{name} is {one.get('value_type')}; the value is not")
        variables = {**conversation.variables, name: {**one, "value": value}}
        await self._parts.conversations.touch(call.tenant, conversation.id, variables)
        return json_reply(_variable(name, variables[name], conversation))


def _conversation(one: Conversation) -> JSON:
    return {
        "id": one.id, "name": one.name, "inputs": one.inputs, "status": "normal", "introduction": "",
        "created_at": int(one.created_at), "updated_at": int(one.updated_at),
    }  # fmt: skip


def _variable(name: str, one: JSON, conversation: Conversation) -> JSON:
    value = one.get("value")
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return {
        "id": one.get("id"), "name": name, "value_type": one.get("value_type"), "value": shown,
        "description": one.get("description") or "", "created_at": int(conversation.created_at),
        "updated_at": int(one.get("updated_at") or conversation.updated_at),
    }  # fmt: skip


def _questions(text: str) -> list[str]:
    start, end = text.find("["), text.rfind("]")
    try:
        found = json.loads(text[start : end + 1]) if 0 <= start < end else []
    except ValueError:
        found = []
    return [str(one) for one in found if isinstance(one, str)][:3]
