"""datasource: where a RAG pipeline's document comes from: a file, a page, a file on a drive, a page of a website."""

from typing import Any

from modelyard.workflow.node import Effect, Node, NodeContext, NodeData, NodeError, NodeKind, NodeResult
from modelyard.workflow.variables import SYSTEM, to_object

KINDS = ("local_file", "online_document", "website_crawl", "online_drive")


class DatasourceData(NodeData, kw_only=True):
    plugin_id: str = ""
    plugin_unique_identifier: str = ""
    provider_type: str = "local_file"
    provider_name: str = ""
    datasource_name: str = ""
    datasource_label: str = ""
    datasource_parameters: dict[str, Any] = {}
    fileExtensions: list[str] = []  # noqa: N815  the file's own word


class DatasourceNode(Node):
    """Run by itself it gives on what it got; in a pipeline's run it fetches what the run is about."""

    type = "datasource"
    kind = NodeKind.ROOT
    Data = DatasourceData

    @property
    def effect(self) -> Effect:
        return Effect.NONE

    async def run(self, context: NodeContext) -> NodeResult:
        given = dict(context.pool.of(self.id))
        kind = context.value((SYSTEM, "datasource_type"))
        if kind is None:
            return NodeResult(outputs=given, inputs=given)
        about: dict[str, Any] = dict(context.value((SYSTEM, "datasource_info")) or {})
        inputs = {**to_object(about), "datasource_type": kind}
        if kind == "local_file":
            file = about.get("file")
            if file is None:
                raise NodeError("the run names no file", kind="DatasourceNodeError", inputs=inputs)
            return NodeResult(inputs=inputs, outputs={"file": file, "datasource_type": kind})
        if context.services.sources is None:
            raise NodeError("there are no datasources here", kind="DatasourceNodeError", inputs=inputs)
        outputs = await context.services.sources.fetch(self.data, str(kind), about)
        return NodeResult(inputs=inputs, outputs={**outputs, "datasource_type": kind})


NODES = {"datasource": DatasourceNode}
