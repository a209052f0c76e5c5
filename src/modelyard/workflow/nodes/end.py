"""End node: the outputs of a workflow."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.workflow.node import (
    NodeContext,
    NodeData,
    NodeKind,
    NodeResult,
    SyncNode,
)


class Output(msgspec.Struct, kw_only=True):
    """One output: its name and the selector of its value."""

    variable: str
    value_selector: list[str] = []
    value_type: str = "any"


class EndData(NodeData, kw_only=True):
    """Data of an end node in a DSL file."""

    outputs: list[Output] = []


class EndNode(SyncNode):
    """Adds the selected values to the run's outputs."""

    type = "end"
    kind = NodeKind.RESPONSE
    Data = EndData

    def compute(self, context: NodeContext) -> NodeResult:
        """Return the values of the outputs; None for those whose node did not run."""
        outputs: dict[str, Any] = {
            output.variable: context.value(output.value_selector)
            for output in self.data.outputs
        }
        return NodeResult(outputs=outputs, inputs=outputs)

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors of the outputs."""
        return [
            tuple(output.value_selector)
            for output in self.data.outputs
            if output.value_selector
        ]

    def response(self) -> Sequence[str | tuple[str, ...]]:
        """Return the outputs' selectors, separated by line breaks, so that they can be
        streamed."""
        parts: list[str | tuple[str, ...]] = []
        for output in self.data.outputs:
            # A selector needs a node id and a name; an incomplete one has nothing to
            # stream.
            if len(output.value_selector) > 1:
                # Several outputs are separated by line breaks in the streamed text.
                parts += (
                    ["\n", tuple(output.value_selector)]
                    if parts
                    else [tuple(output.value_selector)]
                )
        return parts


NODES = {"end": EndNode}
