"""GraphEngine: one loop that owns all state of one graph's run. It knows nodes, and nothing of what they work with.

Everything that changes the pool, the frontier or the answers' text happens in `execute`, one thing after the other.
Nodes that need to wait run as tasks and hand in what they have; those that need not are run on the spot.

A run is repeatable: with a `Recorder` each finished node leaves its result under a key that does not change, and a run
that is taken up again applies what is recorded, in the order in which it happened, before anything is run.
"""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

import msgspec

from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import ModelyardError
from modelyard.workflow.graph import FAILED, SOURCE, SUCCEEDED, Graph
from modelyard.workflow.graph_state import GraphState
from modelyard.workflow.node import Effect, Node, NodeContext, NodeError, NodePaused, NodeResult, RunContext
from modelyard.workflow.node import Update as Update
from modelyard.workflow.node_events import Emit, NodeEvents, Scope, execution_id
from modelyard.workflow.recorder import Recorder as Recorder
from modelyard.workflow.recorder import Step as Step
from modelyard.workflow.running import RunningNode, RunningNodes
from modelyard.workflow.variables import VariablePool, WorkflowError, to_object, zero_of

_OUTERMOST = Scope()


class Status(StrEnum):
    SCHEDULED = "scheduled"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial-succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    PAUSED = "paused"

    @property
    def is_over(self) -> bool:
        return self in (Status.SUCCEEDED, Status.PARTIAL, Status.FAILED, Status.STOPPED)


class Command(StrEnum):
    STOP = "stop"
    PAUSE = "pause"


