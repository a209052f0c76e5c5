"""Token counts without a network: by the model's own vocabulary where it is at hand, else an estimate that says so."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.models.messages import AnyPromptMessage, AssistantPromptMessage, PromptMessageTool

# Chinese, Japanese and Korean: about one token a character in today's vocabularies.
_WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
_MESSAGE_OVERHEAD = 4  # marks around a message and its role, as OpenAI counts them
_REPLY_OVERHEAD = 3  # what begins the answer
_FILE_TOKENS = 85  # a small picture, as OpenAI counts one of low detail

# The first that fits: model's name → vocabulary, and whether it is the model's own or the nearest that is at hand.
_VOCABULARIES: tuple[tuple[re.Pattern[str], str, bool], ...] = tuple(
    (re.compile(pattern), name, exact)
    for pattern, name, exact in (
        (r"^gpt-oss", "o200k_harmony", True),
        (r"^(gpt-4o|gpt-4\.[15]|gpt-[5-9]|chatgpt|o[134](-|$)|gpt-audio|codex)", "o200k_base", True),
        (r"^(gpt-4|gpt-3\.5|text-embedding-|gpt-35)", "cl100k_base", True),
        (r"^qwen-?3\.5", "qwen3.5", True),
        (r"^(qwen|qwq|qvq)", "qwen3.5", False),
        (r"(^|meta-)llama", "cl100k_base", False),  # Llama 3's began as this one, and added languages
        (r"^(gemini|gemma)", "o200k_base", False),
        (r"^(claude|deepseek|mistral|kimi|moonshot|glm|grok|command)", "o200k_base", False),
    )
)


@dataclass(frozen=True, slots=True)
class TokenCount:
    tokens: int
    estimated: bool


def vocabulary_of(model: str) -> tuple[str, bool] | None:
    """The vocabulary that a model's tokens are counted with, and whether it is the model's own."""
    name = model.lower().rpartition("/")[2]
    return next(((found, exact) for pattern, found, exact in _VOCABULARIES if pattern.search(name)), None)


def _counter() -> Any:
    """The package that brings vocabularies: `pip install 'modelyard[tokens]'`. None where it is missing."""
    try:
        import toktok
    except ImportError:
        return None
    return toktok


def count_texts(model: str, texts: Sequence[str]) -> TokenCount:
    """Tokens of all the texts together, for this model."""
    found, counter = vocabulary_of(model), _counter()
    if found is None or counter is None:
        return TokenCount(sum(map(estimate_tokens, texts)), estimated=True)
    name, exact = found
    return TokenCount(sum(counter.batch_count(texts, name)), estimated=not exact)


def count_prompt(
    model: str, messages: Iterable[AnyPromptMessage], tools: Iterable[PromptMessageTool] = ()
) -> TokenCount:
    """Prompt tokens of a request. Files and tools are estimated: how providers write them down is theirs to know."""
    every = list(messages)
    declared = [_told(tool) for tool in tools]
    counted = count_texts(model, [text for message in every for text in _texts(message)] + declared)
    files = sum(len(message.files) for message in every)
    tokens = counted.tokens + _MESSAGE_OVERHEAD * len(every) + _REPLY_OVERHEAD + _FILE_TOKENS * files
    return TokenCount(tokens, estimated=counted.estimated or bool(files or declared))


def _texts(message: AnyPromptMessage) -> list[str]:
    calls = message.tool_calls if isinstance(message, AssistantPromptMessage) else []
    return [message.text, *(part for call in calls for part in (call.function.name, call.function.arguments))]


def _told(tool: PromptMessageTool) -> str:
    return tool.name + tool.description + msgspec.json.encode(tool.parameters).decode()


def truncate(model: str, text: str, most: int) -> tuple[str, TokenCount]:
    """The text cut to at most `most` tokens, at a character's border, and the count of the whole of it."""
    found, counter = vocabulary_of(model), _counter()
    if found is not None and counter is not None:
        name, exact = found
        kept, total = counter.truncate(text, most, name)
        return kept, TokenCount(total, estimated=not exact)
    total = estimate_tokens(text)
    low, high = 0, len(text)
    while low < high:  # the longest beginning that the estimate lets pass
        middle = (low + high + 1) // 2
        low, high = (middle, high) if estimate_tokens(text[:middle]) <= most else (low, middle - 1)
    return text[:low], TokenCount(total, estimated=True)


def estimate_tokens(text: str) -> int:
    """A token a wide character and a token for four others: within about 15 % on prose, worse on code."""
    wide = len(_WIDE.findall(text)) if not text.isascii() else 0
    return wide + (len(text) - wide + 3) // 4


def estimate_prompt_tokens(messages: Iterable[AnyPromptMessage], tools: Iterable[PromptMessageTool] = ()) -> int:
    """As `count_prompt`, without any vocabulary: what it costs is near nothing."""
    every = list(messages)
    total = sum(_MESSAGE_OVERHEAD + _FILE_TOKENS * len(message.files) for message in every)
    total += sum(estimate_tokens(text) for message in every for text in _texts(message))
    return total + sum(estimate_tokens(_told(tool)) for tool in tools)


def rough_tokens(request: Any) -> int:
    """About how many tokens go in, for a request of any type; 0 where it is not counted in tokens."""
    if (signs := getattr(request, "signs", None)) is not None:
        return signs // 4 + 8
    if (messages := getattr(request, "messages", None)) is not None:
        return estimate_prompt_tokens(messages, request.tools)
    texts = getattr(request, "texts", None) or getattr(request, "docs", None) or ()
    return sum(estimate_tokens(text) for text in texts)
