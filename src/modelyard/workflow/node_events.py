"""Translates what happens to a graph's nodes into run events."""

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
from modelyard.workflow.secret_mask import SecretMask
from modelyard.workflow.storable import loggable, storable_text
from modelyard.workflow.variables import to_object

Emit = Callable[[AnyEvent], None]


@dataclass(slots=True, frozen=True)
class Scope:
    """Position of a graph within the run."""

    path: str = ""
    """Key prefix of the steps: `each[3]/` inside the fourth item of `each`."""
    iteration: str = ""
    loop: str = ""
    place: int | None = None
    """Index of the item or round, from 0; None for the root graph."""

    def inside(self, node: str, index: int, *, is_loop: bool) -> "Scope":
        """Return the scope of a container's inner graph for one item or round."""
        path = f"{self.path}{node}[{index}]/"
        # An inner graph is either in an iteration or in a loop; the other field is
        # empty.
        return Scope(path, "" if is_loop else node, node if is_loop else "", index)


def execution_id(run_id: str, key: str) -> str:
    """Return the id of a step's execution. It is derived, so that a repetition after a
    crash has the same id."""
    # Formatted as a UUID, because clients of the API expect one.
    return str(
        uuid.UUID(
            bytes=hashlib.blake2b(f"{run_id}\n{key}".encode(), digest_size=16).digest(),
            version=4,
        )
    )


class NodeEvents:
    """Emits the events of one graph's nodes. It makes no decisions."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        run: RunContext,
        scope: Scope,
        emit: Emit,
        mask: SecretMask,
    ) -> None:
        self._nodes = nodes
        self._run = run
        self._scope = scope
        self._emit = emit
        self._mask = mask
        # Container fields are the same for all events of this graph.
        self._inside = {
            "in_iteration_id": scope.iteration,
            "in_loop_id": scope.loop,
            "place": scope.place,
        }

    @property
    def is_outermost(self) -> bool:
        """Whether the graph is the run's own, not one inside a container."""
        return not self._scope.path

    def started(self, running: RunningNode) -> None:
        """Emit that a node started."""
        event = NodeRunStarted(
            **self._node_fields(running),
            at=running.started_at,
            predecessor_node_id=running.predecessor,
            index=running.index,
        )
        self._emit(event)

    def retried(self, running: RunningNode, error: NodeError, retry_index: int) -> None:
        """Emit that a node failed and is run again; `retry_index` counts from 1."""
        self._emit(
            NodeRunRetry(
                **self._node_fields(running),
                at=self._run.now(),
                error=self._mask.text(storable_text(str(error))),
                error_type=error.error_type,
                retry_index=retry_index,
                inputs=self._mask.value(to_object(loggable(error.inputs))),
                process_data=self._mask.value(to_object(loggable(error.process_data))),
                started_at=running.started_at,
                index=running.index,
            )
        )

    def succeeded(self, running: RunningNode, result: NodeResult) -> None:
        """Emit that a node succeeded."""
        self._emit(
            NodeRunSucceeded(
                **self._node_fields(running), **self._result_fields(running, result)
            )
        )

    def failed(self, running: RunningNode, result: NodeResult) -> None:
        """Emit that a node failed and with it the run."""
        self._emit(NodeRunFailed(**self._error_fields(running, result)))

    def failed_and_handled(self, running: RunningNode, result: NodeResult) -> None:
        """Emit that a node failed but the run continues."""
        self._emit(NodeRunException(**self._error_fields(running, result)))

    def _error_fields(self, running: RunningNode, result: NodeResult) -> dict[str, Any]:
        """Return the fields of an event about a failed node."""
        return {
            **self._node_fields(running),
            **self._result_fields(running, result),
            "error": result.error,
            "error_type": result.error_type,
        }

    def pause_requested(self, running: RunningNode, reason: dict[str, Any]) -> None:
        """Emit that a node paused the run."""
        self._emit(
            NodeRunPauseRequested(
                **self._node_fields(running), at=self._run.now(), reason=reason
            )
        )

    def reasoned(self, running: RunningNode, text: str, is_final: bool) -> None:
        """Emit a chunk of reasoning text."""
        event = NodeRunReasoningChunk(
            **self._node_fields(running),
            at=self._run.now(),
            chunk=text,
            is_final=is_final,
        )
        self._emit(event)

    def variable_updated(self, node: Node, update: Update) -> None:
        """Emit that a node wrote a variable."""
        # The update belongs to no execution, so it has no id.
        self._emit(
            NodeRunVariableUpdated(
                id="",
                node_id=node.id,
                node_type=node.type,
                at=self._run.now(),
                selector=update.selector,
                value=to_object(update.value),
                value_type=update.value_type,
            )
        )

    def text_chunk(
        self, node: str, selector: Sequence[str], text: str, is_final: bool
    ) -> None:
        """Emit a chunk of response text. The node may be one that is not in this graph."""
        source_node = self._nodes.get(node)
        # The id is computed because no execution object is at hand here.
        self._emit(
            NodeRunStreamChunk(
                id=execution_id(self._run.run_id, f"{self._scope.path}{node}"),
                node_id=node,
                node_type=source_node.type if source_node else "",
                at=self._run.now(),
                selector=list(selector),
                chunk=text,
                is_final=is_final,
                in_iteration_id=self._scope.iteration,
                in_loop_id=self._scope.loop,
                place=self._scope.place,
            )
        )

    def text_replaced(self, text: str, reason: str) -> None:
        """Emit that all response text so far is replaced by this text."""
        self._emit(TextReplaced(at=self._run.now(), text=text, reason=reason))

    def _node_fields(self, running: RunningNode) -> dict[str, Any]:
        """Return the fields that identify the node and its container."""
        return {**running.node.event_fields(running.id), **self._inside}

    def _result_fields(
        self, running: RunningNode, result: NodeResult
    ) -> dict[str, Any]:
        """Return the fields that describe a finished execution."""
        # Values are converted to JSON here: files become objects.
        return {
            "at": self._run.now(),
            # Outputs are what the app computed; what it shows of them is its choice.
            "inputs": self._mask.value(to_object(result.inputs)),
            "process_data": self._mask.value(to_object(result.process_data)),
            "outputs": to_object(result.outputs),
            "metadata": to_object(result.metadata),
            "handle": result.handle,
            "started_at": running.started_at,
            "index": running.index,
            "predecessor_node_id": running.predecessor,
        }
