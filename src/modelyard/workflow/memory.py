"""Conversation memory for model prompts: as many recent turns as fit, and a recap of
the older ones.

Turns that do not fit are summarised by the model of the node, in large batches so that
it happens rarely. The recap is stored with the conversation and grows with it. If the
app sets a window, older turns are dropped without a recap.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import is_object
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
from modelyard.tools.observation import truncate_middle
from modelyard.workflow.events import AgentToolCall
from modelyard.workflow.node import (
    ConversationSummary,
    Memory,
    NodeContext,
    Thought,
    Turn,
)
from modelyard.workflow.prompts import (
    MemoryConfig,
    RolePrefix,
    content_of,
    context_size,
)

logger = logging.getLogger("modelyard.workflow")

_DEFAULT_BUDGET = 2000
"""Token budget of the memory for a model with an unknown context size."""
# Dify's limit, with a window and without one.
_MAX_TURNS = 500
_MAX_RESULT_CHARS = 2000
"""Maximum characters of a tool's result from an earlier turn."""
_MAX_RECAP_CALLS = 8
"""Maximum model calls for one recap."""
_RECAP_PROMPT = (
    "You keep the record of a conversation between a user and an assistant. Write what"
    " both need to go on: who the user is, what was asked, what was found, agreed and"
    " promised, names and numbers exactly, what is still open. Plain sentences, no more"
    " than 300 words, in the language of the conversation. Write the record and nothing"
    " else."
)
_RECAP_HEADING = "What was said earlier in this conversation, in short:\n"

Calls = Literal["", "messages", "text"]
"""How tool calls of earlier turns appear: not at all, as tool call messages, or as
text."""


@dataclass(slots=True)
class PromptHistory:
    """The part of a conversation that goes into a prompt."""

    turns: list[Turn] = field(default_factory=list[Turn])
    """Oldest first."""
    recap: str = ""
    """Summary of the turns before `turns`; empty if there are none or it does not exist.
    """


async def load_history(
    config: MemoryConfig,
    context: NodeContext,
    model: Any,
    spent: Sequence[AnyPromptMessage],
    max_answer_tokens: int,
    *,
    calls: Calls = "",
    sums_up: bool = False,
) -> PromptHistory:
    """Return the part of the conversation that fits into the window and the context.

    `spent` is the remaining prompt; `max_answer_tokens` is reserved for the answer.
    With `sums_up` the model summarises what does not fit; otherwise only a stored recap
    is used.
    """
    memory = context.services.memory
    if memory is None:
        return PromptHistory()
    window = config.window.size if config.window.enabled and config.window.size else 0
    turns = await memory.turns(min(window or _MAX_TURNS, _MAX_TURNS))
    budget = _budget(model, spent, max_answer_tokens)
    if (fitting := _fitting(turns, model, calls, budget)) is not None:
        return PromptHistory(fitting)
    # A window is the app author's choice: what it cuts off is not summarised.
    if window:
        return PromptHistory(_newest(turns, model, calls, budget))
    recap = await memory.recap()
    # The recap covers the turns up to `until`; only later turns are sent in full.
    if recap is not None:
        turns = _after(turns, recap.until)
        budget -= count_texts(model.model, [recap.text]).tokens + 4
        if (fitting := _fitting(turns, model, calls, budget)) is not None:
            return PromptHistory(fitting, recap.text)
    # This node does not summarise, but it uses a recap that another node has stored.
    if not sums_up or context.run.limits.summary_tokens <= 0:
        return PromptHistory(
            _newest(turns, model, calls, budget), recap.text if recap else ""
        )
    return await _with_new_recap(memory, context, model, recap, turns, calls, budget)


def _budget(
    model: Any, spent: Sequence[AnyPromptMessage], max_answer_tokens: int
) -> int:
    """Return the tokens that remain for the memory, without the answer and the other
    messages of the prompt."""
    room = context_size(model)
    budget = _DEFAULT_BUDGET if room is None else room - max_answer_tokens
    # Each message costs about 4 tokens beyond its text (role and delimiters).
    texts = [message.text for message in spent]
    return budget - count_texts(model.model, texts).tokens - 4 * len(spent)


def _fitting(
    turns: Sequence[Turn], model: Any, calls: Calls, budget: int
) -> list[Turn] | None:
    """Return all turns as they fit into the budget; None if they do not.

    Results of old tool calls are given up before questions and answers are.
    """
    shortened = _with_fewer_calls(turns, model, calls, budget)
    return shortened if _tokens(shortened, model, calls) <= budget else None


def _after(turns: Sequence[Turn], until: str) -> list[Turn]:
    """Return the turns after the one with the id `until`; all turns if it is not among
    them."""
    last_index = next(
        (index for index, turn in enumerate(turns) if turn.id == until), -1
    )
    return list(turns[last_index + 1 :])


