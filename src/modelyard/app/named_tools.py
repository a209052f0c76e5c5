"""Tools by the names that people give them, datasets and agents among them; and what clients see of them over MCP."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.agents.agent import Agent
from modelyard.base.errors import ModelyardError
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset
from modelyard.tools.entities import Tool, plain_name
from modelyard.tools.function import as_tool
from modelyard.tools.manager import Bound, ToolManager, ToolRef
from modelyard.tools.mcp.server import Offer, Resource
from modelyard.workflow.agent_tools import dataset_ref
from modelyard.workflow.nodes.agent import DatasetTool
from modelyard.workflow.services import TenantDatasets

logger = logging.getLogger("modelyard.tools")

_AT_ONCE = 100
"""Tools after which others have their turn: a large API has thousands."""
_MOST_DOCUMENTS = 1000
_DATASET_ADDRESS = "modelyard://datasets/"


class NamedTools:
    """What a tenant's agents and clients may call."""

    def __init__(self, manager: ToolManager, datasets: Datasets) -> None:
        self._manager = manager
        self._datasets = datasets

    async def find(self, tool: Any, tenant: str) -> Tool:
        """A tool by its name, or what can be made one: a function, an agent.

        Raises ToolNotFoundError, NotFoundError, TypeError, StorageUnavailableError.
        """
        if isinstance(tool, Agent):
            return tool.as_tool()
        if not isinstance(tool, str):
            return as_tool(tool)
        kind, _, name = tool.partition(":")
        if kind == "dataset" and name:
            datasets = TenantDatasets(self._datasets, tenant, "", [])
            return DatasetTool(datasets, dataset_ref(name))
        return await self._manager.named(tenant, tool)

    async def offer(self, tenant: str, names: Sequence[str]) -> Offer:
        """What a tenant's clients see over MCP: the tools that are named, else all, with apps and datasets."""
        datasets = await self._datasets.stored.datasets.of(tenant)
        tools = [await self.find(name, tenant) for name in names] if names else await self._all(tenant, datasets)
        resources = [_resource(dataset) for dataset in datasets]

        async def read(uri: str) -> str | None:
            dataset = next((dataset for dataset in datasets if uri.endswith(dataset.id)), None)
            return await self._described(tenant, dataset) if dataset is not None else None

        return Offer(tools=_by_name(tools), resources=resources, read=read)

    async def _all(self, tenant: str, datasets: Sequence[Dataset]) -> list[Tool]:
        tools: list[Tool] = []
        for count, entity in enumerate(await self._manager.list(tenant)):
            if count % _AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                tools.append(await self._manager.find(tenant, entity.kind, entity.provider, entity.name))
            except ModelyardError as error:
                fields = {"tool": entity.name, "error": str(error)}
                logger.warning("a tool cannot be offered", extra={"fields": fields})
        return [*tools, *[await self.find(f"dataset:{dataset.name}", tenant) for dataset in datasets]]

    async def _described(self, tenant: str, dataset: Dataset) -> str:
        """A dataset's documents, as JSON."""
        documents, total = await self._datasets.stored.documents.listed(tenant, dataset.id, most=_MOST_DOCUMENTS)
        listed = [{"id": document.id, "name": document.name, "status": document.status.value} for document in documents]
        described = {"id": dataset.id, "name": dataset.name, "documents": listed, "total": total}
        return msgspec.json.encode(described).decode()


def _by_name(tools: Sequence[Tool]) -> list[Tool]:
    """Each under a name of its own: the second of a name is called after its provider too."""
    named: dict[str, Tool] = {}
    for tool in tools:
        if tool.name not in named:
            named[tool.name] = tool
            continue
        name = f"{_plain(tool.entity.provider)}_{tool.name}"
        named.setdefault(name, Bound(tool, ToolRef(alias=name)))
    return list(named.values())


def _plain(name: str) -> str:
    return plain_name(name, 40).strip("_") or "other"


def _resource(dataset: Dataset) -> Resource:
    return Resource(
        uri=f"{_DATASET_ADDRESS}{dataset.id}", name=dataset.name, description=dataset.description or "A dataset.",
        mime_type="application/json",
    )  # fmt: skip