@dataclass(slots=True, kw_only=True)
class Outcome:
    status: Status
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str = ""
    error_type: str = ""
    reasons: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Why it is paused."""


class GraphEngine:
    """Runs a graph once. `pool` holds what was given to it, and in the end what came of it."""

    def __init__(
        self,
        graph: Graph,
        pool: VariablePool,
        run: RunContext,
        emit: Emit,
        *,
        scope: Scope = _OUTERMOST,
        recorder: Recorder | None = None,
        parent: "GraphEngine | None" = None,
    ) -> None:
        self.graph = graph
        self.pool = pool
        self.run = run
        self.emit = emit
        self.scope = scope
        self.recorder = recorder
        self.steps = 0
        self._parent = parent
        self._events = NodeEvents(graph.nodes, run, scope, emit)
        self._state = GraphState(graph, pool, run, self._events)
        self._running = RunningNodes()
        self._inner: set[GraphEngine] = set()
        self._command: Command | None = None
        self._why = ""
        self._failure: Outcome | None = None
        self._reasons: list[dict[str, Any]] = []

    # from outside

    def command(self, command: Command, why: str = "") -> None:
        """Stop at once, or pause when what runs is done. What is inside follows."""
        if self._command is Command.STOP:
            return
        self._command, self._why = command, why
        for engine in list(self._inner):
            engine.command(command, why)
        if command is Command.STOP:
            self._running.cancel()
        self._running.wake()

    def inner(self, graph: Graph, pool: VariablePool, node: str, place: int, *, is_loop: bool = False) -> "GraphEngine":
        """An engine for one item or round of a container. It is run by `enclosed`."""
        scope = self.scope.inside(node, place, is_loop=is_loop)
        return GraphEngine(graph, pool, self.run, self.emit, scope=scope, recorder=self.recorder, parent=self)

    async def enclosed(self, engine: "GraphEngine") -> Outcome:
        """Run it as a part of this run: it is stopped and paused with it."""
        self._inner.add(engine)
        try:
            if self._command is not None:
                engine.command(self._command, self._why)
            return await engine.execute()
        finally:
            self._inner.discard(engine)
            self.steps += engine.steps

    def ran(self, node: str) -> bool:
        return self._state.has_run(node)

    # the loop

    async def execute(self) -> Outcome:
        """Run the graph to its end, its pause, or its failure. Cancelling stops all nodes."""
        try:
            self._begin()
            while True:
                self._start_ready()
                for running, result in self._running.handed_in():
                    self._take(running, result)
                if self._failure is not None or self._command is Command.STOP:
                    break
                if self._state.ready and self._command is None:
                    continue
                if not self._running:
                    break
                await self._running.wait()
        finally:
            await self._running.aclose()
        return self._outcome()

    def _begin(self) -> None:
        """Start from the root, or from where a run before this one came to."""
        if self.recorder is None:
            self._state.begin()
            return
        steps = self.recorder.steps(self.scope.path)
        shown = self.recorder.said() if self._parent is None else None
        self._state.begin(steps, shown)
        self.steps += len(steps)

    def _outcome(self) -> Outcome:
        outputs = self._state.outputs
        if self._failure is not None:
            return self._failure
        if self._command is Command.STOP:
            return Outcome(status=Status.STOPPED, outputs=outputs, error=self._why)
        if self._reasons or (self._command is Command.PAUSE and self._state.ready):
            reasons = self._reasons or [{"TYPE": "scheduled_pause", "message": self._why or "paused on request"}]
            return Outcome(status=Status.PAUSED, outputs=outputs, reasons=reasons)
        is_partial = self._parent is None and self.run.exceptions > 0
        return Outcome(status=Status.PARTIAL if is_partial else Status.SUCCEEDED, outputs=outputs)

    # starting nodes

    def _start_ready(self) -> None:
        ready = self._state.ready
        while ready and self._command is None and self._failure is None:
            name, predecessor = ready.popleft()
            self._start(self.graph.nodes[name], predecessor)

    def _start(self, node: Node, predecessor: str) -> None:
        run = self.run
        run.steps += 1
        self.steps += 1
        if run.steps > run.limits.steps:
            reason = f"Maximum execution steps exceeded: {run.steps} > {run.limits.steps}"
            self._failure = Outcome(status=Status.STOPPED, outputs=self._state.outputs, error=reason)
            return
        key = f"{self.scope.path}{node.id}"
        running = RunningNode(node, key, execution_id(run.run_id, key), run.now(), run.steps, predecessor)
        self._events.started(running)
        context = self._context(running)
        if node.is_quick:
            try:
                result = node.compute(context)
            except (ModelyardError, NodePaused) as error:
                self._take(running, error)
                return
            if result is not None:
                self._take(running, result)
                return
        self._running.begin(running, self._work(running, context))

    def _context(self, running: RunningNode) -> NodeContext:
        return NodeContext(
            run=self.run,
            pool=self.pool,
            key=running.key,
            execution_id=running.id,
            idempotency_key=running.id,
            emit=self.emit,
            stream=partial(self._streamed, running),
            reason=partial(self._reasoned, running),
            engine=self,
        )

    async def _work(self, running: RunningNode, context: NodeContext) -> None:
        result: NodeResult | BaseException
        try:
            result = await self._attempts(running, context)
        except asyncio.CancelledError as error:
            result = error
        except (ModelyardError, NodePaused) as error:
            result = error
        except Exception as error:  # noqa: BLE001  whatever a node's libraries raise ends that node alone
            result = NodeError(f"{type(error).__name__}: {error}", kind=type(error).__name__)
        self._running.hand_in(running, result)

    async def _attempts(self, running: RunningNode, context: NodeContext) -> NodeResult:
        node = running.node
        if node.effect is not Effect.NONE and self.recorder is not None:
            if node.data.on_resume == "fail" and self.recorder.was_started(running.key):
                raise NodeError(
                    f"node {node.title!r} was interrupted and may have taken effect; it is not repeated",
                    kind="InterruptedStep",
                )
            await self.recorder.about_to(running.key)
        retry = node.data.retry_config
        turns = int(retry.max_retries) if retry.retry_enabled else 0
        for turn in range(turns + 1):
            try:
                return await node.run(context)
            except (ModelyardError, OSError) as error:
                if turn == turns:
                    raise
                await self.run.sleep(max(0.0, float(retry.retry_interval)) / 1000)
                self._events.retried(running, _as_node_error(error), turn + 1)
        raise AssertionError("unreachable")

    # what nodes hand in

    def _take(self, running: RunningNode, result: NodeResult | BaseException) -> None:
        match result:
            case NodeResult():
                self._succeeded(running, result)
            case NodePaused():
                self._paused(running, result)
            case asyncio.CancelledError():
                pass
            case _:
                self._failed(running, _as_node_error(result))

    def _succeeded(self, running: RunningNode, result: NodeResult) -> None:
        node = running.node
        if node.has_fail_branch and result.handle == SOURCE and not _has_edge(self.graph, node, SOURCE):
            result.handle = SUCCEEDED
        try:
            self._state.settle(node, result)
        except WorkflowError as error:
            self._failed(running, _as_node_error(error))
            return
        self._record(running, result)
        self._events.succeeded(running, result)

    def _failed(self, running: RunningNode, error: NodeError) -> None:
        node = running.node
        outputs = {**error.outputs, "error_message": str(error), "error_type": error.kind}
        result = NodeResult(
            outputs=outputs, inputs=error.inputs, process_data=error.process_data, metadata=error.metadata,
            error=str(error), error_type=error.kind,
        )  # fmt: skip
        match node.data.error_strategy:
            case "fail-branch":
                result.handle = FAILED
            case "default-value":
                result.outputs = {**{one.key: _default_of(one) for one in node.data.default_value}, **outputs}
            case _:
                self._events.failed(running, result)
                if self._failure is None:
                    self._failure = Outcome(status=Status.FAILED, error=str(error), error_type=error.kind)
                return
        self.run.exceptions += 1
        self._state.settle(node, result)
        self._record(running, result)
        self._events.excepted(running, result)

    def _paused(self, running: RunningNode, pause: NodePaused) -> None:
        self._reasons += pause.reasons
        for reason in pause.reasons:
            self._events.pause_requested(running, reason)

    def _record(self, running: RunningNode, result: NodeResult) -> None:
        if self.recorder is not None:
            updates = [msgspec.structs.replace(one, value=to_object(one.value)) for one in result.updates]
            self.recorder.record(Step(
                key=running.key, node_id=running.node.id, outputs=to_object(result.outputs), handle=result.handle,
                updates=updates, metadata=to_object(result.metadata), error=result.error,
            ))  # fmt: skip

    # what nodes say while they run

    def _streamed(self, running: RunningNode, name: str, text: str, is_final: bool) -> None:
        self._state.responses.chunk(running.node.id, name, text, is_final=is_final)

    def _reasoned(self, running: RunningNode, text: str, is_final: bool) -> None:
        if self._state.responses.may_reason(running.node.id):
            self._events.reasoned(running, text, is_final)


def _has_edge(graph: Graph, node: Node, handle: str) -> bool:
    return any(graph.edges[place].handle == handle for place in graph.outgoing[node.id])


def _as_node_error(error: BaseException) -> NodeError:
    if isinstance(error, NodeError):
        return error
    return NodeError(str(error) or type(error).__name__, kind=type(error).__name__)


def _default_of(default: Any) -> Any:
    """A default value in the type that it says it has; it was typed into a form."""
    value, kind = default.value, default.type
    if value is None:
        return zero_of(kind)
    if isinstance(value, str) and kind != "string":
        try:
            return decode_body(value)
        except BodyError:
            return value if value else zero_of(kind)
    return value
