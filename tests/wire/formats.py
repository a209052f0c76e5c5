"""The modules of the chat formats by the names that the tests use."""

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
"""The formats that most callers use: every recording must survive each of them."""
