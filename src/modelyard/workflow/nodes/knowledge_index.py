"""knowledge-index: puts segments into a dataset; the end of a RAG pipeline."""

from typing import Any

from modelyard.workflow.node import Effect, Node, NodeContext, NodeData, NodeError, NodeKind, NodeResult


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
        return NodeResult(
            inputs={"chunks": segments}, outputs=await context.services.datasets.index(segments, self.data)
        )


NODES = {"knowledge-index": KnowledgeIndexNode}
