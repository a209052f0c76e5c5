"""Conversations of chat apps: listed, renamed, removed; and the variables that they remember."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import CHATS, Call, ServiceError
from modelyard.gateway.service.shapes import ConversationShown, VariableShown
from modelyard.models.types import JSON
from modelyard.workflow.chats import NEW_NAME
from modelyard.workflow.conversations import Conversation, Conversations
from modelyard.workflow.features import Features
from modelyard.workflow.variables import fits

_MOST_READ = 500
"""Messages of a conversation that are read to name it by the first."""
_MOST_UNNAMED = 40
"""Characters of a question that stand for a name."""


@dataclass(frozen=True, slots=True)
class ConversationCalls:
    """Each conversation is its user's alone."""

    conversations: Conversations
    features: Features

    async def list(self, call: Call) -> Reply:
        """GET /v1/conversations."""
        call.must_be(*CHATS)
        user, limit = call.user, call.number("limit", 20)
        sort = call.request.query("sort_by") or "-updated_at"
        field = sort.removeprefix("-")
        if field not in ("created_at", "updated_at"):
            raise ServiceError(400, "invalid_param", f"sort_by must be created_at or updated_at, not {sort[:40]!r}")
        listed = await self.conversations.newest(call.tenant, call.found.id, user)
        listed.sort(key=lambda conversation: getattr(conversation, field), reverse=sort.startswith("-"))
        if last := call.request.query("last_id"):
            place = _place_of(last, (conversation.id for conversation in listed))
            if place is None:
                raise NotFoundError("Last Conversation Not Exists.")
            listed = listed[place + 1 :]
        shown = [_shown(conversation) for conversation in listed[:limit]]
        return json_reply({"limit": limit, "has_more": len(listed) > limit, "data": shown})

    async def _named(self, call: Call) -> Conversation:
        """The one that the address names. Raises NotFoundError, ServiceError."""
        call.must_be(*CHATS)
        wanted = call.names["conversation_id"]
        return await self.conversations.find(call.tenant, call.found.id, call.user, wanted)

    async def remove(self, call: Call) -> Reply:
        """DELETE /v1/conversations/ID."""
        conversation = await self._named(call)
        await self.conversations.delete(call.tenant, call.found.id, call.user, conversation.id)
        return Reply(b"", status=204)

    async def rename(self, call: Call) -> Reply:
        """POST /v1/conversations/ID/name."""
        conversation = await self._named(call)
        name = call.body.get("name")
        if call.body.get("auto_generate"):
            name = await self._made_name(call, conversation)
        elif not isinstance(name, str) or not name.strip():
            raise ServiceError(400, "invalid_param", "name is required when auto_generate is false")
        renamed = await self.conversations.rename(conversation, str(name)[:255])
        return json_reply(_shown(renamed))

    async def _made_name(self, call: Call, conversation: Conversation) -> str:
        """As a model names it by its first question; by that question's beginning where none does."""
        newest_first = await self.conversations.thread(call.tenant, conversation.id, most=_MOST_READ)
        query = " ".join(newest_first[-1].query.split()) if newest_first else ""
        if not query:
            return NEW_NAME
        named = await self.features.name_of(call.tenant, call.user, query)
        return named or query[:_MOST_UNNAMED]

    async def variables(self, call: Call) -> Reply:
        """GET /v1/conversations/ID/variables."""
        conversation = await self._named(call)
        wanted, limit = call.request.query("variable_name"), call.number("limit", 20)
        shown = [
            _variable(name, kept, conversation)
            for name, kept in conversation.variables.items()
            if not wanted or wanted == name
        ]
        if last := call.request.query("last_id"):
            place = _place_of(last, (variable.id for variable in shown))
            shown = shown if place is None else shown[place + 1 :]
        return json_reply({"limit": limit, "has_more": len(shown) > limit, "data": shown[:limit]})

    async def change_variable(self, call: Call) -> Reply:
        """PUT /v1/conversations/ID/variables/ID."""
        conversation = await self._named(call)
        wanted, variables = call.names["variable_id"], conversation.variables
        name = next((name for name, kept in variables.items() if kept.get("id") == wanted), None)
        if name is None:
            raise ServiceError(404, "not_found", "Conversation Variable Not Exists.")
        if "value" not in call.body:
            raise ServiceError(400, "invalid_param", "value is required")
        kept, value = variables[name], call.body["value"]
        if not fits(value, str(kept.get("value_type") or "any")):
            raise ServiceError(400, "bad_request", f"{name} is {kept.get('value_type')}; the value is not")
        changed = {**variables, name: {**kept, "value": value}}
        await self.conversations.touch(call.tenant, conversation.id, changed)
        return json_reply(_variable(name, changed[name], conversation))


def _shown(conversation: Conversation) -> ConversationShown:
    return ConversationShown(
        id=conversation.id, name=conversation.name, inputs=conversation.inputs, status="normal", introduction="",
        created_at=int(conversation.created_at), updated_at=int(conversation.updated_at),
    )  # fmt: skip


def _variable(name: str, kept: JSON, conversation: Conversation) -> VariableShown:
    value = kept.get("value")
    return VariableShown(
        id=kept.get("id"), name=name, value_type=kept.get("value_type"),
        value=value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
        description=kept.get("description") or "", created_at=int(conversation.created_at),
        updated_at=int(kept.get("updated_at") or conversation.updated_at),
    )  # fmt: skip


def _place_of(wanted: str, ids: Iterable[str | None]) -> int | None:
    """Where an id stands; None where it does not."""
    return next((place for place, known in enumerate(ids) if known == wanted), None)
