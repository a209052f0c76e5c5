"""if-else: the first case that holds decides which way the run goes."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.workflow.conditions import Condition, ConditionError, holds_all
from modelyard.workflow.node import NodeContext, NodeData, NodeError, NodeKind, NodeResult, QuickNode


class Case(msgspec.Struct, kw_only=True):
    case_id: str = "true"
    logical_operator: str = "and"
    conditions: list[Condition] = []


class IfElseData(NodeData, kw_only=True):
    cases: list[Case] = []
    conditions: list[Condition] = []
    """What old exports have in the place of cases."""
    logical_operator: str = "and"


class IfElseNode(QuickNode):
    type = "if-else"
    kind = NodeKind.BRANCH
    Data = IfElseData

    @property
    def cases(self) -> Sequence[Case]:
        data = self.data
        return data.cases or [Case(logical_operator=data.logical_operator, conditions=data.conditions)]

    def compute(self, context: NodeContext) -> NodeResult:
        looked_at: list[dict[str, Any]] = []
        try:
            for case in self.cases:
                result, seen = holds_all(case.conditions, case.logical_operator, context.pool)
                looked_at.append({"group": case.case_id, "results": seen, "final_result": result})
                if result:
                    return _result(case.case_id, looked_at)
        except ConditionError as error:
            raise NodeError(str(error), kind="ValueError", process_data={"condition_results": looked_at}) from error
        return _result("false", looked_at, is_none=True)

    def references(self) -> Sequence[tuple[str, ...]]:
        return [tuple(one.variable_selector) for case in self.cases for one in case.conditions if one.variable_selector]


def _result(case: str, looked_at: list[dict[str, Any]], *, is_none: bool = False) -> NodeResult:
    return NodeResult(
        outputs={"result": not is_none, "selected_case_id": case},
        process_data={"condition_results": looked_at},
        handle=case,
    )


NODES = {"if-else": IfElseNode}