def _newest(turns: Sequence[Turn], model: Any, calls: Calls, budget: int) -> list[Turn]:
    """Return the newest turns that fit into the budget; always at least the last one."""
    # Walk backwards from the newest turn until the budget is used up.
    used_tokens, start = 0, len(turns)
    while start > 0:
        used_tokens += _tokens(turns[start - 1 : start], model, calls)
        if used_tokens > budget and start < len(turns):
            break
        start -= 1
    return _with_fewer_calls(turns[start:], model, calls, budget)


def _with_fewer_calls(
    turns: Sequence[Turn], model: Any, calls: Calls, budget: int
) -> list[Turn]:
    """Return the turns, the oldest ones without their tool calls if all of them do not
    fit into the budget otherwise. A call and its result go together."""
    excess = _tokens(turns, model, calls) - budget
    shortened = list(turns)
    for index, turn in enumerate(turns):
        if excess <= 0:
            break
        if turn.thoughts:
            shortened[index] = msgspec.structs.replace(turn, thoughts=[])
            excess -= _tokens([turn], model, calls)
            excess += _tokens([shortened[index]], model, calls)
    return shortened


async def _with_new_recap(
    memory: Memory,
    context: NodeContext,
    model: Any,
    recap: ConversationSummary | None,
    turns: list[Turn],
    calls: Calls,
    budget: int,
) -> PromptHistory:
    """Summarise the older turns into a new recap, store it and return it with the
    recent turns.

    If the model fails, the old recap and the newest turns that fit are returned.
    """
    recap_text = recap.text if recap is not None else ""
    # Fill only half of the budget, so that the next turns fit without another summary.
    recent_turns = _newest(turns, model, calls, max(budget, 0) // 2)
    # These turns go into the recap.
    old = turns[: len(turns) - len(recent_turns)]
    if not old:
        return PromptHistory(recent_turns, recap_text)
    try:
        text = await _write_recap(context, model, recap_text, old)
    except ModelyardError as error:
        fields = {"run": context.run.run_id, "error": str(error)}
        logger.warning("conversation summary failed", extra={"fields": fields})
        return PromptHistory(_newest(turns, model, calls, budget), recap_text)
    # The last covered turn is stored, so that the next call knows where the recap ends.
    await memory.save_recap(ConversationSummary(text=text, until=old[-1].id))
    return PromptHistory(recent_turns, text)


async def _write_recap(
    context: NodeContext, model: Any, recap_text: str, turns: Sequence[Turn]
) -> str:
    """Return a recap that merges the old one with the turns. Raises ModelyardError,
    also if the model returns no text."""
    size = context_size(model) or 2 * _DEFAULT_BUDGET
    # A small context leaves less room for the recap.
    max_tokens = min(context.run.limits.summary_tokens, size // 4)
    room = size - 2 * max_tokens - count_texts(model.model, [_RECAP_PROMPT]).tokens
    # Extend the recap batch by batch. Only the newest batches are used, to limit the
    # calls.
    for transcript in _transcripts(turns, model, max(room, 200))[-_MAX_RECAP_CALLS:]:
        recap_prefix = f"The record so far:\n{recap_text}\n\n" if recap_text else ""
        request = LLMRequest(
            messages=[
                SystemPromptMessage(content=_RECAP_PROMPT),
                UserPromptMessage(
                    content=(
                        f"{recap_prefix}What was said since:\n{transcript}\n\nThe whole"
                        " record:"
                    )
                ),
            ],
            model_parameters={"max_tokens": max_tokens},
            user=context.run.user or None,
        )
        result = await model.invoke_llm(request)
        # ConversationSummary calls count towards the run's usage like the node's own calls.
        context.run.tokens += result.usage.total_tokens
        context.run.price += float(result.usage.total_price or 0)
        recap_text = result.text.strip() or recap_text
    if not recap_text:
        raise ModelyardError("The model returned an empty summary")
    return recap_text


def _transcripts(turns: Sequence[Turn], model: Any, room: int) -> list[str]:
    """Return the turns as transcripts of at most `room` tokens, each with as many turns
    as fit."""
    transcripts: list[str] = []
    line, used_tokens = "", 0
    for turn in turns:
        # The turn's text is counted as it will appear in the prompt.
        text = memory_text(PromptHistory([turn]), None)
        size = count_texts(model.model, [text]).tokens
        if size > room:
            # The turn alone is too long: it is shortened to about two characters per
            # token.
            text, size = truncate_middle(text, 2 * room), room
        # This turn does not fit: finish the transcript and start the next one.
        if line and used_tokens + size > room:
            transcripts.append(line)
            line, used_tokens = "", 0
        line, used_tokens = f"{line}\n{text}" if line else text, used_tokens + size
    return [*transcripts, line] if line else transcripts


def _tokens(turns: Sequence[Turn], model: Any, calls: Calls) -> int:
    """Return the tokens that turns take in a prompt, with 4 extra tokens for each
    message."""
    texts = [
        text
        for turn in turns
        for text in (turn.query, turn.answer, *_thought_texts(turn.thoughts, calls))
    ]
    return count_texts(model.model, texts).tokens + 4 * len(texts)


def _thought_texts(thoughts: Sequence[Thought], calls: Calls) -> list[str]:
    """Return the thoughts and tool calls as text, for counting; empty if calls are not
    shown."""
    if not calls:
        return []
    texts: list[str] = []
    for thought in thoughts:
        texts += (thought.text, _calls_as_text(thought))
    return texts


# -------------------------------------------------------------------------- as messages


async def memory_messages(
    history: PromptHistory, context: NodeContext, detail: str, *, calls: Calls = ""
) -> list[AnyPromptMessage]:
    """Return the recap and the turns as prompt messages, oldest first."""
    messages: list[AnyPromptMessage] = []
    if history.recap:
        messages.append(SystemPromptMessage(content=f"{_RECAP_HEADING}{history.recap}"))
    for turn_index, turn in enumerate(history.turns):
        # The files of a turn come before its text, as they did originally.
        parts: list[PromptMessageContent] = [
            await content_of(file, context, detail) for file in turn.files
        ]
        messages.append(
            UserPromptMessage(
                content=[*parts, TextPromptMessageContent(data=turn.query)]
            )
        )
        messages += _answer_messages(turn, turn_index, calls)
    return messages


def _answer_messages(
    turn: Turn, turn_index: int, calls: Calls
) -> list[AnyPromptMessage]:
    """Return the answer of an earlier turn as messages, with its tool calls."""
    messages: list[AnyPromptMessage] = []
    answer = turn.answer
    call_texts: list[str] = []
    if calls == "messages":
        # Calls and their results come before the final answer.
        messages += _call_messages(turn.thoughts, turn_index)
        if messages:
            # The call messages carry the thoughts' texts already.
            answer = _without_thoughts(answer, turn.thoughts)
    elif calls == "text":
        call_texts = [_calls_as_text(thought) for thought in turn.thoughts]
    messages.append(AssistantPromptMessage(content="\n".join([*call_texts, answer])))
    return messages


def _call_messages(
    thoughts: Sequence[Thought], turn_index: int
) -> list[AnyPromptMessage]:
    """Return the tool calls of an earlier turn with their results, as messages."""
    messages: list[AnyPromptMessage] = []
    for thought_index, thought in enumerate(thoughts):
        # A call without a recorded result is left out: APIs require a result for each
        # call. The original ids are not stored; these link each call with its result.
        finished = {
            f"past_{turn_index}_{thought_index}_{call_index}": call
            for call_index, call in enumerate(thought.calls)
            if call.observation is not None
        }
        if not finished:
            continue
        tool_calls = [
            ToolCall(
                id=call_id,
                function=ToolCallFunction(
                    name=call.name, arguments=_object_text(call.arguments)
                ),
            )
            for call_id, call in finished.items()
        ]
        messages.append(
            AssistantPromptMessage(content=thought.text, tool_calls=tool_calls)
        )
        messages += [
            ToolPromptMessage(
                content=truncate_middle(call.observation or "", _MAX_RESULT_CHARS),
                tool_call_id=call_id,
                name=call.name,
            )
            for call_id, call in finished.items()
        ]
    return messages


def _object_text(arguments: str) -> str:
    """Return the arguments of a call; an empty object if they are not the JSON object
    that APIs require."""
    try:
        value: Any = decode_body(arguments)
    except BodyError:
        return "{}"
    return arguments if is_object(value) else "{}"


def _without_thoughts(answer: str, thoughts: Sequence[Thought]) -> str:
    """Return the answer without the thoughts' texts at its start: an agent streams both
    as one text."""
    for thought in thoughts:
        if thought.text and answer.startswith(thought.text):
            answer = answer[len(thought.text) :].lstrip()
    return answer


def _calls_as_text(thought: Thought) -> str:
    """Return the tool calls of a thought with their results as text."""
    return "\n".join(
        f"[used {call.name} with {call.arguments or '{}'}:"
        f" {truncate_middle(_result_text(call), _MAX_RESULT_CHARS)}]"
        for call in thought.calls
    )


def _result_text(call: AgentToolCall) -> str:
    """Return the result of a call."""
    return "no result" if call.observation is None else call.observation


def memory_text(history: PromptHistory, prefix: RolePrefix | None) -> str:
    """Return the recap and the turns as one text, for completion models."""
    user = (prefix.user if prefix else "") or "Human"
    assistant = (prefix.assistant if prefix else "") or "Assistant"
    lines = [f"{_RECAP_HEADING}{history.recap}"] if history.recap else []
    for turn in history.turns:
        # Completion models cannot see images, so a marker replaces them.
        images = "[image]" if turn.files else ""
        lines.append(f"{user}: {images}{turn.query}\n{assistant}: {turn.answer}")
    return "\n".join(lines)
