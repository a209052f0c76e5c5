"""GraphEngine: one loop that owns all state of one graph's run. It knows nodes, and nothing of what they work with.

Everything that changes the pool, the frontier or the answers' text happens in `execute`, one thing after the other.
Nodes that need to wait run as tasks and hand in what they have; those that need not are run on the spot.

A run is repeatable: with a `Recorder` each finished node leaves its result under a key that does not change, and a run
that is taken up again applies what is recorded, in the order in which it happened, before anything is run.
"""

import asyncio
import hashlib
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Protocol

import msgspec

from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import ModelyardError
from modelyard.workflow.events import (
    AnyEvent,
    NodeRunException,
    NodeRunFailed,
    NodeRunPauseRequested,
    NodeRunReasoningChunk,
    NodeRunRetry,
    NodeRunStarted,
    NodeRunStreamChunk,
    NodeRunSucceeded,
    NodeRunVariableUpdated,
    TextReplaced,
)
from modelyard.workflow.graph import FAILED, SOURCE, SUCCEEDED, Frontier, Graph
from modelyard.workflow.node import Effect, Node, NodeContext, NodeError, NodeKind, NodePaused, NodeResult, RunContext
from modelyard.workflow.node import Update as Update
from modelyard.workflow.streaming import ResponseStream
from modelyard.workflow.variables import VariablePool, WorkflowError, from_object, to_object, zero_of


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


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node that has run: what a run that is taken up again needs of it."""

    key: str
    node_id: str
    outputs: dict[str, Any] = {}
    handle: str = SOURCE
    updates: list[Update] = []
    metadata: dict[str, Any] = {}
    error: str = ""
    """Where it failed and its strategy let the run go on."""


class Recorder(Protocol):
    """Keeps what happened. The engine hands it steps and is handed them back."""

    def steps(self, path: str) -> Sequence[Step]:
        """Those of one graph's run that are over, in order."""
        ...

    def was_started(self, key: str) -> bool:
        """Whether a step with effects was begun before, and nobody knows whether it was finished."""
        ...

    async def about_to(self, key: str) -> None:
        """A step with effects begins: done when all that was recorded, this included, is safe."""
        ...

    def record(self, step: Step) -> None: ...

    def said(self) -> str | None:
        """The text that was shown before; None where this is the run's beginning."""
        ...


Emit = Callable[[AnyEvent], None]


@dataclass(slots=True, frozen=True)
class Scope:
    """Where in the run a graph stands."""

    path: str = ""
    """`each[3]/` for what stands in the fourth item of `each`."""
    iteration: str = ""
    loop: str = ""
    place: int | None = None
    """Which item or round."""

    def inside(self, node: str, place: int, *, is_loop: bool) -> "Scope":
        path = f"{self.path}{node}[{place}]/"
        return Scope(path, "" if is_loop else node, node if is_loop else "", place)


@dataclass(slots=True)
class _Running:
    node: Node
    key: str
    id: str
    started_at: float
    index: int
    predecessor: str
    task: "asyncio.Task[None] | None" = None


def execution_id(run_id: str, key: str) -> str:
    """The same for the same step of the same run."""
    return str(uuid.UUID(bytes=hashlib.blake2b(f"{run_id}\n{key}".encode(), digest_size=16).digest(), version=4))


