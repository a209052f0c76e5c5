"""Files in the results of tools, for targets whose tool messages hold texts only."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from modelyard.models.messages import (
    AnyPromptMessage,
    FilePromptMessageContent,
    MultiModalPromptMessageContent,
    PromptMessageContent,
    TextPromptMessageContent,
    ToolPromptMessage,
    UserPromptMessage,
    simplified_content,
)
from modelyard.providers.adaptation.draft import Draft, Target
from modelyard.wire import anthropic, bedrock, gemini
from modelyard.wire import openai_responses as responses

# Formats whose results of tools may have files.
_HOLD_FILES = (anthropic.FORMAT, bedrock.FORMAT, responses.FORMAT)
# Google's models before the third generation take texts only.
# Source: "Multimodal function responses" of Google's function calling guide.
_TEXT_ONLY_GEMINI = ("gemini-1", "gemini-2")


def move_files_out_of_results(draft: Draft) -> None:
    """Move files of tool results into a user message after all results of the turn,
    unless the target's tool messages may hold them."""
    messages = draft.request.messages
    has_files = any(
        isinstance(message, ToolPromptMessage) and message.files for message in messages
    )
    if has_files and not _holds_files(draft.target):
        draft.change(messages=list(_moved(messages)))


def _holds_files(target: Target) -> bool:
    """Whether the target's tool messages may hold files."""
    if target.format == gemini.FORMAT:
        return not target.model.startswith(_TEXT_ONLY_GEMINI)
    return target.format in _HOLD_FILES


def _moved(messages: Iterable[AnyPromptMessage]) -> Iterator[AnyPromptMessage]:
    """Yield the messages; files follow the last tool message of each turn.

    A vendor wants the results of all calls of a turn next to each other, so the files
    wait until the turn's last result.
    """
    waiting: list[PromptMessageContent] = []
    for message in messages:
        if isinstance(message, ToolPromptMessage):
            yield _without_files(message, waiting)
            continue
        if waiting and isinstance(message, UserPromptMessage):
            # Some vendors refuse two user messages in a row.
            content = [*waiting, *message.parts]
            message = msgspec.structs.replace(message, content=content)
        elif waiting:
            yield UserPromptMessage(content=waiting)
        waiting = []
        yield message
    if waiting:
        yield UserPromptMessage(content=waiting)


def _without_files(
    message: ToolPromptMessage, waiting: list[PromptMessageContent]
) -> ToolPromptMessage:
    """Return a tool message that points to its files, which are added to `waiting`."""
    files = message.files
    if not files:
        return message
    label = f"Files of the result of tool call {message.tool_call_id}:"
    waiting += [TextPromptMessageContent(data=label), *files]
    pointer = TextPromptMessageContent(
        data=f"[{_count(files)} in the next user message]"
    )
    texts: list[Any] = [
        part
        for part in message.parts
        if not isinstance(part, MultiModalPromptMessageContent)
    ]
    content = simplified_content([*texts, pointer])
    return msgspec.structs.replace(message, content=content)


def _count(files: list[FilePromptMessageContent]) -> str:
    """Return how many files there are, in words."""
    return "1 file is" if len(files) == 1 else f"{len(files)} files are"
