"""Plain reasoning of earlier answers, where a server requires it."""

import msgspec

from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    ThinkingPromptMessageContent,
    ToolPromptMessage,
    assistant_of,
)
from modelyard.providers.adaptation.draft import Draft, fields_of

_CHAT = "openai_chat"


def place_required_reasoning(draft: Draft) -> None:
    """Keep plain reasoning where a server such as DeepSeek's requires it, in turns with
    tool calls, and nowhere else."""
    if (
        not draft.target.capabilities.reasoning_with_calls
        or draft.target.format != _CHAT
    ):
        return
    messages: list[AnyPromptMessage] = []
    turn: list[AnyPromptMessage] = []
    for message in draft.request.messages:
        if isinstance(message, AssistantPromptMessage | ToolPromptMessage):
            turn.append(message)
            continue
        messages += [*_turn_with_reasoning(turn), message]
        turn = []
    draft.change(messages=[*messages, *_turn_with_reasoning(turn)])


def _turn_with_reasoning(turn: list[AnyPromptMessage]) -> list[AnyPromptMessage]:
    """Return the answers of one turn with reasoning if there are calls, else without."""
    has_calls = any(
        isinstance(message, AssistantPromptMessage) and message.tool_calls
        for message in turn
    )
    result: list[AnyPromptMessage] = []
    for message in turn:
        if isinstance(message, AssistantPromptMessage):
            message = _with_reasoning(message) if has_calls else _without(message)
        result.append(message)
    return result


def _with_reasoning(message: AssistantPromptMessage) -> AssistantPromptMessage:
    """Return an answer with the field for reasoning, even if there is none."""
    if message.thinking:
        return message
    fields = {**fields_of(message.extra, _CHAT), "reasoning_content": ""}
    return msgspec.structs.replace(message, extra={**message.extra, _CHAT: fields})


def _without(message: AssistantPromptMessage) -> AssistantPromptMessage:
    """Return an answer without reasoning."""
    if not message.thinking:
        return message
    blocks = msgspec.structs.replace(message, reasoning_content=None).blocks
    rebuilt = assistant_of(
        block for block in blocks if not isinstance(block, ThinkingPromptMessageContent)
    )
    return msgspec.structs.replace(
        message,
        content=rebuilt.content,
        tool_calls=rebuilt.tool_calls,
        reasoning_content=None,
    )
