"""Separation of reasoning that a model writes between `<think>` and `</think>` from its
answer. No I/O."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from modelyard.models.llm import LLMResultChunk, LLMResultChunkDelta
from modelyard.models.messages import AssistantPromptMessage

OPEN, CLOSE = "<think>", "</think>"


class ThinkSplitter:
    """Splits one streamed text into (reasoning, answer) pairs, either of which may be
    empty.

    Only a text that starts with the tag contains reasoning: later mentions of the tag
    are left alone. Tags may be split across chunks.
    """

    def __init__(self, *, begins_inside: bool = False) -> None:
        # States: before (nothing decided), thinking, after (tag closed, skipping
        # whitespace), said (answer only).
        self._state = "thinking" if begins_inside else "before"
        self._buffer = ""

    def feed(self, chunk: str) -> tuple[str, str]:
        """Return the (reasoning, answer) text that can be released after this chunk.

        Either may be empty. Text that may be part of a tag is held back until a later
        chunk, or `finish`, decides it.
        """
        if self._state == "said":
            return "", chunk
        self._buffer += chunk
        if self._state == "before":
            # Models often write a newline before the tag.
            text = self._buffer.lstrip()
            if text.startswith(OPEN):
                self._state, self._buffer = "thinking", text[len(OPEN) :]
            elif OPEN.startswith(text):
                # The text may still become the tag.
                return "", ""
            else:
                return self._release_as_answer()
        if self._state == "thinking":
            return self._split_thinking()
        return self._skip_whitespace()

    def finish(self) -> tuple[str, str]:
        """Return the text that was held back, at the end of the stream."""
        buffered, self._buffer = self._buffer, ""
        return (buffered, "") if self._state == "thinking" else ("", buffered)

    def _release_as_answer(self) -> tuple[str, str]:
        """Return the buffered text as one of the answer: it was no tag."""
        self._state = "said"
        buffered, self._buffer = self._buffer, ""
        return "", buffered

    def _split_thinking(self) -> tuple[str, str]:
        """Return (reasoning, answer) of the buffer while the thinking tag is open.

        An end of the buffer that may be the start of the closing tag is held back.
        After the closing tag, the text behind it is the answer.
        """
        thought, tag, remainder = self._buffer.partition(CLOSE)
        if tag:
            self._state, self._buffer = "after", remainder
            return thought, self._skip_whitespace()[1]
        # The end of the buffer may be the start of a closing tag, so it is held back.
        tag_prefix_length = next(
            (
                size
                for size in range(len(CLOSE) - 1, 0, -1)
                if self._buffer.endswith(CLOSE[:size])
            ),
            0,
        )
        cut = len(self._buffer) - tag_prefix_length
        thought, self._buffer = self._buffer[:cut], self._buffer[cut:]
        return thought, ""

    def _skip_whitespace(self) -> tuple[str, str]:
        """Skip the empty lines after the closing tag."""
        self._buffer = self._buffer.lstrip()
        return self._release_as_answer() if self._buffer else ("", "")


class ThinkStream:
    """Applies a splitter to each choice of a chunk stream."""

    def __init__(self) -> None:
        self._splitters: dict[int, ThinkSplitter] = {}

    def feed(self, chunk: LLMResultChunk) -> LLMResultChunk:
        """Return the chunk with reasoning moved out of its content."""
        delta = chunk.delta
        splitter = self._splitters.setdefault(delta.index, ThinkSplitter())
        content = delta.message.content
        thought, answer_text = (
            splitter.feed(content)
            if isinstance(content, str) and content
            else ("", content)
        )
        # A finish reason or a tool call ends the text, so nothing may be held back any
        # longer.
        if delta.finish_reason is not None or delta.message.tool_calls:
            late_thought, remaining_text = splitter.finish()
            thought, answer_text = (
                thought + late_thought,
                (answer_text or "") + remaining_text
                if isinstance(answer_text, str | None) and remaining_text
                else answer_text,
            )
        # Unchanged chunks are passed on without a copy.
        if not thought and answer_text == content:
            return chunk
        reasoning = (delta.message.reasoning_content or "") + thought
        message = msgspec.structs.replace(
            delta.message,
            content=answer_text or None,
            reasoning_content=reasoning or None,
        )
        return msgspec.structs.replace(
            chunk, delta=msgspec.structs.replace(delta, message=message)
        )

    def finish(self) -> list[LLMResultChunk]:
        """Return chunks with the text still held back, if the stream ended without a
        finish reason."""
        chunks: list[LLMResultChunk] = []
        for index, splitter in self._splitters.items():
            thought, answer_text = splitter.finish()
            if thought or answer_text:
                fields: dict[str, Any] = {
                    "content": answer_text or None,
                    "reasoning_content": thought or None,
                }
                delta = LLMResultChunkDelta(
                    index=index, message=AssistantPromptMessage(**fields)
                )
                chunks.append(LLMResultChunk(delta=delta))
        return chunks


def split_thoughts(chunks: Iterable[LLMResultChunk]) -> Iterator[LLMResultChunk]:
    """Yield the chunks of a complete answer with the reasoning moved out of its text."""
    thoughts = ThinkStream()
    for chunk in chunks:
        yield thoughts.feed(chunk)
    yield from thoughts.finish()
