"""Thoughts that a model writes into its text between `<think>` and `</think>`, told apart from what it says. Pure."""

from typing import Any

import msgspec

from modelyard.models.llm import LLMResultChunk, LLMResultChunkDelta
from modelyard.models.messages import AssistantPromptMessage

OPEN, CLOSE = "<think>", "</think>"


class ThinkSplitter:
    """Takes the pieces of one text; gives back (thought, said), either of which may be empty.

    Only a text that begins with the tag begins with a thought: one that speaks of tags later is left alone. A tag may
    come in any number of pieces.
    """

    def __init__(self, *, begins_inside: bool = False) -> None:
        self._state = "thinking" if begins_inside else "before"
        self._held = ""

    def feed(self, piece: str) -> tuple[str, str]:
        if self._state == "said":
            return "", piece
        self._held += piece
        if self._state == "before":
            text = self._held.lstrip()
            if text.startswith(OPEN):
                self._state, self._held = "thinking", text[len(OPEN) :]
            elif OPEN.startswith(text):
                return "", ""  # it may still become the tag
            else:
                return self._all_said()
        if self._state == "thinking":
            return self._think()
        return self._trim()

    def finish(self) -> tuple[str, str]:
        """What was held back, once no more can come."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "thinking" else ("", held)

    def _all_said(self) -> tuple[str, str]:
        self._state = "said"
        held, self._held = self._held, ""
        return "", held

    def _think(self) -> tuple[str, str]:
        thought, tag, rest = self._held.partition(CLOSE)
        if tag:
            self._state, self._held = "after", rest
            return thought, self._trim()[1]
        kept = next((size for size in range(len(CLOSE) - 1, 0, -1) if self._held.endswith(CLOSE[:size])), 0)
        cut = len(self._held) - kept
        thought, self._held = self._held[:cut], self._held[cut:]
        return thought, ""

    def _trim(self) -> tuple[str, str]:
        """Behind the tag stand empty lines that belong to nobody."""
        self._held = self._held.lstrip()
        return self._all_said() if self._held else ("", "")


class ThinkStream:
    """The same for the chunks of an answer, one splitter a choice."""

    def __init__(self) -> None:
        self._splitters: dict[int, ThinkSplitter] = {}

    def feed(self, chunk: LLMResultChunk) -> LLMResultChunk:
        delta = chunk.delta
        splitter = self._splitters.setdefault(delta.index, ThinkSplitter())
        content = delta.message.content
        thought, said = splitter.feed(content) if isinstance(content, str) and content else ("", content)
        if delta.finish_reason is not None or delta.message.tool_calls:
            late, rest = splitter.finish()
            thought, said = thought + late, (said or "") + rest if isinstance(said, str | None) and rest else said
        if not thought and said == content:
            return chunk
        told = (delta.message.reasoning_content or "") + thought
        message = msgspec.structs.replace(delta.message, content=said or None, reasoning_content=told or None)
        return msgspec.structs.replace(chunk, delta=msgspec.structs.replace(delta, message=message))

    def finish(self) -> list[LLMResultChunk]:
        """What is left where the stream ended without a reason."""
        chunks: list[LLMResultChunk] = []
        for index, splitter in self._splitters.items():
            thought, said = splitter.finish()
            if thought or said:
                more: dict[str, Any] = {"content": said or None, "reasoning_content": thought or None}
                delta = LLMResultChunkDelta(index=index, message=AssistantPromptMessage(**more))
                chunks.append(LLMResultChunk(delta=delta))
        return chunks
