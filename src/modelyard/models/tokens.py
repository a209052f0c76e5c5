"""Token counts without network access: with the model's vocabulary if available,
otherwise a marked estimate."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.models.embedding import TokenIds
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageTool,
)

# Chinese, Japanese and Korean have about one token per character in current
# vocabularies.
_WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
# Delimiters of a message and its role, as OpenAI counts them.
_MESSAGE_OVERHEAD = 4
# Start of the answer.
_REPLY_OVERHEAD = 3
# An image of low detail, as OpenAI counts it.
_FILE_TOKENS = 85

# First match wins: model name pattern → vocabulary, and whether it is the model's own
# or only a similar one.
_VOCABULARIES: tuple[tuple[re.Pattern[str], str, bool], ...] = tuple(
    (re.compile(pattern), name, exact)
    for pattern, name, exact in (
        (r"^gpt-oss", "o200k_harmony", True),
        (
            r"^(gpt-4o|gpt-4\.[15]|gpt-[5-9]|chatgpt|o[134](-|$)|gpt-audio|codex)",
            "o200k_base",
            True,
        ),
        (r"^(gpt-4|gpt-3\.5|text-embedding-|gpt-35)", "cl100k_base", True),
        (r"^qwen-?3\.5", "qwen3.5", True),
        (r"^(qwen|qwq|qvq)", "qwen3.5", False),
        (
            r"(^|meta-)llama",
            "cl100k_base",
            False,
        ),  # Llama 3's began as this one, and added languages
        (r"^(gemini|gemma)", "o200k_base", False),
        (
            r"^(claude|deepseek|mistral|kimi|moonshot|glm|grok|command)",
            "o200k_base",
            False,
        ),
    )
)


@dataclass(frozen=True, slots=True)
class TokenCount:
    """A number of tokens, and whether it is an estimate."""

    tokens: int
    estimated: bool


def vocabulary_of(model: str) -> tuple[str, bool] | None:
    """Return the vocabulary for a model and whether it is exact, or None if no pattern
    matches."""
    # Names such as `vendor/model` are matched by their last component.
    name = model.lower().rpartition("/")[2]
    return next(
        (
            (vocabulary, exact)
            for pattern, vocabulary, exact in _VOCABULARIES
            if pattern.search(name)
        ),
        None,
    )


def _tokenizer() -> Any:
    """Return the tokenizer package (`pip install 'modelyard[tokens]'`), or None if it
    is not installed."""
    try:
        import toktok
    except ImportError:
        return None
    return toktok


def count_texts(model: str, texts: Sequence[str]) -> TokenCount:
    """Return the total tokens of all texts for a model."""
    vocabulary, counter = vocabulary_of(model), _tokenizer()
    if vocabulary is None or counter is None:
        return TokenCount(sum(map(estimate_tokens, texts)), estimated=True)
    name, exact = vocabulary
    # Another model's vocabulary gives a close but not exact count.
    return TokenCount(sum(counter.batch_count(texts, name)), estimated=not exact)


def count_prompt(
    model: str,
    messages: Iterable[AnyPromptMessage],
    tools: Iterable[PromptMessageTool] = (),
) -> TokenCount:
    """Return the prompt tokens of a request. Files and tools are estimated, since their
    encoding by providers is not public."""
    message_list = list(messages)
    declared = [_tool_text(tool) for tool in tools]
    text_count = count_texts(
        model, [text for message in message_list for text in _texts(message)] + declared
    )
    files = sum(len(message.files) for message in message_list)
    tokens = (
        text_count.tokens
        + _MESSAGE_OVERHEAD * len(message_list)
        + _REPLY_OVERHEAD
        + _FILE_TOKENS * files
    )
    # Any estimated component makes the total an estimate.
    return TokenCount(tokens, estimated=text_count.estimated or bool(files or declared))


def _texts(message: AnyPromptMessage) -> list[str]:
    """Return the texts of a message that count as tokens.

    They are its own text and, of an assistant's message, the names and arguments of
    tool calls.
    """
    calls = message.tool_calls if isinstance(message, AssistantPromptMessage) else []
    return [
        message.text,
        *(
            part
            for call in calls
            for part in (call.function.name, call.function.arguments)
        ),
    ]


def _tool_text(tool: PromptMessageTool) -> str:
    """Return the text of a tool of which the model reads every token."""
    return tool.name + tool.description + msgspec.json.encode(tool.parameters).decode()


def truncate(model: str, text: str, max_tokens: int) -> tuple[str, TokenCount]:
    """Return a text cut to `max_tokens` tokens at a character boundary.

    The second value is the token count of the full text. Without the model's vocabulary
    the count, and so the cut, is an estimate.
    """
    vocabulary, counter = vocabulary_of(model), _tokenizer()
    if vocabulary is not None and counter is not None:
        name, exact = vocabulary
        truncated_text, total = counter.truncate(text, max_tokens, name)
        return truncated_text, TokenCount(total, estimated=not exact)
    total = estimate_tokens(text)
    # Binary search for the longest prefix whose estimate is within the limit.
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high)
            if estimate_tokens(text[:middle]) <= max_tokens
            else (low, middle - 1)
        )
    return text[:low], TokenCount(total, estimated=True)


def estimate_tokens(text: str) -> int:
    """Estimate tokens: one per wide character, one per four others. Within about 15 %
    for prose, worse for code. Token ids are counted."""
    if isinstance(text, TokenIds):
        return len(text.ids)
    wide = len(_WIDE.findall(text)) if not text.isascii() else 0
    return wide + (len(text) - wide + 3) // 4


def estimate_prompt_tokens(
    messages: Iterable[AnyPromptMessage], tools: Iterable[PromptMessageTool] = ()
) -> int:
    """Estimate prompt tokens like `count_prompt`, without a vocabulary and at almost no
    cost."""
    message_list = list(messages)
    total = sum(
        _MESSAGE_OVERHEAD + _FILE_TOKENS * len(message.files)
        for message in message_list
    )
    total += sum(
        estimate_tokens(text) for message in message_list for text in _texts(message)
    )
    return total + sum(estimate_tokens(_tool_text(tool)) for tool in tools)


def rough_tokens(request: Any) -> int:
    """Return a rough number of input tokens for a request of any type; 0 if it is not
    measured in tokens."""
    # A passthrough request has only its character count; it is not parsed for this.
    if (char_count := getattr(request, "signs", None)) is not None:
        return char_count // 4 + 8
    if (messages := getattr(request, "messages", None)) is not None:
        return estimate_prompt_tokens(messages, request.tools)
    texts = getattr(request, "texts", None) or getattr(request, "docs", None) or ()
    return sum(estimate_tokens(text) for text in texts)
