"""Thinking: how much of it a request asks for, in the way that the model takes.

A stronger word never becomes less. What a model cannot switch off gets its smallest
amount, and a model that does not think gets no such field.
"""

from typing import Any

from modelyard.base.json_types import is_array, is_object
from modelyard.models.capabilities import Thinking
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    ThinkingPromptMessageContent,
    UserPromptMessage,
)
from modelyard.models.reasoning import budget_of, effort_of, nearest_effort
from modelyard.providers.adaptation.draft import Draft
from modelyard.providers.adaptation.limits import output_limit

CLAUDE_FORMATS = ("anthropic", "bedrock")
# Assumed if neither the request nor the description of its model has a limit.
_DEFAULT_OUTPUT = 8192
_FIELDS = ("reasoning_effort", "thinking_budget")


def adapt_thinking(draft: Draft) -> None:
    """Write effort and budget in the way that the model takes."""
    thinking = draft.target.capabilities.thinking
    # An unknown model gets what is usual for the format, which its writer decides.
    if thinking is None:
        return
    parameters = draft.request.model_parameters
    if thinking.control == "none":
        _leave_out(draft)
        return
    effort, budget = (parameters.get(name) for name in _FIELDS)
    if effort is None and budget is None:
        return
    match thinking.control:
        case "effort":
            _set_word(draft, thinking, effort, budget)
        case "budget":
            _set_budget(draft, thinking, effort, budget)
        case "adaptive":
            _set_adaptive(draft, thinking, effort, budget)
    # This comes last, because it writes what the steps above have decided.
    _rewrite_own_form(draft)


def is_thinking(draft: Draft) -> bool:
    """Whether the model thinks when it answers the adapted request."""
    parameters = draft.request.model_parameters
    thinking = draft.target.capabilities.thinking
    effort, budget = (parameters.get(name) for name in _FIELDS)
    if draft.target.format in CLAUDE_FORMATS:
        # Depth alone does not switch it on.
        is_own_effort = effort is not None and not draft.is_same_format
        return bool(budget) or (is_own_effort and effort != "none" and budget is None)
    if effort is None and budget is None:
        return thinking is not None and thinking.default != "none"
    return budget != 0 if effort is None else effort != "none"


def leave_out_thinking(draft: Draft) -> None:
    """Ask for no thinking, because of something else that the request has."""
    for name in _FIELDS:
        draft.remove_parameter(name)
        # Named as the caller asked for it.
        if name in draft.original.model_parameters:
            draft.drop(name)
    _remove_extra(draft, "thinking")


def check_open_turn(draft: Draft) -> None:
    """Leave thinking out where Claude wants a thinking block that is not there.

    With a budget, the messages of a turn that has tool calls must begin with one. After
    a change of model they cannot.
    """
    parameters = draft.request.model_parameters
    if (
        draft.target.format not in CLAUDE_FORMATS
        or (draft.is_same_format and not draft.removes_thoughts)
        or not is_thinking(draft)
        # -1 is adaptive thinking, which has no such rule.
        or parameters.get("thinking_budget") == -1
    ):
        return
    for message in current_turn(draft.request.messages):
        if isinstance(message, AssistantPromptMessage) and message.tool_calls:
            blocks = message.blocks
            is_signed = isinstance(blocks[0], ThinkingPromptMessageContent) and bool(
                blocks[0].signature
            )
            if not is_signed:
                leave_out_thinking(draft)
                return


def current_turn(messages: list[AnyPromptMessage]) -> list[AnyPromptMessage]:
    """Return the messages since the last one of the user. One of the system, such as an
    agent's reminder after the result of a tool, begins no turn."""
    for index in reversed(range(len(messages))):
        if isinstance(messages[index], UserPromptMessage):
            return messages[index + 1 :]
    return messages


def _leave_out(draft: Draft) -> None:
    """Leave out all that controls thinking."""
    for name in (*_FIELDS, "include_thoughts"):
        draft.drop_parameter(name)
    for name in ("thinking", "reasoning"):
        _remove_extra(draft, name)
    included = draft.target_extra.get("include")
    # OpenAI refuses this for models that do not think.
    encrypted = "reasoning.encrypted_content"
    if is_array(included) and encrypted in included:
        rest = [name for name in included if name != encrypted]
        draft.change_extra(include=rest or None)
        draft.drop("include")


def _word(effort: str | None, budget: int | None) -> str | None:
    """Return the effort that a request asks for; None if the model may decide."""
    if budget == 0:
        return "none"
    if effort is not None:
        return effort
    return None if budget is None else effort_of(budget)


def _set_word(
    draft: Draft, thinking: Thinking, effort: str | None, budget: int | None
) -> None:
    """Write the effort as one of the model's words, without a budget."""
    # A server with both takes a budget as it is.
    if thinking.takes_budget and budget is not None and budget > 0:
        if effort is not None:
            draft.remove_parameter("reasoning_effort")
        return
    word = _word(effort, budget)
    # The model decides by itself, unless it does not think without being asked.
    if word is None and thinking.default == "none":
        word = "medium"
    draft.remove_parameter("thinking_budget")
    if word is None:
        return
    nearest = nearest_effort(word, thinking.words)
    if nearest is None:
        draft.drop("reasoning_effort" if effort is not None else "thinking_budget")
        draft.remove_parameter("reasoning_effort")
        return
    draft.change_parameters(reasoning_effort=nearest)


