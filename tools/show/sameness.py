"""Compare complete responses in the format in which they were recorded: no translation
is needed, so nothing may differ.

`truth` compares a few facts of a response; this module compares the rest. Accepted
differences are in `EXCUSED` and `CHANGED`, each with its reason, and the proof prints
how often each was used.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """A position at which the gateway's response differs from the recorded one."""

    path: str
    """Field names joined by dots; `[]` stands for any element of a list."""
    kind: str
    """`lost`, `added`, `changed`, or `length` for lists of different lengths."""
    before: Any = None
    after: Any = None

    def __str__(self) -> str:
        return f"{self.path} {self.kind}: {str(self.before)[:60]!r} became {str(self.after)[:60]!r}"


NULL = "a null or an empty list says as much as its absence"
SCHEMA = "the format's schema requires the field"
OWN = "not an answer of this format, but read as one"
THOUGHTS = "thoughts are said in the field that most clients read"
PADDING = "random padding against the analysis of traffic"
TYPED = "the recorded one has another type than the schema"

EXCUSED: dict[tuple[str, str, str], str] = {
    ("anthropic", ".content[].caller", "added"): SCHEMA,
    ("gemini", ".candidates[].index", "added"): SCHEMA,
    ("openai_chat", ".choices[].message", "added"): SCHEMA,
    ("openai_chat", ".choices[].message.tool_calls[].type", "added"): SCHEMA,
    # Providers put fields of a stream chunk into complete responses; the schema of
    # those does not have them.
    (
        "openai_chat",
        ".choices[].message.tool_calls[].index",
        "lost",
    ): "a place in a stream, in an answer that is none",
    ("openai_chat", ".choices[].message.reasoning", "lost"): THOUGHTS,
    ("openai_chat", ".choices[].message.reasoning_content", "added"): THOUGHTS,
    # Known defects are listed too, so that the proof shows them until they are fixed.
    (
        "openai_chat",
        ".choices[].message.reasoning_details[].data",
        "added",
    ): "known fault: as the type of it",
    (
        "openai_chat",
        ".choices[].message.reasoning_details[].signature",
        "lost",
    ): "known fault: as the type of it",
    ("openai_chat", ".usage", "added"): "asked for, and counted where it is not sent",
    ("openai_chat", ".obfuscation", "lost"): PADDING,
    ("openai_responses", ".id", "added"): "each recorded event has another id",
    (
        "openai_responses",
        ".created_at",
        "added",
    ): "each recorded event has another time",
    ("openai_completions", ".choices[].index", "added"): SCHEMA,
    ("openai_completions", ".created", "added"): SCHEMA,
    ("openai_completions", ".id", "added"): SCHEMA,
    ("openai_completions", ".object", "added"): SCHEMA,
    ("openai_completions", ".usage", "added"): "counted where the server does not",
    (
        "openai_responses",
        ".output[].status",
        "lost",
    ): "known fault: a thought's own status",
    ("openai_responses", ".status", "added"): OWN,
    ("openai_responses", ".model", "added"): OWN,
}
"""Accepted additions and losses: (format, path, kind of change) to the reason."""

