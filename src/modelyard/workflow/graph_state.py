"""The state of a graph's run: variables, edges, answers, outputs and ready nodes.

A state can be rebuilt: replaying the recorded steps of the finished nodes in their
order leads to the same state.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.workflow.graph import Frontier, Graph
from modelyard.workflow.node import Node, NodeKind, NodeResult, RunContext
from modelyard.workflow.node_events import NodeEvents
from modelyard.workflow.recorder import Step
from modelyard.workflow.streaming import ResponseStream
from modelyard.workflow.variables import VariablePool, WorkflowError, from_object


class GraphState:
    """State of one graph's run. It changes only when a node finishes."""

    def __init__(
        self, graph: Graph, pool: VariablePool, run: RunContext, events: NodeEvents
    ) -> None:
        self.outputs: dict[str, Any] = {}
        self._graph = graph
        self._pool = pool
        self._run = run
        self._events = events
        self._frontier = Frontier(graph)
        # Text inside a container is a part of the response that nothing marks, so it
        # cannot be replaced.
        replace = self._on_replacement if events.is_outermost else None
        self.responses = ResponseStream(graph, pool, self._on_text, replace)
        self.ready: deque[tuple[str, str]] = deque()
        """(node id, id of the node before it)."""
        self._replayed_chunks: list[str] | None = None
        """Text chunks of the replayed steps; not None only during a replay, when
        nothing is emitted a second time."""

    def begin(self, steps: Sequence[Step] = (), shown_text: str | None = None) -> None:
        """Start at the root and replay `steps`, the recorded steps of an earlier
        process.

        `shown` is the text that clients have received; None if there is nothing to
        compare with. Raises WorkflowError if the steps do not fit the graph.
        """
        self.ready.extend((node, "") for node in self._frontier.start())
        # Without a text to compare with, the steps are only replayed.
        if shown_text is None:
            self._replay(steps)
            return
        replayed_chunks = self._replayed_chunks = list[str]()
        # While the list is set, `_on_text` collects text instead of emitting it.
        try:
            self._replay(steps)
        finally:
            self._replayed_chunks = None
        # The replay produced another text than clients have received, so they must
        # replace it.
        text = "".join(replayed_chunks)
        if text != shown_text:
            self._events.text_replaced(text, "resumption")

    def has_run(self, node: str) -> bool:
        """Return whether the node has finished."""
        return self._frontier.is_finished(node)

    def settle(self, node: Node, result: NodeResult) -> None:
        """Apply the result of a node that ran now: variables, edges and response text.
        Raises WorkflowError."""
        self._pool.put_all(node.id, result.outputs)
        for update in result.updates:
            self._pool.put(
                update.selector[0],
                update.selector[1],
                update.value,
            )
            self._events.variable_updated(node, update)
        # The steps inside a container are counted by their own graph.
        if node.kind is not NodeKind.CONTAINER:
            self._count(result)
        self._advance(node, result)

    # Replay

    def _replay(self, steps: Sequence[Step]) -> None:
        """Replay recorded steps in order."""
        self.responses.begin()
        for step in steps:
            self._replay_step(step)

    def _replay_step(self, step: Step) -> None:
        """Replay one recorded step: like `settle`, but no node events are emitted and a
        container counts as a whole."""
        ready_node = next(
            (candidate for candidate in self.ready if candidate[0] == step.node_id),
            None,
        )
        # The step must be one that is ready now; otherwise the app was edited since it
        # was recorded.
        if ready_node is None:
            raise WorkflowError(
                f"The recorded step of node {step.node_id!r} does not match the graph; the"
                " app was changed"
            )
        self.ready.remove(ready_node)
        self._run.steps += 1
        result = _result_of(step)
        self._pool.put_all(step.node_id, result.outputs)
        # Updates are replayed in order, so the last write wins as in the original run.
        for update in result.updates:
            self._pool.put(
                update.selector[0],
                update.selector[1],
                update.value,
            )
        self._count(result)
        if result.error:
            # Handled errors count towards the run's exceptions again.
            self._run.exceptions += 1
        self._advance(self._graph.nodes[step.node_id], result)

    # Consequences of a result

    def _count(self, result: NodeResult) -> None:
        """Add the tokens and the price of a result to the run's totals."""
        self._run.tokens += int(_amount(result.metadata.get("total_tokens")))
        self._run.price += _amount(result.metadata.get("total_price"))

    def _advance(self, node: Node, result: NodeResult) -> None:
        """Take the edges that the result selects, and queue the nodes that became
        ready."""
        if node.kind is NodeKind.RESPONSE:
            # Answers are streamed by the response nodes, and merged into the outputs
            # here.
            self._respond(result.outputs)
        # Only branching nodes select among their edges.
        handle = result.handle if node.branches else None
        progress = self._frontier.finish(node.id, handle)
        self.responses.finished(
            node.id,
            progress.taken_edges,
            progress.skipped_nodes,
        )
        self.ready.extend((following, node.id) for following in progress.ready)

    def _respond(self, outputs: Mapping[str, Any]) -> None:
        """Merge the outputs of a response node: answers are concatenated, other outputs
        are replaced."""
        for name, value in outputs.items():
            previous: Any = self.outputs.get(name)
            is_text = isinstance(previous, str) and isinstance(value, str)
            # Several answer nodes of a run write one answer together.
            if name == "answer" and is_text:
                value = previous + value
            self.outputs[name] = value

    def _on_text(
        self, node: str, selector: Sequence[str], text: str, is_final: bool
    ) -> None:
        """Emit a chunk of response text, or collect it during a replay."""
        if self._replayed_chunks is not None:
            self._replayed_chunks.append(text)
        else:
            self._events.text_chunk(node, selector, text, is_final)

    def _on_replacement(self, text: str) -> None:
        """Replace the response text so far, or what a replay has collected."""
        if self._replayed_chunks is not None:
            self._replayed_chunks[:] = [text]
        else:
            self._events.text_replaced(text, "retry")


def _amount(value: Any) -> float:
    """Return a number of a node's metadata; 0 for what is not one, because plugins and
    tools may report anything."""
    try:
        amount = float(value or 0)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return amount if math.isfinite(amount) else 0.0


def _result_of(step: Step) -> NodeResult:
    """Return the node result of a recorded step."""
    updates = [
        msgspec.structs.replace(update, value=from_object(update.value))
        for update in step.updates
    ]
    return NodeResult(
        outputs=from_object(step.outputs),
        handle=step.handle,
        updates=updates,
        metadata=step.metadata,
        error=step.error,
    )
