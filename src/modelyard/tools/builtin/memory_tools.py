"""Long-term notes on a user of an app: written and found by the model, kept until it forgets them."""

import json
from collections.abc import Sequence

from modelyard.base.ids import new_id
from modelyard.tools.builtin import Parts
from modelyard.tools.entities import ToolContext
from modelyard.tools.function import FunctionTool

_MOST_SHOWN = 20


def make(parts: Parts) -> Sequence[FunctionTool]:
    if (kept := parts.kept) is None:
        return []

    async def remember(note: str, context: ToolContext) -> str:
        """Keep a note on this user for later conversations: a fact, a wish, a decision.

        note: one sentence that can be understood by itself
        """
        # Named after the call: a call that is made a second time after a crash writes the same note.
        name = context.key or new_id("note")
        await kept.put(context.tenant, scope_of(context), name, json.dumps(note, ensure_ascii=False).encode())
        return "Kept."

    async def recall(context: ToolContext, query: str = "") -> str:
        """What was noted on this user before.

        query: words to look for; all notes where it is empty
        """
        found = await kept.values(context.tenant, scope_of(context), most=1000)
        notes = [(name, str(json.loads(value))) for name, value in found]
        words = set(query.lower().split())
        if words:
            ranked = [(len(words & set(text.lower().split())) + sum(w in text.lower() for w in words), name, text)
                      for name, text in notes]  # fmt: skip
            ranked = sorted((one for one in ranked if one[0]), key=lambda one: -one[0])
            notes = [(name, text) for _, name, text in ranked]
        shown = [f"- {text} (id {name})" for name, text in notes[:_MOST_SHOWN]]
        return "\n".join(shown) or "Nothing was noted."

    async def forget(id: str, context: ToolContext) -> str:  # noqa: A002
        """Remove a note.

        id: as recall gives it
        """
        gone = await kept.remove(context.tenant, scope_of(context), id)
        return "Forgotten." if gone else "There is no such note."

    about = {"provider": "memory", "kind": "builtin"}
    return [
        FunctionTool(remember, **about),
        FunctionTool(recall, **about, is_repeatable=True),
        FunctionTool(forget, **about),
    ]


def scope_of(context: ToolContext) -> str:
    return f"notes/{context.app}/{context.user}"
