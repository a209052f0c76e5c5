"""Long-term notes about a user of an app. The model writes, searches and deletes them."""

import json
from collections.abc import Sequence

from modelyard.base.ids import new_id
from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.entities import ToolContext
from modelyard.tools.function import FunctionTool

_MAX_NOTES_SHOWN = 20


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the memory tools; none without a store."""
    if (store := parts.kept) is None:
        return []

    async def remember(note: str, context: ToolContext) -> str:
        """Keep a note on this user for later conversations: a fact, a wish, a decision.

        note: one sentence that can be understood by itself
        """
        # The note is named after the call, so a call that is repeated after a crash
        # writes the same note again.
        name = context.key or new_id("note")
        await store.put(
            context.tenant,
            scope_of(context),
            name,
            json.dumps(note, ensure_ascii=False).encode(),
        )
        return "Kept."

    async def recall(context: ToolContext, query: str = "") -> str:
        """What was noted on this user before.

        query: words to look for; all notes where it is empty
        """
        stored_notes = await store.values(context.tenant, scope_of(context), limit=1000)
        notes = [(name, str(json.loads(value))) for name, value in stored_notes]
        query_terms = set(query.lower().split())
        if query_terms:
            # A whole-word match scores twice, a match inside a word once.
            ranked = [
                (
                    len(query_terms & set(text.lower().split()))
                    + sum(w in text.lower() for w in query_terms),
                    name,
                    text,
                )
                for name, text in notes
            ]
            ranked = sorted(
                (scored_note for scored_note in ranked if scored_note[0]),
                key=lambda scored_note: -scored_note[0],
            )
            notes = [(name, text) for _, name, text in ranked]
        note_lines = [
            f"- {text} (id {name})" for name, text in notes[:_MAX_NOTES_SHOWN]
        ]
        return "\n".join(note_lines) or "Nothing was noted."

    async def forget(id: str, context: ToolContext) -> str:
        """Remove a note.

        id: as recall gives it
        """
        is_deleted = await store.remove(context.tenant, scope_of(context), id)
        return "Forgotten." if is_deleted else "There is no such note."

    common_fields = {"provider": "memory", "kind": "builtin"}
    return [
        FunctionTool(remember, **common_fields),
        FunctionTool(recall, **common_fields, is_repeatable=True),
        FunctionTool(forget, **common_fields),
    ]


def scope_of(context: ToolContext) -> str:
    """Return the scope under which the notes of this user are stored."""
    return f"notes/{context.app}/{context.user}"
