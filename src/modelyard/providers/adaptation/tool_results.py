"""Results of tools and files of answers, for targets whose messages of these roles hold
texts only."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    FilePromptMessageContent,
    MultiModalPromptMessageContent,
    PromptMessageContent,
    TextPromptMessageContent,
    ToolPromptMessage,
    UserPromptMessage,
    assistant_of,
    simplified_content,
)
from modelyard.providers.adaptation.draft import Draft, Target
from modelyard.wire import anthropic, bedrock, gemini
from modelyard.wire import openai_responses as responses

# Formats whose results say whether the tool has failed.
_KNOW_FAILURES = (anthropic.FORMAT, bedrock.FORMAT, gemini.FORMAT)
# Formats whose earlier answers may have images.
_ANSWER_WITH_IMAGES = (gemini.FORMAT, responses.FORMAT)
# Formats whose results of tools may have files.
_HOLD_FILES = (anthropic.FORMAT, bedrock.FORMAT, responses.FORMAT)
# Google's models before the third generation take texts only.
# Source: "Multimodal function responses" of Google's function calling guide.
_TEXT_ONLY_GEMINI = ("gemini-1", "gemini-2")


def mark_failed_results(draft: Draft) -> None:
    """Let the text of a failed tool's result say so where the target has no field for
    it."""
    messages = draft.request.messages
    if draft.target.format in _KNOW_FAILURES or not any(map(_has_failed, messages)):
        return
    draft.change(
        messages=[
            _with_failure(message)
            if isinstance(message, ToolPromptMessage)
            else message
            for message in messages
        ]
    )


def _has_failed(message: AnyPromptMessage) -> bool:
    """Whether a message is the result of a tool that has failed."""
    return isinstance(message, ToolPromptMessage) and message.is_error


def _with_failure(message: ToolPromptMessage) -> ToolPromptMessage:
    """Return a result whose text begins with the word that tells of a failure."""
    if not message.is_error:
        return message
    if not isinstance(message.content, list):
        return msgspec.structs.replace(message, content=f"{_FAILURE}{message.text}")
    word = TextPromptMessageContent(data=_FAILURE)
    return msgspec.structs.replace(message, content=[word, *message.content])


_FAILURE = "Error: "


def move_files_of_answers(draft: Draft) -> None:
    """Move the files of earlier answers into the user's next message, unless the target's
    answers may hold them."""
    messages = draft.request.messages
    if draft.is_same_format or draft.target.format in _ANSWER_WITH_IMAGES:
        return
    has_files = any(
        isinstance(message, AssistantPromptMessage) and message.files
        for message in messages
    )
    if has_files:
        draft.change(messages=list(_with_files_moved(messages)))


def _with_files_moved(
    messages: Iterable[AnyPromptMessage],
) -> Iterator[AnyPromptMessage]:
    """Yield the messages; files of an answer precede what the user says next."""
    waiting: list[PromptMessageContent] = []
    for message in messages:
        if isinstance(message, UserPromptMessage) and waiting:
            content = [*waiting, *message.parts]
            message = msgspec.structs.replace(message, content=content)
            waiting = []
        if isinstance(message, AssistantPromptMessage) and message.files:
            label = "Files of the assistant's last answer:"
            waiting += [TextPromptMessageContent(data=label), *message.files]
            message = _without_answer_files(message)
            # The answer may have been nothing else.
            if not (message.content or message.tool_calls or message.refusal):
                continue
        yield message
    if waiting:
        yield UserPromptMessage(content=waiting)


def _without_answer_files(message: AssistantPromptMessage) -> AssistantPromptMessage:
    """Return an answer without its files."""
    blocks = [
        block
        for block in msgspec.structs.replace(message, reasoning_content=None).blocks
        if not isinstance(block, MultiModalPromptMessageContent)
    ]
    ordered = assistant_of(blocks)
    return msgspec.structs.replace(
        message, content=ordered.content, tool_calls=ordered.tool_calls
    )


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
    message: ToolPromptMessage,
    waiting: list[PromptMessageContent],
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
