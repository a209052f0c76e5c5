"""What an answer contains and the caller's format has no place for: it is named, as the
fields of a request are."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.base.json_types import is_object
from modelyard.models.llm import LLMResult, LLMResultChunk, LLMUsage
from modelyard.models.messages import (
    AssistantPromptMessage,
    AudioPromptMessageContent,
    Citation,
    DocumentPromptMessageContent,
    ImagePromptMessageContent,
    OpaquePromptMessageContent,
    PromptMessageContent,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    VideoPromptMessageContent,
)
from modelyard.models.service_tiers import USUAL_TIERS, served_tier
from modelyard.wire.openai_responses import ECHOED_FIELDS

DROPPED = "x-modelyard-dropped"
"""Header that lists what was left out."""
# Names come from a vendor's response and go into a header.
_MAX_NAME_CHARS = 64
# The caller's format -> what its answers can hold.
_HOLDS: Mapping[str, frozenset[str]] = {
    # Images and audio as extensions that many servers and clients share.
    "openai_chat": frozenset(
        {
            "citations",
            "image",
            "audio",
            "thinking",
            "signature",
            "logprobs",
            "choices",
            "cached_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
        }
    ),
    # An image is the result of a tool; there is no audio, and one choice.
    "openai_responses": frozenset(
        {
            "citations",
            "image",
            "thinking",
            "signature",
            "logprobs",
            "cached_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
        }
    ),
    # Images and documents are blocks, as in its requests.
    "anthropic": frozenset(
        {
            "citations",
            "image",
            "document",
            "thinking",
            "signature",
            "searches",
            "cached_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
        }
    ),
    # Any file is a part. What was written to a cache is not counted.
    "gemini": frozenset(
        {
            "citations",
            "image",
            "audio",
            "video",
            "document",
            "thinking",
            "signature",
            "logprobs",
            "choices",
            "cached_tokens",
            "reasoning_tokens",
        }
    ),
    # Nobody signs its thoughts.
    "cohere": frozenset(
        {
            "citations",
            "thinking",
            "logprobs",
            "cached_tokens",
            "searches",
        }
    ),
    # One text for each choice.
    "openai_completions": frozenset(
        {
            "choices",
            "cached_tokens",
            "reasoning_tokens",
        }
    ),
}
_FILES: Mapping[type[PromptMessageContent], str] = {
    ImagePromptMessageContent: "image",
    AudioPromptMessageContent: "audio",
    VideoPromptMessageContent: "video",
    DocumentPromptMessageContent: "document",
}
_COUNTS = ("cached_tokens", "cache_write_tokens", "reasoning_tokens", "searches")
# Format of the provider -> fields that no caller misses: they identify the answer, repeat
# the request, measure the server, or were read under a common name.
_READ: Mapping[str, frozenset[str]] = {
    "openai_chat": frozenset(
        {
            "object",
            # Marks of a notation.
            "type",
            "old",
            # Of audio; the transcript becomes a text.
            "id",
            "transcript",
            "expires_at",
            "provider",
            # Read with the usage.
            "service_tier",
            "finish_reason",
            "native_finish_reason",
            "x_groq",
        }
    ),
    "openai_responses": frozenset(
        {
            # The request, repeated.
            *ECHOED_FIELDS,
            # Items as they came, which only this format writes.
            "item",
            "part",
            "id",
            "status",
            "completed_at",
            "incomplete_details",
            "billing",
            "prompt_cache_retention",
            "namespace",
            "moderation",
        }
    ),
    "anthropic": frozenset(
        {
            "start_usage",
            "stop_reason",
        }
    ),
    "gemini": frozenset(
        {
            "finishReason",
            "blocked",
            "citationMetadata",
            "logprobsResult",
            "createTime",
            "tokenCount",
            "thought",
        }
    ),
    "cohere": frozenset(
        {
            "finish_reason",
            "tool_plan",
            "logprobs",
        }
    ),
    "bedrock": frozenset(
        {
            "metrics",
            "stopReason",
            "serviceTier",
        }
    ),
    "ollama": frozenset(
        {
            "created_at",
            "total_duration",
            "load_duration",
            "context",
            "prompt_eval_count",
            "prompt_eval_duration",
            "eval_count",
            "eval_duration",
        }
    ),
    "openai_completions": frozenset(
        {
            "object",
        }
    ),
}


@dataclass(slots=True)
class AnswerLosses:
    """Collects the names of what is lost of one answer."""

    format: str
    """The caller's wire format."""
    _names: dict[str, None]
    _lengths: dict[int | None, int]
    """Index of a text → number of its characters so far, for Anthropic's format."""

    def __init__(self, format: str) -> None:
        self.format = format
        self._names = {}
        self._lengths = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which they were lost; empty if nothing is."""
        return tuple(self._names)

    def add_result(self, result: LLMResult) -> None:
        """Add a complete answer."""
        holds = _HOLDS.get(self.format)
        if holds is None:
            return
        if len(result.choices) > 1 and "choices" not in holds:
            self._names["choices"] = None
        if result.extra:
            self._add_fields(result.extra)
        self._add_usage(result.usage, holds)
        # Of a choice that is left out, the details need no mention of their own.
        choices = result.choices if "choices" in holds else result.choices[:1]
        for choice in choices:
            if choice.logprobs and "logprobs" not in holds:
                self._names["logprobs"] = None
            if choice.extra:
                self._add_fields(choice.extra)
            self._add_message(choice.message, holds)

    def add_chunk(self, chunk: LLMResultChunk) -> None:
        """Add a part of a streamed answer."""
        holds = _HOLDS.get(self.format)
        if holds is None:
            return
        delta = chunk.delta
        if chunk.extra:
            self._add_fields(chunk.extra)
        if delta.usage is not None:
            self._add_usage(delta.usage, holds)
        if delta.index and "choices" not in holds:
            self._names["choices"] = None
            return
        if delta.logprobs and "logprobs" not in holds:
            self._names["logprobs"] = None
        if delta.extra:
            self._add_fields(delta.extra)
        self._add_message(delta.message, holds)

    def _add_usage(
        self,
        usage: LLMUsage,
        holds: frozenset[str],
    ) -> None:
        """Add the counts that have no place. The original of the caller's own format is
        returned as it is."""
        if self.format in usage.extra:
            return
        for name in _COUNTS:
            if getattr(usage, name) and name not in holds:
                self._names[f"usage.{name}"] = None
        tier = usage.service_tier
        if tier not in USUAL_TIERS and tier and not served_tier(self.format, tier):
            self._names["service_tier"] = None

    def _add_message(
        self,
        message: AssistantPromptMessage,
        holds: frozenset[str],
    ) -> None:
        """Add what is lost of a message or a part of one."""
        if message.extra:
            self._add_fields(message.extra)
        if message.reasoning_content and "thinking" not in holds:
            self._names["thinking"] = None
        if isinstance(message.content, list):
            for part in message.content:
                self._add_part(part, holds)
        for call in message.tool_calls:
            if self.format == "openai_completions":
                self._names["tool_calls"] = None
            if call.extra:
                self._add_fields(call.extra)

    def _add_part(
        self,
        part: PromptMessageContent,
        holds: frozenset[str],
    ) -> None:
        """Add what is lost of a part."""
        match part:
            case TextPromptMessageContent():
                if self.format == "anthropic":
                    # Anthropic's citations have positions, which count within their own
                    # block.
                    length = self._lengths.get(part.index, 0) + len(part.data)
                    self._lengths[part.index] = length
                if part.citations:
                    self._add_citations(part, holds)
            case ThinkingPromptMessageContent():
                self._add_thought(part, holds)
            case OpaquePromptMessageContent():
                self._add_opaque(part)
            case _:
                kind = _FILES[type(part)]
                if kind not in holds:
                    self._names[kind] = None
        if part.extra:
            self._add_fields(part.extra)

    def _add_thought(
        self, thought: ThinkingPromptMessageContent, holds: frozenset[str]
    ) -> None:
        """Add a thought, or the proof of one."""
        if thought.data and "thinking" not in holds:
            self._names["thinking"] = None
        if thought.signature and "signature" not in holds:
            self._names["signature"] = None

    def _add_opaque(self, part: OpaquePromptMessageContent) -> None:
        """Add a part that only another format has, by its type or its only field."""
        if part.format == self.format:
            return
        kind = part.data.get("type")
        if not isinstance(kind, str):
            # Parts of Google's API have no type, but one field named for their kind.
            kind = next(iter(part.data), "content")
        self._names[_in_header(kind)] = None

    def _add_citations(
        self,
        part: TextPromptMessageContent,
        holds: frozenset[str],
    ) -> None:
        """Add citations without a place, or their positions: those of Anthropic's format
        belong to a whole block."""
        if "citations" not in holds:
            self._names["citations"] = None
        elif self.format == "anthropic":
            # Those of a stream may come after the text.
            lengths = (len(part.data), self._lengths[part.index])
            if any(self._has_position(cited, lengths) for cited in part.citations):
                self._names["citation_positions"] = None

    def _has_position(self, citation: Citation, lengths: Sequence[int]) -> bool:
        """Return whether a citation of another format is for less than its text, which
        has one of these lengths."""
        if citation.end is None or self.format in citation.extra:
            return False
        return bool(citation.start) or citation.end not in lengths

    def _add_fields(self, extra: Mapping[str, Any]) -> None:
        """Add the fields of other formats that nobody has read."""
        for wire_format, fields in extra.items():
            # The client's own format passes its fields on as they are.
            if wire_format != self.format and is_object(fields):
                self._add_unread_fields(wire_format, fields)

    def _add_unread_fields(self, wire_format: str, fields: Mapping[str, Any]) -> None:
        """Add the fields of one other format that nobody has read."""
        read_names = _READ.get(wire_format, frozenset())
        for name, value in fields.items():
            # Vendors send empty fields for what an answer does not have.
            if name not in read_names and value not in (None, "", [], {}):
                self._names[_in_header(name)] = None


def _in_header(name: str) -> str:
    """Return a provider's name of a field in a form that fits into a header."""
    printable = [
        character if character.isascii() and character.isprintable() else "_"
        for character in name[:_MAX_NAME_CHARS]
    ]
    # In the header a comma separates the names.
    return "".join(printable).replace(",", "_")


def with_losses(headers: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Return response headers that also name what the answer has lost."""
    if not names:
        return dict(headers)
    # The losses of the request are named before those of the answer.
    earlier = headers.get(DROPPED, "").split(", ")
    all_names = dict.fromkeys(name for name in (*earlier, *names) if name)
    return {**headers, DROPPED: ", ".join(all_names)}
