"""Reads the answers of plugins' language models, and completes what plugins leave out:
finish reasons, numbers and ids of tool calls, the places of parts. No I/O."""

from collections.abc import Iterator
from typing import Any

import msgspec

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.base.ids import new_id
from modelyard.base.json_types import is_object
from modelyard.models.llm import LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.messages import (
    AssistantPromptMessage,
    PromptMessageContent,
    TextPromptMessageContent,
    ToolCall,
    simplified_content,
)
from modelyard.models.tool_call_reader import ToolCallReader
from modelyard.plugins import conversions
from modelyard.plugins.call_numbers import CallNumbers
from modelyard.plugins.thoughts import PluginState, ThoughtReader

_MAX_SIGNED_THOUGHTS = 32_000
"""Longest reasoning that travels with tool calls, in characters."""

# Finish reasons of vendors, which plugins often pass through, mapped to OpenAI's.
_FINISH_REASONS = {
    reason: name
    for name, reasons in {
        "stop": "stop end_turn stop_sequence complete eos eos_token completed done",
        "length": "length max_tokens max_output_tokens incomplete model_length",
        "tool_calls": "tool_calls tool_use tool_call function_call",
        "content_filter": (
            "content_filter content_filtered safety recitation blocklist spii"
            " prohibited_content guardrail_intervened refusal sensitive image_safety"
        ),
    }.items()
    for reason in reasons.split()
}
_NO_REASONS = frozenset({"", "null", "none", "finish_reason_unspecified"})


class AnswerReader:
    """Reads the chunks of one answer.

    The finish reason and the usage come with the last chunk, as plugins send either of
    them anywhere, or none.
    """

    def __init__(self, model: str, provider: str) -> None:
        self._model = model
        self._provider = provider
        self._response_id = new_id("call")
        self._numbers = CallNumbers(self._response_id[-8:])
        self._calls = ToolCallReader()
        self._thoughts = ThoughtReader()
        self._opaque: Any = None
        self._parts = 0
        self._has_calls = False
        self._is_signed = False
        self._usage: LLMUsage | None = None
        self._finish_reason: str | None = None

    def read(self, data: Any) -> LLMResultChunk:
        """Convert one `LLMResultChunk` of the plugin protocol.

        `data` is the decoded JSON, whose `delta` has message, usage and finish reason.
        Raises InvokeServerUnavailableError if the chunk is malformed.
        """
        # Errors in the shape of a chunk are the plugin's fault, so they become a server
        # error that allows failover.
        try:
            delta = data["delta"]
            message: dict[str, Any] = delta.get("message") or {}
            self._note(delta, message)
            return LLMResultChunk(
                model=str(data.get("model") or self._model),
                system_fingerprint=data.get("system_fingerprint"),
                delta=LLMResultChunkDelta(message=self._message(message)),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvokeServerUnavailableError(
                f"A chunk has an unexpected structure: {error!r}"
            ) from error

    def finish(self) -> Iterator[LLMResultChunk]:
        """Yield the last chunk, with what was held back."""
        thought, text = self._thoughts.finish()
        parts = self._text_parts(text)
        if self._opaque is not None or self._thoughts.has_marker:
            parts += self._signature()
        message = AssistantPromptMessage(
            content=simplified_content(parts), reasoning_content=thought or None
        )
        reason = self._finish_reason or "stop"
        # Many plugins end with the reason of a text even if there are calls.
        if self._has_calls and reason == "stop":
            reason = "tool_calls"
        delta = LLMResultChunkDelta(
            message=message, usage=self._usage, finish_reason=reason
        )
        yield LLMResultChunk(model=self._model, delta=delta)

    def _note(self, delta: dict[str, Any], message: dict[str, Any]) -> None:
        """Keep what belongs to the answer and not to a chunk: the usage, the last
        reason that is one, and the plugin's own body of the message.

        The latest of each counts, as plugins repeat them.
        """
        if is_object(usage := delta.get("usage")):
            self._usage = conversions.read_usage(usage)
        self._finish_reason = (
            read_finish_reason(delta.get("finish_reason")) or self._finish_reason
        )
        if message.get("opaque_body") is not None:
            self._opaque = message["opaque_body"]

    def _message(self, message: dict[str, Any]) -> AssistantPromptMessage:
        """Return a chunk's message in our form.

        What the plugin needs back precedes its first call, whose id can carry it.
        """
        thought, parts = self._content(
            conversions.read_content(message.get("content")),
            ends=bool(message.get("tool_calls")),
        )
        calls = self._numbers.read(
            [_read_call(call) for call in message.get("tool_calls") or ()]
        )
        if calls:
            self._has_calls = True
            parts += self._signature()
        reasoning = (message.get("reasoning_content") or "") + thought
        return self._calls.read(
            AssistantPromptMessage(
                content=simplified_content(parts),
                reasoning_content=reasoning or None,
                tool_calls=calls,
            ),
            self._response_id,
        )

    def _content(
        self, content: str | list[PromptMessageContent] | None, *, ends: bool
    ) -> tuple[str, list[PromptMessageContent]]:
        """Return (reasoning, parts) of a chunk's content. If the text `ends`, nothing of
        it is held back."""
        thoughts: list[str] = []
        parts: list[PromptMessageContent] = []
        pieces = [content] if isinstance(content, str) else content or []
        for piece in pieces:
            if isinstance(piece, str | TextPromptMessageContent):
                text = piece if isinstance(piece, str) else piece.data
                thought, text = self._thoughts.feed(text)
                thoughts.append(thought)
                parts += self._text_parts(text)
            else:
                # A file is a part of its own, and so is the text that follows it.
                self._parts += 2
                parts.append(msgspec.structs.replace(piece, index=self._parts - 1))
        if ends:
            thought, text = self._thoughts.finish()
            thoughts.append(thought)
            parts += self._text_parts(text)
        return "".join(thoughts), parts

    def _text_parts(self, text: str) -> list[PromptMessageContent]:
        """Return a text as a part of the content; nothing if it is empty."""
        if not text:
            return []
        # Without files, text needs no number.
        index = self._parts or None
        return [TextPromptMessageContent(data=text, index=index)]

    def _signature(self) -> list[PromptMessageContent]:
        """Return the part with what the plugin must get back; nothing if there is
        nothing, or it was sent already."""
        raw = self._thoughts.raw
        if len(raw) > _MAX_SIGNED_THOUGHTS and not self._thoughts.has_marker:
            raw = ""
        if self._is_signed or (self._opaque is None and not raw):
            return []
        self._is_signed = True
        state = PluginState(provider=self._provider, thoughts=raw, opaque=self._opaque)
        return [state.sign()]


def read_finish_reason(finish_reason: Any) -> str | None:
    """Map a vendor's finish reason to one of OpenAI's `finish_reason` values.

    Case is ignored, and an unknown reason becomes `stop`. Returns None if there is no
    reason.
    """
    # `FinishReason.STOP` is how Python writes the member of an enumeration.
    name = str(finish_reason or "").lower().rpartition(".")[2]
    if name in _NO_REASONS:
        return None
    return _FINISH_REASONS.get(name, "stop")


def _read_call(call_delta: dict[str, Any]) -> ToolCall:
    """Convert a tool call, or a fragment of one in a stream."""
    return ToolCall(
        id=str(call_delta.get("id") or ""),
        function=conversions.read_function(call_delta),
    )
