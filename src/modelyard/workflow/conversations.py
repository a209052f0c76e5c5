"""The tables of conversations and their messages. Each belongs to one tenant, app and
user."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.base.json_types import is_mapping
from modelyard.storage.database import Connection, Database
from modelyard.storage.scoped_store import ScopedStore
from modelyard.workflow.conversation_variables import StoredVariables
from modelyard.workflow.events import AgentToolCall
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import ConversationSummary, Thought, Turn
from modelyard.workflow.variables import file_of


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation of a user with an app."""

    tenant: str
    id: str
    app: str
    user: str
    name: str
    inputs: dict[str, Any] = {}
    variables: dict[str, dict[str, Any]] = {}
    """Name to {id, value, value_type, description, updated_at}."""
    created_at: float = 0.0
    updated_at: float = 0.0


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A user's message with the app's answer."""

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
    source: str = ""
    """What the run was created from, as `service-api` or `console`; empty for messages
    of earlier versions."""


_RECAP_KEY = "recap"
_JSON_COLUMNS = ("inputs", "variables", "files", "metadata")


def _read_record(row: Any, record_type: type[Any]) -> Any:
    """Return the record of a row; the JSON columns are decoded."""
    # Rows have more columns than the records, such as `is_deleted`.
    values = {name: row[name] for name in record_type.__struct_fields__}
    for name in _JSON_COLUMNS:
        if name in values:
            values[name] = msgspec.json.decode(values[name])
    return msgspec.convert(values, record_type)


def _to_json(value: Any) -> str:
    """Return a value as JSON text."""
    return msgspec.json.encode(value).decode()


class Conversations:
    """Repository of conversations and messages."""

    def __init__(
        self, database: Database, clock: Callable[[], float], scoped_store: ScopedStore
    ) -> None:
        self.scoped_store = scoped_store
        self._database = database
        self._clock = clock
        self._sql = database.statements("conversations")

    async def _rows(self, name: str, **values: Any) -> list[Any]:
        """Return the rows of a query."""
        return await self._database.fetch(self._sql[name], values)

    async def _execute(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Run a statement in a transaction and return its rows."""
        return await self._database.transact(
            lambda connection: connection.execute(self._sql[name], values)
        )

    # Conversations

    async def start(self, conversation: Conversation) -> None:
        """Insert a conversation."""
        await self._execute(
            "start",
            (
                conversation.tenant,
                conversation.id,
                conversation.app,
                conversation.user,
                conversation.name,
                _to_json(conversation.inputs),
                _to_json(conversation.variables),
                conversation.created_at,
                conversation.updated_at,
            ),
        )

    async def find(self, tenant: str, app: str, user: str, id: str) -> Conversation:
        """Return a user's conversation. Raises NotFoundError."""
        rows = await self._rows(
            "one",
            tenant=tenant,
            app=app,
            user=user,
            id=id,
        )
        if not rows:
            # The wording is Dify's: clients compare it.
            raise NotFoundError("Conversation Not Exists.", code="not_found")
        return _read_record(rows[0], Conversation)

    async def newest(self, tenant: str, app: str, user: str) -> list[Conversation]:
        """Return a user's conversations with an app, newest first."""
        rows = await self._rows(
            "newest",
            tenant=tenant,
            app=app,
            user=user,
        )
        return [_read_record(row, Conversation) for row in rows]

    async def of_app(self, tenant: str, app: str, *, limit: int) -> list[Conversation]:
        """Return the conversations of all users of an app, newest first."""
        rows = await self._rows(
            "of_app",
            tenant=tenant,
            app=app,
            most=limit,
        )
        return [_read_record(row, Conversation) for row in rows]

    async def rename(self, conversation: Conversation, name: str) -> Conversation:
        """Rename a conversation and return it."""
        current_time = self._clock()
        await self._execute(
            "rename", (name, current_time, conversation.tenant, conversation.id)
        )
        return msgspec.structs.replace(conversation, name=name, updated_at=current_time)

    async def change_variables(
        self,
        tenant: str,
        id: str,
        change: Callable[[StoredVariables], Mapping[str, Any]],
    ) -> None:
        """Replace the conversation's variables by what `change` makes of them, and note
        the time. Nobody else changes them meanwhile.

        Nothing happens if the conversation was deleted.
        """

        def work(connection: Connection) -> None:
            """Read, change and store the variables in one transaction."""
            rows = connection.execute(self._sql["variables"], (tenant, id))
            if not rows:
                return
            changed = _to_json(change(msgspec.json.decode(rows[0]["variables"])))
            values = (changed, self._clock(), tenant, id)
            connection.execute(self._sql["touch"], values)

        # Two runs of one conversation could otherwise undo each other's changes.
        await self._database.transact(work)

    async def delete(self, tenant: str, app: str, user: str, id: str) -> None:
        """Delete a user's conversation. Raises NotFoundError."""
        # No row is returned if it is missing, already deleted, or another user's.
        if not await self._execute("delete", (self._clock(), tenant, app, id, user)):
            raise NotFoundError("Conversation Not Exists.", code="not_found")

    # Messages

    async def add_message(self, message: Message) -> None:
        """Insert a message."""
        # A message that exists already is kept, so a repeated insert is harmless.
        await self._execute(
            "say",
            (
                message.tenant,
                message.id,
                message.app,
                message.user,
                message.conversation,
                message.parent,
                message.run,
                message.query,
                message.answer,
                _to_json(message.inputs),
                _to_json(message.files),
                _to_json(message.metadata),
                message.status,
                message.error,
                message.created_at,
                message.source,
            ),
        )

    async def set_answer(
        self,
        tenant: str,
        id: str,
        answer: str,
        metadata: Mapping[str, Any],
        *,
        status: str = "normal",
        error: str = "",
    ) -> None:
        """Store the answer to a message, with its status and metadata."""
        await self._execute(
            "answer", (answer, _to_json(metadata), status, error, tenant, id)
        )

    async def list_messages(
        self,
        tenant: str,
        conversation: str,
        *,
        created_before: float = 1e15,
        limit: int = 500,
    ) -> list[Message]:
        """Return a conversation's messages, newest first, that were created before a
        Unix time."""
        rows = await self._rows(
            "thread",
            tenant=tenant,
            conversation=conversation,
            before=created_before,
            most=limit,
        )
        return [_read_record(row, Message) for row in rows]

    async def get_message(self, tenant: str, app: str, id: str) -> Message:
        """Return a message. Raises NotFoundError."""
        rows = await self._rows("message", tenant=tenant, app=app, id=id)
        if not rows:
            raise NotFoundError("Message Not Exists.", code="not_found")
        return _read_record(rows[0], Message)

    async def set_rating(
        self, tenant: str, app: str, id: str, rating: str, content: str
    ) -> None:
        """Store a user's rating of a message; an empty rating removes it. Raises
        NotFoundError."""
        if not await self._execute(
            "rate",
            (rating, content, self._clock() if rating else None, tenant, app, id),
        ):
            raise NotFoundError("Message Not Exists.", code="not_found")

    async def list_rated(
        self, tenant: str, app: str, *, limit: int, skip: int
    ) -> list[Message]:
        """Return one page of an app's rated messages."""
        page = {"most": limit, "skip": skip}
        rows = await self._rows("rated", tenant=tenant, app=app, **page)
        return [_read_record(row, Message) for row in rows]

    def memory(self, run: RunRecord) -> "ConversationMemory":
        """Return the conversation's history for a run."""
        return ConversationMemory(self, run)


