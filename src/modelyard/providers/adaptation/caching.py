"""Marks of what a provider may cache: Anthropic's `cache_control`."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.models.messages import (
    AnyPromptMessage,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    ToolPromptMessage,
    UserPromptMessage,
)
from modelyard.providers.adaptation.draft import Draft, fields_of

_MARKING_FORMATS = ("anthropic", "bedrock")
_AUTOMATIC_FORMATS = ("openai_chat", "openai_responses", "gemini")
"""Formats whose own vendors cache the beginning of each request without marks."""
_MARK = {"type": "ephemeral"}
# Claude refuses a request with more than four cache breakpoints.
_MAX_MARKS = 4


def adapt_cache_marks(draft: Draft) -> None:
    """Leave out the marks of a caller where the target has none, and set some for the
    session of a caller whose own format needs none."""
    has_marks = _count(draft) > 0
    if draft.target.format not in _MARKING_FORMATS:
        if has_marks and not draft.target.capabilities.cache_marks:
            _strip(draft)
            draft.drop("cache_control")
        return
    if not has_marks and draft.target.format == "anthropic" and _is_session(draft):
        _set_marks(draft)
    # Anthropic takes at most four; the last ones cover the most.
    _limit(draft)


def _is_session(draft: Draft) -> bool:
    """Whether the caller will send the same beginning again: it names a key for the
    cache, or is in the middle of a loop of tool calls.

    A mark has its price, so other requests get none.
    """
    request = draft.request
    if "prompt_cache_key" in fields_of(request.extra, request.format):
        return True
    return request.format in _AUTOMATIC_FORMATS and any(
        isinstance(message, ToolPromptMessage) for message in request.messages
    )


def _marked(item: Any, mark: dict[str, Any] | None) -> Any:
    """Return a part, tool, call or message with a mark, or without one for None."""
    return msgspec.structs.replace(item, cache_control=mark)


def _count(draft: Draft) -> int:
    """Return the number of marks in a request."""
    request = draft.request
    number = sum(tool.cache_control is not None for tool in request.tools)
    for message in request.messages:
        number += sum(
            item.cache_control is not None for item in _markable_items(message)
        )
    return number


def _markable_items(message: AnyPromptMessage) -> list[Any]:
    """Return what may have a mark in a message: its parts, its calls, or itself."""
    items: list[Any] = (
        list(message.content) if isinstance(message.content, list) else []
    )
    if isinstance(message, ToolPromptMessage):
        items.append(message)
    items += getattr(message, "tool_calls", ())
    return items


def _strip(draft: Draft, keep_last: int = 0) -> None:
    """Remove the marks, but for the last ones of the request."""
    surplus = [_count(draft) - keep_last]

    def stripped(item: Any) -> Any:
        """Return an item without its mark if there are still too many."""
        if item.cache_control is None or surplus[0] <= 0:
            return item
        surplus[0] -= 1
        return _marked(item, None)

    tools = [stripped(tool) for tool in draft.request.tools]
    messages = [_with_items(message, stripped) for message in draft.request.messages]
    draft.change(tools=tools, messages=messages)


def _with_items(message: AnyPromptMessage, change: Any) -> AnyPromptMessage:
    """Return a message whose parts, calls and own mark were changed."""
    fields: dict[str, Any] = {}
    if isinstance(message.content, list):
        fields["content"] = [change(part) for part in message.content]
    if calls := getattr(message, "tool_calls", None):
        fields["tool_calls"] = [change(call) for call in calls]
    if fields:
        message = msgspec.structs.replace(message, **fields)
    return change(message) if isinstance(message, ToolPromptMessage) else message


def _limit(draft: Draft) -> None:
    """Keep the last four marks of a request."""
    if draft.is_same_format or _count(draft) <= _MAX_MARKS:
        return
    _strip(draft, keep_last=_MAX_MARKS)
    draft.drop("cache_control")


def _set_marks(draft: Draft) -> None:
    """Set marks after the tools, after the system's messages, and after the last turn
    of the user."""
    request = draft.request
    messages = list(request.messages)
    for role in (SystemPromptMessage, UserPromptMessage | ToolPromptMessage):
        index = _last_index(messages, role)
        if index is not None:
            messages[index] = _with_mark(messages[index])
    draft.change(messages=messages, tools=_with_last_marked(request.tools))


def _last_index(messages: Sequence[AnyPromptMessage], role: Any) -> int | None:
    """Return the position of the last message of a role; None if there is none."""
    positions = range(
        len(messages) - 1,
        -1,
        -1,
    )
    return next((i for i in positions if isinstance(messages[i], role)), None)


def _with_mark(message: AnyPromptMessage) -> AnyPromptMessage:
    """Return a message with a mark at its end."""
    if isinstance(message, ToolPromptMessage):
        return _marked(message, _MARK)
    parts = list(message.parts)
    if not parts or (
        isinstance(parts[-1], TextPromptMessageContent) and not parts[-1].data
    ):
        return message
    parts[-1] = _marked(parts[-1], _MARK)
    return msgspec.structs.replace(message, content=parts)


def _with_last_marked(tools: list[PromptMessageTool]) -> list[PromptMessageTool]:
    """Return tools with a mark on the last one."""
    return [*tools[:-1], _marked(tools[-1], _MARK)] if tools else tools
