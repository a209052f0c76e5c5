"""Details inside of messages and tools that the target's format has no field for: each
is left out and named, as the fields of the request itself are."""

from collections.abc import Iterator, Mapping
from typing import Any

from modelyard.base.json_types import is_object
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    ImagePromptMessageContent,
    OpaquePromptMessageContent,
    PromptMessageContent,
    ToolPromptMessage,
)
from modelyard.providers.adaptation.draft import Draft, fields_of
from modelyard.providers.adaptation.tool_kinds import reported_name

# What a parser stores in `extra` for its own format and other formats do not miss: marks
# of a notation, originals of what was read, and what a rule of its own deals with.
_READ: Mapping[str, frozenset[str]] = {
    "openai_chat": frozenset(
        {
            "role",
            "type",
            "old",
            "file_id",
            "format",
            "id",
            "transcript",
            "expires_at",
        }
    ),
    "openai_responses": frozenset(
        {
            "role",
            "type",
            "item",
            "instructions",
            "id",
            "status",
            "namespace",
            "format",
            "strict_by_default",
            "execution",
        }
    ),
    "anthropic": frozenset(
        {
            "inline",
            "source",
            "context",
            "citations",
        }
    ),
    "gemini": frozenset(
        {
            "parameters",
            "thought",
        }
    ),
    "cohere": frozenset(
        {
            "tool_plan",
        }
    ),
}
# Objects whose entries are the fields without a reader.
_CONTAINERS = (
    "part",
    "turn",
    "content",
)
_CHAT = "openai_chat"
_WITH_DETAIL = (
    _CHAT,
    "openai_responses",
    "cohere",
)


def report_unread_details(draft: Draft) -> None:
    """Report every field of a message, part, call or tool that the target lacks."""
    # Other rules may have changed the draft: only the original shows what is lost.
    request = draft.original
    if draft.is_same_format or not request.format:
        return
    for message in request.messages:
        _report_message(message, draft)
    for tool in request.tools:
        # Another kind of tool is its whole definition.
        if tool.type in ("function", "custom"):
            _report_fields(tool.extra, draft)


def _report_message(
    message: AnyPromptMessage,
    draft: Draft,
) -> None:
    """Report what is lost of a message."""
    # The name of a tool's message repeats that of the call.
    has_name = message.name and not isinstance(message, ToolPromptMessage)
    if has_name and draft.target.format != _CHAT:
        draft.drop("name")
    if message.extra:
        _report_fields(message.extra, draft)
    if isinstance(message.content, list):
        for part in message.content:
            _report_part(part, draft)
    if isinstance(message, AssistantPromptMessage):
        for call in message.tool_calls:
            _report_fields(call.extra, draft)


def _report_part(
    part: PromptMessageContent,
    draft: Draft,
) -> None:
    """Report what is lost of a part. One that only another format has is dealt with as
    a whole."""
    if isinstance(part, OpaquePromptMessageContent):
        return
    if part.extra:
        _report_fields(part.extra, draft)
    # Without the field a vendor does what `auto` asks for.
    is_image = isinstance(part, ImagePromptMessageContent)
    if (
        is_image
        and part.detail not in ("", "auto")
        and draft.target.format not in _WITH_DETAIL
    ):
        draft.drop("detail")


def _report_fields(
    extra: Mapping[str, Any],
    draft: Draft,
) -> None:
    """Report the fields of the caller's format in an `extra`."""
    caller = draft.request.format
    read_names = _READ.get(caller, frozenset())
    for name, value in _fields(fields_of(extra, caller)):
        # An empty value asks for nothing, so nothing is lost with it.
        if name not in read_names and value not in (None, False, "", [], {}):
            draft.drop(reported_name(name))


def _fields(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield fields by name, with those that a parser has put into an object."""
    for name, value in fields.items():
        if name in _CONTAINERS and is_object(value):
            yield from value.items()
        else:
            yield name, value
