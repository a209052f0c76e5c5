"""The built-in tools, by provider. Their dependencies are passed in; a provider whose
dependency is missing has no tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from modelyard.tools.function import FunctionTool

if TYPE_CHECKING:
    from modelyard.base.clock import Clock
    from modelyard.runtime.model_manager import ModelManager
    from modelyard.sandbox.runner import Sandbox
    from modelyard.storage.scoped_store import ScopedStore
    from modelyard.transport.egress import EgressClient

PROVIDERS = (
    "time",
    "calculator",
    "code",
    "webscraper",
    "http",
    "audio",
    "image",
    "files",
    "memory",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltinDependencies:
    """The dependencies of the built-in tools. Those that are None are not available."""

    clock: Clock
    sandbox: Sandbox | None = None
    egress: EgressClient | None = None
    kept: ScopedStore | None = None
    models: ModelManager | None = None


def tools_of(parts: BuiltinDependencies) -> Mapping[str, Sequence[FunctionTool]]:
    """Return the built-in tools by provider."""
    tools_by_provider: dict[str, Sequence[FunctionTool]] = {}
    for name in PROVIDERS:
        # Imported here, so that a provider's own imports cost nothing until tools are
        # built.
        tools = import_module(f"modelyard.tools.builtin.{name}_tools").make(parts)
        if tools:
            tools_by_provider[name] = tools
    return tools_by_provider
