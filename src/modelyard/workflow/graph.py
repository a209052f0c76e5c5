"""The graph of a workflow, and the frontier that decides which nodes may run next. No
I/O."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from modelyard.workflow.variables import WorkflowError

SOURCE = "source"
"""The handle of the outgoing edges of nodes that do not branch."""
FAILED, SUCCEEDED = "fail-branch", "success-branch"
"""The handles of a node whose errors lead to a fail branch."""


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge from one node to another. `handle` names the branch of the source node."""

    source: str
    target: str
    handle: str = SOURCE


class EdgeState(IntEnum):
    """What is decided about an edge: nothing yet, followed, or never followed."""

    UNKNOWN = 0
    TAKEN = 1
    SKIPPED = 2


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """The nodes of one level and the edges between them. The inside of an iteration or
    a loop is a graph of its own."""

    root: str
    nodes: Mapping[str, Any]
    """Node id → node, in file order."""
    edges: Sequence[Edge]
    children: "Mapping[str, Graph]" = field(default_factory=dict[str, "Graph"])
    """Container's node id → the graph inside it."""
    outgoing: Mapping[str, Sequence[int]] = field(init=False)
    incoming: Mapping[str, Sequence[int]] = field(init=False)
    reachable: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Build the edge indexes and check the graph.

        Raises WorkflowError if the edges form a cycle or name an unknown node.
        """
        # The root must exist before anything else can be checked.
        if self.root not in self.nodes:
            raise WorkflowError(f"Root node {self.root!r} not found")
        outgoing: dict[str, list[int]] = {name: [] for name in self.nodes}
        incoming: dict[str, list[int]] = {name: [] for name in self.nodes}
        for edge_index, edge in enumerate(self.edges):
            if edge.source not in outgoing or edge.target not in incoming:
                raise WorkflowError(
                    f"Edge {edge.source!r} -> {edge.target!r} refers to an unknown node"
                )
            outgoing[edge.source].append(edge_index)
            incoming[edge.target].append(edge_index)
        # The dataclass is frozen: derived fields can only be set this way.
        object.__setattr__(self, "outgoing", outgoing)
        object.__setattr__(self, "incoming", incoming)
        object.__setattr__(self, "reachable", self._reachable_nodes(outgoing))
        self._check_order()

    def _reachable_nodes(self, outgoing: Mapping[str, Sequence[int]]) -> frozenset[str]:
        """Return the ids of the nodes that a path from the root leads to."""
        # Depth-first search from the root; unreachable nodes are never executed.
        reached = {self.root}
        todo = [self.root]
        while todo:
            for edge_index in outgoing[todo.pop()]:
                if (target := self.edges[edge_index].target) not in reached:
                    reached.add(target)
                    todo.append(target)
        return frozenset(reached)

    def _check_order(self) -> None:
        """Check that the reachable nodes have a topological order (Kahn's algorithm).
        Raises WorkflowError."""
        # For each node, the number of edges that are still unsorted.
        open_counts = {
            name: sum(
                self.edges[edge_index].source in self.reachable
                for edge_index in self.incoming[name]
            )
            for name in self.reachable
        }
        ready = deque(name for name, count in open_counts.items() if not count)
        sorted_count = 0
        while ready:
            sorted_count += 1
            for edge_index in self.outgoing[ready.popleft()]:
                target = self.edges[edge_index].target
                open_counts[target] -= 1
                if not open_counts[target]:
                    ready.append(target)
        if sorted_count < len(open_counts):
            raise self._cycle_error(open_counts)

    def _cycle_error(self, open_counts: Mapping[str, int]) -> WorkflowError:
        """Return the error that names the nodes of a cycle, so that the author finds
        it; at most six."""
        # A node that was never sorted still waits for a predecessor: it is on a cycle
        # or behind one.
        cycle = [name for name in self.nodes if open_counts.get(name)]
        cycle_text = ", ".join(repr(name) for name in cycle[:6])
        if len(cycle) > 6:
            cycle_text += " …"
        return WorkflowError(f"Cycle in graph: {cycle_text}. Use a loop node.")

    def size(self) -> int:
        """Return the number of nodes, including those inside containers."""
        return len(self.nodes) + sum(child.size() for child in self.children.values())

    def walk(self) -> "Iterable[Graph]":
        """Yield this graph and the graphs of all its containers, depth first."""
        yield self
        for child in self.children.values():
            yield from child.walk()


@dataclass(slots=True)
class FrontierChange:
    """What changed when one node finished."""

    ready: list[str] = field(default_factory=list[str])
    taken_edges: list[int] = field(default_factory=list[int])
    """Edges that were followed, by their index in the graph."""
    skipped_nodes: list[str] = field(default_factory=list[str])


class Frontier:
    """Tracks which nodes have finished, are ready or are skipped.

    A node is ready if all its incoming edges are decided and at least one was taken. If
    all were skipped, the node is skipped, and so are its outgoing edges. Nodes that the
    root does not reach are skipped from the start.
    """

    __slots__ = (
        "_decided",
        "_finished",
        "_graph",
        "_open",
        "_taken_in",
        "edges",
        "skipped",
    )

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.edges: list[EdgeState] = [EdgeState.UNKNOWN] * len(graph.edges)
        # For each node, the number of incoming edges that are undecided.
        self._open: dict[str, int] = {
            name: len(graph.incoming[name]) for name in graph.nodes
        }
        self._taken_in: dict[str, int] = defaultdict(int)
        self._decided: set[str] = {graph.root}
        self._finished: set[str] = set()
        self.skipped: set[str] = set()
        # Edges from unreachable nodes will never be taken; targets must not wait for
        # them.
        for edge_index, edge in enumerate(graph.edges):
            if edge.source not in graph.reachable:
                self.edges[edge_index] = EdgeState.SKIPPED
                self._open[edge.target] -= 1

    def start(self) -> list[str]:
        """Return the nodes that are ready at the start: the root."""
        return [self._graph.root]

    def is_finished(self, node: str) -> bool:
        """Return whether the node has finished."""
        return node in self._finished

    def finish(self, node: str, handle: str | None = None) -> FrontierChange:
        """Record that a node finished. Without a handle all its edges are taken, else
        only those of the handle.

        Raises WorkflowError if the node was not ready or has finished before.
        """
        # A node finishes exactly once; a second result is an error of the engine.
        if node in self._finished or node not in self._decided:
            raise WorkflowError(f"Node {node!r} cannot finish: it is not running")
        self._finished.add(node)
        progress = FrontierChange()
        edges = self._graph.edges
        # Without a handle the node does not branch and all its edges are taken.
        taken_edges = [
            edge_index
            for edge_index in self._graph.outgoing[node]
            if handle is None or edges[edge_index].handle == handle
        ]
        # Skips go first: if a branch leads to a node by two edges, one taken edge is
        # enough to reach it.
        if handle is not None:
            self._skip(
                [
                    edge_index
                    for edge_index in self._graph.outgoing[node]
                    if edges[edge_index].handle != handle
                ],
                progress,
            )
        for edge_index in taken_edges:
            self.edges[edge_index] = EdgeState.TAKEN
            progress.taken_edges.append(edge_index)
            target = edges[edge_index].target
            self._taken_in[target] += 1
            self._open[target] -= 1
        # Decide only after all edges are counted, so that each target is reported once.
        for edge_index in taken_edges:
            self._mark_if_ready(edges[edge_index].target, progress)
        return progress

    def _skip(self, edge_indexes: Iterable[int], progress: FrontierChange) -> None:
        """Mark edges as skipped, and with them every node that has lost its last open
        edge."""
        todo = list(edge_indexes)
        while todo:
            edge_index = todo.pop()
            self.edges[edge_index] = EdgeState.SKIPPED
            target = self._graph.edges[edge_index].target
            self._open[target] -= 1
            # The last undecided edge was skipped and none was taken: the node is
            # skipped as well.
            if (
                not self._open[target]
                and not self._taken_in[target]
                and target not in self._decided
            ):
                self._decided.add(target)
                self.skipped.add(target)
                progress.skipped_nodes.append(target)
                todo += self._graph.outgoing[target]
            elif not self._open[target]:
                self._mark_if_ready(target, progress)

    def _mark_if_ready(self, target: str, progress: FrontierChange) -> None:
        """Mark the target as ready if its last edge was decided and one was taken."""
        if (
            not self._open[target]
            and self._taken_in[target]
            and target not in self._decided
        ):
            self._decided.add(target)
            progress.ready.append(target)
