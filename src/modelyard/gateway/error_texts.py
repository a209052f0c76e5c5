"""The words in which a caller's own client recognises an error of a provider.

Agents act on the beginning of a message: one that reads `prompt is too long` shortens the
conversation and goes on, on anything else it stops.
"""

from typing import Literal

from modelyard.base.errors import (
    ContextTooLongError,
    InvokeError,
    ModelyardError,
    TokenCounts,
)
from modelyard.base.provider_errors import token_counts_in

Shape = Literal["openai", "anthropic", "gemini", "cohere"]


def caller_text(error: ModelyardError, shape: Shape) -> str:
    """Return the message of an error for a caller of a format.

    The provider's own message has no prefix, since clients match its beginning. Our
    messages about a provider begin with its name.
    """
    if isinstance(error, ContextTooLongError):
        return _overflow_text(error, shape)
    if isinstance(error, InvokeError) and error.answer is not None:
        return error.reason
    return error.public_text


def _overflow_text(error: ContextTooLongError, shape: Shape) -> str:
    """Return the message of a context overflow in the words of a format's vendor."""
    tokens = error.tokens
    if tokens == TokenCounts():
        tokens = token_counts_in(error.reason)
    if shape == "anthropic":
        return _anthropic_overflow(tokens, error.reason)
    if shape == "gemini":
        return _gemini_overflow(tokens)
    if shape == "cohere" and tokens.input and tokens.limit:
        return (
            "too many tokens: total number of tokens in the prompt cannot exceed"
            f" {tokens.limit} - received {tokens.input}. Try using a shorter prompt"
        )
    return error.reason


def _anthropic_overflow(tokens: TokenCounts, reason: str) -> str:
    """Return Anthropic's words. The output is the cause only if the input fits without
    it."""
    if tokens.input and tokens.output and tokens.limit and tokens.input <= tokens.limit:
        return (
            "input length and `max_tokens` exceed context limit:"
            f" {tokens.input} + {tokens.output} > {tokens.limit}, decrease input length"
            " or `max_tokens` and try again"
        )
    if tokens.input and tokens.limit:
        return f"prompt is too long: {tokens.input} tokens > {tokens.limit} maximum"
    start = "prompt is too long"
    return reason if reason.lower().startswith(start) else f"{start}: {reason}"


def _gemini_overflow(tokens: TokenCounts) -> str:
    """Return Google's words; the reserved output counts as a part of the prompt."""
    needed = (tokens.input or 0) + (tokens.output or 0)
    count = f" ({needed})" if tokens.input else ""
    limit = f" ({tokens.limit})" if tokens.limit else ""
    return (
        f"The input token count{count} exceeds the maximum number of tokens"
        f" allowed{limit}."
    )
