"""Loop node: repeats its inner graph until a break condition is true, a loop-end node
runs or the rounds are used up."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.json_types import is_array
from modelyard.workflow.conditions import (
    Condition,
    ConditionError,
    evaluate,
    evaluate_group,
)
from modelyard.workflow.engine import GraphEngine, Outcome, Status
from modelyard.workflow.events import (
    NodeRunLoopFailed,
    NodeRunLoopNext,
    NodeRunLoopStarted,
    NodeRunLoopSucceeded,
)
from modelyard.workflow.node import (
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeKind,
    NodePaused,
    NodeResult,
)
from modelyard.workflow.variables import MISSING, default_for_type, to_object


class LoopVariable(msgspec.Struct, kw_only=True):
    """A variable of the loop with its initial value."""

    label: str
    var_type: str = "string"
    value_type: str = "constant"
    value: Any = None


class LoopData(NodeData, kw_only=True):
    """Data of a loop node in a DSL file."""

    start_node_id: str = ""
    loop_count: int = 10
    break_conditions: list[Condition] = []
    logical_operator: str = "and"
    loop_variables: list[LoopVariable] = []


@dataclass(slots=True)
class _LoopProgress:
    """The rounds that have run so far."""

    rounds: int = 0
    reason: str = "loop_completed"
    """Why the loop ended, as clients show it."""
    durations: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds of each round."""
    variables: dict[str, dict[str, Any]] = field(
        default_factory=dict[str, dict[str, Any]]
    )
    """The loop's variables after each round."""

    @property
    def metadata(self) -> dict[str, Any]:
        """The progress as metadata of the node."""
        return {
            "loop_duration_map": self.durations,
            "loop_variable_map": self.variables,
            "completed_reason": self.reason,
        }


