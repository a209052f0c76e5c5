"""Sampling parameters, and pairs of settings that a model refuses."""

from modelyard.providers.adaptation.draft import Draft
from modelyard.providers.adaptation.thinking import (
    CLAUDE_FORMATS,
    is_thinking,
    leave_out_thinking,
)

_OPENAI = (
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
)
_CLAUDE = ("temperature", "top_p", "top_k")
# With extended thinking, Claude takes a `top_p` from 0.95 to 1 alone.
_MIN_THINKING_TOP_P = 0.95


def adapt_forced_tool(draft: Draft) -> None:
    """Leave thinking out if a tool is forced, which Claude refuses beside it.

    The caller relies on the forced call, while an answer without thinking is still one.
    """
    choice = draft.request.tool_choice
    is_forced = choice not in (None, "auto", "none")
    if isinstance(choice, dict) and "allowed" in choice:
        is_forced = choice.get("mode") == "required"
    if is_forced and draft.target.format in CLAUDE_FORMATS and is_thinking(draft):
        leave_out_thinking(draft)


def adapt_sampling(draft: Draft) -> None:
    """Leave out the sampling parameters that the model refuses, by itself or while it
    thinks."""
    if _refuses_sampling(draft):
        _drop_sampling(draft)
    parameters = draft.request.model_parameters
    # The temperature stays: it is the one that most callers mean.
    if (
        draft.target.capabilities.temperature_or_top_p
        and "temperature" in parameters
        and "top_p" in parameters
    ):
        draft.drop_parameter("top_p")


def _refuses_sampling(draft: Draft) -> bool:
    """Whether the model refuses sampling parameters in this request."""
    sampling = draft.target.capabilities.sampling
    if sampling == "never":
        return True
    # A budget that was made of another format's effort has the same effect on a server
    # about which nothing is known.
    is_converted = draft.target.format in CLAUDE_FORMATS and not draft.is_same_format
    return (sampling == "while_not_thinking" or is_converted) and is_thinking(draft)


def _drop_sampling(draft: Draft) -> None:
    """Leave out all sampling parameters."""
    is_claude = draft.target.format in CLAUDE_FORMATS
    for name in _CLAUDE if is_claude else _OPENAI:
        if not _is_harmless(draft, name):
            draft.drop_parameter(name)
    # It has no common name, so it is one of the format's own fields.
    if not is_claude and "logit_bias" in draft.target_extra:
        draft.change_extra(logit_bias=None)
        draft.drop("logit_bias")


def _is_harmless(draft: Draft, name: str) -> bool:
    """Whether a parameter has a value that the model takes all the same."""
    value = draft.request.model_parameters.get(name)
    if draft.target.format not in CLAUDE_FORMATS:
        return False
    if name == "temperature":
        return value == 1
    return (
        name == "top_p"
        and draft.target.capabilities.sampling != "never"
        and value is not None
        and value >= _MIN_THINKING_TOP_P
    )
