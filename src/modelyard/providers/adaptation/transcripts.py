"""Spoken answers for callers whose format has no audio, or no text beside it: the
transcript becomes the text."""

from collections.abc import Iterable, Iterator
from functools import partial

import msgspec

from modelyard.models.llm import LLMResultChunk
from modelyard.models.messages import (
    AudioPromptMessageContent,
    PromptMessageContent,
    TextPromptMessageContent,
    ToolCall,
    assistant_of,
)
from modelyard.providers.adaptation.draft import Draft

_CHAT = "openai_chat"


def restore_transcripts(draft: Draft) -> None:
    """Let callers of other formats read what a chat server's model has said."""
    if draft.target.format == _CHAT and not draft.is_same_format:
        draft.restorers.append(partial(TranscriptRestorer))


class TranscriptRestorer:
    """Adds the transcripts of audio as texts."""

    def feed(self, chunk: LLMResultChunk) -> LLMResultChunk:
        """Return a chunk in which each transcript precedes its audio."""
        message = chunk.delta.message
        # Most chunks have no audio, and need no copy.
        if not any(
            isinstance(part, AudioPromptMessageContent) for part in message.files
        ):
            return chunk
        # Separate reasoning stays where it is.
        blocks = msgspec.structs.replace(message, reasoning_content=None).blocks
        spoken = assistant_of(_with_transcripts(blocks))
        message = msgspec.structs.replace(
            message, content=spoken.content, tool_calls=spoken.tool_calls
        )
        delta = msgspec.structs.replace(chunk.delta, message=message)
        return msgspec.structs.replace(chunk, delta=delta)

    def finish(self) -> Iterable[LLMResultChunk]:
        """Return nothing: nothing is held back."""
        return ()


def _with_transcripts(
    blocks: Iterable[PromptMessageContent | ToolCall],
) -> Iterator[PromptMessageContent | ToolCall]:
    """Yield blocks; what was said in an audio comes before it."""
    for block in blocks:
        if isinstance(block, AudioPromptMessageContent):
            transcript = block.extra.get(_CHAT, {}).get("transcript")
            if transcript:
                yield TextPromptMessageContent(data=str(transcript))
        yield block
