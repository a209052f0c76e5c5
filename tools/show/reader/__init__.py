"""Independent readers of answers in each format, which share no code with the product.

A stream is first folded to the document that it amounts to; then documents are read, and
documents of one format are compared.
"""

from collections.abc import Callable, Sequence

from tools.show.reader.anthropic import fold_anthropic, read_anthropic
from tools.show.reader.chat import fold_chat, read_chat, read_completion
from tools.show.reader.facts import JSON, Answer
from tools.show.reader.gemini import fold_gemini, read_gemini
from tools.show.reader.others import (
    fold_bedrock,
    fold_cohere,
    fold_ollama,
    read_bedrock,
    read_cohere,
    read_ollama,
)
from tools.show.reader.responses import fold_responses, read_responses

Fold = Callable[[Sequence[JSON], list[str]], JSON]
Read = Callable[[JSON], Answer]

FORMATS: dict[str, tuple[Fold, Read]] = {
    "openai_chat": (fold_chat, read_chat),
    "openai_responses": (fold_responses, read_responses),
    "anthropic": (fold_anthropic, read_anthropic),
    "gemini": (fold_gemini, read_gemini),
    "bedrock": (fold_bedrock, read_bedrock),
    "cohere": (fold_cohere, read_cohere),
    "ollama": (fold_ollama, read_ollama),
    "openai_completions": (fold_chat, read_completion),
}
"""Format → (fold of a stream's events, reader of a document)."""
