"""Compare what a recording says with what the gateway's answer says.

The only accepted differences are in two tables, each with its reason: `NOT_SAYABLE`
(facts that a format has no place for) and `ADDED` (what the gateway says although the
recording does not).
"""

from typing import Any

_IDENTITY = "the answer needs one, and the vendor sent none"
ADDED: dict[str, str] = {
    "id": _IDENTITY,
    "model": _IDENTITY,
    "created": _IDENTITY,
    "tier": "the Responses API's schema requires the field",
    "finish": "the answer needs a reason, and the vendor gave none",
    "call.ids": "the vendor's calls have no ids, and results must name their call",
    "citations.files": "each source of Cohere's has an id, and the vendor gave none",
    "usage.prompt": "estimated, as the vendor did not count",
    "usage.completion": "estimated, as the vendor did not count",
    "usage.total": "estimated, as the vendor did not count",
}
"""Kind of fact → why an answer may have it although the recording does not."""

_CHAT, _RESPONSES, _CLAUDE = "openai_chat", "openai_responses", "anthropic"
_GOOGLE, _COHERE, _TEXT = "gemini", "cohere", "openai_completions"
_ALL = (_CHAT, _RESPONSES, _CLAUDE, _GOOGLE, _COHERE, _TEXT)


def _except(*formats: str) -> tuple[str, ...]:
    """Return all formats of callers but these."""
    return tuple(name for name in _ALL if name not in formats)


# (kind of fact, formats without a place for it, reason).
_ROWS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("created", (_CLAUDE, _GOOGLE, _COHERE), "the answer has no time"),
    ("model", (_COHERE,), "the answer does not name the model"),
    ("fingerprint", _except(_CHAT, _TEXT), "the answer has no fingerprint"),
    ("tier", _ALL, "each vendor has its own names of tiers"),
    ("safety", _ALL, "ratings have the vendor's own categories"),
    ("prompt_safety", _ALL, "ratings have the vendor's own categories"),
    ("choices", (_RESPONSES, _CLAUDE, _COHERE), "a response is one answer"),
    ("order", (_CHAT, _COHERE, _TEXT), "calls and reasoning stand beside the text"),
    ("signatures", (_COHERE, _TEXT), "the answer has no place for a signature"),
    ("signed", (_CHAT, _GOOGLE, _COHERE, _TEXT), "a signature stands beside the text"),
    ("stop_sequence", _except(_CLAUDE), "the answer does not name the stop sequence"),
    ("logprobs", (_CLAUDE,), "the answer has no log probabilities"),
    ("logprobs", (_COHERE,), "log probabilities are those of pieces of text"),
    ("logprobs.top", (_CLAUDE, _COHERE, _TEXT), "only the chosen tokens are named"),
    ("server_tools", _ALL, "steps of a vendor's own tools are blocks of its format"),
    ("citations.quotes", _except(_CLAUDE, _CHAT, _COHERE), "a source is not quoted"),
    ("citations.files", _ALL, "a file in a vendor's store has no address elsewhere"),
    ("citations.spans", (_CLAUDE, _TEXT), "a source stands for its whole text"),
    ("citations", (_TEXT,), "the answer has no sources"),
    ("usage.total", (_CLAUDE, _COHERE), "the answer has no total"),
    ("usage.cache_write", (_GOOGLE, _COHERE, _TEXT), "cache writes are not counted"),
    ("usage.cache_write_1h", _except(_CLAUDE), "lifetimes are not counted apart"),
    ("usage.reasoning", (_COHERE,), "reasoning is not counted apart"),
    ("usage.searches", _except(_CLAUDE), "searches are not counted"),
    ("usage.tool_prompt", _except(_GOOGLE), "prompts of tools are not counted apart"),
    (
        "usage.audio_prompt",
        (_CLAUDE, _RESPONSES, _COHERE, _TEXT),
        "speech is not counted apart",
    ),
    (
        "usage.audio_completion",
        (_CLAUDE, _RESPONSES, _COHERE, _TEXT),
        "speech is not counted apart",
    ),
    ("image", (_COHERE, _TEXT), "the answer has no images"),
    ("audio", (_RESPONSES, _CLAUDE, _COHERE, _TEXT), "the answer has no speech"),
    ("thinking", (_TEXT,), "the answer has no reasoning"),
    ("call.names", (_TEXT,), "the answer has no calls"),
    ("call.arguments", (_TEXT,), "the answer has no calls"),
    ("call.ids", (_TEXT,), "the answer has no calls"),
    ("role", (_TEXT,), "the answer has no role"),
)

