"""What a conversation's earlier turns are to a model: as many as it has room for, and a summary of those before.

Turns that do not fit are summed up by the model that asks, so many at once that it happens seldom; the summary is kept
with the conversation, and grows with it. A window that an app's author set is kept to: what is beyond it is not wanted.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageContent,
    SystemPromptMessage,
    TextPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
)
from modelyard.models.tokens import count_texts
from modelyard.tools.observation import cut
from modelyard.workflow.node import Memory, NodeContext, Recap, Thought, Turn
from modelyard.workflow.prompts import MemoryConfig, RolePrefix, content_of, context_size

logger = logging.getLogger("modelyard.workflow")

_PLAIN_BUDGET = 2000
"""Tokens of memory for a model whose context nobody knows."""
_MOST_TURNS = 500
_RESULT = 2000
"""Characters of what a tool gave in an earlier turn."""
_RECAP_TOKENS = 500
_MOST_PIECES = 8
"""Calls of the model for one summary."""
_TOLD = (
    "You keep the record of a conversation between a user and an assistant. Write what both need to go on: who the "
    "user is, what was asked, what was found, agreed and promised, names and numbers exactly, what is still open. "
    "Plain sentences, no more than 300 words, in the language of the conversation. Write the record and nothing else."
)
_SHOWN = "What was said earlier in this conversation, in short:\n"

Calls = Literal["", "messages", "text"]
"""How tool calls of earlier turns are shown: not at all, as such, or in words."""


@dataclass(slots=True)
class Remembered:
    """What is told of a conversation so far."""

    turns: list[Turn] = field(default_factory=list[Turn])
    """Oldest first."""
    recap: str = ""
    """What was said before them; empty where nothing was, or where it is lost."""


async def remembered(
    config: MemoryConfig,
    context: NodeContext,
    model: Any,
    spent: Sequence[AnyPromptMessage],
    most_tokens: int,
    *,
    calls: Calls = "",
    sums_up: bool = False,
) -> Remembered:
    """As much of the conversation as the window and the model's context have room for.

    `spent` is what else is sent, `most_tokens` what the answer may take. With `sums_up` the model is asked for a
    summary of what does not fit; else one is used where it is there.
    """
    memory = context.services.memory
    if memory is None:
        return Remembered()
    window = config.window.size if config.window.enabled and config.window.size else 0
    turns = await memory.turns(min(window or _MOST_TURNS, _MOST_TURNS))
    room = context_size(model)
    budget = _PLAIN_BUDGET if room is None else room - most_tokens
    budget -= count_texts(model.model, [one.text for one in spent]).tokens + 4 * len(spent)
    if _tokens(turns, model, calls) <= budget:
        return Remembered(turns)
    if window:
        return Remembered(_newest(turns, model, calls, budget))
    recap = await memory.recap()
    if recap is not None:
        turns = _after(turns, recap.until)
        budget -= count_texts(model.model, [recap.text]).tokens + 4
        if _tokens(turns, model, calls) <= budget:
            return Remembered(turns, recap.text)
    if not sums_up:
        return Remembered(_newest(turns, model, calls, budget), recap.text if recap else "")
    return await _summed_up(memory, context, model, recap, turns, calls, budget)


def _after(turns: Sequence[Turn], until: str) -> list[Turn]:
    place = next((at for at, one in enumerate(turns) if one.id == until), -1)
    return list(turns[place + 1 :])


def _newest(turns: Sequence[Turn], model: Any, calls: Calls, budget: int) -> list[Turn]:
    """As many as fit; the last one whatever it takes."""
    taken, begin = 0, len(turns)
    while begin > 0:
        taken += _tokens(turns[begin - 1 : begin], model, calls)
        if taken > budget and begin < len(turns):
            break
        begin -= 1
    return list(turns[begin:])


async def _summed_up(
    memory: Memory, context: NodeContext, model: Any, recap: Recap | None, turns: list[Turn], calls: Calls, budget: int
) -> Remembered:
    """With a summary that is new, of so much that there is room for a while."""
    known = recap.text if recap is not None else ""
    kept = _newest(turns, model, calls, max(budget, 0) // 2)
    old = turns[: len(turns) - len(kept)]
    if not old:
        return Remembered(kept, known)
    try:
        text = await _sum_up(context, model, known, old)
    except ModelyardError as error:
        fields = {"run": context.run.run_id, "error": str(error)}
        logger.warning("a conversation could not be summed up", extra={"fields": fields})
        return Remembered(_newest(turns, model, calls, budget), known)
    await memory.keep(Recap(text=text, until=old[-1].id))
    return Remembered(kept, text)


async def _sum_up(context: NodeContext, model: Any, known: str, turns: Sequence[Turn]) -> str:
    """Raises ModelyardError, also where the model says nothing."""
    size = context_size(model) or 2 * _PLAIN_BUDGET
    most = min(_RECAP_TOKENS, size // 4)
    room = size - 2 * most - count_texts(model.model, [_TOLD]).tokens
    for piece in _pieces(turns, model, max(room, 200))[-_MOST_PIECES:]:
        before = f"The record so far:\n{known}\n\n" if known else ""
        request = LLMRequest(
            messages=[SystemPromptMessage(content=_TOLD),
                      UserPromptMessage(content=f"{before}What was said since:\n{piece}\n\nThe whole record:")],
            model_parameters={"max_tokens": most}, user=context.run.user or None,
        )  # fmt: skip
        result = await model.invoke_llm(request)
        context.run.tokens += result.usage.total_tokens
        context.run.price += float(result.usage.total_price or 0)
        known = result.text.strip() or known
    if not known:
        raise ModelyardError("the model wrote no summary")
    return known


def _pieces(turns: Sequence[Turn], model: Any, room: int) -> list[str]:
    """The turns as texts that fit, each with as many as it has room for."""
    found: list[str] = []
    line, taken = "", 0
    for one in turns:
        text = memory_text(Remembered([one]), None)
        size = count_texts(model.model, [text]).tokens
        if size > room:
            text, size = cut(text, 2 * room), room
        if line and taken + size > room:
            found.append(line)
            line, taken = "", 0
        line, taken = f"{line}\n{text}" if line else text, taken + size
    return [*found, line] if line else found


def _tokens(turns: Sequence[Turn], model: Any, calls: Calls) -> int:
    texts = [text for one in turns for text in (one.query, one.answer, *_words_of(one.thoughts, calls))]
    return count_texts(model.model, texts).tokens + 4 * len(texts)


def _words_of(thoughts: Sequence[Thought], calls: Calls) -> list[str]:
    return [one for each in thoughts for one in (each.text, _said(each))] if calls else []


# ---------------------------------------------------------------------------------------------- as messages


async def memory_messages(
    found: Remembered, context: NodeContext, detail: str, *, calls: Calls = ""
) -> list[AnyPromptMessage]:
    messages: list[AnyPromptMessage] = []
    if found.recap:
        messages.append(SystemPromptMessage(content=f"{_SHOWN}{found.recap}"))
    for at, turn in enumerate(found.turns):
        parts: list[PromptMessageContent] = [await content_of(one, context, detail) for one in turn.files]
        messages.append(UserPromptMessage(content=[*parts, TextPromptMessageContent(data=turn.query)]))
        answer = turn.answer
        if calls == "messages" and (made := _calls(turn.thoughts, at)):
            messages += made
            answer = _without(answer, turn.thoughts)
        before = [_said(one) for one in turn.thoughts if one.tools] if calls == "text" else []
        messages.append(AssistantPromptMessage(content="\n".join([*before, answer])))
    return messages


def _calls(thoughts: Sequence[Thought], turn: int) -> list[AnyPromptMessage]:
    """What an agent called in an earlier turn, and what it was given."""
    found: list[AnyPromptMessage] = []
    for at, thought in enumerate(thoughts):
        given, results = _by_name(thought.inputs), _by_name(thought.results)
        names = [name for name in thought.tools if name in results]
        if not names:
            continue
        ids = {name: f"past_{turn}_{at}_{place}" for place, name in enumerate(names)}
        asked = [
            ToolCall(id=ids[name], function=ToolCallFunction(name=name, arguments=json.dumps(given.get(name) or {})))
            for name in names
        ]
        found.append(AssistantPromptMessage(content=thought.text, tool_calls=asked))
        found += [
            ToolPromptMessage(content=cut(str(results[name]), _RESULT), tool_call_id=ids[name], name=name)
            for name in names
        ]
    return found


def _without(answer: str, thoughts: Sequence[Thought]) -> str:
    """An answer without what stands before its calls already: an agent's text streams as one."""
    for one in thoughts:
        if one.text and answer.startswith(one.text):
            answer = answer[len(one.text) :].lstrip()
    return answer


def _said(thought: Thought) -> str:
    """The same in words."""
    given, results = _by_name(thought.inputs), _by_name(thought.results)
    return "\n".join(
        f"[used {name} with {json.dumps(given.get(name) or {}, ensure_ascii=False)}: "
        f"{cut(str(results.get(name, 'no result')), _RESULT)}]"
        for name in thought.tools
    )


def _by_name(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text) if text else {}
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def memory_text(found: Remembered, prefix: RolePrefix | None) -> str:
    user = (prefix.user if prefix else "") or "Human"
    assistant = (prefix.assistant if prefix else "") or "Assistant"
    told = [f"{_SHOWN}{found.recap}"] if found.recap else []
    told += [
        f"{user}: {'[image]' * bool(one.files)}{one.query}\n{assistant}: {one.answer}" for one in found.turns
    ]  # fmt: skip
    return "\n".join(told)
