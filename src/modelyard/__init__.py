"""Modelyard: six model types behind one interface.

    from modelyard import Modelyard

    async with Modelyard() as yard:
        print((await yard.chat("Say hello.")).text)

Names below load when first used, so that `import modelyard` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelyard.base.version import __version__

if TYPE_CHECKING:
    from modelyard.app import Modelyard
    from modelyard.base.errors import (
        ConfigError,
        InvokeAuthorizationError,
        InvokeBadRequestError,
        InvokeConnectionError,
        InvokeError,
        InvokeRateLimitError,
        InvokeServerUnavailableError,
        ModelyardError,
        NoCredentialAvailableError,
    )
    from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
    from modelyard.models.entities import AIModelEntity, ParameterRule
    from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, LLMUsage
    from modelyard.models.messages import (
        AssistantPromptMessage,
        SystemPromptMessage,
        ToolPromptMessage,
        UserPromptMessage,
    )
    from modelyard.models.provider import ProviderEntity
    from modelyard.models.types import ModelType
    from modelyard.runtime.callbacks import Callback
    from modelyard.sync import Agent, Knowledge, SyncModelyard
    from modelyard.tools.function import tool

# Public name → module below `modelyard` that defines it.
_MODULES = {
    "Modelyard": "app",
    "SyncModelyard": "sync",
    "Knowledge": "sync",
    "Agent": "sync",
    "tool": "tools.function",
    "ConfigError": "base.errors",
    "InvokeAuthorizationError": "base.errors",
    "InvokeBadRequestError": "base.errors",
    "InvokeConnectionError": "base.errors",
    "InvokeError": "base.errors",
    "InvokeRateLimitError": "base.errors",
    "InvokeServerUnavailableError": "base.errors",
    "ModelyardError": "base.errors",
    "NoCredentialAvailableError": "base.errors",
    "TextEmbeddingRequest": "models.embedding",
    "TextEmbeddingResult": "models.embedding",
    "AIModelEntity": "models.entities",
    "ParameterRule": "models.entities",
    "LLMRequest": "models.llm",
    "LLMResult": "models.llm",
    "LLMResultChunk": "models.llm",
    "LLMUsage": "models.llm",
    "AssistantPromptMessage": "models.messages",
    "SystemPromptMessage": "models.messages",
    "ToolPromptMessage": "models.messages",
    "UserPromptMessage": "models.messages",
    "ProviderEntity": "models.provider",
    "ModelType": "models.types",
    "Callback": "runtime.callbacks",
}

__all__ = [
    "AIModelEntity",
    "Agent",
    "AssistantPromptMessage",
    "Callback",
    "ConfigError",
    "InvokeAuthorizationError",
    "InvokeBadRequestError",
    "InvokeConnectionError",
    "InvokeError",
    "InvokeRateLimitError",
    "InvokeServerUnavailableError",
    "Knowledge",
    "LLMRequest",
    "LLMResult",
    "LLMResultChunk",
    "LLMUsage",
    "ModelType",
    "Modelyard",
    "ModelyardError",
    "NoCredentialAvailableError",
    "ParameterRule",
    "ProviderEntity",
    "SyncModelyard",
    "SystemPromptMessage",
    "TextEmbeddingRequest",
    "TextEmbeddingResult",
    "ToolPromptMessage",
    "UserPromptMessage",
    "__version__",
    "tool",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if home := _MODULES.get(name):
        return getattr(import_module(f"modelyard.{home}"), name)
    raise AttributeError(f"module 'modelyard' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, including those that are not loaded yet."""
    return sorted(__all__)
