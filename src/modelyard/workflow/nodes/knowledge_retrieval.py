"""Knowledge retrieval node: the segments of datasets that match a query."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import is_array
from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeResult
from modelyard.workflow.prompts import Vision, files_in
from modelyard.workflow.template import render, selectors_in
from modelyard.workflow.variables import MISSING


class MetadataCondition(msgspec.Struct, kw_only=True):
    """A condition on a document's metadata. The value may contain selectors."""

    name: str
    comparison_operator: str
    value: Any = None


class MetadataConditions(msgspec.Struct, kw_only=True):
    """Conditions on metadata, combined by `and` or `or`."""

    logical_operator: str = "and"
    conditions: list[MetadataCondition] = []


class RetrievalData(NodeData, kw_only=True):
    """Data of a knowledge retrieval node in a DSL file."""

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
    """Retrieves segments for a text and files."""

    type = "knowledge-retrieval"
    Data = RetrievalData

    async def run(self, context: NodeContext) -> NodeResult:
        """Return the matching segments, best first; an empty list for an empty query.
        Raises NodeError."""
        data: RetrievalData = self.data
        # A node without any query was never configured.
        if not data.query_variable_selector and not data.query_attachment_selector:
            return NodeResult()
        query: Any = (
            context.pool.get(data.query_variable_selector)
            if data.query_variable_selector
            else ""
        )
        # A query from a branch that did not run counts as empty.
        if query is MISSING:
            query = None
        if query is not None and not isinstance(query, str):
            raise NodeError(
                "Query variable is not string type.",
                error_type="KnowledgeRetrievalNodeError",
            )
        inputs: dict[str, Any] = {"query": query}
        # Attached files are part of the query.
        files = (
            files_in(context.value(data.query_attachment_selector))
            if data.query_attachment_selector
            else []
        )
        if not query and not files:
            return NodeResult(inputs=inputs, outputs={"result": []})
        if (datasets := context.services.datasets) is None:
            raise NodeError(
                "No datasets are available",
                error_type="KnowledgeRetrievalNodeError",
                inputs=inputs,
            )
        try:
            segments = await datasets.retrieve(
                query or "", self._with_rendered_conditions(context), files=files
            )
        except ModelyardError as error:
            raise NodeError(
                str(error), error_type=type(error).__name__, inputs=inputs
            ) from error
        return NodeResult(inputs=inputs, outputs={"result": segments})

    def _with_rendered_conditions(self, context: NodeContext) -> RetrievalData:
        """Return the settings with rendered values in the metadata conditions."""
        conditions = self.data.metadata_filtering_conditions
        # Without conditions the data is used unchanged.
        if conditions is None:
            return self.data
        filled = [
            msgspec.structs.replace(
                condition, value=_rendered(condition.value, context)
            )
            for condition in conditions.conditions
        ]
        return msgspec.structs.replace(
            self.data,
            metadata_filtering_conditions=msgspec.structs.replace(
                conditions, conditions=filled
            ),
        )

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors of the query, its files and the metadata conditions."""
        selectors = (
            self.data.query_variable_selector,
            self.data.query_attachment_selector,
        )
        conditions = self.data.metadata_filtering_conditions
        values = [
            condition.value
            for condition in (conditions.conditions if conditions else ())
        ]
        # A value may be a list of texts.
        texts = [
            text
            for value in values
            for text in (value if is_array(value) else [value])
            if isinstance(text, str)
        ]
        return [
            *(tuple(selector) for selector in selectors if selector),
            *(selector for text in texts for selector in selectors_in(text)),
        ]


def _rendered(value: Any, context: NodeContext) -> Any:
    """Return the value of a condition with the run's values in its texts.

    A text that is a single selector becomes that value if it is a number or a list of
    them or of texts: as a text, a list would be JSON, which matches nothing.
    """
    if is_array(value):
        return [_rendered(element, context) for element in value]
    if not isinstance(value, str):
        return value
    selectors = list(selectors_in(value))
    if len(selectors) == 1 and value.strip() == f"{{{{#{'.'.join(selectors[0])}#}}}}":
        variable = context.pool.get(selectors[0])
        if _is_number(variable):
            return variable
        if is_array(variable) and all(
            isinstance(element, str) or _is_number(element) for element in variable
        ):
            return list(variable)
    return render(value, context.pool)


def _is_number(value: Any) -> bool:
    """Return whether a value is a number; a boolean is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


NODES = {"knowledge-retrieval": KnowledgeRetrievalNode}
