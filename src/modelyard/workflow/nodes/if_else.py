"""If-else node: the first case whose conditions are true selects the branch."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.workflow.conditions import Condition, ConditionError, evaluate_group
from modelyard.workflow.node import (
    NodeContext,
    NodeData,
    NodeError,
    NodeKind,
    NodeResult,
    SyncNode,
)


class Case(msgspec.Struct, kw_only=True):
    """One case: its conditions and how they are combined. The id is the handle of its
    branch."""

    case_id: str = "true"
    logical_operator: str = "and"
    conditions: list[Condition] = []


class IfElseData(NodeData, kw_only=True):
    """Data of an if-else node in a DSL file."""

    cases: list[Case] = []
    conditions: list[Condition] = []
    """Used by old exports instead of `cases`."""
    logical_operator: str = "and"


class IfElseNode(SyncNode):
    """Selects a branch by conditions."""

    type = "if-else"
    kind = NodeKind.BRANCH
    Data = IfElseData

    @property
    def cases(self) -> Sequence[Case]:
        """The cases; the conditions of an old export as a single case."""
        data = self.data
        return data.cases or [
            Case(logical_operator=data.logical_operator, conditions=data.conditions)
        ]

    def compute(self, context: NodeContext) -> NodeResult:
        """Return the result of the first true case, or of the branch `false`. Raises
        NodeError."""
        # All evaluated conditions are logged with the node.
        looked_at: list[dict[str, Any]] = []
        try:
            for case in self.cases:
                result, condition_results = evaluate_group(
                    case.conditions, case.logical_operator, context.pool
                )
                # Later cases are not evaluated; the log shows what led to the decision.
                looked_at.append(
                    {
                        "group": case.case_id,
                        "results": condition_results,
                        "final_result": result,
                    }
                )
                if result:
                    return _result(case.case_id, looked_at)
        except ConditionError as error:
            raise NodeError(
                str(error),
                error_type="ValueError",
                process_data={"condition_results": looked_at},
            ) from error
        return _result("false", looked_at, is_none=True)

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors of all conditions."""
        return [
            tuple(one.variable_selector)
            for case in self.cases
            for one in case.conditions
            if one.variable_selector
        ]


def _result(
    case: str, looked_at: list[dict[str, Any]], *, is_none: bool = False
) -> NodeResult:
    """Return the node result for the selected case."""
    return NodeResult(
        outputs={"result": not is_none, "selected_case_id": case},
        process_data={"condition_results": looked_at},
        handle=case,
    )


NODES = {"if-else": IfElseNode}
