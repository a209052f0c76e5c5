"""template-transform: a Jinja2 template over chosen variables."""

from collections.abc import Sequence
from typing import Any

from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeResult, VariableSelector
from modelyard.workflow.variables import to_object


class TemplateData(NodeData, kw_only=True):
    variables: list[VariableSelector] = []
    template: str = ""


class TemplateTransformNode(Node):
    type = "template-transform"
    Data = TemplateData
    is_quick = True

    def _inputs(self, context: NodeContext) -> dict[str, Any]:
        return {one.variable: to_object(context.value(one.value_selector)) for one in self.data.variables}

    def compute(self, context: NodeContext) -> NodeResult | None:
        sandbox = context.services.sandbox
        if sandbox is None:
            return None
        inputs = self._inputs(context)
        text = sandbox.render_now(self.data.template, inputs, most=context.run.limits.output_bytes)
        return None if text is None else NodeResult(inputs=inputs, outputs={"output": text})

    async def run(self, context: NodeContext) -> NodeResult:
        inputs = self._inputs(context)
        if (sandbox := context.services.sandbox) is None:
            raise NodeError("there is no sandbox to render templates in", kind="SandboxUnavailable", inputs=inputs)
        text = await sandbox.render(self.data.template, inputs, most=context.run.limits.output_bytes)
        return NodeResult(inputs=inputs, outputs={"output": text})

    def references(self) -> Sequence[tuple[str, ...]]:
        return [tuple(one.value_selector) for one in self.data.variables if one.value_selector]


NODES = {"template-transform": TemplateTransformNode}
