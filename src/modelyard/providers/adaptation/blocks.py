"""The blocks of an answer: its parts and its calls in the order in which the model has
produced them."""

from collections.abc import Iterable

import msgspec

from modelyard.models.messages import (
    AssistantPromptMessage,
    PromptMessageContent,
    ToolCall,
    assistant_of,
)

Block = PromptMessageContent | ToolCall


def blocks_of(message: AssistantPromptMessage) -> list[Block]:
    """Return the blocks of a message, without its separate reasoning."""
    # Most messages have none, and need no copy.
    if message.reasoning_content is None:
        return message.blocks
    return msgspec.structs.replace(message, reasoning_content=None).blocks


def with_blocks(
    message: AssistantPromptMessage, blocks: Iterable[Block]
) -> AssistantPromptMessage:
    """Return a message with other blocks."""
    ordered = assistant_of(blocks)
    return msgspec.structs.replace(
        message, content=ordered.content, tool_calls=ordered.tool_calls
    )
