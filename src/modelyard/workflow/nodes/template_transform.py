"""Template node: renders a Jinja2 template with selected variables."""

from collections.abc import Sequence
from typing import Any

from modelyard.workflow.node import (
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeResult,
    VariableSelector,
)
from modelyard.workflow.variables import to_object


class TemplateData(NodeData, kw_only=True):
    """Data of a template node in a DSL file."""

    variables: list[VariableSelector] = []
    template: str = ""


class TemplateTransformNode(Node):
    """Renders a template in this process if it is simple, else in the sandbox."""

    type = "template-transform"
    Data = TemplateData
    is_quick = True

    def _inputs(self, context: NodeContext) -> dict[str, Any]:
        """Return the template's variables."""
        return {
            variable.variable: to_object(context.value(variable.value_selector))
            for variable in self.data.variables
        }

    def compute(self, context: NodeContext) -> NodeResult | None:
        """Return the rendered text; None if the template needs the sandbox."""
        sandbox = context.services.sandbox
        if sandbox is None:
            return None
        inputs = self._inputs(context)
        # Simple templates do not need the sandbox.
        text = sandbox.render_in_process(
            self.data.template,
            inputs,
            max_chars=context.run.limits.template_characters,
        )
        return (
            None
            if text is None
            else NodeResult(inputs=inputs, outputs={"output": text})
        )

    async def run(self, context: NodeContext) -> NodeResult:
        """Render the template in the sandbox. Raises NodeError."""
        inputs = self._inputs(context)
        if (sandbox := context.services.sandbox) is None:
            raise NodeError(
                "Jinja templates require a sandbox, which is not available",
                error_type="SandboxUnavailable",
                inputs=inputs,
            )
        text = await sandbox.render(
            self.data.template,
            inputs,
            max_chars=context.run.limits.template_characters,
        )
        return NodeResult(inputs=inputs, outputs={"output": text})

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors of the variables."""
        return [
            tuple(variable.value_selector)
            for variable in self.data.variables
            if variable.value_selector
        ]


NODES = {"template-transform": TemplateTransformNode}
