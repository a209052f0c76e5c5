"""variable-aggregator: of several branches, what the one that ran gave."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.workflow.node import NodeContext, NodeData, NodeResult, QuickNode


class Group(msgspec.Struct, kw_only=True):
    group_name: str
    output_type: str = "any"
    variables: list[list[str]] = []


class AdvancedSettings(msgspec.Struct, kw_only=True):
    group_enabled: bool = False
    groups: list[Group] = []


class AggregatorData(NodeData, kw_only=True):
    output_type: str = "any"
    variables: list[list[str]] = []
    advanced_settings: AdvancedSettings | None = None


class VariableAggregatorNode(QuickNode):
    type = "variable-aggregator"
    Data = AggregatorData

    def compute(self, context: NodeContext) -> NodeResult:
        settings = self.data.advanced_settings
        if settings is None or not settings.group_enabled:
            return _result(_first(self.data.variables, context))
        outputs: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        for group in settings.groups:
            if found := _first(group.variables, context):
                outputs[group.group_name] = {"output": found[1]}
                inputs[".".join(found[0][1:])] = found[1]
        return NodeResult(outputs=outputs, inputs=inputs)

    def references(self) -> Sequence[tuple[str, ...]]:
        settings = self.data.advanced_settings
        groups = settings.groups if settings is not None and settings.group_enabled else []
        every = [*self.data.variables, *(one for group in groups for one in group.variables)]
        return [tuple(one) for one in every if one]


def _first(selectors: Sequence[Sequence[str]], context: NodeContext) -> tuple[Sequence[str], Any] | None:
    """The first that exists: one that holds nothing counts."""
    return next(((one, context.value(one)) for one in selectors if context.pool.has(one)), None)


def _result(found: tuple[Sequence[str], Any] | None) -> NodeResult:
    if found is None:
        return NodeResult()
    selector, value = found
    return NodeResult(outputs={"output": value}, inputs={".".join(selector[1:]): value})


NODES = {"variable-aggregator": VariableAggregatorNode, "variable-assigner": VariableAggregatorNode}
