"""Agents for programs and the command line: models and tools by their names."""

from collections.abc import Sequence
from typing import Any

from modelyard.agents.agent import Agent
from modelyard.agents.state import AgentLimits
from modelyard.app.named_tools import NamedTools
from modelyard.base.ids import new_id
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.storage.kept import Kept
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tools.entities import ToolContext
from modelyard.tools.manager import ToolManager
from modelyard.tools.results import KeptResults


class Agents:
    """Makes agents out of what a tenant has."""

    def __init__(self, models: ModelManager, manager: ToolManager, named: NamedTools, kept: Kept) -> None:
        """`kept` holds results that are too long to be read at once."""
        self._models = models
        self._manager = manager
        self._named = named
        self._kept = kept

    async def make(
        self,
        model: str,
        tools: Sequence[Any],
        *,
        tenant: str = DEFAULT_TENANT,
        user: str = "",
        limits: AgentLimits | dict[str, Any] | None = None,
        **how: Any,
    ) -> Agent:
        """`how` is what `Agent` takes. Raises NotFoundError, ToolNotFoundError, StorageUnavailableError."""
        run = new_id("agent")
        return Agent(
            self._models.find(Caller(tenant=tenant, user=user or None), model, ModelType.LLM),
            self._manager,
            tools=[await self._named.find(tool, tenant) for tool in tools],
            limits=AgentLimits(**limits) if isinstance(limits, dict) else limits,
            context=ToolContext(tenant=tenant, user=user, app="agent", key=run),
            results=KeptResults(self._kept, tenant, run),
            **how,
        )