class GraphEngine:
    """Runs a graph once. `pool` holds what was given to it, and in the end what came of it."""

    def __init__(
        self,
        graph: Graph,
        pool: VariablePool,
        run: RunContext,
        emit: Emit,
        *,
        scope: Scope = Scope(),
        recorder: Recorder | None = None,
        parent: "GraphEngine | None" = None,
    ) -> None:
        self.graph = graph
        self.pool = pool
        self.run = run
        self.emit = emit
        self.scope = scope
        self.recorder = recorder
        self.outputs: dict[str, Any] = {}
        self.steps = 0
        self._parent = parent
        self._frontier = Frontier(graph)
        self._responses = ResponseStream(graph, pool, self._said)
        self._ready: deque[tuple[str, str]] = deque()
        """(node, the node before it)."""
        self._running: dict[str, _Running] = {}
        self._done: deque[tuple[_Running, NodeResult | BaseException]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._command: Command | None = None
        self._why = ""
        self._failure: Outcome | None = None
        self._reasons: list[dict[str, Any]] = []
        self._inner: set[GraphEngine] = set()
        self._is_replaying = False
        self._retold: list[str] | None = None
        """While what was said before is gone through again: its text, which is not said twice."""

    # from outside

    def command(self, command: Command, why: str = "") -> None:
        """Stop at once, or pause when what runs is done. What is inside follows."""
        if self._command is Command.STOP:
            return
        self._command, self._why = command, why
        for engine in list(self._inner):
            engine.command(command, why)
        if command is Command.STOP:
            for running in list(self._running.values()):
                if running.task is not None:
                    running.task.cancel()
        self._signal()

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
        return self._frontier.is_finished(node)

    # the loop

    async def execute(self) -> Outcome:
        """Run the graph to its end, its pause, or its failure. Cancelling stops all nodes."""
        self._ready.extend((one, "") for one in self._frontier.start())
        try:
            self._begin()
            while True:
                self._start_ready()
                while self._done:
                    running, result = self._done.popleft()
                    self._take(running, result)
                if self._failure is not None or self._command is Command.STOP:
                    break
                if self._ready and self._command is None:
                    continue
                if not self._running:
                    break
                await self._sleep()
        finally:
            await self._end_tasks()
        return self._outcome()

    async def _sleep(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _signal(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _end_tasks(self) -> None:
        tasks = [one.task for one in self._running.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()

    def _outcome(self) -> Outcome:
        if self._failure is not None:
            return self._failure
        if self._command is Command.STOP:
            return Outcome(status=Status.STOPPED, outputs=self.outputs, error=self._why)
        if self._reasons or (self._command is Command.PAUSE and self._ready):
            reasons = self._reasons or [{"TYPE": "scheduled_pause", "message": self._why or "paused on request"}]
            return Outcome(status=Status.PAUSED, outputs=self.outputs, reasons=reasons)
        is_partial = self._parent is None and self.run.exceptions > 0
        return Outcome(status=Status.PARTIAL if is_partial else Status.SUCCEEDED, outputs=self.outputs)

    # what was recorded

    def _begin(self) -> None:
        """Start from the root, or from where a run before this one came to."""
        before = self.recorder.said() if self.recorder is not None and self._parent is None else None
        if before is None:
            self._responses.begin()
            self._replay()
            return
        said = self._retold = list[str]()
        try:
            self._responses.begin()
            self._replay()
        finally:
            self._retold = None
        if (text := "".join(said)) != before:
            self.emit(TextReplaced(at=self.run.now(), text=text))

    def _replay(self) -> None:
        steps = self.recorder.steps(self.scope.path) if self.recorder is not None else ()
        self._is_replaying = True
        try:
            for step in steps:
                self._apply(step)
        finally:
            self._is_replaying = False

    def _apply(self, step: Step) -> None:
        place = next((one for one in self._ready if one[0] == step.node_id), None)
        if place is None:
            raise WorkflowError(f"what was recorded of node {step.node_id!r} does not fit the graph: it was changed")
        self._ready.remove(place)
        node = self.graph.nodes[step.node_id]
        self.steps += 1
        self.run.steps += 1
        result = NodeResult(
            outputs=from_object(step.outputs),
            handle=step.handle,
            updates=[msgspec.structs.replace(one, value=from_object(one.value)) for one in step.updates],
            metadata=step.metadata,
            error=step.error,
        )
        self._settle(node, result)

    # starting nodes

    def _start_ready(self) -> None:
        while self._ready and self._command is None and self._failure is None:
            name, predecessor = self._ready.popleft()
            self._start(self.graph.nodes[name], predecessor)

    def _start(self, node: Node, predecessor: str) -> None:
        run = self.run
        run.steps += 1
        self.steps += 1
        if run.steps > run.limits.steps:
            reason = f"Maximum execution steps exceeded: {run.steps} > {run.limits.steps}"
            self._failure = Outcome(status=Status.STOPPED, outputs=self.outputs, error=reason)
            return
        key = f"{self.scope.path}{node.id}"
        running = _Running(node, key, execution_id(run.run_id, key), run.now(), run.steps, predecessor)
        self.emit(NodeRunStarted(**self._about(running), at=running.started_at, predecessor_node_id=predecessor,
                                 index=running.index))  # fmt: skip
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
        running.task = asyncio.ensure_future(self._work(running, context))
        self._running[node.id] = running

    def _context(self, running: _Running) -> NodeContext:
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

    async def _work(self, running: _Running, context: NodeContext) -> None:
        result: NodeResult | BaseException
        try:
            result = await self._attempts(running, context)
        except asyncio.CancelledError as error:
            result = error
        except (ModelyardError, NodePaused) as error:
            result = error
        except Exception as error:  # noqa: BLE001  whatever a node's libraries raise ends that node alone
            result = NodeError(f"{type(error).__name__}: {error}", kind=type(error).__name__)
        self._done.append((running, result))
        self._signal()

    async def _attempts(self, running: _Running, context: NodeContext) -> NodeResult:
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
                failed = _as_node_error(error)
                self.emit(NodeRunRetry(
                    **self._about(running), at=self.run.now(), error=str(failed), error_type=failed.kind,
                    retry_index=turn + 1, inputs=to_object(failed.inputs), process_data=to_object(failed.process_data),
                    started_at=running.started_at, index=running.index,
                ))  # fmt: skip
        raise AssertionError("unreachable")

    # what nodes hand in

    def _take(self, running: _Running, result: NodeResult | BaseException) -> None:
        self._running.pop(running.node.id, None)
        match result:
            case NodeResult():
                self._succeeded(running, result)
            case NodePaused():
                self._paused(running, result)
            case asyncio.CancelledError():
                pass
            case _:
                self._failed(running, _as_node_error(result))

    def _succeeded(self, running: _Running, result: NodeResult) -> None:
        node = running.node
        if node.has_fail_branch and result.handle == SOURCE and not self._has_edge(node, SOURCE):
            result.handle = SUCCEEDED
        try:
            self._settle(node, result)
        except WorkflowError as error:
            self._failed(running, _as_node_error(error))
            return
        self._record(running, result)
        self.emit(NodeRunSucceeded(**self._about(running), **self._account(running, result)))

    def _has_edge(self, node: Node, handle: str) -> bool:
        return any(self.graph.edges[place].handle == handle for place in self.graph.outgoing[node.id])

    def _failed(self, running: _Running, error: NodeError) -> None:
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
                self.emit(NodeRunFailed(
                    **self._about(running), **self._account(running, result), error=str(error), error_type=error.kind,
                ))  # fmt: skip
                if self._failure is None:
                    self._failure = Outcome(status=Status.FAILED, error=str(error), error_type=error.kind)
                return
        self.run.exceptions += 1
        self._settle(node, result)
        self._record(running, result)
        self.emit(NodeRunException(
            **self._about(running), **self._account(running, result), error=str(error), error_type=error.kind,
        ))  # fmt: skip

    def _paused(self, running: _Running, pause: NodePaused) -> None:
        self._reasons += pause.reasons
        for reason in pause.reasons:
            self.emit(NodeRunPauseRequested(**self._about(running), at=self.run.now(), reason=reason))

    def _settle(self, node: Node, result: NodeResult) -> None:
        """Outputs into the pool, edges taken and skipped, answers' text moved on. Raises WorkflowError."""
        self.pool.put_all(node.id, result.outputs)
        for update in result.updates:
            self.pool.put(update.selector[0], update.selector[1], update.value)
            if not self._is_replaying:
                self.emit(NodeRunVariableUpdated(
                    id="", node_id=node.id, node_type=node.type, at=self.run.now(), selector=update.selector,
                    value=to_object(update.value), value_type=update.value_type,
                ))  # fmt: skip
        if node.kind is not NodeKind.CONTAINER or self._is_replaying:  # what runs inside counts for itself
            self.run.tokens += int(result.metadata.get("total_tokens") or 0)
            self.run.price += float(result.metadata.get("total_price") or 0)
        if self._is_replaying and result.error:
            self.run.exceptions += 1
        if node.kind is NodeKind.RESPONSE:
            self._respond(result.outputs)
        handle = result.handle if node.branches else None
        progress = self._frontier.finish(node.id, handle)
        self._responses.finished(node.id, progress.taken, progress.skipped)
        self._ready.extend((one, node.id) for one in progress.ready)

    def _respond(self, outputs: Mapping[str, Any]) -> None:
        """Answers are strung together; other outputs take the place of what was there."""
        for name, value in outputs.items():
            before = self.outputs.get(name)
            if name == "answer" and isinstance(before, str) and isinstance(value, str):
                self.outputs[name] = before + value
            else:
                self.outputs[name] = value

    def _record(self, running: _Running, result: NodeResult) -> None:
        if self.recorder is not None:
            updates = [msgspec.structs.replace(one, value=to_object(one.value)) for one in result.updates]
            self.recorder.record(Step(
                key=running.key, node_id=running.node.id, outputs=to_object(result.outputs), handle=result.handle,
                updates=updates, metadata=to_object(result.metadata), error=result.error,
            ))  # fmt: skip

    # events

    def _about(self, running: _Running) -> dict[str, Any]:
        return {
            **running.node.about(running.id),
            "in_iteration_id": self.scope.iteration, "in_loop_id": self.scope.loop, "place": self.scope.place,
        }  # fmt: skip

    def _account(self, running: _Running, result: NodeResult) -> dict[str, Any]:
        return {
            "at": self.run.now(), "inputs": to_object(result.inputs), "process_data": to_object(result.process_data),
            "outputs": to_object(result.outputs), "metadata": to_object(result.metadata), "handle": result.handle,
            "started_at": running.started_at, "index": running.index, "predecessor_node_id": running.predecessor,
        }  # fmt: skip

    def _streamed(self, running: _Running, name: str, text: str, is_final: bool) -> None:
        self._responses.chunk(running.node.id, name, text, is_final=is_final)

    def _reasoned(self, running: _Running, text: str, is_final: bool) -> None:
        if self._responses.may_reason(running.node.id):
            self.emit(NodeRunReasoningChunk(**self._about(running), at=self.run.now(), chunk=text, is_final=is_final))

    def _said(self, node: str, selector: Sequence[str], text: str, is_final: bool) -> None:
        if self._retold is not None:
            self._retold.append(text)
            return
        found = self.graph.nodes.get(node)
        self.emit(NodeRunStreamChunk(
            id=execution_id(self.run.run_id, f"{self.scope.path}{node}"), node_id=node,
            node_type=found.type if found else "", at=self.run.now(), selector=list(selector), chunk=text,
            is_final=is_final, in_iteration_id=self.scope.iteration, in_loop_id=self.scope.loop,
            place=self.scope.place,
        ))  # fmt: skip


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
