"""GraphEngine: a single loop that owns the state of one graph's run. It knows nothing
of what the nodes do.

Every change of the variable pool, the frontier and the answer text happens in
`execute`, one after the other. Nodes that wait run as tasks and submit their results;
quick nodes run inline.

A run is repeatable: with a `Recorder` each finished node stores its result under a
stable key. A resumed run first applies the recorded results in their original order.
"""

import asyncio
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import ModelyardError
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.graph import FAILED, SOURCE, SUCCEEDED, Graph
from modelyard.workflow.graph_state import GraphState
from modelyard.workflow.node import (
    Effect,
    Node,
    NodeContext,
    NodeError,
    NodePaused,
    NodeResult,
    RunContext,
)
from modelyard.workflow.node import Update as Update
from modelyard.workflow.node_events import Emit, NodeEvents, Scope, execution_id
from modelyard.workflow.recorder import Recorder as Recorder
from modelyard.workflow.recorder import Step as Step
from modelyard.workflow.running import RunningNode, RunningNodes
from modelyard.workflow.secret_mask import SecretMask
from modelyard.workflow.storable import (
    loggable,
    loggable_event,
    storable,
    storable_text,
    storable_values,
)
from modelyard.workflow.variables import (
    VariablePool,
    WorkflowError,
    default_for_type,
    to_object,
)

_OUTERMOST = Scope()


