"""Prompt messages (system, user, assistant, tool), their content parts, and tool calls.

The types are lossless: wire format fields without an internal name are stored in
`extra` under the format's name, and are written again in that format.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, ClassVar

import msgspec

from modelyard.base.json_types import is_object

Extra = dict[str, Any]
"""Wire format name → its fields that have no internal name. Only that format reads
them."""


class PromptMessageRole(StrEnum):
    """Roles of a conversation."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """The source of a text. `start` and `end` are character positions in its part."""

    url: str = ""
    title: str = ""
    quote: str = ""
    """Quoted text of the source."""
    start: int | None = None
    end: int | None = None
    extra: Extra = {}


class _Part(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    index: int | None = None
    """In a stream, chunks with the same index form one part. None in complete messages.
    """
    cache_control: dict[str, Any] | None = None
    """Anthropic's cache marker: everything up to here may be cached, `{"type":
    "ephemeral", "ttl": "5m"}`."""
    extra: Extra = {}


class TextPromptMessageContent(_Part, frozen=True, kw_only=True, tag="text"):
    """A text part."""

    data: str
    citations: list[Citation] = []


class ThinkingPromptMessageContent(_Part, frozen=True, kw_only=True, tag="thinking"):
    """The reasoning of a model before its answer.

    A signature without text belongs to the following part: this is how Gemini signs
    texts and calls.
    """

    data: str = ""
    signature: str = ""
    """The provider's signature, or the encrypted reasoning. Must be returned unchanged.
    """
    redacted: bool = False
    """Whether only the provider can read the reasoning; `signature` contains it."""
    id: str = ""
    origin: str = ""
    """Wire format that issued the signature; empty if a caller did not state it."""


class MultiModalPromptMessageContent(_Part, frozen=True, kw_only=True):
    """A file, by URL or as base64. `format` is a short name such as `png`, `mime_type`
    the full type."""

    format: str = ""
    base64_data: str = ""
    url: str = ""
    mime_type: str = ""
    filename: str = ""

    @property
    def data(self) -> str:
        """Return the URL, or a `data:` URL with the content."""
        return self.url or f"data:{self.mime_type};base64,{self.base64_data}"


class ImagePromptMessageContent(
    MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="image"
):
    """An image."""

    detail: str = ""
    """`auto`, `low` or `high`; empty for the provider's default."""


class AudioPromptMessageContent(
    MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="audio"
):
    """An audio file."""

    pass


class VideoPromptMessageContent(
    MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="video"
):
    """A video file."""

    pass


class DocumentPromptMessageContent(
    MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="document"
):
    """A document such as a PDF."""

    pass


class OpaquePromptMessageContent(_Part, frozen=True, kw_only=True, tag="opaque"):
    """A part that only one wire format has, such as a search run by the provider. Other
    formats omit it."""

    format: str
    data: dict[str, Any]


FilePromptMessageContent = (
    ImagePromptMessageContent
    | AudioPromptMessageContent
    | VideoPromptMessageContent
    | DocumentPromptMessageContent
)
PromptMessageContent = (
    TextPromptMessageContent
    | ThinkingPromptMessageContent
    | FilePromptMessageContent
    | OpaquePromptMessageContent
)
Content = str | list[PromptMessageContent] | None


class ToolCallFunction(msgspec.Struct, frozen=True, kw_only=True):
    """Name and arguments of a function call."""

    name: str = ""
    arguments: str = ""
    """JSON text exactly as written by the model; it may be truncated or invalid."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call requested by the model. In a stream, fragments with the same `index`
    belong together."""

    id: str = ""
    type: str = "function"
    """`function`, or `custom` for a tool that takes text instead of JSON; or the kind of
    a tool that the Responses API defines and the client runs, such as `tool_search`.
    """
    function: ToolCallFunction = ToolCallFunction()
    index: int | None = None
    place: int | None = None
    """Number of content parts before the call; None if it follows all of them."""
    cache_control: dict[str, Any] | None = None
    extra: Extra = {}


class PromptMessageTool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call; `parameters` is a JSON schema.

    A tool run by the provider has its own `type`, and its definition in `extra` under
    its wire format.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    type: str = "function"
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None
    extra: Extra = {}


class PromptMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="role"):
    """Base of all messages."""

    role: ClassVar[PromptMessageRole]
    content: Content = None
    name: str | None = None
    extra: Extra = {}

    @property
    def text(self) -> str:
        """Return the joined text parts, without files and reasoning."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content or []
        return "".join(
            [part.data for part in parts if isinstance(part, TextPromptMessageContent)]
        )

    @property
    def parts(self) -> list[PromptMessageContent]:
        """Return the content as a list of parts, even if it is a string."""
        if isinstance(self.content, str):
            # An empty string means no content.
            return [TextPromptMessageContent(data=self.content)] if self.content else []
        return self.content or []

    @property
    def files(self) -> "list[FilePromptMessageContent]":
        """Return the file parts."""
        if not isinstance(self.content, list):
            return []
        # File types share a base class, so a single check is enough.
        file_type = MultiModalPromptMessageContent
        return [part for part in self.content if isinstance(part, file_type)]


class SystemPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="system"):
    """Instructions to the model."""

    role: ClassVar[PromptMessageRole] = PromptMessageRole.SYSTEM


class UserPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="user"):
    """A message of the user."""

    role: ClassVar[PromptMessageRole] = PromptMessageRole.USER


class AssistantPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="assistant"):
    """A message of the model. Formats with separate reasoning use `reasoning_content`,
    others have thinking parts."""

    role: ClassVar[PromptMessageRole] = PromptMessageRole.ASSISTANT
    tool_calls: list[ToolCall] = []
    reasoning_content: str | None = None
    refusal: str | None = None

    @property
    def thinking(self) -> str:
        """Return all readable reasoning."""
        separate_thinking = self.reasoning_content or ""
        if not isinstance(self.content, list):
            return separate_thinking
        return separate_thinking + "".join(
            [
                part.data
                for part in self.content
                if isinstance(part, ThinkingPromptMessageContent)
            ]
        )

    @property
    def blocks(self) -> "list[PromptMessageContent | ToolCall]":
        """Return reasoning, parts and calls in the order in which the model produced
        them."""
        blocks: list[PromptMessageContent | ToolCall] = []
        if self.reasoning_content:
            blocks.append(ThinkingPromptMessageContent(data=self.reasoning_content))
        parts, calls = self.parts, self.tool_calls
        call_index = 0
        for part_index, part in enumerate(parts):
            # Calls placed before this part come first; a call without a place stays for
            # the end.
            while (
                call_index < len(calls)
                and (calls[call_index].place or 0) <= part_index
                and calls[call_index].place is not None
            ):
                blocks.append(calls[call_index])
                call_index += 1
            blocks.append(part)
        return [*blocks, *calls[call_index:]]


class ToolPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="tool"):
    """The result of the tool call `tool_call_id`."""

    role: ClassVar[PromptMessageRole] = PromptMessageRole.TOOL
    tool_call_id: str = ""
    is_error: bool = False
    cache_control: dict[str, Any] | None = None


AnyPromptMessage = (
    SystemPromptMessage | UserPromptMessage | AssistantPromptMessage | ToolPromptMessage
)


def simplified_content(parts: list[PromptMessageContent]) -> Content:
    """Return the simplest form of a content: None for no parts, a string for a single
    plain text, otherwise the list."""
    if not parts:
        return None
    first = parts[0]
    if len(parts) > 1 or not isinstance(first, TextPromptMessageContent):
        return parts
    # Citations, cache markers and the number of a block would be lost in a string.
    return (
        parts
        if first.citations
        or first.extra
        or first.cache_control is not None
        or first.index is not None
        else first.data
    )


def assistant_of(
    blocks: Iterable[PromptMessageContent | ToolCall], **fields: Any
) -> AssistantPromptMessage:
    """Build a message from its blocks in order; `fields` are its other fields."""
    parts: list[PromptMessageContent] = []
    calls: list[ToolCall] = []
    for block in blocks:
        if isinstance(block, ToolCall):
            # The number of preceding parts preserves where the model placed the call.
            calls.append(msgspec.structs.replace(block, place=len(parts)))
        else:
            parts.append(block)
    # A call after all parts has the default position, so its place is redundant.
    calls = [
        msgspec.structs.replace(call, place=None) if call.place == len(parts) else call
        for call in calls
    ]
    is_ordered = any(call.place is not None for call in calls)
    # A list is needed for places to refer to parts.
    return AssistantPromptMessage(
        content=parts if is_ordered else simplified_content(parts),
        tool_calls=calls,
        **fields,
    )


def merge_extra(first: Extra, second: Extra) -> Extra:
    """Merge two extras recursively: lists are concatenated, for other values the second
    wins."""
    if not first or not second:
        return first or second
    result = dict(first)
    for name, value in second.items():
        existing_value = result.get(name)
        if is_object(existing_value) and is_object(value):
            result[name] = merge_extra(existing_value, value)
        elif isinstance(existing_value, list) and isinstance(value, list):
            result[name] = [*existing_value, *value]
        else:
            result[name] = value
    return result
