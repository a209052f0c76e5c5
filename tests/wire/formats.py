"""The chat formats by their own names, as the tests call them."""

from types import ModuleType

from modelyard.wire import (
    anthropic,
    bedrock,
    cohere,
    dashscope,
    gemini,
    ollama,
    openai_chat,
    openai_completions,
    openai_responses,
)

MODULES: dict[str, ModuleType] = {
    module.FORMAT: module
    for module in (
        openai_chat, openai_responses, anthropic, gemini, bedrock, cohere, ollama, dashscope, openai_completions,
    )
}  # fmt: skip
EGRESS = ("openai_chat", "openai_responses", "anthropic", "gemini")
"""What callers speak most: every recording must come through in each."""
