"""Prompt messages: system, user, assistant, tool; their contents: text, image, audio, video, document; tool calls."""

from enum import StrEnum
from typing import Any, ClassVar, Literal

import msgspec


class PromptMessageRole(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class TextPromptMessageContent(msgspec.Struct, frozen=True, kw_only=True, tag="text", tag_field="type"):
    data: str
    extra: dict[str, Any] = {}
    """What a wire format says of this part and we have no name for; comes out again in the same format."""


class MultiModalPromptMessageContent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A file, by address or by its bytes in base64. `format` is a short name as `png`, `mime_type` the long one."""

    format: str = ""
    base64_data: str = ""
    url: str = ""
    mime_type: str = ""
    filename: str = ""
    extra: dict[str, Any] = {}

    @property
    def data(self) -> str:
        """The address, or a `data:` address made of the bytes."""
        return self.url or f"data:{self.mime_type};base64,{self.base64_data}"


class ImagePromptMessageContent(MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="image"):
    detail: Literal["auto", "low", "high"] = "low"


class AudioPromptMessageContent(MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="audio"):
    pass


class VideoPromptMessageContent(MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="video"):
    pass


class DocumentPromptMessageContent(MultiModalPromptMessageContent, frozen=True, kw_only=True, tag="document"):
    pass


PromptMessageContent = (
    TextPromptMessageContent
    | ImagePromptMessageContent
    | AudioPromptMessageContent
    | VideoPromptMessageContent
    | DocumentPromptMessageContent
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
    function: ToolCallFunction = ToolCallFunction()
    index: int | None = None


class PromptMessageTool(msgspec.Struct, frozen=True, kw_only=True):
    """A function the model may call; `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    extra: dict[str, Any] = {}


class PromptMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="role"):
    role: ClassVar[PromptMessageRole]
    content: Content = None
    name: str | None = None
    extra: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """The text parts, joined; files left out."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content or []
        return "".join(part.data for part in parts if isinstance(part, TextPromptMessageContent))

    @property
    def files(self) -> list[MultiModalPromptMessageContent]:
        if not isinstance(self.content, list):
            return []
        return [part for part in self.content if isinstance(part, MultiModalPromptMessageContent)]


class SystemPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="system"):
    role: ClassVar[PromptMessageRole] = PromptMessageRole.SYSTEM


class UserPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="user"):
    role: ClassVar[PromptMessageRole] = PromptMessageRole.USER


class AssistantPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="assistant"):
    role: ClassVar[PromptMessageRole] = PromptMessageRole.ASSISTANT
    tool_calls: list[ToolCall] = []
    reasoning_content: str | None = None
    refusal: str | None = None


class ToolPromptMessage(PromptMessage, frozen=True, kw_only=True, tag="tool"):
    """What a tool answered to the call `tool_call_id`."""

    role: ClassVar[PromptMessageRole] = PromptMessageRole.TOOL
    tool_call_id: str = ""


AnyPromptMessage = SystemPromptMessage | UserPromptMessage | AssistantPromptMessage | ToolPromptMessage
