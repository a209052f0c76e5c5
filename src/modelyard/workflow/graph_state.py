"""How far a graph's run has come: variables, edges, answers, outputs, and which nodes are ready.

A state is repeatable: what was recorded of the nodes that are over, gone through in its order, leads to it again.
"""

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
    """Changes with each node that is done, and only then."""

    def __init__(self, graph: Graph, pool: VariablePool, run: RunContext, events: NodeEvents) -> None:
        self.outputs: dict[str, Any] = {}
        self._graph = graph
        self._pool = pool
        self._run = run
        self._events = events
        self._frontier = Frontier(graph)
        self.responses = ResponseStream(graph, pool, self._said)
        self.ready: deque[tuple[str, str]] = deque()
        """(node, the node before it)."""
        self._retold: list[str] | None = None
        """While what was said before is gone through again: its text, which is not said twice."""

    def begin(self, steps: Sequence[Step] = (), shown: str | None = None) -> None:
        """Start at the root, and come to where a run before this one was: `steps` is what was recorded of it, `shown`
        the text that was shown of it. Raises WorkflowError where the steps do not fit the graph."""
        self.ready.extend((node, "") for node in self._frontier.start())
        if shown is None:
            self._go_through(steps)
            return
        said = self._retold = list[str]()
        try:
            self._go_through(steps)
        finally:
            self._retold = None
        text = "".join(said)
        if text != shown:
            self._events.replaced(text)

    def has_run(self, node: str) -> bool:
        return self._frontier.is_finished(node)

    def settle(self, node: Node, result: NodeResult) -> None:
        """Outputs into the pool, edges taken and skipped, answers' text moved on. Raises WorkflowError."""
        self._pool.put_all(node.id, result.outputs)
        for update in result.updates:
            self._pool.put(update.selector[0], update.selector[1], update.value)
            self._events.variable_updated(node, update)
        if node.kind is not NodeKind.CONTAINER:  # what runs inside counts for itself
            self._count(result)
        self._advance(node, result)

    # what was recorded

    def _go_through(self, steps: Sequence[Step]) -> None:
        self.responses.begin()
        for step in steps:
            self._apply(step)

    def _apply(self, step: Step) -> None:
        """As `settle`, of a node that ran before: nothing is told of it, and a container counts whole."""
        place = next((one for one in self.ready if one[0] == step.node_id), None)
        if place is None:
            raise WorkflowError(f"what was recorded of node {step.node_id!r} does not fit the graph: it was changed")
        self.ready.remove(place)
        self._run.steps += 1
        result = _result_of(step)
        self._pool.put_all(step.node_id, result.outputs)
        for update in result.updates:
            self._pool.put(update.selector[0], update.selector[1], update.value)
        self._count(result)
        if result.error:
            self._run.exceptions += 1
        self._advance(self._graph.nodes[step.node_id], result)

    # what follows from a node's result

    def _count(self, result: NodeResult) -> None:
        self._run.tokens += int(result.metadata.get("total_tokens") or 0)
        self._run.price += float(result.metadata.get("total_price") or 0)

    def _advance(self, node: Node, result: NodeResult) -> None:
        if node.kind is NodeKind.RESPONSE:
            self._respond(result.outputs)
        handle = result.handle if node.branches else None
        progress = self._frontier.finish(node.id, handle)
        self.responses.finished(node.id, progress.taken, progress.skipped)
        self.ready.extend((following, node.id) for following in progress.ready)

    def _respond(self, outputs: Mapping[str, Any]) -> None:
        """Answers are strung together; other outputs take the place of what was there."""
        for name, value in outputs.items():
            before = self.outputs.get(name)
            if name == "answer" and isinstance(before, str) and isinstance(value, str):
                self.outputs[name] = before + value
            else:
                self.outputs[name] = value

    def _said(self, node: str, selector: Sequence[str], text: str, is_final: bool) -> None:
        if self._retold is not None:
            self._retold.append(text)
        else:
            self._events.said(node, selector, text, is_final)


def _result_of(step: Step) -> NodeResult:
    return NodeResult(
        outputs=from_object(step.outputs),
        handle=step.handle,
        updates=[msgspec.structs.replace(update, value=from_object(update.value)) for update in step.updates],
        metadata=step.metadata,
        error=step.error,
    )
