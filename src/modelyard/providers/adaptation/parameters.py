"""Model parameters and other fields: which of them a target has, and how it names their
values."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.json_types import is_object
from modelyard.providers.adaptation.draft import Draft, fields_of

_OPENAI_FORMATS = ("openai_chat", "openai_responses")
_SHARED_BY_OPENAI = (
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
)
"""Fields of both formats of OpenAI that have no common name."""
_FORMATS_WITH_USER = (*_OPENAI_FORMATS, "anthropic", "openai_completions")
_TIERS: Mapping[str, Mapping[str, str]] = {
    "anthropic": {
        "auto": "auto",
        "standard_only": "standard_only",
        "default": "standard_only",
    },
    "openai_chat": {"standard_only": "default"},
    "openai_responses": {"standard_only": "default"},
}
"""Service tiers of other formats by format; Anthropic's list is complete."""


def report_unsupported_parameters(draft: Draft) -> None:
    """Report the parameters that the format or the server does not have.

    The format's writer leaves them out.
    """
    target, request = draft.target, draft.request
    refused = set(target.capabilities.drop)
    names = [*request.model_parameters, *(["stop"] if request.stop else [])]
    for name in names:
        if name not in target.parameters or name in refused:
            draft.drop(name)
    if request.user is not None and (
        target.format not in _FORMATS_WITH_USER or "user" in refused
    ):
        draft.drop("user")


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


def report_unread_fields(draft: Draft) -> None:
    """Report every field of the caller's request that the target's format lacks."""
    request = draft.request
    if draft.is_same_format:
        return
    carried = draft.target_extra
    for name, value in fields_of(request.extra, request.format).items():
        if name in carried or value is None:
            continue
        for lost in _lost_names(name, value):
            draft.drop(lost)


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
    # Its list is complete, unlike those of servers that have tiers of their own.
    elif draft.target.format == "anthropic":
        draft.drop_parameter("service_tier")
