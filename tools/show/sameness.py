"""Whole answers in the format that they were recorded in: the gateway need not translate, so nothing may differ.

The facts of `truth` are a few of an answer; this sees everything else of it. What may differ stands in `EXCUSED` and
`CHANGED`, each with its reason, and the proof prints how often each was needed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """A place where the gateway's answer differs from the recorded one."""

    path: str
    """Names with dots, `[]` for any place of a list."""
    kind: str
    """`lost`, `added`, `changed` or `length`."""
    before: Any = None
    after: Any = None

    def __str__(self) -> str:
        return f"{self.path} {self.kind}: {str(self.before)[:60]!r} became {str(self.after)[:60]!r}"


NULL = "a null or an empty list says as much as its absence"
SCHEMA = "the format's schema requires the field"
OWN = "not an answer of this format, but read as one"
THOUGHTS = "thoughts are said in the field that most clients read"
TYPED = "the recorded one has another type than the schema"

EXCUSED: dict[tuple[str, str, str], str] = {
    ("gemini", ".candidates[].index", "added"): SCHEMA,
    ("openai_chat", ".choices[].message", "added"): SCHEMA,
    ("openai_chat", ".choices[].message.tool_calls[].type", "added"): SCHEMA,
    ("openai_chat", ".choices[].message.tool_calls[].index", "lost"): "a place in a stream, in an answer that is none",
    ("openai_chat", ".choices[].message.reasoning", "lost"): THOUGHTS,
    ("openai_chat", ".choices[].message.reasoning_content", "added"): THOUGHTS,
    ("openai_chat", ".choices[].message.reasoning_details[].data", "added"): "known fault: as the type of it",
    ("openai_chat", ".choices[].message.reasoning_details[].signature", "lost"): "known fault: as the type of it",
    ("openai_completions", ".choices[].index", "added"): SCHEMA,
    ("openai_completions", ".created", "added"): SCHEMA,
    ("openai_completions", ".id", "added"): SCHEMA,
    ("openai_completions", ".object", "added"): SCHEMA,
    ("openai_completions", ".usage", "added"): "counted where the server does not",
    ("openai_responses", ".output[].status", "lost"): "known fault: a thought's own status",
    ("openai_responses", ".status", "added"): OWN,
    ("openai_responses", ".model", "added"): OWN,
}  # fmt: skip
"""By format, path and kind of the change."""

Excuses = Callable[[Any, Any], bool]
CHANGED: dict[tuple[str, str], tuple[Excuses, str]] = {
    ("anthropic", ".stop_reason"): (
        lambda before, after: (before, after) == ("end_turn", "tool_use"),
        "recorded as the end of a turn, though calls of the caller's tools came",
    ),
    ("openai_chat", ".created"): (lambda before, after: isinstance(before, str) and after > 0, TYPED),
    ("openai_chat", ".choices[].message.content"): (
        lambda before, after: _without_thoughts(before) == (after or ""),
        THOUGHTS,
    ),
    ("openai_chat", ".choices[].message.reasoning_details[].index"): (
        lambda before, after: isinstance(before, int) and isinstance(after, int),
        "OpenRouter's number for the parts of one thought, which our parts have each of their own",
    ),
    ("openai_chat", ".choices[].message.reasoning_details[].type"): (
        lambda before, after: (before, after) == ("reasoning.text", "reasoning.encrypted"),
        "known fault: OpenRouter's signature without a text is read as an encrypted thought",
    ),
    ("openai_completions", ".object"): (
        lambda before, _: before == "text.completion",
        "Together's own word for the schema's",
    ),
    ("openai_responses", ".usage"): (
        lambda before, _: before is None,
        "a response that is still running, whose use was estimated",
    ),
    ("openai_responses", ".object"): (lambda before, _: before == "response.compaction", OWN),
    ("openai_responses", ".output[].role"): (lambda before, after: (before, after) == ("user", "assistant"), OWN),
    ("openai_responses", ".output[].content[].type"): (lambda before, _: before == "input_text", OWN),
}
"""By format and path: whether these values are why, and why."""

# Fields of a response that repeat the request, with what they are where nobody said anything else.
_DEFAULTS: dict[str, Any] = {
    ".parallel_tool_calls": True, ".reasoning": {"effort": None, "summary": None}, ".store": False,
    ".temperature": 1.0, ".text": {"format": {"type": "text"}}, ".tool_choice": "auto", ".top_p": 1.0,
    ".truncation": "disabled", ".metadata": {},
}  # fmt: skip


def excuse(change: Change, name: str) -> str:
    """Why this may be so in an answer of this format; empty where it may not."""
    if change.kind == "lost" and change.before in (None, []):
        return NULL
    if change.kind == "added" and change.after in (None, []):
        return NULL
    if change.kind == "changed" and change.path.endswith(".content") and (change.before, change.after) == ("", None):
        return NULL
    if change.kind == "changed":
        is_excuse, why = CHANGED.get((name, change.path), (_never, ""))
        return why if is_excuse(change.before, change.after) else ""
    is_default = name == "openai_responses" and change.path in _DEFAULTS and change.after == _DEFAULTS[change.path]
    if change.kind == "added" and is_default:
        return SCHEMA
    return EXCUSED.get((name, change.path, change.kind), "")


def _never(before: Any, after: Any) -> bool:
    del before, after
    return False


def _without_thoughts(content: Any) -> str | None:
    """The text of a content that begins with a thought between tags, or holds one as a part; else None."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if part.get("type") != "thinking")
    if isinstance(content, str) and content.startswith("<think>"):
        return content.partition("</think>")[2].lstrip()
    return None


def changes(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Every place where two documents differ, to the type of a number."""
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _changed_fields(before, after, path)
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield Change(path, "length", len(before), len(after))
        for one, other in zip(before, after, strict=False):
            yield from changes(one, other, f"{path}[]")
    elif isinstance(before, bool) is not isinstance(after, bool) or before != after:
        yield Change(path, "changed", before, after)


def _changed_fields(before: JSON, after: JSON, path: str) -> Iterator[Change]:
    for name in dict.fromkeys([*before, *after]):
        inner = f"{path}.{name}"
        if name not in after:
            yield Change(inner, "lost", before=before[name])
        elif name not in before:
            yield Change(inner, "added", after=after[name])
        else:
            yield from changes(before[name], after[name], inner)