def _set_budget(
    draft: Draft, thinking: Thinking, effort: str | None, budget: int | None
) -> None:
    """Write the effort as a budget within the model's limits, without a word."""
    draft.remove_parameter("reasoning_effort")
    if budget is None and effort is not None and _is_depth_alone(draft):
        draft.drop("reasoning_effort")
        return
    tokens = _tokens(draft, thinking, effort, budget)
    # -1 and 0 are no amounts.
    if tokens > 0:
        tokens = min(max(tokens, thinking.min_budget), thinking.max_budget)
    draft.change_parameters(thinking_budget=tokens)
    if draft.target.format in CLAUDE_FORMATS and tokens > 0:
        _make_room(draft, tokens)


def _tokens(
    draft: Draft, thinking: Thinking, effort: str | None, budget: int | None
) -> int:
    """Return the budget that a request asks for, before the model's limits."""
    if budget == 0 or (budget is None and effort == "none"):
        return 0 if thinking.can_be_off else thinking.min_budget
    if budget is not None and budget > 0:
        return budget
    if effort is not None:
        return budget_of(effort)
    # -1: the model decides. Only Google has a number for that.
    return -1 if draft.target.format == "gemini" else budget_of("medium")


def _is_depth_alone(draft: Draft) -> bool:
    """Whether Anthropic's own effort came without `thinking`: it asks for none then."""
    return draft.is_same_format and draft.target.format == "anthropic"


def _make_room(draft: Draft, budget: int) -> None:
    """Raise the output limit of a request above its budget, at most to the model's
    own, and keep the budget below it."""
    parameters = draft.request.model_parameters
    max_tokens = (
        parameters.get("max_tokens")
        or draft.target.capabilities.max_tokens
        or _DEFAULT_OUTPUT
    )
    # The limit counts thoughts too, and the caller meant it for the answer.
    if budget >= max_tokens:
        max_tokens += budget
    limit = output_limit(draft.target)
    if limit is not None and max_tokens > limit:
        max_tokens = limit
    # Claude refuses a budget that is not below the limit.
    draft.change_parameters(
        max_tokens=max_tokens, thinking_budget=min(budget, max_tokens - 1)
    )


def _set_adaptive(
    draft: Draft, thinking: Thinking, effort: str | None, budget: int | None
) -> None:
    """Write the effort as adaptive thinking with a depth."""
    if budget is None and effort is not None and _is_depth_alone(draft):
        _set_depth(draft, thinking, effort)
        return
    word = _word(effort, budget)
    if word == "none" and thinking.can_be_off:
        _switch_off(draft, thinking, effort)
        return
    has_budget = budget is not None and budget > 0
    # The older form of the same API, which some models still accept.
    if thinking.takes_budget and draft.is_same_format and has_budget:
        if effort is not None:
            _set_depth(draft, thinking, effort)
        return
    draft.change_parameters(thinking_budget=-1)
    if word is not None:
        _set_depth(draft, thinking, word)


def _switch_off(draft: Draft, thinking: Thinking, effort: str | None) -> None:
    """Switch adaptive thinking off."""
    draft.change_parameters(thinking_budget=0)
    # The depth of Anthropic's own requests applies to the whole answer.
    if draft.is_same_format and effort is not None and effort != "none":
        _set_depth(draft, thinking, effort)
    else:
        draft.remove_parameter("reasoning_effort")


def _set_depth(draft: Draft, thinking: Thinking, word: str) -> None:
    """Write the depth of adaptive thinking as one of the model's words."""
    nearest = nearest_effort(word, thinking.words)
    if nearest is None:
        draft.drop_parameter("reasoning_effort")
    else:
        draft.change_parameters(reasoning_effort=nearest)


def _rewrite_own_form(draft: Draft) -> None:
    """Replace Anthropic's `thinking` of the caller if the model takes another form.

    Its other fields, such as `display`, are kept.
    """
    original = draft.target_extra.get("thinking")
    if draft.target.format != "anthropic" or not is_object(original):
        return
    budget = draft.request.model_parameters.get("thinking_budget")
    form: dict[str, Any] | None = None
    if budget == 0:
        form = {"type": "disabled"}
    elif budget is not None:
        form = {"type": "adaptive"}
        if budget > 0:
            form = {"type": "enabled", "budget_tokens": budget}
        others = ("type", "budget_tokens")
        form |= {key: value for key, value in original.items() if key not in others}
    draft.change_extra(thinking=form)


def _remove_extra(draft: Draft, name: str) -> None:
    """Leave out a field that only the caller's format has."""
    if name in draft.target_extra:
        draft.change_extra(**{name: None})
        draft.drop(name)
