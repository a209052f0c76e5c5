"""What an answer says, independent of its format: blocks in order, each choice, counts
and identity. Shares no code with the product."""

import hashlib
import json
import math
import re
from base64 import b64decode, b64encode, urlsafe_b64decode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

JSON = dict[str, Any]
UNENDED = "the answer does not end"
"""A flaw of a stream, in the same words for all formats."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A source of a text; `start` and `end` count characters of its block, and are None
    if the answer gives no position."""

    source: str
    title: str = ""
    start: int | None = None
    end: int | None = None
    quote: str = ""
    file: str = ""
    """Id of a file in the vendor's own store."""


@dataclass
class Block:
    """One block of an answer.

    `kind` is text, thinking, refusal, call, image, audio, file or server (a step of a
    tool that the vendor ran).
    """

    kind: str
    text: str = ""
    """Text, reasoning, or the arguments of a call as canonical JSON."""
    name: str = ""
    """Name of a tool, or media type of a file."""
    id: str = ""
    signature: str = ""
    citations: list[Citation] = field(default_factory=list[Citation])


@dataclass
class Choice:
    """One of the answers to a request."""

    blocks: list[Block] = field(default_factory=list[Block])
    finish: str = ""
    """`stop`, `length`, `tool_calls`, `content_filter`, `pause`, or a vendor's word."""
    stop_sequence: str = ""
    role: str = ""
    logprobs: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    alternatives: list[list[tuple[str, float]]] = field(
        default_factory=list[list[tuple[str, float]]]
    )
    """The most likely tokens at each position."""
    safety: Any = None

    def add(self, kind: str, text: str = "", **fields: Any) -> None:
        """Append a block."""
        self.blocks.append(Block(kind, text, **fields))


@dataclass
class Answer:
    """A whole answer."""

    choices: list[Choice] = field(default_factory=list[Choice])
    usage: dict[str, int] = field(default_factory=dict[str, int])
    """Token counts: `prompt` and `completion` include everything; the others, except
    `total`, are parts of them, or numbers of steps."""
    id: str = ""
    model: str = ""
    created: int = 0
    tier: str = ""
    fingerprint: str = ""
    prompt_safety: Any = None

    def facts(self) -> dict[str, Any]:
        """Return kind of fact → value. What the answer does not say is left out."""
        facts: dict[str, Any] = {
            "id": self.id,
            "model": self.model,
            "created": self.created,
            "tier": self.tier,
            "fingerprint": self.fingerprint,
            "prompt_safety": self.prompt_safety,
            "choices": len(self.choices),
        }
        facts |= {f"usage.{name}": count for name, count in self.usage.items()}
        for index, choice in enumerate(self.choices):
            prefix = f"choice {index}: " if index else ""
            facts |= {prefix + kind: value for kind, value in choice_facts(choice)}
        return {kind: value for kind, value in facts.items() if value}


def choice_facts(choice: Choice) -> Iterator[tuple[str, Any]]:
    """Yield the facts of one choice."""
    yield "role", choice.role
    yield "finish", _settled_finish(choice)
    yield "stop_sequence", choice.stop_sequence
    yield "logprobs", choice.logprobs
    yield "logprobs.top", [top for top in choice.alternatives if top]
    yield "safety", choice.safety
    for kind in ("text", "refusal", "thinking"):
        yield kind, "".join(_texts(choice.blocks, kind))
    yield "order", _order(choice.blocks)
    calls = [block for block in choice.blocks if block.kind == "call"]
    yield "call.names", [call.name for call in calls]
    yield "call.arguments", [call.text for call in calls]
    yield "call.ids", [call.id for call in calls if call.id]
    yield "signatures", [block.signature for block in choice.blocks if block.signature]
    yield (
        "signed",
        [
            (block.text, block.signature)
            for block in choice.blocks
            if block.kind == "thinking" and block.text and block.signature
        ],
    )
    for kind in ("image", "audio", "transcript", "file"):
        yield (
            kind,
            [(block.name, block.text) for block in choice.blocks if block.kind == kind],
        )
    yield (
        "server_tools",
        [(block.name, block.text) for block in choice.blocks if block.kind == "server"],
    )
    cited = list(cited_sources(choice.blocks))
    named = [source for source in cited if source.source or source.title]
    yield "citations", [(source.source, source.title) for source in named]
    yield (
        "citations.spans",
        [(source.start, source.end) for source in named if source.start is not None],
    )
    yield "citations.quotes", [source.quote for source in named if source.quote]
    yield "citations.files", [source.file for source in cited if source.file]


