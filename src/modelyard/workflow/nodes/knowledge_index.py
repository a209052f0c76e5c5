"""Knowledge index node: writes segments into a dataset. It is the end of a RAG
pipeline."""

from typing import Any

from modelyard.workflow.node import (
    Effect,
    IndexTarget,
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeKind,
    NodeResult,
)
from modelyard.workflow.variables import SYSTEM, to_object

_SOURCE_FIELDS = (
    "name",
    "title",
    "url",
    "reference",
    "workspace_id",
    "page_id",
    "bucket",
    "id",
)
"""Fields of the source that are stored with the document."""


class KnowledgeIndexData(NodeData, kw_only=True):
    """Data of a knowledge index node in a DSL file."""

    chunk_structure: str = "text_model"
    index_chunk_variable_selector: list[str] = []
    indexing_technique: str = "high_quality"
    embedding_model: str = ""
    embedding_model_provider: str = ""
    retrieval_model: dict[str, Any] = {}
    keyword_number: int = 10


class KnowledgeIndexNode(Node):
    """Writes the segments of a pipeline into its dataset."""

    type = "knowledge-index"
    kind = NodeKind.RESPONSE
    Data = KnowledgeIndexData

    @property
    def effect(self) -> Effect:
        """A repetition writes the same document again."""
        return Effect.REPEATABLE

    async def run(self, context: NodeContext) -> NodeResult:
        """Index the segments and return the document's data. Raises NodeError."""
        # The segments come from a chunker node.
        segments = context.value(self.data.index_chunk_variable_selector)
        if context.services.datasets is None:
            raise NodeError(
                "No datasets are available",
                error_type="KnowledgeIndexNodeError",
                inputs={"chunks": segments},
            )
        outputs = await context.services.datasets.index(
            segments, self.data, _target(context)
        )
        return NodeResult(inputs={"chunks": segments}, outputs=outputs)


def _target(context: NodeContext) -> IndexTarget | None:
    """Return the document that the run creates; None for a run that belongs to no
    dataset."""

    def system_value(name: str) -> Any:
        """Return a system variable; None if it is not set."""
        return context.value((SYSTEM, name))

    # A single node run has no dataset of its own.
    if not system_value("dataset_id"):
        return None
    source_info: dict[str, Any] = to_object(system_value("datasource_info") or {})
    source_type = str(system_value("datasource_type") or "")
    # Only known fields: sources may attach anything.
    source_fields = {
        name: value for name, value in source_info.items() if name in _SOURCE_FIELDS
    }
    return IndexTarget(
        dataset=str(system_value("dataset_id")),
        document=str(system_value("document_id")),
        batch=str(system_value("batch")),
        name=str(
            source_info.get("name")
            or source_info.get("title")
            or source_info.get("url")
            or ""
        ),
        source={"datasource_type": source_type, **source_fields},
    )


NODES = {"knowledge-index": KnowledgeIndexNode}
