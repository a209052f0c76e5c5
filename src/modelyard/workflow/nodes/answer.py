"""Answer node: sends the text of its template to the user of a chat."""

from collections.abc import Sequence

from modelyard.base.json_types import is_array
from modelyard.workflow.node import (
    NodeContext,
    NodeData,
    NodeKind,
    NodeResult,
    SyncNode,
)
from modelyard.workflow.template import parts_of, render_markdown, selectors_in
from modelyard.workflow.variables import File


class AnswerData(NodeData, kw_only=True):
    """Data of an answer node in a DSL file."""

    answer: str = ""


class AnswerNode(SyncNode):
    """Adds a text and files to the run's response."""

    type = "answer"
    kind = NodeKind.RESPONSE
    Data = AnswerData

    def compute(self, context: NodeContext) -> NodeResult:
        """Return the rendered template and the files that its selectors lead to."""
        files: list[File] = []
        for selector in selectors_in(self.data.answer):
            # A selector may lead to one file or to a list of files.
            value = context.value(selector)
            files += [
                file
                for file in (value if is_array(value) else [value])
                if isinstance(file, File)
            ]
        return NodeResult(
            outputs={
                "answer": render_markdown(self.data.answer, context.pool),
                "files": files,
            }
        )

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors in the template."""
        return list(selectors_in(self.data.answer))

    def response(self) -> Sequence[str | tuple[str, ...]]:
        """Return the template's texts and selectors in order, so that it can be
        streamed."""
        return parts_of(self.data.answer)


NODES = {"answer": AnswerNode}
