"""Model parameters and other fields: which of them a target has, and how it names their
values."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.json_types import is_array, is_object
from modelyard.providers.adaptation.draft import Draft, Target, fields_of

_OPENAI_FORMATS = ("openai_chat", "openai_responses")
_SHARED_BY_OPENAI = (
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
)
"""Fields of both formats of OpenAI that have no common name."""
_FORMATS_WITH_USER = (*_OPENAI_FORMATS, "anthropic", "openai_completions")
_STANDARD = (
    "standard_only",
    "default",
    "standard",
)
"""What vendors call the tier that costs the usual price."""
_TIERS: Mapping[str, Mapping[str, str]] = {
    "anthropic": {"auto": "auto", **dict.fromkeys(_STANDARD, "standard_only")},
    "openai_chat": dict.fromkeys(_STANDARD, "default"),
    "openai_responses": dict.fromkeys(_STANDARD, "default"),
    "gemini": {
        "flex": "flex",
        "priority": "priority",
        **dict.fromkeys(_STANDARD, "standard"),
    },
    "bedrock": {
        "flex": "flex",
        "priority": "priority",
        "reserved": "reserved",
        **dict.fromkeys(_STANDARD, "default"),
    },
}
"""Service tiers of other formats by format."""
_COMPLETE_TIERS = (
    "anthropic",
    "gemini",
    "bedrock",
)
"""Formats whose list of tiers is complete, unlike those of servers that have tiers of
their own."""


def report_unsupported_parameters(draft: Draft) -> None:
    """Report the parameters that the format or the server does not have.

    The format's writer leaves them out.
    """
    target, request = draft.target, draft.request
    refused = set(target.capabilities.drop)
    parameters = request.model_parameters
    names = [*parameters, *(["stop"] if request.stop else [])]
    for name in names:
        # Several calls at a time are what a model does without being asked.
        if name == "parallel_tool_calls" and parameters[name] is True:
            continue
        if name not in target.parameters or name in refused:
            draft.drop(name)
    # Some servers of the format answer without thoughts, whatever is asked for.
    if parameters.get("include_thoughts") and _hides_thoughts(target):
        draft.drop("include_thoughts")
    if request.user is not None and (
        target.format not in _FORMATS_WITH_USER or "user" in refused
    ):
        draft.drop("user")


def _hides_thoughts(target: Target) -> bool:
    """Whether a server's answers have no thoughts: OpenAI's in the chat format, which
    takes none either."""
    return target.format == "openai_chat" and not target.capabilities.reasoning_field


def carry_shared_fields(draft: Draft) -> None:
    """Carry the fields that both formats of OpenAI have.

    The Responses API stores what it is not told to forget, unlike every other format.
    """
    target, source = draft.target, draft.request.format
    if draft.is_same_format:
        return
    shared: dict[str, Any] = {}
    if {source, target.format} == set(_OPENAI_FORMATS):
        extra = fields_of(draft.request.extra, source)
        shared = {name: extra[name] for name in _SHARED_BY_OPENAI if name in extra}
    if target.format == "openai_responses":
        shared.setdefault("store", False)
    elif not target.capabilities.developer_role:
        # Only OpenAI itself is known to take them in this format.
        shared = {}
    if shared:
        draft.change_extra(**shared)


_STORED_CONTENT = (
    ("gemini", "cachedContent"),
    ("openai_responses", "prompt"),
)
"""(format, field) of content that the format's own vendor stores."""


def report_unread_fields(draft: Draft) -> None:
    """Report every field of the caller's request that the target's format lacks.

    Raises InvokeBadRequestError for one that stands for content, without which the
    answer would be one to another question.
    """
    request = draft.request
    if draft.is_same_format:
        return
    carried = draft.target_extra
    for name, value in fields_of(request.extra, request.format).items():
        if name in carried or value is None:
            continue
        if (request.format, name) in _STORED_CONTENT:
            raise InvokeBadRequestError(
                f"{name!r} refers to content that another provider stores, and model"
                f" {draft.target.model!r} cannot read it; send the content itself",
                param=name,
            )
        for lost in _lost_names(name, value):
            draft.drop(lost)


_READ_INCLUDES = {"message.output_text.logprobs", "reasoning.encrypted_content"}
_READ_ENTRIES: Mapping[str, frozenset[str]] = {
    # The original of a schema stands beside the one that was read.
    "generationConfig": frozenset({"responseSchema"}),
    "thinking": frozenset({"type", "budget_tokens"}),
    "output_config": frozenset(),
    "text": frozenset(),
    # Read as `include_thoughts`.
    "reasoning": frozenset({"summary"}),
}
"""Objects of which a part was read, with the entries that have a common name."""


def _lost_names(name: str, value: Any) -> list[str]:
    """Return the names of what is lost with a field: itself, or some of its entries if
    the others were read."""
    # Nobody else stores anything.
    if name == "store" and value is False:
        return []
    # Read as `logprobs`; encrypted thoughts come without being asked for elsewhere.
    if name == "include" and is_array(value):
        return [name] if set(map(str, value)) - _READ_INCLUDES else []
    read_entries = _READ_ENTRIES.get(name)
    if read_entries is None or not is_object(value):
        return [name]
    # Google's settings have no other place with the same names.
    prefix = "" if name == "generationConfig" else f"{name}."
    return [
        prefix + key
        for key, entry in value.items()
        if entry is not None and key not in read_entries
    ]


def keep_known_fields(draft: Draft) -> None:
    """Leave out the fields that are not on a server's list, if it has one."""
    known = draft.target.capabilities.fields
    if not known:
        return
    # Parameters by our names, before the writer renames them.
    for name in list(draft.request.model_parameters):
        # Thinking is written in a way of its own.
        if name not in known and name not in ("thinking_budget", "include_thoughts"):
            draft.drop_parameter(name)
    unknown = [name for name in draft.target_extra if name not in known]
    if unknown:
        draft.change_extra(**dict.fromkeys(unknown))
        for name in unknown:
            draft.drop(name)
    if draft.request.user is not None and "user" not in known:
        draft.change(user=None)
        draft.drop("user")


def adapt_service_tier(draft: Draft) -> None:
    """Write the service tier in the target's words, or leave it out."""
    tier = draft.request.model_parameters.get("service_tier")
    tiers = _TIERS.get(draft.target.format)
    if tier is None or tiers is None or draft.is_same_format:
        return
    if tier in tiers:
        draft.change_parameters(service_tier=tiers[tier])
    elif draft.target.format in _COMPLETE_TIERS:
        draft.drop_parameter("service_tier")


def adapt_metadata(draft: Draft) -> None:
    """Leave out the metadata that Bedrock refuses: it takes texts alone."""
    metadata: Any = draft.request.model_parameters.get("metadata")
    if draft.target.format != "bedrock" or not is_object(metadata):
        return
    if not all(isinstance(value, str) for value in metadata.values()):
        draft.drop_parameter("metadata")
