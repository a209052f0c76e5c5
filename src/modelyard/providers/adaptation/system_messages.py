"""Messages of the system after the first turn, for targets that have a single system
prompt before all turns.

Agents remind their model of something in the middle of a session. In the system prompt
such a text would come before what it refers to, and the changed prompt would not be
read from the provider's prompt cache.
"""

from collections.abc import Iterable, Iterator
from typing import TypeGuard

import msgspec

from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageContent,
    SystemPromptMessage,
    TextPromptMessageContent,
    ToolPromptMessage,
    UserPromptMessage,
)
from modelyard.providers.adaptation.draft import Draft, fields_of
from modelyard.wire import anthropic, bedrock, gemini, openai_chat

INLINE_BETA = "mid-conversation-system-"
"""How the beta name begins with which Anthropic takes messages of the system."""


def adapt_system_messages(draft: Draft) -> None:
    """Turn messages of the system after the first answer into texts of the user at the
    same place; those before it become the system prompt."""
    if not _has_one_system_prompt(draft):
        return
    messages = draft.request.messages
    # Before the first answer no turn has ended to which the words could refer.
    first_answer = next(
        (n for n, each in enumerate(messages) if _is_answer(each)), len(messages)
    )
    beginning, later = messages[:first_answer], messages[first_answer:]
    is_chat = draft.target.format == openai_chat.FORMAT
    adapted = _system_first(beginning) if is_chat else _without_place(beginning)
    adapted = [*adapted, *_with_reminders(later, joins_results=is_chat)]
    if adapted != messages:
        draft.change(messages=adapted)


def _has_one_system_prompt(draft: Draft) -> bool:
    """Whether the target takes the system's words only before all turns."""
    target = draft.target
    if target.format == openai_chat.FORMAT:
        return target.capabilities.system_first
    if target.format == anthropic.FORMAT:
        return not _takes_inline_messages(draft)
    return target.format in (bedrock.FORMAT, gemini.FORMAT)


def _takes_inline_messages(draft: Draft) -> bool:
    """Whether system messages between the turns of a request to Claude stay there."""
    if draft.target.capabilities.system_between:
        return _has_inline_messages(draft.request.messages)
    # Other models take them only with a beta that the caller has switched on.
    betas = anthropic.sent_betas(draft.target.model, draft.request.headers)
    return any(beta.startswith(INLINE_BETA) for beta in betas)


def _has_inline_messages(messages: Iterable[AnyPromptMessage]) -> bool:
    """Whether the caller has put messages of the system between the turns, in
    Anthropic's format."""
    return any(
        isinstance(message, SystemPromptMessage) and _is_inline(message)
        for message in messages
    )


def _is_inline(message: SystemPromptMessage) -> bool:
    """Whether a message of the system came between the turns of Anthropic's format."""
    return bool(fields_of(message.extra, anthropic.FORMAT).get("inline"))


def _is_answer(message: AnyPromptMessage) -> bool:
    """Whether a message is an answer of the model."""
    return isinstance(message, AssistantPromptMessage)


def _without_place(messages: Iterable[AnyPromptMessage]) -> list[AnyPromptMessage]:
    """Return the messages; those of the system may be moved before the others."""
    return [
        msgspec.structs.replace(message, extra={})
        if isinstance(message, SystemPromptMessage) and _is_inline(message)
        else message
        for message in messages
    ]


def _system_first(messages: list[AnyPromptMessage]) -> list[AnyPromptMessage]:
    """Return the messages with those of the system as a single first one."""
    system = [each for each in messages if isinstance(each, SystemPromptMessage)]
    if not system or (len(system) == 1 and messages[0] is system[0]):
        return messages
    parts = [part for message in system for part in message.parts]
    merged = msgspec.structs.replace(system[0], content=_joined(parts))
    return [merged, *(x for x in messages if not isinstance(x, SystemPromptMessage))]


def _joined(parts: list[PromptMessageContent]) -> str | list[PromptMessageContent]:
    """Return texts as one text; other parts stay as they are."""
    texts = [part.data for part in parts if isinstance(part, TextPromptMessageContent)]
    return "\n\n".join(texts) if len(texts) == len(parts) else parts


def _with_reminders(
    messages: Iterable[AnyPromptMessage], *, joins_results: bool
) -> list[AnyPromptMessage]:
    """Return the messages with the system's as texts of the user.

    With `joins_results` a text after a tool's result becomes part of it: some servers
    refuse a message of the user there. No two messages of the user follow each other
    because of a text: some servers refuse these too.
    """
    adapted: list[AnyPromptMessage] = []
    reminder: AnyPromptMessage | None = None
    for message in _results_first(messages):
        previous = adapted.pop() if adapted else None
        if isinstance(message, SystemPromptMessage):
            adapted += _reminded(previous, message, joins_results=joins_results)
            # It is known again by identity: a user may have written the same text.
            reminder = adapted[-1]
        elif isinstance(message, UserPromptMessage) and _is_text(previous, reminder):
            adapted.append(_with_parts(message, [*previous.parts, *message.parts]))
        else:
            adapted += [message] if previous is None else [previous, message]
    return adapted


def _reminded(
    previous: AnyPromptMessage | None,
    message: SystemPromptMessage,
    *,
    joins_results: bool,
) -> list[AnyPromptMessage]:
    """Return the previous message and what one of the system becomes after it."""
    text = _reminder(message)
    if isinstance(previous, UserPromptMessage):
        return [_with_parts(previous, [*previous.parts, text])]
    if joins_results and isinstance(previous, ToolPromptMessage):
        joined = _joined([*previous.parts, text])
        return [msgspec.structs.replace(previous, content=joined)]
    reminder = UserPromptMessage(content=text.data)
    return [reminder] if previous is None else [previous, reminder]


def _is_text(
    previous: AnyPromptMessage | None, reminder: AnyPromptMessage | None
) -> TypeGuard[UserPromptMessage]:
    """Whether the previous message is one of the user that ends with a reminder."""
    return previous is reminder and isinstance(previous, UserPromptMessage)


def _with_parts(
    message: UserPromptMessage, parts: list[PromptMessageContent]
) -> UserPromptMessage:
    """Return a message of the user with other parts."""
    return msgspec.structs.replace(message, content=parts)


def _results_first(messages: Iterable[AnyPromptMessage]) -> Iterator[AnyPromptMessage]:
    """Yield the messages; results of tools come before the system's words, since they
    must follow their calls directly."""
    waiting: list[AnyPromptMessage] = []
    for message in messages:
        if isinstance(message, SystemPromptMessage):
            waiting.append(message)
            continue
        if not isinstance(message, ToolPromptMessage):
            yield from waiting
            waiting = []
        yield message
    yield from waiting


def _reminder(message: SystemPromptMessage) -> TextPromptMessageContent:
    """Return the text of a message of the system, marked as such."""
    return TextPromptMessageContent(
        data=f"<system-message>\n{message.text}\n</system-message>"
    )
