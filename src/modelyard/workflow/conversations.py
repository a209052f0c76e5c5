"""Conversations and their messages, as rows: each of one tenant, one app, one user."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.storage.database import Connection, Database, statements
from modelyard.storage.kept import Kept
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import Recap, Thought, Turn
from modelyard.workflow.variables import file_of


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    id: str
    app: str
    user: str
    name: str
    inputs: dict[str, Any] = {}
    variables: dict[str, dict[str, Any]] = {}
    """Name → {id, value, value_type, description, updated_at}."""
    created_at: float = 0.0
    updated_at: float = 0.0


class Message(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    id: str
    app: str
    user: str
    conversation: str
    parent: str = ""
    run: str = ""
    query: str = ""
    answer: str = ""
    inputs: dict[str, Any] = {}
    files: list[dict[str, Any]] = []
    metadata: dict[str, Any] = {}
    status: str = "normal"
    error: str = ""
    rating: str = ""
    feedback: str = ""
    rated_at: float | None = None
    created_at: float = 0.0


_RECAP = "recap"
_JSON = ("inputs", "variables", "files", "metadata")


def _read(row: Any, kind: type[Any]) -> Any:
    values = {name: row[name] for name in kind.__struct_fields__}
    for name in _JSON:
        if name in values:
            values[name] = msgspec.json.decode(values[name])
    return msgspec.convert(values, kind)


def _dump(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class Conversations:
    def __init__(self, database: Database, now: Callable[[], float], kept: Kept) -> None:
        self.kept = kept
        self._database = database
        self._now = now
        self._sql = statements("conversations")

    async def _rows(self, name: str, **values: Any) -> list[Any]:
        return await self._database.fetch(self._sql[name], values)

    async def _do(self, name: str, values: Sequence[Any]) -> list[Any]:
        return await self._database.transact(lambda it: it.execute(self._sql[name], values))

    # conversations

    async def start(self, one: Conversation) -> None:
        await self._do("start", (
            one.tenant, one.id, one.app, one.user, one.name, _dump(one.inputs), _dump(one.variables), one.created_at,
            one.updated_at,
        ))  # fmt: skip

    async def find(self, tenant: str, app: str, user: str, id: str) -> Conversation:  # noqa: A002
        """Raises NotFoundError."""
        rows = await self._rows("one", tenant=tenant, app=app, user=user, id=id)
        if not rows:
            raise NotFoundError("Conversation Not Exists.", code="not_found")
        return _read(rows[0], Conversation)

    async def newest(self, tenant: str, app: str, user: str) -> list[Conversation]:
        rows = await self._rows("newest", tenant=tenant, app=app, user=user)
        return [_read(row, Conversation) for row in rows]

    async def of_app(self, tenant: str, app: str, *, most: int) -> list[Conversation]:
        """Everybody's, newest first."""
        rows = await self._rows("of_app", tenant=tenant, app=app, most=most)
        return [_read(row, Conversation) for row in rows]

    async def rename(self, one: Conversation, name: str) -> Conversation:
        now = self._now()
        await self._do("rename", (name, now, one.tenant, one.id))
        return msgspec.structs.replace(one, name=name, updated_at=now)

    async def touch(self, tenant: str, id: str, variables: Mapping[str, Any]) -> None:  # noqa: A002
        await self._do("touch", (_dump(variables), self._now(), tenant, id))

    async def delete(self, tenant: str, app: str, user: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError."""
        if not await self._do("delete", (self._now(), tenant, app, id, user)):
            raise NotFoundError("Conversation Not Exists.", code="not_found")

    # messages

    async def say(self, one: Message) -> None:
        await self._do("say", (
            one.tenant, one.id, one.app, one.user, one.conversation, one.parent, one.run, one.query, one.answer,
            _dump(one.inputs), _dump(one.files), _dump(one.metadata), one.status, one.error, one.created_at,
        ))  # fmt: skip

    async def answer(
        self, tenant: str, id: str, answer: str, metadata: Mapping[str, Any], *, status: str = "normal", error: str = ""  # noqa: A002
    ) -> None:  # fmt: skip
        await self._do("answer", (answer, _dump(metadata), status, error, tenant, id))

    async def thread(self, tenant: str, conversation: str, *, before: float = 1e15, most: int = 500) -> list[Message]:
        """Newest first."""
        rows = await self._rows("thread", tenant=tenant, conversation=conversation, before=before, most=most)
        return [_read(row, Message) for row in rows]

    async def message(self, tenant: str, app: str, id: str) -> Message:  # noqa: A002
        """Raises NotFoundError."""
        rows = await self._rows("message", tenant=tenant, app=app, id=id)
        if not rows:
            raise NotFoundError("Message Not Exists.", code="not_found")
        return _read(rows[0], Message)

    async def rate(self, tenant: str, app: str, id: str, rating: str, content: str) -> None:  # noqa: A002
        """Raises NotFoundError."""
        if not await self._do("rate", (rating, content, self._now() if rating else None, tenant, app, id)):
            raise NotFoundError("Message Not Exists.", code="not_found")

    async def rated(self, tenant: str, app: str, *, most: int, skip: int) -> list[Message]:
        rows = await self._rows("rated", tenant=tenant, app=app, most=most, skip=skip)
        return [_read(row, Message) for row in rows]

    def memory(self, run: RunRecord) -> "ConversationMemory":
        return ConversationMemory(self, run)


class ConversationMemory:
    """What was said before the message that a run answers."""

    def __init__(self, conversations: Conversations, run: RunRecord) -> None:
        self._conversations = conversations
        self._run = run

    async def turns(self, most: int) -> list[Turn]:
        run = self._run
        found = await self._conversations.thread(run.tenant, run.conversation, most=most + 1)
        found = [one for one in found if one.id != run.message and (one.answer or one.status == "normal")]
        if found and not found[0].answer:
            found = found[1:]
        turns = [
            Turn(
                id=one.id, query=one.query, answer=one.answer, files=[file_of(each) for each in one.files],
                thoughts=_thoughts(one),
            )
            for one in found[:most]
        ]  # fmt: skip
        return turns[::-1]

    async def recap(self) -> Recap | None:
        found = await self._conversations.kept.get(self._run.tenant, self._scope, _RECAP)
        return msgspec.json.decode(found, type=Recap) if found is not None else None

    async def keep(self, recap: Recap) -> None:
        await self._conversations.kept.put(self._run.tenant, self._scope, _RECAP, msgspec.json.encode(recap))

    @property
    def _scope(self) -> str:
        return f"conversation/{self._run.conversation}"


def _thoughts(one: Message) -> list[Thought]:
    """What an agent did for a message, where one did."""
    return [
        Thought(
            text=str(each.get("thought") or ""), tools=str(each["tool"]).split(";"),
            inputs=str(each.get("tool_input") or ""), results=str(each.get("observation") or ""),
        )
        for each in one.metadata.get("agent_thoughts") or ()
        if each.get("tool")
    ]  # fmt: skip


__all__ = ["Connection", "Conversation", "Conversations", "Message"]
