"""Builds agents for programs and the command line from names of models and tools."""

from collections.abc import Sequence
from typing import Any

from modelyard.agents.agent import Agent
from modelyard.agents.state import AgentLimits
from modelyard.app.named_tools import NamedTools
from modelyard.base.ids import new_id
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.storage.scoped_store import ScopedStore
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tools.entities import ToolContext
from modelyard.tools.manager import ToolManager
from modelyard.tools.result_store import StoredResults


class Agents:
    """Builds agents with a tenant's models and tools."""

    def __init__(
        self,
        models: ModelManager,
        manager: ToolManager,
        named_tools: NamedTools,
        result_store: ScopedStore,
    ) -> None:
        """`result_store` holds tool results that are too long for one prompt."""
        self._models = models
        self._manager = manager
        self._named = named_tools
        self._kept = result_store

    async def make(
        self,
        model: str,
        tools: Sequence[Any],
        *,
        tenant: str = DEFAULT_TENANT,
        user: str = "",
        limits: AgentLimits | dict[str, Any] | None = None,
        **options: Any,
    ) -> Agent:
        """Return an agent; `options` are arguments of `Agent`.

        Raises NotFoundError, ToolNotFoundError or StorageUnavailableError.
        """
        # The run id scopes the stored results and the idempotency keys of tool calls.
        run = new_id("agent")
        return Agent(
            self._models.find(
                Caller(tenant=tenant, user=user or None), model, ModelType.LLM
            ),
            self._manager,
            tools=[await self._named.find(tool, tenant) for tool in tools],
            limits=AgentLimits(**limits) if isinstance(limits, dict) else limits,
            context=ToolContext(tenant=tenant, user=user, app="agent", key=run),
            results=StoredResults(self._kept, tenant, run),
            **options,
        )
