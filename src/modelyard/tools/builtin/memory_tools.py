"""Long-term notes about a user of an app. The model writes, searches and deletes them."""

import json
from collections.abc import Sequence
from operator import itemgetter

from modelyard.base.ids import new_id
from modelyard.storage.scoped_store import ScopedStore
from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.entities import ToolContext
from modelyard.tools.function import FunctionTool

# Every note is read by the model in each of its turns.
_MAX_NOTES_SHOWN = 20


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the memory tools; none without a store."""
    if (store := parts.kept) is None:
        return []
    tools = _MemoryTools(store)
    common_fields = {"provider": "memory", "kind": "builtin"}
    return [
        FunctionTool(tools.remember, **common_fields),
        FunctionTool(tools.recall, **common_fields, is_repeatable=True),
        FunctionTool(tools.forget, **common_fields),
    ]


class _MemoryTools:
    """The tools as methods. Their docstrings are sent to models as descriptions."""

    def __init__(self, store: ScopedStore) -> None:
        self._store = store

    async def remember(self, note: str, context: ToolContext) -> str:
        """Keep a note on this user for later conversations: a fact, a wish, a decision.

        note: one sentence that can be understood by itself
        """
        # The note is named after the call, so a call that is repeated after a crash
        # writes the same note again.
        name = context.key or new_id("note")
        data = json.dumps(note, ensure_ascii=False).encode()
        await self._store.put(context.tenant, scope_of(context), name, data)
        return "Saved."

    async def recall(self, context: ToolContext, query: str = "") -> str:
        """What was noted on this user before.

        query: words to look for; all notes where it is empty
        """
        stored_notes = await self._store.values(
            context.tenant, scope_of(context), limit=1000
        )
        notes = [(name, str(json.loads(value))) for name, value in stored_notes]
        query_terms = set(query.lower().split())
        if query_terms:
            notes = _matching_notes(notes, query_terms)
        note_lines = [
            f"- {text} (id {name})" for name, text in notes[:_MAX_NOTES_SHOWN]
        ]
        return "\n".join(note_lines) or "No notes found."

    async def forget(self, id: str, context: ToolContext) -> str:
        """Remove a note.

        id: as recall gives it
        """
        is_deleted = await self._store.remove(context.tenant, scope_of(context), id)
        return "Deleted." if is_deleted else f"Note {id!r} not found."


def _matching_notes(
    notes: list[tuple[str, str]], query_terms: set[str]
) -> list[tuple[str, str]]:
    """Return the (id, text) pairs whose text contains any of the lower-case terms, best
    first."""
    scored = [(_match_score(text, query_terms), name, text) for name, text in notes]
    # Only by score: notes that match equally well stay in their order.
    scored.sort(key=itemgetter(0), reverse=True)
    return [(name, text) for score, name, text in scored if score]


def _match_score(text: str, query_terms: set[str]) -> int:
    """Return the score of a note: two for each term that is a whole word of it, one for
    each that is a part of a word."""
    lower_text = text.lower()
    whole_words = len(query_terms & set(lower_text.split()))
    return whole_words + sum(term in lower_text for term in query_terms)


def scope_of(context: ToolContext) -> str:
    """Return the scope under which the notes of this user are stored."""
    return f"notes/{context.app}/{context.user}"
