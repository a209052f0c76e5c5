"""iteration: the nodes inside, once for each item of a list; one after the other or several at once."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.workflow.engine import GraphEngine, Outcome, Status
from modelyard.workflow.events import (
    NodeRunIterationFailed,
    NodeRunIterationNext,
    NodeRunIterationStarted,
    NodeRunIterationSucceeded,
)
from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeKind, NodePaused, NodeResult
from modelyard.workflow.variables import to_object, type_of


class IterationData(NodeData, kw_only=True):
    start_node_id: str = ""
    iterator_selector: list[str] = []
    output_selector: list[str] = []
    output_type: str = ""
    is_parallel: bool = False
    parallel_nums: int = 10
    error_handle_mode: str = "terminated"
    flatten_output: bool = True


class _Round(msgspec.Struct):
    value: Any = None
    is_failed: bool = False


class IterationNode(Node):
    type = "iteration"
    kind = NodeKind.CONTAINER
    Data = IterationData

    async def run(self, context: NodeContext) -> NodeResult:
        items = self._items(context)
        about = self.about(context.execution_id)
        started_at = context.run.now()
        inputs = {"iterator_selector": to_object(items)}
        context.emit(NodeRunIterationStarted(
            **about, at=started_at, inputs=inputs, metadata={"iterator_length": len(items)}
        ))  # fmt: skip
        before = (context.run.tokens, context.run.price, context.engine.steps)
        durations: dict[str, float] = {}
        try:
            rounds = await self._rounds(items, context, about, durations)
        except NodeError as error:
            context.emit(NodeRunIterationFailed(
                **about, at=context.run.now(), inputs=inputs, outputs={"output": []}, error=str(error),
                started_at=started_at, steps=len(items),
            ))  # fmt: skip
            error.inputs = inputs
            raise
        outputs = {"output": self._collected(rounds)}
        metadata: dict[str, Any] = {
            "total_tokens": context.run.tokens - before[0],
            "total_price": context.run.price - before[1],
            "iteration_duration_map": durations,
        }
        context.emit(NodeRunIterationSucceeded(
            **about, at=context.run.now(), inputs=inputs, outputs=to_object(outputs), metadata=metadata,
            started_at=started_at, steps=len(items),
        ))  # fmt: skip
        return NodeResult(inputs=inputs, outputs=outputs, metadata=metadata)

    def _items(self, context: NodeContext) -> list[Any]:
        selector = self.data.iterator_selector
        if not context.pool.has(selector):
            raise NodeError(f"iterator variable {'.'.join(selector)} not found", kind="IteratorVariableNotFoundError")
        value = context.value(selector)
        if value is None:
            return []
        if not isinstance(value, list):
            raise NodeError(
                f"invalid iterator value: {type_of(value)}, please provide a list.", kind="InvalidIteratorValueError"
            )
        if len(value) > (most := context.run.limits.items):
            raise NodeError(
                f"the list has {len(value):,} items; an iteration takes {most:,}", kind="InvalidIteratorValueError"
            )
        return value

    async def _rounds(
        self, items: Sequence[Any], context: NodeContext, about: dict[str, Any], durations: dict[str, float]
    ) -> list[_Round]:
        loop = asyncio.get_running_loop()

        async def one(place: int) -> _Round:
            context.emit(NodeRunIterationNext(**about, at=context.run.now(), round=place))
            began = loop.time()
            try:
                return await self._round(items[place], place, context)
            finally:
                durations[str(place)] = round(loop.time() - began, 6)

        if not self.data.is_parallel:
            return [await one(place) for place in range(len(items))]
        rounds: list[_Round] = [_Round() for _ in items]
        places = iter(range(len(items)))

        async def worker() -> None:
            for place in places:
                rounds[place] = await one(place)

        count = max(1, min(int(self.data.parallel_nums), len(items)))
        tasks = [asyncio.ensure_future(worker()) for _ in range(count if items else 0)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return rounds

    async def _round(self, item: Any, place: int, context: NodeContext) -> _Round:
        pool = context.pool.child()
        pool.put(self.id, "item", item)
        pool.put(self.id, "index", place)
        engine: GraphEngine = context.engine.inner(self.graph, pool, self.id, place)
        outcome: Outcome = await context.engine.enclosed(engine)
        match outcome.status:
            case Status.PAUSED:
                raise NodePaused(*outcome.reasons)
            case Status.STOPPED:
                raise NodeError(outcome.error or "stopped", kind="Stopped")
            case Status.FAILED:
                if self.data.error_handle_mode == "terminated":
                    raise NodeError(f"iteration {place} failed: {outcome.error}", kind=outcome.error_type)
                return _Round(None, True)
            case _:
                return _Round(pool.value(self.data.output_selector), False)

    def _collected(self, rounds: Sequence[_Round]) -> list[Any]:
        is_removing = self.data.error_handle_mode == "remove-abnormal-output"
        values = [one.value for one in rounds if not (is_removing and one.is_failed)]
        there = [one for one in values if one is not None]
        if self.data.flatten_output and there and all(isinstance(one, list) for one in there):
            return [each for one in there for each in one]
        return values

    def references(self) -> Sequence[tuple[str, ...]]:
        return [tuple(self.data.iterator_selector)] if self.data.iterator_selector else []


NODES = {"iteration": IterationNode}