Predicate = Callable[[Any, Any], bool]
CHANGED: dict[tuple[str, str], tuple[Predicate, str]] = {
    ("anthropic", ".stop_reason"): (
        lambda before, after: (before, after) == ("end_turn", "tool_use"),
        "recorded as the end of a turn, though calls of the caller's tools came",
    ),
    ("openai_chat", ".created"): (
        lambda before, after: isinstance(before, str) and after > 0,
        TYPED,
    ),
    ("openai_chat", ".choices[].message.content"): (
        lambda before, after: _without_thinking(before) == (after or ""),
        THOUGHTS,
    ),
    ("openai_chat", ".choices[].message.reasoning_details[].index"): (
        lambda before, after: isinstance(before, int) and isinstance(after, int),
        "OpenRouter's number for the parts of one thought, which our parts have each of their own",
    ),
    ("openai_chat", ".choices[].message.reasoning_details[].type"): (
        lambda before, after: (
            (before, after) == ("reasoning.text", "reasoning.encrypted")
        ),
        "known fault: OpenRouter's signature without a text is read as an encrypted thought",
    ),
    ("openai_chat", ".obfuscation"): (
        lambda before, after: isinstance(after, str),
        PADDING,
    ),
    ("openai_completions", ".created"): (
        lambda before, after: before > 10**11 and 0 < after < 10**11,
        "recorded in milliseconds, where the schema says seconds",
    ),
    ("openai_responses", ".output[].id"): (
        lambda before, after: bool(re.match(r"(msg|rs)_\w+-?.*_\d+$", str(after))),
        "known fault: an id that came after the item's first event, or of a refusal",
    ),
    ("openai_responses", ".output[].status"): (
        lambda before, after: (before, after) == ("in_progress", "completed"),
        "recorded as unfinished, although the item's last event came",
    ),
    ("openai_completions", ".object"): (
        lambda before, _: before == "text.completion",
        "Together's own word for the schema's",
    ),
    ("openai_responses", ".usage"): (
        lambda before, _: before is None,
        "a response that is still running, whose use was estimated",
    ),
    ("openai_responses", ".object"): (
        lambda before, _: before == "response.compaction",
        OWN,
    ),
    ("openai_responses", ".output[].role"): (
        lambda before, after: (before, after) == ("user", "assistant"),
        OWN,
    ),
    ("openai_responses", ".output[].content[].type"): (
        lambda before, _: before == "input_text",
        OWN,
    ),
}
"""Accepted changes of a value: (format, path) to (predicate on the two values, reason).
"""

# Response fields that repeat the request, with the values that they have if the request
# did not set them.
_DEFAULTS: dict[str, Any] = {
    ".parallel_tool_calls": True,
    ".reasoning": {"effort": None, "summary": None},
    ".store": False,
    ".temperature": 1.0,
    ".text": {"format": {"type": "text"}},
    ".tool_choice": "auto",
    ".top_p": 1.0,
    ".truncation": "disabled",
    ".metadata": {},
    ".background": False,
    ".frequency_penalty": 0.0,
    ".presence_penalty": 0.0,
    ".service_tier": "default",
    ".top_logprobs": 0,
}


def excuse(change: Change, name: str) -> str:
    """Return why this change is acceptable in a response of format `name`; empty if it
    is not."""
    # Absence, null and an empty list mean the same in all formats.
    if change.kind == "lost" and change.before in (None, [], ""):
        return NULL
    if change.kind == "added" and change.after in (None, [], "", {}):
        return NULL
    if (
        change.kind == "changed"
        and change.path.endswith(".content")
        and (change.before, change.after) == ("", None)
    ):
        return NULL
    if change.kind == "changed":
        is_excuse, reason = CHANGED.get((name, change.path), (_never, ""))
        return reason if is_excuse(change.before, change.after) else ""
    # The gateway fills in required fields that repeat the request; their defaults are
    # accepted.
    is_default = (
        name == "openai_responses"
        and change.path in _DEFAULTS
        and change.after == _DEFAULTS[change.path]
    )
    if change.kind == "added" and is_default:
        return SCHEMA
    return EXCUSED.get((name, change.path, change.kind), "")


def _never(before: Any, after: Any) -> bool:
    """The predicate for paths without an accepted change."""
    del before, after
    return False


def _without_thinking(content: Any) -> str | None:
    """Return the text of a content without its thinking; None if the content has none."""
    if isinstance(content, list):
        return "".join(
            part.get("text", "") for part in content if part.get("type") != "thinking"
        )
    if isinstance(content, str) and content.startswith("<think>"):
        return content.partition("</think>")[2].lstrip()
    return None


def changes(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Yield every difference between two documents."""
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _changed_fields(before, after, path)
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield Change(path, "length", len(before), len(after))
        for before_element, after_element in zip(before, after, strict=False):
            yield from changes(before_element, after_element, f"{path}[]")
    # In Python True equals 1, so compare whether each is a boolean as well as the
    # values.
    elif isinstance(before, bool) is not isinstance(after, bool) or before != after:
        yield Change(path, "changed", before, after)


def _changed_fields(before: JSON, after: JSON, path: str) -> Iterator[Change]:
    """Yield the differences of two objects, in the order of the recorded fields."""
    for name in dict.fromkeys([*before, *after]):
        inner = f"{path}.{name}"
        if name not in after:
            yield Change(inner, "lost", before=before[name])
        elif name not in before:
            yield Change(inner, "added", after=after[name])
        else:
            yield from changes(before[name], after[name], inner)
