"""Code node: runs Python or JavaScript in the sandbox and validates its result against
the declared outputs."""

from collections.abc import Sequence
from typing import Any

from modelyard.base.json_types import is_array
from modelyard.workflow.code_outputs import OutputDeclaration, OutputValidator
from modelyard.workflow.node import (
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeResult,
    VariableSelector,
)
from modelyard.workflow.variables import File, to_object


class CodeData(NodeData, kw_only=True):
    """Data of a code node in a DSL file."""

    variables: list[VariableSelector] = []
    code_language: str = "python3"
    code: str = ""
    outputs: dict[str, OutputDeclaration] = {}


class CodeNode(Node):
    """Runs the node's code with its variables as arguments."""

    type = "code"
    Data = CodeData

    async def run(self, context: NodeContext) -> NodeResult:
        """Run the code and return its validated outputs. Raises NodeError."""
        data = self.data
        inputs = {
            variable.variable: _input(context.value(variable.value_selector))
            for variable in data.variables
        }
        if (sandbox := context.services.sandbox) is None:
            raise NodeError(
                "Code nodes require a sandbox, which is not available",
                error_type="SandboxUnavailable",
                inputs=inputs,
            )
        try:
            result = await sandbox.run_code(data.code_language, data.code, inputs)
            validator = OutputValidator(context.run.limits.code)
            outputs = validator.validated(result, data.outputs)
        except NodeError as error:
            # The inputs are shown with the failed node.
            error.inputs = error.inputs or inputs
            raise
        return NodeResult(inputs=inputs, outputs=outputs)

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors of the variables."""
        return [
            tuple(variable.value_selector)
            for variable in self.data.variables
            if variable.value_selector
        ]


def _input(value: Any) -> Any:
    """Return a variable's value as JSON for the program."""
    # Files keep their own object form; the program receives dictionaries.
    if is_array(value) and value and all(isinstance(file, File) for file in value):
        return [file.to_object() for file in value]
    return to_object(value)


NODES = {"code": CodeNode}
