"""Agents for code and the command line: models and tools by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modelyard.agents.agent import Agent
from modelyard.agents.state import AgentLimits
from modelyard.base.ids import new_id
from modelyard.models.types import ModelType
from modelyard.runtime.caller import DEFAULT_TENANT, Caller
from modelyard.tools.entities import Tool, ToolContext
from modelyard.tools.function import as_tool
from modelyard.tools.results import KeptResults
from modelyard.workflow.agent_tools import dataset_ref
from modelyard.workflow.nodes.agent import DatasetTool
from modelyard.workflow.services import TenantDatasets

if TYPE_CHECKING:
    from modelyard.app import Modelyard


def make_agent(
    yard: Modelyard, model: str, tools: Sequence[Any], *, tenant: str = DEFAULT_TENANT, user: str = "",
    limits: AgentLimits | dict[str, Any] | None = None, **how: Any,
) -> Agent:  # fmt: skip
    parts = yard.workflow_parts.tools
    found = yard.models.find(Caller(tenant=tenant, user=user or None), model, ModelType.LLM)
    run = new_id("agent")
    return Agent(
        found, parts.manager, tools=[tool_of(yard, one, tenant) for one in tools],
        limits=AgentLimits(**limits) if isinstance(limits, dict) else limits,
        context=ToolContext(tenant=tenant, user=user, app="agent", key=run),
        results=KeptResults(parts.kept, tenant, run), **how,
    )  # fmt: skip


def tool_of(yard: Modelyard, given: Any, tenant: str) -> Tool:
    """A tool by its name, or what can be one. Raises ToolNotFoundError, NotFoundError, TypeError."""
    if isinstance(given, Agent):
        return given.as_tool()
    if not isinstance(given, str):
        return as_tool(given)
    kind, _, name = given.partition(":")
    if kind == "dataset" and name:
        datasets = TenantDatasets(yard.knowledge.datasets, tenant, "", [])
        return DatasetTool(datasets, dataset_ref(name))
    return yard.workflow_parts.tools.manager.named(tenant, given)
