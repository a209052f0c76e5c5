"""Iteration node: runs its inner graph once for each item of a list, in sequence or in
parallel."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.base.json_types import is_array
from modelyard.workflow.engine import GraphEngine, Outcome, Status
from modelyard.workflow.events import (
    NodeRunIterationFailed,
    NodeRunIterationNext,
    NodeRunIterationStarted,
    NodeRunIterationSucceeded,
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
from modelyard.workflow.variables import to_object, type_of


class IterationData(NodeData, kw_only=True):
    """Data of an iteration node in a DSL file."""

    start_node_id: str = ""
    iterator_selector: list[str] = []
    output_selector: list[str] = []
    output_type: str = ""
    is_parallel: bool = False
    parallel_nums: int = 10
    error_handle_mode: str = "terminated"
    flatten_output: bool = True


class _ItemResult(msgspec.Struct):
    """The output of one item; `is_failed` if its graph failed."""

    value: Any = None
    is_failed: bool = False


class IterationNode(Node):
    """Runs its inner graph for each item of a list."""

    type = "iteration"
    kind = NodeKind.CONTAINER
    Data = IterationData

    async def run(self, context: NodeContext) -> NodeResult:
        """Return the list of the items' outputs. Raises NodeError, or NodePaused if an
        item waits for input."""
        items = self._items(context)
        event_fields = self.event_fields(context.execution_id)
        started_at = context.run.now()
        inputs = {"iterator_selector": to_object(items)}
        # Emitted before the first item, with the number of items.
        context.emit(
            NodeRunIterationStarted(
                **event_fields,
                at=started_at,
                inputs=inputs,
                metadata={"iterator_length": len(items)},
            )
        )
        # Inner nodes add to the run's totals; the difference is this node's usage.
        totals_before = (context.run.tokens, context.run.price, context.engine.steps)
        durations: dict[str, float] = {}
        try:
            rounds = await self._run_items(items, context, event_fields, durations)
        except NodeError as error:
            context.emit(
                NodeRunIterationFailed(
                    **event_fields,
                    at=context.run.now(),
                    inputs=inputs,
                    outputs={"output": []},
                    error=str(error),
                    started_at=started_at,
                    steps=len(items),
                )
            )
            # The list is logged with the failed node.
            error.inputs = inputs
            raise
        outputs = {"output": self._collect_outputs(rounds)}
        metadata: dict[str, Any] = {
            "total_tokens": context.run.tokens - totals_before[0],
            "total_price": context.run.price - totals_before[1],
            "iteration_duration_map": durations,
        }
        context.emit(
            NodeRunIterationSucceeded(
                **event_fields,
                at=context.run.now(),
                inputs=inputs,
                outputs=to_object(outputs),
                metadata=metadata,
                started_at=started_at,
                steps=len(items),
            )
        )
        return NodeResult(inputs=inputs, outputs=outputs, metadata=metadata)

    def _items(self, context: NodeContext) -> list[Any]:
        """Return the list to iterate over; empty for None. Raises NodeError."""
        selector = self.data.iterator_selector
        if not context.pool.has(selector):
            raise NodeError(
                f"iterator variable {'.'.join(selector)} not found",
                error_type="IteratorVariableNotFoundError",
            )
        value = context.value(selector)
        if value is None:
            return []
        if not is_array(value):
            raise NodeError(
                f"invalid iterator value: {type_of(value)}, please provide a list.",
                error_type="InvalidIteratorValueError",
            )
        # The limit protects the process from a huge list.
        if len(value) > (max_items := context.run.limits.items):
            raise NodeError(
                f"The list has {len(value):,} items; the maximum is {max_items:,}",
                error_type="InvalidIteratorValueError",
            )
        return value

    async def _run_items(
        self,
        items: Sequence[Any],
        context: NodeContext,
        event_fields: dict[str, Any],
        durations: dict[str, float],
    ) -> list[_ItemResult]:
        """Run all items and return their results in item order. `durations` is filled
        with seconds by index."""
        loop = asyncio.get_running_loop()

        async def run_item(index: int) -> _ItemResult:
            """Run one item and measure its duration."""
            context.emit(
                NodeRunIterationNext(**event_fields, at=context.run.now(), round=index)
            )
            started = loop.time()
            try:
                return await self._run_inner_graph(items[index], index, context)
            finally:
                durations[str(index)] = round(loop.time() - started, 6)

        # In sequence: the first failure ends the iteration.
        if not self.data.is_parallel:
            return [await run_item(index) for index in range(len(items))]
        rounds: list[_ItemResult] = [_ItemResult() for _ in items]
        # The workers share one iterator, so each index is used exactly once.
        indexes = iter(range(len(items)))

        async def worker() -> None:
            """Run items until all were started."""
            for index in indexes:
                rounds[index] = await run_item(index)

        # Never more workers than items.
        count = max(1, min(int(self.data.parallel_nums), len(items)))
        tasks = [asyncio.ensure_future(worker()) for _ in range(count if items else 0)]
        try:
            await asyncio.gather(*tasks)
        finally:
            # If one item fails, the others are cancelled and awaited before the error
            # is raised.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return rounds

    async def _run_inner_graph(
        self, item: Any, index: int, context: NodeContext
    ) -> _ItemResult:
        """Run the inner graph for one item. Raises NodePaused or NodeError."""
        # Each item has variables of its own: parallel items must not see each other's.
        pool = context.pool.child()
        # Inner nodes read the item and its index by the container's id.
        pool.put(self.id, "item", item)
        pool.put(self.id, "index", index)
        engine: GraphEngine = context.engine.create_inner(
            self.graph, pool, self.id, index
        )
        outcome: Outcome = await context.engine.run_inner(engine)
        match outcome.status:
            case Status.PAUSED:
                raise NodePaused(*outcome.reasons)
            case Status.STOPPED:
                raise NodeError(outcome.error or "Stopped", error_type="Stopped")
            case Status.FAILED:
                # The other modes continue with None in place of a failed item.
                if self.data.error_handle_mode == "terminated":
                    raise NodeError(
                        f"Iteration {index} failed: {outcome.error}",
                        error_type=outcome.error_type,
                    )
                return _ItemResult(None, True)
            case _:
                return _ItemResult(pool.value(self.data.output_selector), False)

    def _collect_outputs(self, rounds: Sequence[_ItemResult]) -> list[Any]:
        """Return the outputs; failed ones are removed if configured, and lists of lists
        flattened by one level."""
        is_removing = self.data.error_handle_mode == "remove-abnormal-output"
        values = [
            item_result.value
            for item_result in rounds
            if not (is_removing and item_result.is_failed)
        ]
        # None outputs do not prevent flattening.
        non_null_values = [value for value in values if value is not None]
        if (
            self.data.flatten_output
            and non_null_values
            and all(isinstance(value, list) for value in non_null_values)
        ):
            return [element for value in non_null_values for element in value]
        return values

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selector of the list."""
        return (
            [tuple(self.data.iterator_selector)] if self.data.iterator_selector else []
        )


NODES = {"iteration": IterationNode}
