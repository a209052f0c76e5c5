"""Limits of lengths and numbers: output tokens, stop sequences, names of users,
temperatures."""

import hashlib
from typing import Any

from modelyard.providers.adaptation.draft import Draft, Target
from modelyard.wire.anthropic import DEFAULT_MAX_TOKENS

_MAX_NAME = 64
"""The longest `user`, `safety_identifier` and `prompt_cache_key` of OpenAI."""
_NAMES = ("safety_identifier", "prompt_cache_key")
_OPENAI_FORMATS = ("openai_chat", "openai_responses")
# More are refused with 400, so the first ones are sent.
_MAX_STOP_SEQUENCES = {"openai_chat": 4, "gemini": 5}
_BLANK_REFUSING_FORMATS = ("anthropic", "bedrock")


def output_limit(target: Target) -> int | None:
    """Return the most tokens that an answer of the model may have; None if unknown."""
    if target.capabilities.max_output is not None:
        return target.capabilities.max_output
    return target.schema.max_output if target.schema is not None else None


def limit_output(draft: Draft) -> None:
    """Lower `max_tokens` to what the model can write.

    Anthropic requires one, so a request without gets one that the model accepts.
    """
    limit = output_limit(draft.target)
    max_tokens = draft.request.model_parameters.get("max_tokens")
    if limit is not None and max_tokens is None and draft.target.format == "anthropic":
        default = draft.target.capabilities.max_tokens or DEFAULT_MAX_TOKENS
        if default > limit:
            draft.change_parameters(max_tokens=limit)
    if limit is not None and max_tokens is not None and max_tokens > limit:
        draft.change_parameters(max_tokens=limit)
        draft.drop("max_tokens")


def limit_stop_sequences(draft: Draft) -> None:
    """Leave out the stop sequences that the target refuses."""
    sequences = draft.request.stop
    if not sequences:
        return
    target = draft.target
    accepted = [sequence for sequence in sequences if sequence]
    if target.format in _BLANK_REFUSING_FORMATS:
        accepted = [sequence for sequence in accepted if sequence.strip()]
    limit = target.capabilities.max_stop_sequences
    if limit is None:
        limit = _MAX_STOP_SEQUENCES.get(target.format)
    if "stop" in target.capabilities.drop:
        limit = 0
    if limit is not None:
        accepted = accepted[:limit]
    if len(accepted) < len(sequences):
        draft.change(stop=accepted)
        draft.drop("stop")


def limit_temperature(draft: Draft) -> None:
    """Lower a temperature above 1 for Claude, which takes 0 to 1."""
    temperature = draft.request.model_parameters.get("temperature")
    if draft.target.format in _BLANK_REFUSING_FORMATS and (temperature or 0) > 1:
        draft.change_parameters(temperature=1)
        draft.drop("temperature")


def shorten_names(draft: Draft) -> None:
    """Replace names that are too long for OpenAI by a hash, which stays the same."""
    if draft.target.format not in _OPENAI_FORMATS:
        return
    user = draft.request.user
    if user is not None and len(user) > _MAX_NAME:
        draft.change(user=_short(user))
    extra = draft.target_extra
    changed = {name: _short(extra[name]) for name in _NAMES if _is_long(extra, name)}
    if changed:
        draft.change_extra(**changed)


def _is_long(extra: dict[str, Any], name: str) -> bool:
    """Whether a field is a text that is too long."""
    value = extra.get(name)
    return isinstance(value, str) and len(value) > _MAX_NAME


def _short(name: str) -> str:
    """Return 64 characters that stand for a longer name."""
    return hashlib.sha256(name.encode()).hexdigest()