def _settled_finish(choice: Choice) -> str:
    """Return the finish reason, with one word for the end at tool calls: not all formats
    distinguish it from a normal stop."""
    has_calls = any(block.kind == "call" for block in choice.blocks)
    return "tool_calls" if has_calls and choice.finish == "stop" else choice.finish


def _texts(blocks: Iterable[Block], kind: str) -> list[str]:
    """Return the texts of the blocks of one kind."""
    return [block.text for block in blocks if block.kind == kind]


def _order(blocks: Iterable[Block]) -> list[str]:
    """Return the kinds of the blocks in order. Adjacent ones of a kind count as one, as
    formats split texts differently; each call counts."""
    kinds = [
        block.kind
        for block in blocks
        if block.kind not in ("server", "audio", "transcript")
        and (block.text or block.signature or block.kind not in ("text", "thinking"))
    ]
    order: list[str] = []
    for kind in kinds:
        if kind == "call" or order[-1:] != [kind]:
            order.append(kind)
    return order


def cited_sources(blocks: Iterable[Block]) -> Iterator[Citation]:
    """Yield the citations, with positions in the whole text."""
    offset = 0
    for block in blocks:
        if block.kind != "text":
            continue
        for citation in block.citations:
            start, end = citation.start, citation.end
            if start is not None and end is not None:
                start, end = start + offset, end + offset
            yield replace(citation, start=start, end=end)
        offset += len(block.text)


# ----------------------------------------------------------------------------- helpers


def canonical(arguments: Any) -> str:
    """Return arguments as JSON with sorted keys; text that is not valid JSON is returned
    unchanged."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            return arguments
    # Claude gets invalid arguments under this key.
    if isinstance(arguments, dict) and arguments.keys() == {"INVALID_JSON"}:
        return str(arguments["INVALID_JSON"])
    return json.dumps(arguments or {}, sort_keys=True)


def number(value: Any) -> int:
    """Return a count; 0 for anything that is not a finite number of at least 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        return 0
    return int(value)


def dig(body: Any, *path: str) -> Any:
    """Return the value at a path of keys; None if a step is missing."""
    for name in path:
        body = body.get(name) if isinstance(body, dict) else None
    return body


def digest(data: Any) -> str:
    """Return a hash of the bytes of a base64 text, in any of its spellings."""
    if not isinstance(data, str) or not data:
        return "empty"
    plain = re.sub(r"\s", "", data).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        content = b64decode(plain + "=" * (-len(plain) % 4))
    except ValueError:
        content = data.encode()
    return hashlib.sha256(content).hexdigest()[:16]


def data_url(url: str) -> tuple[str, str]:
    """Return (media type, hash) of a data URL; of another URL, an empty type and the
    URL."""
    match = re.match(r"data:([^;,]*)[^,]*;base64,(.*)", url, re.DOTALL)
    if match is None:
        return "", url
    return match[1], digest(match[2])


# The gateway marks signatures of another format with their issuer, as its
# documentation says: 17 characters in front.
_SIGNATURE_MARK = re.compile(r"^mYardSig[a-z]{2}[RV]0[0-9a-f]{4}")
_ID_MARK = re.compile(r"^(.*?)__sig([bu])_(.*)$", re.DOTALL)


def plain_signature(signature: Any) -> str:
    """Return a signature without the gateway's mark."""
    return _SIGNATURE_MARK.sub("", signature or "")


def call_id(value: Any) -> tuple[str, str]:
    """Return (id, signature) of a call: the gateway puts Google's signatures into ids,
    as its documentation says."""
    match = _ID_MARK.match(value or "")
    if match is None:
        return value or "", ""
    padded = match[3] + "=" * (-len(match[3]) % 4)
    signature = urlsafe_b64decode(padded)
    if match[2] == "u":
        return match[1], plain_signature(signature.decode())
    return match[1], plain_signature(b64encode(signature).decode())


def append(fields: JSON, name: str, delta: Any) -> None:
    """Append a delta to a text."""
    if delta is not None:
        fields[name] = (fields.get(name) or "") + delta


def without_nulls(fields: Any) -> JSON:
    """Return the fields that are not null."""
    return {key: value for key, value in (fields or {}).items() if value is not None}
