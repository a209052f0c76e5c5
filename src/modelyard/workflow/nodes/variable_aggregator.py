"""Variable aggregator node: of the outputs of several branches, the one whose branch
ran."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.workflow.node import NodeContext, NodeData, NodeResult, SyncNode


class Group(msgspec.Struct, kw_only=True):
    """A group of variables with an output of its own."""

    group_name: str
    output_type: str = "any"
    variables: list[list[str]] = []


class AdvancedSettings(msgspec.Struct, kw_only=True):
    """Groups; used only if they are enabled."""

    group_enabled: bool = False
    groups: list[Group] = []


class AggregatorData(NodeData, kw_only=True):
    """Data of a variable aggregator node in a DSL file."""

    output_type: str = "any"
    variables: list[list[str]] = []
    advanced_settings: AdvancedSettings | None = None


class VariableAggregatorNode(SyncNode):
    """Merges the outputs of alternative branches."""

    type = "variable-aggregator"
    Data = AggregatorData

    def compute(self, context: NodeContext) -> NodeResult:
        """Return the first variable that exists, for each group if groups are enabled."""
        # Without groups the node has a single output.
        settings = self.data.advanced_settings
        if settings is None or not settings.group_enabled:
            return _result(_first(self.data.variables, context))
        outputs: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        for group in settings.groups:
            if selected := _first(group.variables, context):
                outputs[group.group_name] = {"output": selected[1]}
                # The log names the selected variable without its node.
                inputs[".".join(selected[0][1:])] = selected[1]
        return NodeResult(outputs=outputs, inputs=inputs)

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors of all variables."""
        settings = self.data.advanced_settings
        selectors = list(self.data.variables)
        # Groups are ignored while they are disabled.
        if settings is not None and settings.group_enabled:
            for group in settings.groups:
                selectors += group.variables
        return [tuple(selector) for selector in selectors if selector]


def _first(
    selectors: Sequence[Sequence[str]], context: NodeContext
) -> tuple[Sequence[str], Any] | None:
    """Return the first existing variable as (selector, value); None if there is none.
    An empty value counts."""
    for selector in selectors:
        # A variable exists if its branch was taken.
        if context.pool.has(selector):
            return selector, context.value(selector)
    return None


def _result(selected: tuple[Sequence[str], Any] | None) -> NodeResult:
    """Return the node result for the selected variable; without outputs if there is
    none."""
    if selected is None:
        return NodeResult()
    selector, value = selected
    return NodeResult(outputs={"output": value}, inputs={".".join(selector[1:]): value})


NODES = {
    "variable-aggregator": VariableAggregatorNode,
    "variable-assigner": VariableAggregatorNode,
}