class Status(StrEnum):
    """The status of a workflow run."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial-succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    PAUSED = "paused"

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self in (Status.SUCCEEDED, Status.PARTIAL, Status.FAILED, Status.STOPPED)


class Command(StrEnum):
    """A command to a running workflow."""

    STOP = "stop"
    PAUSE = "pause"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The result of a run."""

    status: Status
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str = ""
    error_type: str = ""
    reasons: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The reasons of a pause."""


class GraphEngine:
    """Runs a graph once. `pool` holds the inputs at the start and all results at the
    end."""

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
        # Inner graphs have the secrets of the run, not of their own.
        self._mask = SecretMask.of(pool) if parent is None else parent._mask
        self._events = NodeEvents(graph.nodes, run, scope, emit, self._mask)
        self._state = GraphState(graph, pool, run, self._events)
        self._running = RunningNodes()
        self._inner_engines: set[GraphEngine] = set()
        self._command: Command | None = None
        self._command_reason = ""
        self._failure: Outcome | None = None
        self._reasons: list[dict[str, Any]] = []

    # Called from outside

    def command(self, command: Command, reason: str = "") -> None:
        """Stop the run at once, or pause it when the running nodes are done. Inner
        engines follow."""
        # A stop is final; a pause cannot replace it.
        if self._command is Command.STOP:
            return
        self._command, self._command_reason = command, reason
        for engine in list(self._inner_engines):
            engine.command(command, reason)
        if command is Command.STOP:
            self._running.cancel()
        self._running.wake()

    def create_inner(
        self,
        graph: Graph,
        pool: VariablePool,
        node: str,
        index: int,
        *,
        is_loop: bool = False,
    ) -> "GraphEngine":
        """Return an engine for one item of an iteration or one round of a loop. It is
        run by `run_inner`."""
        # Each round has a path of its own, under which its steps are recorded.
        scope = self.scope.inside(node, index, is_loop=is_loop)
        return GraphEngine(
            graph,
            pool,
            self.run,
            self.emit,
            scope=scope,
            recorder=self.recorder,
            parent=self,
        )

    async def run_inner(self, engine: "GraphEngine") -> Outcome:
        """Run an inner engine as part of this run: it is stopped and paused together
        with it."""
        self._inner_engines.add(engine)
        try:
            # The command may have arrived before the inner engine was registered.
            if self._command is not None:
                engine.command(self._command, self._command_reason)
            return await engine.execute()
        finally:
            self._inner_engines.discard(engine)
            self.steps += engine.steps

    def has_run(self, node: str) -> bool:
        """Return whether a node has finished in this run."""
        return self._state.has_run(node)

    # The loop

    async def execute(self) -> Outcome:
        """Run the graph until it ends, pauses or fails. Cancelling it stops all nodes."""
        try:
            self._begin()
            while True:
                self._start_ready()
                for running, result in self._running.take_results():
                    self._handle_result(running, result)
                if self._failure is not None or self._command is Command.STOP:
                    break
                # Results may have made further nodes ready; start them before waiting.
                if self._state.ready and self._command is None:
                    continue
                # Nothing is ready and nothing runs: the graph has ended or is paused.
                if not self._running:
                    break
                await self._running.wait()
        finally:
            await self._running.aclose()
        return self._outcome()

    def _begin(self) -> None:
        """Start at the root, or restore the state of an interrupted run."""
        if self.recorder is None:
            self._state.begin()
            return
        steps = self.recorder.steps(self.scope.path)
        # Only the outermost engine writes the answer text.
        emitted_text = self.recorder.shown_text() if self._parent is None else None
        self._state.begin(steps, emitted_text)
        self.steps += len(steps)

    def _outcome(self) -> Outcome:
        """Return the result of a run that has come to rest.

        A failure counts first, then a stop, then a pause. The outermost run is
        partially successful if nodes handled an error.
        """
        outputs = self._state.outputs
        if self._failure is not None:
            return self._failure
        if self._command is Command.STOP:
            return Outcome(
                status=Status.STOPPED, outputs=outputs, error=self._command_reason
            )
        if self._reasons or (self._command is Command.PAUSE and self._state.ready):
            reasons = self._reasons or [
                {
                    "TYPE": "scheduled_pause",
                    "message": self._command_reason or "Paused on request",
                }
            ]
            return Outcome(status=Status.PAUSED, outputs=outputs, reasons=reasons)
        # Only the outermost run can be partially successful: an error that a node
        # handled counts for the complete run.
        is_partial = self._parent is None and self.run.exceptions > 0
        return Outcome(
            status=Status.PARTIAL if is_partial else Status.SUCCEEDED, outputs=outputs
        )

    # Starting nodes

    def _start_ready(self) -> None:
        """Start all nodes that are ready, until a command or a failure ends the run."""
        ready = self._state.ready
        while ready and self._command is None and self._failure is None:
            name, predecessor = ready.popleft()
            self._start(self.graph.nodes[name], predecessor)

    def _start(self, node: Node, predecessor: str) -> None:
        """Start a node: a quick one at once, any other as a task.

        If the run's step limit is exceeded, the run is stopped instead. `predecessor`
        is the node that led here.
        """
        run = self.run
        run.steps += 1
        self.steps += 1
        # The limit covers all engines of the run, so that endless loops end.
        if run.steps > run.limits.steps:
            reason = (
                f"Maximum execution steps exceeded: {run.steps} > {run.limits.steps}"
            )
            self._failure = Outcome(
                status=Status.STOPPED, outputs=self._state.outputs, error=reason
            )
            return
        # The key is the same when the run is repeated, hence the execution id is too.
        key = f"{self.scope.path}{node.id}"
        running = RunningNode(
            node, key, execution_id(run.run_id, key), run.now(), run.steps, predecessor
        )
        self._events.started(running)
        context = self._node_context(running)
        # A quick node runs inline and avoids the cost of a task; None means that it has
        # to wait after all.
        if node.is_quick:
            result: NodeResult | BaseException | None
            try:
                result = node.compute(context)
            # An exception of a node's libraries ends that node only.
            except Exception as error:  # noqa: BLE001
                result = error
            if result is not None:
                self._handle_result(running, result)
                return
        self._running.begin(running, self._run_node(running, context))

    def _node_context(self, running: RunningNode) -> NodeContext:
        """Return the context in which a node runs, with its idempotency key."""
        return NodeContext(
            run=self.run,
            pool=self.pool,
            key=running.key,
            execution_id=running.id,
            idempotency_key=running.id,
            emit=self._on_event,
            stream=partial(self._on_stream, running),
            reason=partial(self._on_reasoning, running),
            engine=self,
        )

    async def _run_node(self, running: RunningNode, context: NodeContext) -> None:
        """Run a node as a task and hand its result or its exception to the loop.

        Never raises; an exception of the node's libraries becomes a NodeError.
        """
        result: NodeResult | BaseException
        try:
            result = await self._run_with_retries(running, context)
        # An exception of a node's libraries ends that node only.
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001
            result = error
        # A cancelled node hands in its cancellation, so that the loop learns of its
        # end.
        self._running.deliver(running, result)

    async def _run_with_retries(
        self, running: RunningNode, context: NodeContext
    ) -> NodeResult:
        """Run a node, repeating it as configured if it fails.

        A node with side effects is recorded before it starts. Raises NodeError if such
        a node was interrupted in an earlier process and must not be repeated, or the
        error of the last attempt.
        """
        node = running.node
        if self.recorder is not None and node.effect is not Effect.NONE:
            await self._mark_started(running, self.recorder)
        retry = node.data.retry_config
        turns = int(retry.max_retries) if retry.retry_enabled else 0
        for attempt in range(turns + 1):
            # An attempt may have failed because this process was frozen or cut off, and
            # another one has taken over the run.
            if self.recorder is not None:
                await self.recorder.confirm()
            try:
                return await node.run(context)
            # Failures of services only: a fault in a node's own code would just repeat
            # itself.
            except (ModelyardError, OSError) as error:
                if attempt == turns:
                    raise
                # The interval is in milliseconds.
                await self.run.sleep(max(0.0, float(retry.retry_interval)) / 1000)
                self._events.retried(running, _as_node_error(error), attempt + 1)
                # The next attempt streams its text from the beginning.
                self._state.responses.restart(node.id)
        raise AssertionError("Unreachable")

    @staticmethod
    async def _mark_started(running: RunningNode, recorder: Recorder) -> None:
        """Record that a node with side effects starts, so that a resumed run knows of
        it. Raises NodeError if it has started before and must not be repeated."""
        node = running.node
        # It may have been interrupted after the effect: repeating it is the app
        # author's decision.
        if node.data.on_resume == "fail" and recorder.was_started(running.key):
            raise NodeError(
                f"Node {node.title!r} was interrupted and may have taken effect; it is"
                " not repeated",
                error_type="InterruptedStep",
            )
        await recorder.mark_started(running.key)

    # Results of nodes

    def _handle_result(
        self, running: RunningNode, result: NodeResult | BaseException
    ) -> None:
        """Apply a node's result: success, pause or error; a cancellation is ignored."""
        match result:
            case NodeResult():
                self._node_succeeded(running, result)
            case NodePaused():
                self._node_paused(running, result)
            case asyncio.CancelledError():
                pass
            case _:
                self._node_failed(running, _as_node_error(result))

    def _node_succeeded(self, running: RunningNode, result: NodeResult) -> None:
        """Store a node's outputs, record the step and make its followers ready.

        If the outputs cannot be stored, the node has failed.
        """
        node = running.node
        try:
            result = _storable_result(result)
        except WorkflowError as error:
            self._node_failed(running, _as_node_error(error))
            return
        # With a fail branch, success may be connected by its own handle.
        if (
            node.has_fail_branch
            and result.handle == SOURCE
            and not _has_edge(self.graph, node, SOURCE)
        ):
            result.handle = SUCCEEDED
        try:
            self._state.settle(node, result)
        except WorkflowError as error:
            self._node_failed(running, _as_node_error(error))
            return
        self._record(running, result)
        self._events.succeeded(running, result)

    def _node_failed(self, running: RunningNode, error: NodeError) -> None:
        """Handle a node's error by its strategy.

        With a fail branch or default values the run goes on, with the outputs
        `error_message` and `error_type`. Otherwise the run fails; the first failure is
        its result.
        """
        node = running.node
        message = self._mask.text(storable_text(str(error)))
        error_type = storable_text(error.error_type)
        result = NodeResult(
            outputs=loggable(error.outputs),
            inputs=loggable(error.inputs),
            process_data=loggable(error.process_data),
            metadata=loggable(error.metadata),
            error=message,
            error_type=error_type,
        )
        match node.data.error_strategy:
            case "fail-branch":
                result.handle = FAILED
            case "default-value":
                # The node's own outputs are what the defaults replace.
                result.outputs |= _defaults_of(node)
            case _:
                result.outputs |= _error_outputs(result)
                self._events.failed(running, result)
                # The first failure counts; other nodes may fail while they are stopped.
                if self._failure is None:
                    self._failure = Outcome(
                        status=Status.FAILED, error=message, error_type=error_type
                    )
                return
        # The error fields are added last, so that defaults cannot hide them.
        result.outputs |= _error_outputs(result)
        self.run.exceptions += 1
        # What the node had streamed is not the output that it has now.
        self._state.responses.restart(node.id)
        self._state.settle(node, result)
        self._record(running, result)
        self._events.failed_and_handled(running, result)

    def _node_paused(self, running: RunningNode, pause: NodePaused) -> None:
        """Record that a node waits, and emit its reasons."""
        reasons = loggable(pause.reasons)
        self._reasons += reasons
        for reason in reasons:
            self._events.pause_requested(running, reason)

    def _record(self, running: RunningNode, result: NodeResult) -> None:
        """Record a finished node's step, for a resumed run, if there is a recorder."""
        if self.recorder is not None:
            updates = [
                msgspec.structs.replace(update, value=to_object(update.value))
                for update in result.updates
            ]
            self.recorder.record(
                Step(
                    key=running.key,
                    node_id=running.node.id,
                    outputs=to_object(result.outputs),
                    handle=result.handle,
                    updates=updates,
                    metadata=to_object(result.metadata),
                    error=result.error,
                )
            )

    # Output of running nodes

    def _on_stream(
        self, running: RunningNode, name: str, text: str, is_final: bool
    ) -> None:
        """Pass a piece of a node's output to the answers that show it."""
        self._state.responses.chunk(
            running.node.id, name, storable_text(text), is_final=is_final
        )

    def _on_reasoning(self, running: RunningNode, text: str, is_final: bool) -> None:
        """Emit a piece of reasoning, if an answer shows the node."""
        if self._state.responses.can_emit_reasoning(running.node.id):
            self._events.reasoned(running, storable_text(text), is_final)

    def _on_event(self, event: AnyEvent) -> None:
        """Emit an event that a node made itself."""
        self.emit(self._mask.event(loggable_event(event)))


