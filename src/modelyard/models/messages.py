"""Prompt messages: system, user, assistant, tool; what they are made of; tool calls.

Lossless: what a wire format says and we have no name for stays in `extra`, under the format's own name, and comes out
again where that format is spoken.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, ClassVar

import msgspec

Extra = dict[str, Any]
"""Name of a wire format → what it says beyond what we name. Only that format reads it."""


class PromptMessageRole(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a text comes from. `start` and `end` count characters of the part that it belongs to."""

    url: str = ""
    title: str = ""
    quote: str = ""
    """The words of the source."""
    start: int | None = None
    end: int | None = None
    extra: Extra = {}


class _Part(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    index: int | None = None
    """In a stream: pieces with the same index are one part. None in whole messages."""
    cache_control: dict[str, Any] | None = None
    """Everything up to here may be cached, as Anthropic writes it: `{"type": "ephemeral", "ttl": "5m"}`."""
    extra: Extra = {}


class TextPromptMessageContent(_Part, frozen=True, kw_only=True, tag="text"):
    data: str
    citations: list[Citation] = []


class ThinkingPromptMessageContent(_Part, frozen=True, kw_only=True, tag="thinking"):
    """What a model thought before it spoke.

    A signature without text belongs to whatever follows it: that is how Gemini signs texts and calls.
    """

    data: str = ""
    signature: str = ""
    """The provider's own proof, or the thought itself where it is encrypted. To be sent back untouched."""
    redacted: bool = False
    """The thought is there, and only its provider may read it; `signature` holds it."""
    id: str = ""
    origin: str = ""
    """The wire format whose signature it is; empty where a caller did not say."""


class MultiModalPromptMessageContent(_Part, frozen=True, kw_only=True):
    """A file, by address or by its bytes in base64. `format` is a short name as `png`, `mime_type` the long one."""

    format: str = ""
    base64_data: str = ""
    url: str = ""
    mime_type: str = ""
    filename: str = ""

    @property
    def data(self) -> str:
        """The address, or a `data:` address made of the bytes."""
        return self.url or f"data:{self.mime_type};base64,{self.base64_data}"


class ImagePromptMessageContent(MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="image"):
    detail: str = ""
    """`auto`, `low` or `high`; the provider's own choice where empty."""


class AudioPromptMessageContent(MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="audio"):
    pass


class VideoPromptMessageContent(MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="video"):
    pass


class DocumentPromptMessageContent(MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="document"):
    pass


class OpaquePromptMessageContent(_Part, frozen=True, kw_only=True, tag="opaque"):
    """A part that one wire format alone has, as a search that the provider ran itself. Others leave it out."""

    format: str
    data: dict[str, Any]


FilePromptMessageContent = (
    ImagePromptMessageContent | AudioPromptMessageContent | VideoPromptMessageContent | DocumentPromptMessageContent
)
PromptMessageContent = (
    TextPromptMessageContent | ThinkingPromptMessageContent | FilePromptMessageContent | OpaquePromptMessageContent
)
Content = str | list[PromptMessageContent] | None


class ToolCallFunction(msgspec.Struct, frozen=True, kw_only=True):
    name: str = ""
    arguments: str = ""
    """JSON as text, just as the model wrote it: it may be cut, or no JSON at all."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call the model asks for. In a stream, pieces with the same `index` belong together."""

    id: str = ""
    type: str = "function"
    """`function`, or `custom`: a tool that takes text, not JSON."""
    function: ToolCallFunction = ToolCallFunction()
    index: int | None = None
    place: int | None = None
    """How many parts of the message's content stand before the call; None: all of them."""
    cache_control: dict[str, Any] | None = None
    extra: Extra = {}


class PromptMessageTool(msgspec.Struct, frozen=True, kw_only=True):
    """A function the model may call; `parameters` is a JSON schema.

    A tool that the provider runs itself has its `type`, and stands in `extra` under the one format that has it.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    type: str = "function"
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None
    extra: Extra = {}


class PromptMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="role"):
    role: ClassVar[PromptMessageRole]
    content: Content = None
    name: str | None = None
    extra: Extra = {}

    @property
    def text(self) -> str:
        """The text parts, joined; files and thoughts left out."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content or []
        return "".join([part.data for part in parts if isinstance(part, TextPromptMessageContent)])

    @property
    def parts(self) -> list[PromptMessageContent]:
        """The content as a list of parts, however it was written."""
        if isinstance(self.content, str):
            return [TextPromptMessageContent(data=self.content)] if self.content else []
        return self.content or []

    @property
    def files(self) -> "list[FilePromptMessageContent]":
        if not isinstance(self.content, list):
            return []
        return [part for part in self.content if isinstance(part, MultiModalPromptMessageContent)]


class SystemPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="system"):
    role: ClassVar[PromptMessageRole] = PromptMessageRole.SYSTEM


class UserPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="user"):
    role: ClassVar[PromptMessageRole] = PromptMessageRole.USER


class AssistantPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="assistant"):
    """What the model said. Formats that keep thoughts apart fill `reasoning_content`; others have thinking parts."""

    role: ClassVar[PromptMessageRole] = PromptMessageRole.ASSISTANT
    tool_calls: list[ToolCall] = []
    reasoning_content: str | None = None
    refusal: str | None = None

    @property
    def thinking(self) -> str:
        """All that can be read of the model's thoughts."""
        apart = self.reasoning_content or ""
        if not isinstance(self.content, list):
            return apart
        return apart + "".join([one.data for one in self.content if isinstance(one, ThinkingPromptMessageContent)])

    @property
    def blocks(self) -> "list[PromptMessageContent | ToolCall]":
        """Thoughts, parts and calls in the order in which the model gave them."""
        blocks: list[PromptMessageContent | ToolCall] = []
        if self.reasoning_content:
            blocks.append(ThinkingPromptMessageContent(data=self.reasoning_content))
        parts, calls = self.parts, self.tool_calls
        taken = 0
        for place, part in enumerate(parts):
            while taken < len(calls) and (calls[taken].place or 0) <= place and calls[taken].place is not None:
                blocks.append(calls[taken])
                taken += 1
            blocks.append(part)
        return [*blocks, *calls[taken:]]


class ToolPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="tool"):
    """What a tool answered to the call `tool_call_id`."""

    role: ClassVar[PromptMessageRole] = PromptMessageRole.TOOL
    tool_call_id: str = ""
    is_error: bool = False
    cache_control: dict[str, Any] | None = None


AnyPromptMessage = SystemPromptMessage | UserPromptMessage | AssistantPromptMessage | ToolPromptMessage


def plain(parts: list[PromptMessageContent]) -> Content:
    """A single text that says nothing else as a string, nothing as None, the rest as it is."""
    if not parts:
        return None
    first = parts[0]
    if len(parts) > 1 or not isinstance(first, TextPromptMessageContent):
        return parts
    return parts if first.citations or first.extra or first.cache_control is not None else first.data


def assistant_of(blocks: Iterable[PromptMessageContent | ToolCall], **more: Any) -> AssistantPromptMessage:
    """A message from its blocks in order; `more` are its other fields."""
    parts: list[PromptMessageContent] = []
    calls: list[ToolCall] = []
    for block in blocks:
        if isinstance(block, ToolCall):
            calls.append(msgspec.structs.replace(block, place=len(parts)))
        else:
            parts.append(block)
    calls = [msgspec.structs.replace(one, place=None) if one.place == len(parts) else one for one in calls]
    is_ordered = any(one.place is not None for one in calls)
    return AssistantPromptMessage(content=parts if is_ordered else plain(parts), tool_calls=calls, **more)


def joined_extra(first: Extra, second: Extra) -> Extra:
    """Both: lists one behind the other, other values as the second says."""
    if not first or not second:
        return first or second
    result = dict(first)
    for name, value in second.items():
        before = result.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            result[name] = joined_extra(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            result[name] = [*before, *value]
        else:
            result[name] = value
    return result
