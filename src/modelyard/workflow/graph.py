"""A workflow as data, and Frontier: which nodes may run next. Pure."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from modelyard.workflow.variables import WorkflowError

SOURCE = "source"
"""The handle of nodes that do not branch."""
FAILED, SUCCEEDED = "fail-branch", "success-branch"
"""The two sides of a node whose errors have a branch of their own."""


@dataclass(frozen=True, slots=True)
class Edge:
    source: str
    target: str
    handle: str = SOURCE


class EdgeState(IntEnum):
    UNKNOWN = 0
    TAKEN = 1
    SKIPPED = 2


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes of one level with the edges between them. What stands inside an iteration or a loop is a graph too."""

    root: str
    nodes: Mapping[str, Any]
    """Id → node, in the order of the file."""
    edges: Sequence[Edge]
    children: "Mapping[str, Graph]" = field(default_factory=dict[str, "Graph"])
    """Container's id → what stands in it."""
    outgoing: Mapping[str, Sequence[int]] = field(init=False)
    incoming: Mapping[str, Sequence[int]] = field(init=False)
    reachable: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Raises WorkflowError where the edges make a circle or name what is not there."""
        if self.root not in self.nodes:
            raise WorkflowError(f"the graph begins at {self.root!r}, which is none of its nodes")
        outgoing: dict[str, list[int]] = {name: [] for name in self.nodes}
        incoming: dict[str, list[int]] = {name: [] for name in self.nodes}
        for place, edge in enumerate(self.edges):
            if edge.source not in outgoing or edge.target not in incoming:
                raise WorkflowError(f"edge {edge.source!r} -> {edge.target!r} names a node that is not there")
            outgoing[edge.source].append(place)
            incoming[edge.target].append(place)
        object.__setattr__(self, "outgoing", outgoing)
        object.__setattr__(self, "incoming", incoming)
        object.__setattr__(self, "reachable", self._reached(outgoing))
        self._check_order()

    def _reached(self, outgoing: Mapping[str, Sequence[int]]) -> frozenset[str]:
        seen = {self.root}
        todo = [self.root]
        while todo:
            for place in outgoing[todo.pop()]:
                if (target := self.edges[place].target) not in seen:
                    seen.add(target)
                    todo.append(target)
        return frozenset(seen)

    def _check_order(self) -> None:
        waits = {
            name: sum(self.edges[place].source in self.reachable for place in self.incoming[name])
            for name in self.reachable
        }
        ready = deque(name for name, count in waits.items() if not count)
        done = 0
        while ready:
            done += 1
            for place in self.outgoing[ready.popleft()]:
                target = self.edges[place].target
                waits[target] -= 1
                if not waits[target]:
                    ready.append(target)
        if done < len(waits):
            circle = [name for name in self.nodes if waits.get(name)]
            shown = ", ".join(repr(name) for name in circle[:6]) + (" …" if len(circle) > 6 else "")
            raise WorkflowError(f"the edges make a circle through {shown}; only a loop node may go round")

    def size(self) -> int:
        """Nodes, those inside containers included."""
        return len(self.nodes) + sum(child.size() for child in self.children.values())

    def walk(self) -> "Iterable[Graph]":
        yield self
        for child in self.children.values():
            yield from child.walk()


@dataclass(slots=True)
class Progress:
    """What one finished node changed."""

    ready: list[str] = field(default_factory=list[str])
    taken: list[int] = field(default_factory=list[int])
    """Edges, by their place in the graph."""
    skipped: list[str] = field(default_factory=list[str])


class Frontier:
    """The edge between done and not yet.

    A node is ready when every edge into it is decided and one at least was taken; where all were skipped it is
    skipped, and so are the edges out of it. What the root does not reach is skipped from the start.
    """

    __slots__ = ("_decided", "_finished", "_graph", "_open", "_taken_in", "edges", "skipped")

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.edges: list[EdgeState] = [EdgeState.UNKNOWN] * len(graph.edges)
        self._open: dict[str, int] = {name: len(graph.incoming[name]) for name in graph.nodes}
        self._taken_in: dict[str, int] = defaultdict(int)
        self._decided: set[str] = {graph.root}
        self._finished: set[str] = set()
        self.skipped: set[str] = set()
        for place, edge in enumerate(graph.edges):
            if edge.source not in graph.reachable:
                self.edges[place] = EdgeState.SKIPPED
                self._open[edge.target] -= 1

    def start(self) -> list[str]:
        return [self._graph.root]

    def is_finished(self, node: str) -> bool:
        return node in self._finished

    def finish(self, node: str, handle: str | None = None) -> Progress:
        """A node is done: with no handle it takes every edge, else those of that handle alone.

        Raises WorkflowError where the node was not ready, or was done before.
        """
        if node in self._finished or node not in self._decided:
            raise WorkflowError(f"node {node!r} cannot be finished: it was not running")
        self._finished.add(node)
        progress = Progress()
        edges = self._graph.edges
        taken = [place for place in self._graph.outgoing[node] if handle is None or edges[place].handle == handle]
        # Skips go first: a node that a branch leads to twice is reached if either edge is taken.
        if handle is not None:
            self._skip([place for place in self._graph.outgoing[node] if edges[place].handle != handle], progress)
        for place in taken:
            self.edges[place] = EdgeState.TAKEN
            progress.taken.append(place)
            target = edges[place].target
            self._taken_in[target] += 1
            self._open[target] -= 1
        for place in taken:
            self._decide(edges[place].target, progress)
        return progress

    def _skip(self, places: Iterable[int], progress: Progress) -> None:
        todo = list(places)
        while todo:
            place = todo.pop()
            self.edges[place] = EdgeState.SKIPPED
            target = self._graph.edges[place].target
            self._open[target] -= 1
            if not self._open[target] and not self._taken_in[target] and target not in self._decided:
                self._decided.add(target)
                self.skipped.add(target)
                progress.skipped.append(target)
                todo += self._graph.outgoing[target]
            elif not self._open[target]:
                self._decide(target, progress)

    def _decide(self, target: str, progress: Progress) -> None:
        if not self._open[target] and self._taken_in[target] and target not in self._decided:
            self._decided.add(target)
            progress.ready.append(target)
