"""Agents for code and the command line: models and tools by their names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.agents.agent import Agent
from modelyard.agents.state import AgentLimits
from modelyard.base.errors import ModelyardError
from modelyard.base.ids import new_id
from modelyard.models.types import ModelType
from modelyard.runtime.caller import DEFAULT_TENANT, Caller
from modelyard.tools.entities import Tool, ToolContext, plain_name
from modelyard.tools.function import as_tool
from modelyard.tools.manager import Bound, ToolRef
from modelyard.tools.mcp.server import Offer, Resource
from modelyard.tools.results import KeptResults
from modelyard.workflow.agent_tools import dataset_ref
from modelyard.workflow.nodes.agent import DatasetTool
from modelyard.workflow.services import TenantDatasets

if TYPE_CHECKING:
    from modelyard.app import Modelyard

logger = logging.getLogger("modelyard.tools")


async def make_agent(
    yard: Modelyard, model: str, tools: Sequence[Any], *, tenant: str = DEFAULT_TENANT, user: str = "",
    limits: AgentLimits | dict[str, Any] | None = None, **how: Any,
) -> Agent:  # fmt: skip
    parts = yard.workflow_parts.tools
    found = yard.models.find(Caller(tenant=tenant, user=user or None), model, ModelType.LLM)
    run = new_id("agent")
    return Agent(
        found, parts.manager, tools=[await tool_of(yard, one, tenant) for one in tools],
        limits=AgentLimits(**limits) if isinstance(limits, dict) else limits,
        context=ToolContext(tenant=tenant, user=user, app="agent", key=run),
        results=KeptResults(parts.kept, tenant, run), **how,
    )  # fmt: skip


_AT_ONCE = 100


async def offer_of(yard: Modelyard, tenant: str, names: Sequence[str]) -> Offer:
    """What a tenant's clients see over MCP: the tools that are named, or all of them, apps and datasets included."""
    manager = yard.workflow_parts.tools.manager
    datasets = await yard.knowledge.datasets.stored.datasets.of(tenant)
    tools: list[Tool] = []
    if names:
        tools = [await tool_of(yard, one, tenant) for one in names]
    else:
        for at, entity in enumerate(await manager.list(tenant)):
            if at % _AT_ONCE == 0:
                await asyncio.sleep(0)  # a large API has thousands: others go on between them
            try:
                tools.append(await manager.find(tenant, entity.kind, entity.provider, entity.name))
            except ModelyardError as error:
                fields = {"tool": entity.name, "error": str(error)}
                logger.warning("a tool cannot be offered", extra={"fields": fields})
        tools += [await tool_of(yard, f"dataset:{one.name}", tenant) for one in datasets]
    seen: dict[str, Tool] = {}
    for one in tools:
        name = one.name if one.name not in seen else f"{_plain(one.entity.provider)}_{one.name}"
        seen.setdefault(name, one if name == one.name else Bound(one, ToolRef(alias=name)))
    resources = [
        Resource(
            uri=f"modelyard://datasets/{one.id}", name=one.name, description=one.description or "A dataset.",
            mime_type="application/json",
        )
        for one in datasets
    ]  # fmt: skip

    async def read(uri: str) -> str | None:
        one = next((each for each in datasets if uri.endswith(each.id)), None)
        if one is None:
            return None
        documents, total = await yard.knowledge.datasets.stored.documents.listed(tenant, one.id, most=1000)
        listed = [{"id": each.id, "name": each.name, "status": each.status.value} for each in documents]
        return msgspec.json.encode({"id": one.id, "name": one.name, "documents": listed, "total": total}).decode()

    return Offer(tools=list(seen.values()), resources=resources, read=read)


def _plain(name: str) -> str:
    return plain_name(name, 40).strip("_") or "other"


async def tool_of(yard: Modelyard, given: Any, tenant: str) -> Tool:
    """A tool by its name, or what can be one.

    Raises ToolNotFoundError, NotFoundError, TypeError, StorageUnavailableError.
    """
    if isinstance(given, Agent):
        return given.as_tool()
    if not isinstance(given, str):
        return as_tool(given)
    kind, _, name = given.partition(":")
    if kind == "dataset" and name:
        datasets = TenantDatasets(yard.knowledge.datasets, tenant, "", [])
        return DatasetTool(datasets, dataset_ref(name))
    return await yard.workflow_parts.tools.manager.named(tenant, given)