NOT_SAYABLE: dict[tuple[str, str], str] = {
    (name, kind): reason for kind, names, reason in _ROWS for name in names
}
"""(caller's format, kind of fact) → why an answer of another format does not have it."""

_HAS_CHOICES = (_CHAT, _GOOGLE, _TEXT)
_HAS_REFUSAL = (_CHAT, _RESPONSES)
_HAS_PAUSE = (_CLAUDE,)


def expected_facts(
    facts: dict[str, Any], name: str, *, is_same: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the facts that an answer of format `name` must have, and the kinds that it
    cannot say with the reasons."""
    stated, facts = facts, dict(facts)
    if is_same:
        return facts, {}
    if "usage.prompt" in facts or "usage.completion" in facts:
        total = facts.get("usage.prompt", 0) + facts.get("usage.completion", 0)
        # A stated total may include what the vendor counts nowhere else.
        facts.setdefault("usage.total", total)
    _put_refusal_into_text(facts, name)
    _put_transcripts_into_texts(facts, name)
    _replace_pause(facts, name)
    reasons = {kind: _unsayable(kind, name) for kind in facts}
    expected = {kind: value for kind, value in facts.items() if not reasons[kind]}
    unsaid = {kind: why for kind, why in reasons.items() if why and kind in stated}
    return expected, unsaid


def _unsayable(kind: str, name: str) -> str:
    """Return why a format cannot say a fact; empty if it can."""
    choice, is_other, plain = kind.rpartition(": ")
    if is_other and choice and name not in _HAS_CHOICES:
        return NOT_SAYABLE[name, "choices"]
    return NOT_SAYABLE.get((name, plain), "")


def _put_refusal_into_text(facts: dict[str, Any], name: str) -> None:
    """Expect a refusal as text where the format has no other word for it."""
    refusal = facts.get("refusal")
    if not refusal or name in _HAS_REFUSAL:
        return
    del facts["refusal"]
    facts["text"] = facts.get("text", "") + refusal
    order: list[str] = []
    for kind in facts["order"]:
        word = "text" if kind == "refusal" else kind
        if word == "call" or order[-1:] != [word]:
            order.append(word)
    facts["order"] = order


def _put_transcripts_into_texts(facts: dict[str, Any], name: str) -> None:
    """Expect what was said as text where the format has no other word for it."""
    if name == _CHAT:
        return
    kinds = [kind for kind in facts if kind.rpartition(": ")[2] == "transcript"]
    for kind in kinds:
        prefix = kind.removesuffix("transcript")
        words = "".join(text for _, text in facts.pop(kind))
        facts[f"{prefix}text"] = facts.get(f"{prefix}text", "") + words
        order = list(facts.get(f"{prefix}order") or ())
        if "text" not in order:
            calls = order.index("call") if "call" in order else len(order)
            order.insert(calls, "text")
        facts[f"{prefix}order"] = order


def _replace_pause(facts: dict[str, Any], name: str) -> None:
    """Expect a pause within a turn as a normal end where the format does not have it."""
    if facts.get("finish") == "pause" and name not in _HAS_PAUSE:
        facts["finish"] = "tool_calls" if facts.get("call.names") else "stop"


def differences(
    expected: dict[str, Any],
    actual: dict[str, Any],
    unsaid: dict[str, str],
    name: str = "",
) -> list[str]:
    """Return what an answer lacks, changes or adds; empty if nothing.

    `name` is the caller's format if it is another than the recorded one: what it has no
    place for is not compared.
    """
    problems: list[str] = []
    for kind in dict.fromkeys([*expected, *actual]):
        before, after = expected.get(kind), actual.get(kind)
        if before == after or kind in unsaid:
            continue
        is_added = before is None
        if is_added and (_may_be_added(kind) or (name and _unsayable(kind, name))):
            continue
        problems.append(f"{kind} {_short(before)} became {_short(after)}")
    return problems


def _may_be_added(kind: str) -> bool:
    """Whether an answer may have this kind of fact although the recording does not."""
    return kind.rpartition(": ")[2] in ADDED


def _short(value: Any) -> str:
    """Return the beginning of a value."""
    return repr(value)[:90]
