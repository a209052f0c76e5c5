"""Answers of models to plugins that call them through the host, and what such a plugin
cannot carry back itself. No I/O."""

from collections.abc import Iterator
from itertools import islice

import msgspec

from modelyard.models.llm import (
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    fold,
)
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    ThinkingPromptMessageContent,
)
from modelyard.models.types import JSON
from modelyard.plugins import conversions
from modelyard.plugins.connection import PluginCall

_MAX_ANSWERS = 64
"""Answers whose thoughts are kept for one call of a plugin."""


class HostAnswer:
    """Writes the answer of a model for a plugin.

    Texts are passed on at once. Dify's SDK takes each call of a tool as complete, and
    keeps those of the last chunk that has some, so all calls come with the last chunk.
    """

    def __init__(self) -> None:
        self._chunks: list[LLMResultChunk] = []
        self._count = 0

    def write(self, chunk: LLMResultChunk) -> Iterator[JSON]:
        """Yield the text of a chunk as a plugin gets it; nothing if it has none."""
        # The protocol has one answer to a prompt.
        if chunk.delta.index:
            return
        self._chunks.append(chunk)
        if chunk.text:
            message = AssistantPromptMessage(content=chunk.text)
            yield self._dump(chunk.model, LLMResultChunkDelta(message=message))

    def finish(self) -> Iterator[JSON]:
        """Yield the last chunk, with the calls, the usage and the finish reason."""
        result = self.result
        delta = LLMResultChunkDelta(
            message=AssistantPromptMessage(content="", tool_calls=result.tool_calls),
            usage=result.usage,
            finish_reason=result.finish_reason,
        )
        yield self._dump(result.model, delta)

    @property
    def result(self) -> LLMResult:
        """The complete answer so far."""
        return fold(self._chunks)

    def _dump(self, model: str, delta: LLMResultChunkDelta) -> JSON:
        """Return a chunk in the plugin format, with its position in the stream."""
        self._count += 1
        chunk = LLMResultChunk(
            model=model,
            delta=delta,
            system_fingerprint=self._chunks[0].system_fingerprint
            if self._chunks
            else None,
        )
        return conversions.dump_chunk(chunk, self._count - 1)


def keep_thoughts(call: PluginCall, message: AssistantPromptMessage) -> None:
    """Keep an answer with calls of tools for as long as the plugin's call lasts.

    Strategies send back the calls and the text, but build the message anew, without
    what vendors require to get back: thoughts and their signatures.
    """
    has_thoughts = any(
        isinstance(part, ThinkingPromptMessageContent) for part in message.parts
    )
    if not message.tool_calls or not (has_thoughts or message.reasoning_content):
        return
    call.answers[_key_of(message)] = message
    # The oldest are not asked for any more in a loop that is this long.
    for key in list(islice(call.answers, max(0, len(call.answers) - _MAX_ANSWERS))):
        del call.answers[key]


def with_thoughts(call: PluginCall, request: LLMRequest) -> LLMRequest:
    """Return a request whose answers with calls have their thoughts again."""
    if not call.answers:
        return request
    messages = [_with_thoughts(call, message) for message in request.messages]
    return msgspec.structs.replace(request, messages=messages)


def _with_thoughts(call: PluginCall, message: AnyPromptMessage) -> AnyPromptMessage:
    """Return a message with the thoughts that a plugin has left out: some vendors
    refuse calls without them."""
    if not isinstance(message, AssistantPromptMessage) or not message.tool_calls:
        return message
    original = call.answers.get(_key_of(message))
    if original is None or message.thinking:
        return message
    # The order of thoughts, texts and calls matters to some vendors.
    if message.text.strip() in ("", original.text.strip()):
        return original
    thoughts = [
        part
        for part in original.parts
        if isinstance(part, ThinkingPromptMessageContent)
    ]
    return msgspec.structs.replace(
        message,
        content=[*thoughts, *message.parts],
        reasoning_content=original.reasoning_content,
    )


def _key_of(message: AssistantPromptMessage) -> tuple[str, ...]:
    """Return what identifies an answer within a call: the ids of its calls of tools."""
    return tuple(call.id for call in message.tool_calls)
