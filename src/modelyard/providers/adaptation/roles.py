"""Roles, and how a conversation begins and ends."""

import msgspec

from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageContent,
    SystemPromptMessage,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    ToolPromptMessage,
    UserPromptMessage,
)
from modelyard.providers.adaptation.blocks import Block, blocks_of, with_blocks
from modelyard.providers.adaptation.draft import Draft, fields_of
from modelyard.providers.adaptation.thinking import CLAUDE_FORMATS, is_thinking

_CHAT = "openai_chat"
# Claude refuses a text without any visible character, so the turn has one.
_MINIMAL_TURN = UserPromptMessage(content=".")
# Stands in for a prefill that the target refuses: without the instruction a model
# begins its answer again.
_CONTINUE = UserPromptMessage(
    content="Continue your last message exactly where it ends, and repeat nothing."
)


def adapt_developer_role(draft: Draft) -> None:
    """Turn messages of a developer into those of the system where the server has no
    such role."""
    if draft.target.format != _CHAT or draft.target.capabilities.developer_role:
        return
    messages = draft.request.messages
    if any(_is_of_developer(message) for message in messages):
        draft.change(
            messages=[
                _of_system(message) if _is_of_developer(message) else message
                for message in messages
            ]
        )


def _is_of_developer(message: AnyPromptMessage) -> bool:
    """Whether a message has the role `developer`."""
    return fields_of(message.extra, _CHAT).get("role") == "developer"


def _of_system(message: AnyPromptMessage) -> AnyPromptMessage:
    """Return a developer's message with the role `system`."""
    # The field would override the role of the message when it is written.
    fields = {
        name: value for name, value in message.extra[_CHAT].items() if name != "role"
    }
    return msgspec.structs.replace(message, extra={**message.extra, _CHAT: fields})


def remove_empty_answers(draft: Draft) -> None:
    """Remove answers that say nothing, which servers of chat completions refuse.

    Agents keep such in their history after a stream that broke off, some with the
    thoughts that had arrived.
    """
    if draft.target.format != _CHAT:
        return
    messages = draft.request.messages
    kept = [message for message in messages if not _is_empty_answer(message)]
    if len(kept) < len(messages):
        draft.change(messages=kept)


def _is_empty_answer(message: AnyPromptMessage) -> bool:
    """Whether a message is an answer with nothing but thoughts."""
    return (
        isinstance(message, AssistantPromptMessage)
        # A call or a refusal has a meaning without any text.
        and not (message.tool_calls or message.refusal or message.extra)
        and all(map(_is_silent, message.parts))
    )


def _is_silent(part: PromptMessageContent) -> bool:
    """Whether a part is a thought, or a text without any character."""
    if isinstance(part, TextPromptMessageContent):
        return not part.data
    return isinstance(part, ThinkingPromptMessageContent)


def adapt_empty_turns(draft: Draft) -> None:
    """Add a minimal turn of the user where the target requires one that begins the
    conversation, and the request has none."""
    if draft.target.format not in (*CLAUDE_FORMATS, "gemini"):
        return
    # First of all: it may remove the message with which the conversation begins.
    if draft.target.format in CLAUDE_FORMATS:
        _remove_blank_texts(draft)
    messages = draft.request.messages
    first = next(
        (
            index
            for index, message in enumerate(messages)
            if not isinstance(message, SystemPromptMessage) and _has_content(message)
        ),
        None,
    )
    if first is None:
        kept = [message for message in messages if _has_content(message)]
        draft.change(messages=[*kept, _MINIMAL_TURN])
    # Only Claude requires that the first turn is one of the user.
    elif draft.target.format in CLAUDE_FORMATS and isinstance(
        messages[first], AssistantPromptMessage
    ):
        draft.change(
            messages=[
                *messages[:first],
                _MINIMAL_TURN,
                *messages[first:],
            ]
        )


def _remove_blank_texts(draft: Draft) -> None:
    """Remove texts without any visible character, which Claude refuses, and messages
    that say nothing without them."""
    messages = draft.request.messages
    without_blanks = map(_without_blanks, messages)
    remaining = [message for message in without_blanks if message is not None]
    if remaining != messages:
        draft.change(messages=remaining)


def _without_blanks(message: AnyPromptMessage) -> AnyPromptMessage | None:
    """Return a message without blank texts; None if nothing is left of it. The result
    of a tool stays, since its call waits for it."""
    if not any(map(_is_blank, message.parts)):
        return message
    if isinstance(message, AssistantPromptMessage):
        return _answer_without_blanks(message)
    parts = [part for part in message.parts if not _is_blank(part)]
    if not parts and not isinstance(message, ToolPromptMessage):
        return None
    return msgspec.structs.replace(message, content=parts or None)


def _answer_without_blanks(
    message: AssistantPromptMessage,
) -> AssistantPromptMessage | None:
    """Return an answer without blank texts; None if nothing is left of it."""
    blocks = [block for block in blocks_of(message) if not _is_blank(block)]
    return with_blocks(message, blocks) if blocks else None


def _is_blank(block: Block) -> bool:
    """Whether a block is a text without any visible character."""
    return isinstance(block, TextPromptMessageContent) and not block.data.strip()


def _has_content(message: AnyPromptMessage) -> bool:
    """Whether anything of a message is sent."""
    if isinstance(message, SystemPromptMessage | UserPromptMessage):
        return any(
            not isinstance(part, TextPromptMessageContent) or part.data
            for part in message.parts
        )
    return True


def adapt_prefill(draft: Draft) -> None:
    """Adapt a last message of the assistant, which the answer is to continue."""
    messages = draft.request.messages
    last = messages[-1] if messages else None
    if not isinstance(last, AssistantPromptMessage) or last.tool_calls:
        return
    capabilities = draft.target.capabilities
    is_claude = draft.target.format in CLAUDE_FORMATS
    # Claude refuses a prefill of an answer before which it is to think, whatever the
    # model accepts otherwise.
    if capabilities.prefill == "refused" or (is_claude and is_thinking(draft)):
        draft.change(messages=[*_stripped(messages, last), _CONTINUE])
        draft.drop("prefill")
    # These servers read the last answer as a finished one unless it is marked.
    elif capabilities.prefill == "marked":
        fields = {**fields_of(last.extra, _CHAT), "prefix": True}
        marked = msgspec.structs.replace(last, extra={**last.extra, _CHAT: fields})
        draft.change(messages=[*messages[:-1], marked])
    # Claude refuses a last answer that ends with white space.
    elif is_claude:
        draft.change(messages=_stripped(messages, last))


def _stripped(
    messages: list[AnyPromptMessage], last: AssistantPromptMessage
) -> list[AnyPromptMessage]:
    """Return the messages without blanks at the end of the last one; it goes if it is
    empty then."""
    parts = list(last.parts)
    while parts and isinstance(part := parts[-1], TextPromptMessageContent):
        if text := part.data.rstrip():
            parts[-1] = msgspec.structs.replace(part, data=text)
            break
        parts.pop()
    if not parts:
        return messages[:-1]
    return [*messages[:-1], msgspec.structs.replace(last, content=parts)]
