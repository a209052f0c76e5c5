"""end: what a workflow gives back."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.workflow.node import NodeContext, NodeData, NodeKind, NodeResult, QuickNode


class Output(msgspec.Struct, kw_only=True):
    variable: str
    value_selector: list[str] = []
    value_type: str = "any"


class EndData(NodeData, kw_only=True):
    outputs: list[Output] = []


class EndNode(QuickNode):
    type = "end"
    kind = NodeKind.RESPONSE
    Data = EndData

    def compute(self, context: NodeContext) -> NodeResult:
        outputs: dict[str, Any] = {one.variable: context.value(one.value_selector) for one in self.data.outputs}
        return NodeResult(outputs=outputs, inputs=outputs)

    def references(self) -> Sequence[tuple[str, ...]]:
        return [tuple(one.value_selector) for one in self.data.outputs if one.value_selector]

    def response(self) -> Sequence[str | tuple[str, ...]]:
        parts: list[str | tuple[str, ...]] = []
        for one in self.data.outputs:
            if len(one.value_selector) > 1:
                parts += ["\n", tuple(one.value_selector)] if parts else [tuple(one.value_selector)]
        return parts


NODES = {"end": EndNode}