class LoopNode(Node):
    """Runs its inner graph in rounds that share the loop's variables."""

    type = "loop"
    kind = NodeKind.CONTAINER
    Data = LoopData

    async def run(self, context: NodeContext) -> NodeResult:
        """Return the loop's variables after the last round. Raises NodeError, or
        NodePaused if a round waits for input."""
        inputs = self._init_variables(context)
        event_fields = self.event_fields(context.execution_id)
        started_at = context.run.now()
        # The app's own limit cannot exceed the one of the run.
        max_rounds = min(int(self.data.loop_count), context.run.limits.rounds)
        context.emit(
            NodeRunLoopStarted(
                **event_fields,
                at=started_at,
                inputs=inputs,
                metadata={"loop_length": self.data.loop_count},
            )
        )
        progress = _LoopProgress()
        try:
            await self._run_rounds(max_rounds, progress, context)
        except NodeError as error:
            context.emit(
                NodeRunLoopFailed(
                    **event_fields,
                    at=context.run.now(),
                    inputs=inputs,
                    error=str(error),
                    started_at=started_at,
                    steps=progress.rounds,
                )
            )
            error.inputs = inputs
            raise
        # The variables are read after the last round.
        outputs: dict[str, Any] = {
            **self._variables(context),
            "loop_round": progress.rounds,
        }
        metadata = progress.metadata
        context.emit(
            NodeRunLoopSucceeded(
                **event_fields,
                at=context.run.now(),
                inputs=inputs,
                outputs=to_object(outputs),
                metadata=metadata,
                started_at=started_at,
                steps=progress.rounds,
            )
        )
        return NodeResult(inputs=inputs, outputs=outputs, metadata=metadata)

    async def _run_rounds(
        self, max_rounds: int, progress: _LoopProgress, context: NodeContext
    ) -> None:
        """Run rounds until the loop ends. `progress` is updated after each, so that it
        is right if a round fails."""
        # If the break condition is true from the start, there is no round at all. Most
        # conditions read nodes of the loop, which have no values before the first one.
        with suppress(ConditionError):
            if self._should_break(context):
                progress.reason = "loop_break"
                return
        await self._run_until_break(max_rounds, progress, context)

    async def _run_until_break(
        self, max_rounds: int, progress: _LoopProgress, context: NodeContext
    ) -> None:
        """Run rounds until the break condition is true, or the limit is reached."""
        event_fields = self.event_fields(context.execution_id)
        clock = asyncio.get_running_loop().time
        while progress.rounds < max_rounds:
            round_index = progress.rounds
            started = clock()
            context.emit(
                NodeRunLoopNext(**event_fields, at=context.run.now(), round=round_index)
            )
            is_ended = await self._run_round(round_index, context)
            progress.durations[str(round_index)] = round(clock() - started, 6)
            # A snapshot, because the next round changes the variables.
            progress.variables[str(round_index)] = to_object(self._variables(context))
            progress.rounds += 1
            # A loop-end node and a break condition end the loop alike.
            if is_ended or self._should_break_after(round_index, context):
                progress.reason = "loop_break"
                return

    def _init_variables(self, context: NodeContext) -> dict[str, Any]:
        """Put the loop's variables with their initial values into the pool; return them
        for the log."""
        inputs: dict[str, Any] = {"loop_count": self.data.loop_count}
        for variable in self.data.loop_variables:
            value = self._initial(variable, context)
            context.pool.put(self.id, variable.label, value)
            # Assigners inside the loop check new values against this type.
            context.pool.declare(self.id, variable.label, variable.var_type)
            inputs[variable.label] = to_object(value)
        return inputs

    def _initial(self, variable: LoopVariable, context: NodeContext) -> Any:
        """Return the initial value of a variable. Raises NodeError."""
        if variable.value_type == "variable":
            source_value = context.pool.get(
                [str(part) for part in variable.value or ()]
            )
            if source_value is MISSING:
                raise NodeError(
                    f"Loop variable {variable.label}: {variable.value} not found",
                    error_type="ValueError",
                )
            return source_value
        value = variable.value
        # An empty constant means the type's zero value.
        if value is None or value == "":
            return default_for_type(variable.var_type)
        # Constants are entered as text; other types are parsed from JSON.
        if isinstance(value, str) and variable.var_type not in ("string", "secret"):
            try:
                return decode_body(value)
            except BodyError:
                raise NodeError(
                    f"Loop variable {variable.label}: {value[:60]!r} is not a valid"
                    f" {variable.var_type}",
                    error_type="ValueError",
                ) from None
        return value

    def _variables(self, context: NodeContext) -> dict[str, Any]:
        """Return the current values of the loop's variables."""
        return {
            variable.label: context.value([self.id, variable.label])
            for variable in self.data.loop_variables
        }

    def _should_break_after(self, round_index: int, context: NodeContext) -> bool:
        """Return whether the break conditions are true after a round. Raises NodeError
        if they cannot be evaluated: the loop would run to its limit."""
        try:
            return self._should_break(context)
        except ConditionError as error:
            raise NodeError(
                f"Break condition after round {round_index + 1}: {error}",
                error_type="InvalidConditionError",
            ) from error

    def _should_break(self, context: NodeContext) -> bool:
        """Return whether the break conditions are true. Raises ConditionError."""
        conditions: Sequence[Condition] = self.data.break_conditions
        if not conditions:
            return False
        operator = self.data.logical_operator
        if operator != "or":
            return evaluate_group(conditions, operator, context.pool)[0]
        # One true condition is enough, whatever the others need.
        errors: list[ConditionError] = []
        for condition in conditions:
            try:
                if evaluate(condition, context.pool):
                    return True
            except ConditionError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return False

    async def _run_round(self, round_index: int, context: NodeContext) -> bool:
        """Run one round; return whether a loop-end node ran. Raises NodeError if a node
        in it failed."""
        # Outputs of the previous round must not be visible in this one.
        context.pool.clear(name for graph in self.graph.walk() for name in graph.nodes)
        engine: GraphEngine = context.engine.create_inner(
            self.graph,
            context.pool,
            self.id,
            round_index,
            is_loop=True,
        )
        outcome: Outcome = await context.engine.run_inner(engine)
        match outcome.status:
            case Status.PAUSED:
                raise NodePaused(*outcome.reasons)
            case Status.STOPPED | Status.FAILED:
                raise NodeError(
                    f"Loop round {round_index + 1} failed: {outcome.error}",
                    error_type=outcome.error_type or "Stopped",
                )
            case _:
                return any(
                    engine.has_run(node.id)
                    for node in self.graph.nodes.values()
                    if node.type == "loop-end"
                )

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors that lead outside the loop."""
        # Break conditions mostly read inner nodes, which are no inputs of the loop.
        inner_ids = (
            {self.id, *(name for graph in self.graph.walk() for name in graph.nodes)}
            if self.graph
            else {self.id}
        )
        selectors = [
            tuple(condition.variable_selector)
            for condition in self.data.break_conditions
            if condition.variable_selector
        ]
        selectors += [
            tuple(str(part) for part in variable.value)
            for variable in self.data.loop_variables
            if variable.value_type == "variable"
            and is_array(variable.value)
            and variable.value
        ]
        return [selector for selector in selectors if selector[0] not in inner_ids]


NODES = {"loop": LoopNode}
