"""Tools by name, including datasets and agents, and the catalog that clients see over
MCP."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.agents.agent import Agent
from modelyard.base.errors import ModelyardError
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset, Document
from modelyard.tenancy.caller import current_reader
from modelyard.tools.entities import Tool, model_safe_name
from modelyard.tools.function import as_tool
from modelyard.tools.manager import BoundTool, ToolManager, ToolRef
from modelyard.tools.mcp.server import Resource, ServerCatalog
from modelyard.workflow.agent_tools import dataset_ref
from modelyard.workflow.dataset_tools import DatasetTool
from modelyard.workflow.services import TenantDatasets

logger = logging.getLogger("modelyard.tools")

_TOOLS_PER_BATCH = 100
"""Tools after which the event loop runs other tasks: a large API has thousands."""
# A description is one answer to an MCP client; a longer list would fill the
# context of its model.
_MAX_DOCUMENTS = 1000
_DATASET_ADDRESS = "modelyard://datasets/"


class NamedTools:
    """The tools that a tenant's agents and clients may call."""

    def __init__(self, manager: ToolManager, datasets: Datasets) -> None:
        self._manager = manager
        self._datasets = datasets

    async def find(self, tool: Any, tenant: str) -> Tool:
        """Return a tool by name, or the tool of a function or an agent.

        Raises ToolNotFoundError, NotFoundError, TypeError or StorageUnavailableError.
        """
        # Agents and functions become tools without a name in a catalog.
        if isinstance(tool, Agent):
            return tool.as_tool()
        if not isinstance(tool, str):
            return as_tool(tool)
        prefix, _, name = tool.partition(":")
        # Datasets have a prefix, because their names may equal tool names.
        if prefix == "dataset" and name:
            datasets = TenantDatasets(self._datasets, tenant, "", [])
            return DatasetTool(datasets, dataset_ref(name))
        return await self._manager.get_by_name(tenant, tool)

    async def build_catalog(self, tenant: str, names: Sequence[str]) -> ServerCatalog:
        """Return a tenant's catalog for MCP clients: the named tools, or all tools,
        apps and datasets."""
        datasets = await self._datasets.store.datasets.list(tenant)
        # An explicit list restricts what a client sees.
        tools = (
            [await self.find(name, tenant) for name in names]
            if names
            else await self._all(tenant, datasets)
        )
        resources = [_resource(dataset) for dataset in datasets]

        async def read(uri: str) -> str | None:
            """Return the content of a resource; None if there is none with this URI."""
            # Only the tenant's own datasets are searched.
            for dataset in datasets:
                if uri.endswith(dataset.id):
                    return await self._describe_dataset(tenant, dataset)
            return None

        return ServerCatalog(
            tools=_with_unique_names(tools), resources=resources, read=read
        )

    async def _all(self, tenant: str, datasets: Sequence[Dataset]) -> list[Tool]:
        """Return all tools of a tenant; those that cannot be loaded are logged and
        omitted."""
        tools: list[Tool] = []
        for count, entity in enumerate(await self._manager.list(tenant)):
            if count % _TOOLS_PER_BATCH == 0:
                await asyncio.sleep(0)
            try:
                tools.append(
                    await self._manager.find(
                        tenant, entity.kind, entity.provider, entity.name
                    )
                )
            except ModelyardError as error:
                # One broken tool must not hide the others.
                fields = {"tool": entity.name, "error": str(error)}
                logger.warning("tool unavailable", extra={"fields": fields})
        return [
            *tools,
            *[
                await self.find(f"dataset:{dataset.name}", tenant)
                for dataset in datasets
            ],
        ]

    async def _describe_dataset(self, tenant: str, dataset: Dataset) -> str:
        """Return the documents of a dataset that the caller may read, as JSON."""
        documents, total = await self._readable(tenant, dataset)
        listed = [
            {"id": document.id, "name": document.name, "status": document.status.value}
            for document in documents
        ]
        described = {
            "id": dataset.id,
            "name": dataset.name,
            "documents": listed,
            "total": total,
        }
        return msgspec.json.encode(described).decode()

    async def _readable(
        self, tenant: str, dataset: Dataset
    ) -> tuple[list[Document], int]:
        """Return the documents that the caller may read, and how many there are: the
        list is limited."""
        documents = self._datasets.store.documents
        ids = await self._datasets.retriever.readable_documents(
            dataset, current_reader(tenant)
        )
        if ids is None:
            return await documents.list_page(tenant, dataset.id, limit=_MAX_DOCUMENTS)
        documents_by_id = await documents.get_many(tenant, sorted(ids)[:_MAX_DOCUMENTS])
        listed = sorted(
            documents_by_id.values(), key=lambda document: -document.position
        )
        # Ids of deleted documents may be among them, and do not count.
        return listed, len(ids) if len(ids) > _MAX_DOCUMENTS else len(listed)


def _with_unique_names(tools: Sequence[Tool]) -> list[Tool]:
    """Return the tools under unique names: a second tool of the same name gets its
    provider's name as a prefix."""
    tools_by_name: dict[str, Tool] = {}
    for tool in tools:
        # The first tool keeps its plain name, so that clients find it as before.
        if tool.name not in tools_by_name:
            tools_by_name[tool.name] = tool
            continue
        name = f"{_plain(tool.entity.provider)}_{tool.name}"
        tools_by_name.setdefault(name, BoundTool(tool, ToolRef(alias=name)))
    return list(tools_by_name.values())


def _plain(name: str) -> str:
    """Return a name that every model API accepts."""
    return model_safe_name(name, 40).strip("_") or "other"


def _resource(dataset: Dataset) -> Resource:
    """Return a dataset as an MCP resource."""
    return Resource(
        uri=f"{_DATASET_ADDRESS}{dataset.id}",
        name=dataset.name,
        description=dataset.description or "A dataset.",
        mime_type="application/json",
    )