def _has_edge(graph: Graph, node: Node, handle: str) -> bool:
    """Return whether a node has an outgoing edge at a handle."""
    return any(
        graph.edges[edge_index].handle == handle
        for edge_index in graph.outgoing[node.id]
    )


def _as_node_error(error: BaseException) -> NodeError:
    """Return an exception as a NodeError; one that already is stays the same."""
    if isinstance(error, NodeError):
        return error
    error_type = type(error).__name__
    message = str(error) or error_type
    # The message of a library's exception says little without its type.
    if not isinstance(error, ModelyardError) and message != error_type:
        message = f"{error_type}: {message}"
    return NodeError(message, error_type=error_type)


def _storable_result(result: NodeResult) -> NodeResult:
    """Return a result whose values can be stored; what is only logged never fails.
    Raises UnstorableError."""
    return replace(
        result,
        outputs=storable_values(result.outputs),
        inputs=loggable(result.inputs),
        process_data=loggable(result.process_data),
        metadata=loggable(result.metadata),
        updates=[_storable_update(update) for update in result.updates],
    )


def _storable_update(update: Update) -> Update:
    """Return an update whose value can be stored. Raises UnstorableError."""
    value = storable(update.value, ".".join(update.selector))
    return msgspec.structs.replace(update, value=value)


def _error_outputs(result: NodeResult) -> dict[str, Any]:
    """Return the outputs that describe the error of a failed node."""
    return {"error_message": result.error, "error_type": result.error_type}


def _defaults_of(node: Node) -> dict[str, Any]:
    """Return the outputs that a node has instead of its own if it fails."""
    return {
        default.key: loggable(_typed_default(default))
        for default in node.data.default_value
    }


def _typed_default(default: Any) -> Any:
    """Return a default value in its declared type; it was entered as text in a form."""
    value, value_type = default.value, default.type
    if value is None:
        return default_for_type(value_type)
    if isinstance(value, str) and value_type != "string":
        try:
            return decode_body(value)
        except BodyError:
            return value if value else default_for_type(value_type)
    return value