class ConversationMemory:
    """The messages of a conversation before the one that a run answers."""

    def __init__(self, conversations: Conversations, run: RunRecord) -> None:
        self._conversations = conversations
        self._run = run

    async def turns(self, limit: int) -> list[Turn]:
        """Return the last turns, at most `limit`, oldest first."""
        run = self._run
        # One more than needed, since the run's own message is among them.
        messages = await self._conversations.list_messages(
            run.tenant, run.conversation, limit=limit + 1
        )
        # A failed run without an answer would be a question without a reply.
        messages = [
            message
            for message in messages
            if message.id != run.message
            and (message.answer or message.status == "normal")
        ]
        # The newest message may still be waiting for its answer.
        if messages and not messages[0].answer:
            messages = messages[1:]
        turns = [
            Turn(
                id=message.id,
                query=message.query,
                answer=message.answer,
                files=[file_of(file) for file in message.files],
                thoughts=_thoughts(message),
            )
            for message in messages[:limit]
        ]
        return turns[::-1]

    async def recap(self) -> ConversationSummary | None:
        """Return the stored summary of older turns, or None."""
        body = await self._conversations.scoped_store.get(
            self._run.tenant, self._scope, _RECAP_KEY
        )
        if body is None:
            return None
        return msgspec.json.decode(body, type=ConversationSummary)

    async def save_recap(self, recap: ConversationSummary) -> None:
        """Store a summary of older turns."""
        await self._conversations.scoped_store.put(
            self._run.tenant,
            self._scope,
            _RECAP_KEY,
            msgspec.json.encode(recap),
        )

    @property
    def _scope(self) -> str:
        """Return where the values of the run's conversation are stored."""
        return f"conversation/{self._run.conversation}"


def _thoughts(message: Message) -> list[Thought]:
    """Return the rounds of a message in which its agent used tools."""
    rounds = message.metadata.get("agent_rounds")
    # Messages of earlier versions have only what the service API shows.
    if rounds is None:
        shown = message.metadata.get("agent_thoughts") or ()
        return [_shown_thought(thought) for thought in shown if thought.get("tool")]
    return [msgspec.convert(entry, Thought) for entry in rounds if entry["calls"]]


def _shown_thought(thought: Mapping[str, Any]) -> Thought:
    """Return a thought in the format of the service API, whose arguments and results
    are JSON objects by the tool's name."""
    arguments = _json_object(thought.get("tool_input"))
    results = _json_object(thought.get("observation"))
    # A tool that was called twice has lost one of its calls.
    names = dict.fromkeys(str(thought["tool"]).split(";"))
    calls = [
        AgentToolCall(
            name=name,
            arguments=json.dumps(arguments.get(name) or {}, ensure_ascii=False),
            observation=str(results[name]) if name in results else None,
        )
        for name in names
    ]
    return Thought(text=str(thought.get("thought") or ""), calls=calls)


def _json_object(text: Any) -> Mapping[str, Any]:
    """Return the JSON object that a text contains; empty if it contains none."""
    try:
        value: Any = msgspec.json.decode(str(text)) if text else None
    # A damaged old message must not keep its conversation from going on.
    except msgspec.DecodeError:
        return {}
    return value if is_mapping(value) else {}


__all__ = ["Connection", "Conversation", "Conversations", "Message"]
