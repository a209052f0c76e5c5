"""Tools that come with us, by provider. What each needs is handed in; what is missing leaves its tools out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from modelyard.tools.function import FunctionTool

if TYPE_CHECKING:
    from modelyard.base.clock import Clock
    from modelyard.jail.sandbox import Jail
    from modelyard.runtime.model_manager import ModelManager
    from modelyard.storage.kept import Kept
    from modelyard.transport.egress import Egress

PROVIDERS = ("time", "calculator", "code", "webscraper", "http", "audio", "image", "files", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    clock: Clock
    jail: Jail | None = None
    egress: Egress | None = None
    kept: Kept | None = None
    models: ModelManager | None = None


def tools_of(parts: Parts) -> Mapping[str, Sequence[FunctionTool]]:
    """Provider → its tools."""
    found: dict[str, Sequence[FunctionTool]] = {}
    for name in PROVIDERS:
        made = import_module(f"modelyard.tools.builtin.{name}_tools").make(parts)
        if made:
            found[name] = made
    return found
