"""knowledge-retrieval: the segments of some datasets that fit a question."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeResult
from modelyard.workflow.prompts import Vision, files_in
from modelyard.workflow.template import render
from modelyard.workflow.variables import MISSING


class MetadataCondition(msgspec.Struct, kw_only=True):
    name: str
    comparison_operator: str
    value: Any = None


class MetadataConditions(msgspec.Struct, kw_only=True):
    logical_operator: str = "and"
    conditions: list[MetadataCondition] = []


class RetrievalData(NodeData, kw_only=True):
    query_variable_selector: list[str] = []
    query_attachment_selector: list[str] = []
    dataset_ids: list[str] = []
    retrieval_mode: str = "multiple"
    multiple_retrieval_config: dict[str, Any] | None = None
    single_retrieval_config: dict[str, Any] | None = None
    metadata_filtering_mode: str = "disabled"
    metadata_model_config: dict[str, Any] | None = None
    metadata_filtering_conditions: MetadataConditions | None = None
    vision: Vision = msgspec.field(default_factory=Vision)


class KnowledgeRetrievalNode(Node):
    type = "knowledge-retrieval"
    Data = RetrievalData

    async def run(self, context: NodeContext) -> NodeResult:
        data: RetrievalData = self.data
        if not data.query_variable_selector and not data.query_attachment_selector:
            return NodeResult()
        query: Any = context.pool.get(data.query_variable_selector) if data.query_variable_selector else ""
        if query is MISSING:
            query = None
        if query is not None and not isinstance(query, str):
            raise NodeError("Query variable is not string type.", kind="KnowledgeRetrievalNodeError")
        inputs: dict[str, Any] = {"query": query}
        files = files_in(context.value(data.query_attachment_selector)) if data.query_attachment_selector else []
        if not query and not files:
            return NodeResult(inputs=inputs, outputs={"result": []})
        if (datasets := context.services.datasets) is None:
            raise NodeError("there are no datasets here", kind="KnowledgeRetrievalNodeError", inputs=inputs)
        try:
            found = await datasets.retrieve(query or "", self._filled(context), files=files)
        except ModelyardError as error:
            raise NodeError(str(error), kind=type(error).__name__, inputs=inputs) from error
        return NodeResult(inputs=inputs, outputs={"result": found})

    def _filled(self, context: NodeContext) -> RetrievalData:
        """The settings with variables in the conditions' values."""
        conditions = self.data.metadata_filtering_conditions
        if conditions is None:
            return self.data
        filled = [msgspec.structs.replace(one, value=_rendered(one.value, context)) for one in conditions.conditions]
        return msgspec.structs.replace(
            self.data, metadata_filtering_conditions=msgspec.structs.replace(conditions, conditions=filled)
        )

    def references(self) -> Sequence[tuple[str, ...]]:
        selectors = (self.data.query_variable_selector, self.data.query_attachment_selector)
        return [tuple(one) for one in selectors if one]


def _rendered(value: Any, context: NodeContext) -> Any:
    return render(value, context.pool) if isinstance(value, str) else value


NODES = {"knowledge-retrieval": KnowledgeRetrievalNode}
