"""answer: what a chat says, as its template comes together."""

from collections.abc import Sequence

from modelyard.workflow.node import NodeContext, NodeData, NodeKind, NodeResult, QuickNode
from modelyard.workflow.template import parts_of, render_markdown, selectors_in
from modelyard.workflow.variables import File


class AnswerData(NodeData, kw_only=True):
    answer: str = ""


class AnswerNode(QuickNode):
    type = "answer"
    kind = NodeKind.RESPONSE
    Data = AnswerData

    def compute(self, context: NodeContext) -> NodeResult:
        files: list[File] = []
        for selector in selectors_in(self.data.answer):
            value = context.value(selector)
            files += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, File)]
        return NodeResult(outputs={"answer": render_markdown(self.data.answer, context.pool), "files": files})

    def references(self) -> Sequence[tuple[str, ...]]:
        return list(selectors_in(self.data.answer))

    def response(self) -> Sequence[str | tuple[str, ...]]:
        return parts_of(self.data.answer)


NODES = {"answer": AnswerNode}
