"""Datasource node: the source of a RAG pipeline's document: a file, an online document,
a web page or a drive file."""

from typing import Any

from modelyard.workflow.node import (
    Effect,
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeKind,
    NodeResult,
)
from modelyard.workflow.variables import SYSTEM, to_object

SOURCE_TYPES = ("local_file", "online_document", "website_crawl", "online_drive")


class DatasourceData(NodeData, kw_only=True):
    """Data of a datasource node in a DSL file."""

    plugin_id: str = ""
    plugin_unique_identifier: str = ""
    provider_type: str = "local_file"
    provider_name: str = ""
    datasource_name: str = ""
    datasource_label: str = ""
    datasource_parameters: dict[str, Any] = {}
    fileExtensions: list[str] = []  # noqa: N815


class DatasourceNode(Node):
    """Root of a RAG pipeline. In a single node run it returns its inputs; in a pipeline
    run it fetches the run's document."""

    type = "datasource"
    kind = NodeKind.ROOT
    Data = DatasourceData

    @property
    def effect(self) -> Effect:
        """Fetching changes nothing, so the node can be repeated."""
        return Effect.NONE

    async def run(self, context: NodeContext) -> NodeResult:
        """Return the document's file, or what its source returns for it. Raises
        NodeError."""
        node_values = dict(context.pool.node_variables(self.id))
        source_type = context.value((SYSTEM, "datasource_type"))
        # Only pipeline runs set this variable: in a single node run the inputs are
        # passed on.
        if source_type is None:
            return NodeResult(outputs=node_values, inputs=node_values)
        source_info: dict[str, Any] = dict(
            context.value((SYSTEM, "datasource_info")) or {}
        )
        inputs = {**to_object(source_info), "datasource_type": source_type}
        # An uploaded file is stored already and needs no source.
        if source_type == "local_file":
            file = source_info.get("file")
            if file is None:
                raise NodeError(
                    "The run has no file",
                    error_type="DatasourceNodeError",
                    inputs=inputs,
                )
            return NodeResult(
                inputs=inputs, outputs={"file": file, "datasource_type": source_type}
            )
        if context.services.sources is None:
            raise NodeError(
                "No datasources are available",
                error_type="DatasourceNodeError",
                inputs=inputs,
            )
        outputs = await context.services.sources.fetch(
            self.data, str(source_type), source_info
        )
        return NodeResult(
            inputs=inputs, outputs={**outputs, "datasource_type": source_type}
        )


NODES = {"datasource": DatasourceNode}
