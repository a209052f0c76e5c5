"""knowledge-index: puts segments into a dataset; the end of a RAG pipeline."""

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

_SHOWN = ("name", "title", "url", "reference", "workspace_id", "page_id", "bucket", "id")
"""What a document remembers of where it came from."""


class KnowledgeIndexData(NodeData, kw_only=True):
    chunk_structure: str = "text_model"
    index_chunk_variable_selector: list[str] = []
    indexing_technique: str = "high_quality"
    embedding_model: str = ""
    embedding_model_provider: str = ""
    retrieval_model: dict[str, Any] = {}
    keyword_number: int = 10


class KnowledgeIndexNode(Node):
    type = "knowledge-index"
    kind = NodeKind.RESPONSE
    Data = KnowledgeIndexData

    @property
    def effect(self) -> Effect:
        return Effect.REPEATABLE

    async def run(self, context: NodeContext) -> NodeResult:
        segments = context.value(self.data.index_chunk_variable_selector)
        if context.services.datasets is None:
            raise NodeError("there are no datasets here", kind="KnowledgeIndexNodeError", inputs={"chunks": segments})
        outputs = await context.services.datasets.index(segments, self.data, _target(context))
        return NodeResult(inputs={"chunks": segments}, outputs=outputs)


def _target(context: NodeContext) -> IndexTarget | None:
    """The document that the run is to make; None for a run that belongs to no dataset."""

    def told(name: str) -> Any:
        return context.value((SYSTEM, name))

    if not told("dataset_id"):
        return None
    about: dict[str, Any] = to_object(told("datasource_info") or {})
    kind = str(told("datasource_type") or "")
    shown = {name: value for name, value in about.items() if name in _SHOWN}
    return IndexTarget(
        dataset=str(told("dataset_id")), document=str(told("document_id")), batch=str(told("batch")),
        name=str(about.get("name") or about.get("title") or about.get("url") or ""),
        source={"datasource_type": kind, **shown},
    )  # fmt: skip


NODES = {"knowledge-index": KnowledgeIndexNode}
