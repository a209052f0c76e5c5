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

_HOMES = {
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

__all__ = [  # noqa: RUF022  the order of _HOMES: what readers meet first stands first
    "Modelyard",
    "SyncModelyard",
    "Knowledge",
    "Agent",
    "tool",
    "ConfigError",
    "InvokeAuthorizationError",
    "InvokeBadRequestError",
    "InvokeConnectionError",
    "InvokeError",
    "InvokeRateLimitError",
    "InvokeServerUnavailableError",
    "ModelyardError",
    "NoCredentialAvailableError",
    "TextEmbeddingRequest",
    "TextEmbeddingResult",
    "AIModelEntity",
    "ParameterRule",
    "LLMRequest",
    "LLMResult",
    "LLMResultChunk",
    "LLMUsage",
    "AssistantPromptMessage",
    "SystemPromptMessage",
    "ToolPromptMessage",
    "UserPromptMessage",
    "ProviderEntity",
    "ModelType",
    "Callback",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        return getattr(import_module(f"modelyard.{home}"), name)
    raise AttributeError(f"module 'modelyard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
