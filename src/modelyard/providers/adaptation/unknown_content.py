"""Parts of a type that only another format has: they are left out by name, and never
become an empty message."""

from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    OpaquePromptMessageContent,
    PromptMessageContent,
    ToolCall,
    ToolPromptMessage,
)
from modelyard.providers.adaptation.draft import Draft
from modelyard.providers.adaptation.tool_kinds import reported_name


def drop_unknown_content(draft: Draft) -> None:
    """Leave out the parts that only another format has, and messages that are empty
    without them.

    Raises InvokeBadRequestError if nothing is left of the conversation.
    """
    request = draft.request
    if not any(_has_foreign_part(each, draft) for each in request.messages):
        return
    messages = [
        remaining
        for message in request.messages
        if (remaining := _without_foreign_parts(message, draft)) is not None
    ]
    if not messages:
        names = ", ".join(repr(name) for name in draft.dropped)
        raise InvokeBadRequestError(
            f"Nothing is left of the request: this model does not accept {names}"
        )
    draft.change(messages=messages)


def _is_foreign(part: PromptMessageContent, draft: Draft) -> bool:
    """Return whether a part exists in another format alone."""
    return (
        isinstance(part, OpaquePromptMessageContent)
        and part.format != draft.target.format
    )


def _has_foreign_part(message: AnyPromptMessage, draft: Draft) -> bool:
    """Return whether a message has parts to be left out."""
    content = message.content
    return isinstance(content, list) and any(
        _is_foreign(part, draft) for part in content
    )


def _without_foreign_parts(
    message: AnyPromptMessage, draft: Draft
) -> AnyPromptMessage | None:
    """Return what remains of a message; None if that is nothing."""
    if not _has_foreign_part(message, draft):
        return message
    kept_parts: list[PromptMessageContent] = []
    places: list[int] = []
    for part in message.parts:
        places.append(len(kept_parts))
        if _is_foreign(part, draft):
            draft.drop(_name_of(part))
        else:
            kept_parts.append(part)
    # Calls are placed by the number of parts before them, which has changed.
    changes: dict[str, Any] = {"content": kept_parts or None}
    if isinstance(message, AssistantPromptMessage):
        changes["tool_calls"] = [_moved(call, places) for call in message.tool_calls]
    remaining = msgspec.structs.replace(message, **changes)
    return None if _is_empty(remaining) else remaining


def _moved(call: ToolCall, places: list[int]) -> ToolCall:
    """Return a call at its new place, the number of parts before it. `places` has the
    new place of each part."""
    if call.place is None:
        return call
    place = places[call.place] if call.place < len(places) else None
    return msgspec.structs.replace(call, place=place)


def _is_empty(message: AnyPromptMessage) -> bool:
    """Return whether a message says nothing. A tool result always says something: its
    call waits for it."""
    if message.content or isinstance(message, ToolPromptMessage):
        return False
    if not isinstance(message, AssistantPromptMessage):
        return True
    return not (message.tool_calls or message.reasoning_content or message.refusal)


def _name_of(part: PromptMessageContent) -> str:
    """Return the type of a part, or its only field in formats without types."""
    data: Any = getattr(part, "data", {})
    name = data.get("type") or next(iter(data), "content")
    return reported_name(str(name))
