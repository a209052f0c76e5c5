"""What happens to a graph's nodes, put into the words of a run's events."""

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from modelyard.workflow.node import Node, NodeError, NodeResult, RunContext, Update
from modelyard.workflow.running import RunningNode
from modelyard.workflow.variables import to_object

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


def execution_id(run_id: str, key: str) -> str:
    """The same for the same step of the same run."""
    return str(uuid.UUID(bytes=hashlib.blake2b(f"{run_id}\n{key}".encode(), digest_size=16).digest(), version=4))


class NodeEvents:
    """Emits what happens to the nodes of one graph. It decides nothing."""

    def __init__(self, nodes: Mapping[str, Node], run: RunContext, scope: Scope, emit: Emit) -> None:
        self._nodes = nodes
        self._run = run
        self._scope = scope
        self._emit = emit
        self._inside = {"in_iteration_id": scope.iteration, "in_loop_id": scope.loop, "place": scope.place}

    def started(self, running: RunningNode) -> None:
        self._emit(NodeRunStarted(
            **self._about(running), at=running.started_at, predecessor_node_id=running.predecessor,
            index=running.index,
        ))  # fmt: skip

    def retried(self, running: RunningNode, error: NodeError, turn: int) -> None:
        """It failed and is run again, for the `turn`th time."""
        self._emit(NodeRunRetry(
            **self._about(running), at=self._run.now(), error=str(error), error_type=error.kind, retry_index=turn,
            inputs=to_object(error.inputs), process_data=to_object(error.process_data),
            started_at=running.started_at, index=running.index,
        ))  # fmt: skip

    def succeeded(self, running: RunningNode, result: NodeResult) -> None:
        self._emit(NodeRunSucceeded(**self._about(running), **self._account(running, result)))

    def failed(self, running: RunningNode, result: NodeResult) -> None:
        """And the run with it."""
        self._emit(NodeRunFailed(
            **self._about(running), **self._account(running, result), error=result.error,
            error_type=result.error_type,
        ))  # fmt: skip

    def excepted(self, running: RunningNode, result: NodeResult) -> None:
        """It failed, and the run goes on."""
        self._emit(NodeRunException(
            **self._about(running), **self._account(running, result), error=result.error,
            error_type=result.error_type,
        ))  # fmt: skip

    def pause_requested(self, running: RunningNode, reason: dict[str, Any]) -> None:
        self._emit(NodeRunPauseRequested(**self._about(running), at=self._run.now(), reason=reason))

    def reasoned(self, running: RunningNode, text: str, is_final: bool) -> None:
        self._emit(NodeRunReasoningChunk(**self._about(running), at=self._run.now(), chunk=text, is_final=is_final))

    def variable_updated(self, node: Node, update: Update) -> None:
        self._emit(NodeRunVariableUpdated(
            id="", node_id=node.id, node_type=node.type, at=self._run.now(), selector=update.selector,
            value=to_object(update.value), value_type=update.value_type,
        ))  # fmt: skip

    def said(self, node: str, selector: Sequence[str], text: str, is_final: bool) -> None:
        """A piece of an answer."""
        known = self._nodes.get(node)
        self._emit(NodeRunStreamChunk(
            id=execution_id(self._run.run_id, f"{self._scope.path}{node}"), node_id=node,
            node_type=known.type if known else "", at=self._run.now(), selector=list(selector), chunk=text,
            is_final=is_final, in_iteration_id=self._scope.iteration, in_loop_id=self._scope.loop,
            place=self._scope.place,
        ))  # fmt: skip

    def replaced(self, text: str) -> None:
        """All that was said before is this text now."""
        self._emit(TextReplaced(at=self._run.now(), text=text))

    def _about(self, running: RunningNode) -> dict[str, Any]:
        return {**running.node.about(running.id), **self._inside}

    def _account(self, running: RunningNode, result: NodeResult) -> dict[str, Any]:
        return {
            "at": self._run.now(), "inputs": to_object(result.inputs), "process_data": to_object(result.process_data),
            "outputs": to_object(result.outputs), "metadata": to_object(result.metadata), "handle": result.handle,
            "started_at": running.started_at, "index": running.index, "predecessor_node_id": running.predecessor,
        }  # fmt: skip
