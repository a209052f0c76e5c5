"""loop: the nodes inside, round after round, until a condition holds, a loop-end is reached, or the rounds are over."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from modelyard.base.bodies import BodyError, decode_body
from modelyard.workflow.conditions import Condition, ConditionError, holds_all
from modelyard.workflow.engine import GraphEngine, Outcome, Status
from modelyard.workflow.events import NodeRunLoopFailed, NodeRunLoopNext, NodeRunLoopStarted, NodeRunLoopSucceeded
from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeKind, NodePaused, NodeResult
from modelyard.workflow.variables import MISSING, to_object, zero_of


class LoopVariable(msgspec.Struct, kw_only=True):
    label: str
    var_type: str = "string"
    value_type: str = "constant"
    value: Any = None


class LoopData(NodeData, kw_only=True):
    start_node_id: str = ""
    loop_count: int = 10
    break_conditions: list[Condition] = []
    logical_operator: str = "and"
    loop_variables: list[LoopVariable] = []


class LoopNode(Node):
    type = "loop"
    kind = NodeKind.CONTAINER
    Data = LoopData

    async def run(self, context: NodeContext) -> NodeResult:
        inputs = self._set_up(context)
        about = self.about(context.execution_id)
        started_at = context.run.now()
        most = min(int(self.data.loop_count), context.run.limits.rounds)
        context.emit(NodeRunLoopStarted(
            **about, at=started_at, inputs=inputs, metadata={"loop_length": self.data.loop_count}
        ))  # fmt: skip
        durations: dict[str, float] = {}
        seen: dict[str, dict[str, Any]] = {}
        reason, rounds = "loop_completed", 0
        try:
            if self._breaks(context):
                reason, most = "loop_break", 0
            while rounds < most:
                began = asyncio.get_running_loop().time()
                context.emit(NodeRunLoopNext(**about, at=context.run.now(), round=rounds))
                is_ended = await self._round(rounds, context)
                durations[str(rounds)] = round(asyncio.get_running_loop().time() - began, 6)
                seen[str(rounds)] = to_object(self._variables(context))
                rounds += 1
                if is_ended or self._breaks(context):
                    reason = "loop_break"
                    break
        except NodeError as error:
            context.emit(NodeRunLoopFailed(
                **about, at=context.run.now(), inputs=inputs, error=str(error), started_at=started_at, steps=rounds,
            ))  # fmt: skip
            error.inputs = inputs
            raise
        outputs: dict[str, Any] = {**self._variables(context), "loop_round": rounds}
        metadata: dict[str, Any] = {
            "loop_duration_map": durations,
            "loop_variable_map": seen,
            "completed_reason": reason,
        }
        context.emit(NodeRunLoopSucceeded(
            **about, at=context.run.now(), inputs=inputs, outputs=to_object(outputs), metadata=metadata,
            started_at=started_at, steps=rounds,
        ))  # fmt: skip
        return NodeResult(inputs=inputs, outputs=outputs, metadata=metadata)

    def _set_up(self, context: NodeContext) -> dict[str, Any]:
        """The loop's variables as they begin."""
        inputs: dict[str, Any] = {"loop_count": self.data.loop_count}
        for one in self.data.loop_variables:
            value = self._initial(one, context)
            context.pool.put(self.id, one.label, value)
            context.pool.declare(self.id, one.label, one.var_type)
            inputs[one.label] = to_object(value)
        return inputs

    def _initial(self, variable: LoopVariable, context: NodeContext) -> Any:
        if variable.value_type == "variable":
            found = context.pool.get([str(part) for part in variable.value or ()])
            if found is MISSING:
                raise NodeError(f"loop variable {variable.label}: {variable.value} not found", kind="ValueError")
            return found
        value = variable.value
        if value is None or value == "":
            return zero_of(variable.var_type)
        if isinstance(value, str) and variable.var_type not in ("string", "secret"):
            try:
                return decode_body(value)
            except BodyError:
                raise NodeError(
                    f"loop variable {variable.label} is {variable.var_type}; {value[:60]!r} is not", kind="ValueError"
                ) from None
        return value

    def _variables(self, context: NodeContext) -> dict[str, Any]:
        return {one.label: context.value([self.id, one.label]) for one in self.data.loop_variables}

    def _breaks(self, context: NodeContext) -> bool:
        """What cannot be compared yet means: not yet."""
        with suppress(ConditionError):
            if self.data.break_conditions:
                return holds_all(self.data.break_conditions, self.data.logical_operator, context.pool)[0]
        return False

    async def _round(self, place: int, context: NodeContext) -> bool:
        """Whether a loop-end was reached. Raises NodeError where a node inside failed."""
        context.pool.clear(name for graph in self.graph.walk() for name in graph.nodes)
        engine: GraphEngine = context.engine.inner(self.graph, context.pool, self.id, place, is_loop=True)
        outcome: Outcome = await context.engine.enclosed(engine)
        match outcome.status:
            case Status.PAUSED:
                raise NodePaused(*outcome.reasons)
            case Status.STOPPED | Status.FAILED:
                raise NodeError(f"loop round {place + 1} failed: {outcome.error}", kind=outcome.error_type or "Stopped")
            case _:
                return any(engine.ran(one.id) for one in self.graph.nodes.values() if one.type == "loop-end")

    def references(self) -> Sequence[tuple[str, ...]]:
        inside = {self.id, *(name for graph in self.graph.walk() for name in graph.nodes)} if self.graph else {self.id}
        selectors = [tuple(one.variable_selector) for one in self.data.break_conditions if one.variable_selector]
        selectors += [
            tuple(str(part) for part in one.value)
            for one in self.data.loop_variables
            if one.value_type == "variable" and isinstance(one.value, list) and one.value
        ]
        return [one for one in selectors if one[0] not in inside]


NODES = {"loop": LoopNode}
