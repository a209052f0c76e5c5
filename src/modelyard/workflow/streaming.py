"""Several branches talk at once; whoever reads gets one text, in the order of the answers' templates. Pure.

An answer may begin as soon as it is sure to be reached: when a path from the root leads to it whose *blocking* edges
were all taken. Those leave a branch, a container, another answer, or a node that writes a variable which the answer
shows. Whether such a path exists is kept up to date as edges are taken, so that no path is ever listed: eighteen
diamonds in a row have a quarter of a million.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.workflow.graph import Graph
from modelyard.workflow.node import Node, NodeKind
from modelyard.workflow.variables import CONVERSATION, MISSING, PSEUDO, VariablePool, to_markdown

Selector = tuple[str, ...]
Emit = Callable[[str, Sequence[str], str, bool], None]
"""(node that says it, selector, text, whether that was the last of it)."""


@dataclass(slots=True)
class _Session:
    node: str
    parts: Sequence[str | Selector]
    place: int = 0
    """The part that is being said."""
    said: int = 0
    """Chunks of that part that were said."""
    is_closed: bool = False
    """Its node has run: what is still missing will not come."""


@dataclass(slots=True)
class _Stream:
    chunks: list[str] = field(default_factory=list[str])
    is_final: bool = False


class _Reach:
    """Which nodes a path leads to whose blocking edges were all taken."""

    def __init__(self, graph: Graph, blocks: Callable[[str], bool]) -> None:
        self._graph = graph
        self._blocks = blocks
        self.reached: set[str] = set()
        self._taken: set[int] = set()
        self._grow([graph.root])

    def take(self, edges: Iterable[int]) -> None:
        for place in edges:
            self._taken.add(place)
            edge = self._graph.edges[place]
            if edge.source in self.reached:
                self._grow([edge.target])

    def _grow(self, nodes: list[str]) -> None:
        todo = [one for one in nodes if one not in self.reached]
        self.reached.update(todo)
        while todo:
            node = todo.pop()
            blocks = self._blocks(node)
            for place in self._graph.outgoing[node]:
                target = self._graph.edges[place].target
                if target not in self.reached and (not blocks or place in self._taken):
                    self.reached.add(target)
                    todo.append(target)


class ResponseStream:
    """The text of one graph's answers, as it comes."""

    def __init__(self, graph: Graph, pool: VariablePool, emit: Emit) -> None:
        self._pool = pool
        self._emit = emit
        self._nodes: dict[str, Node] = dict(graph.nodes)
        self._sessions: dict[str, _Session] = {}
        self._queue: deque[_Session] = deque()
        self._active: _Session | None = None
        self._waiting: dict[str, _Reach] = {}
        self._reaches: list[_Reach] = []
        self._streams: dict[Selector, _Stream] = {}
        self._skipped: set[str] = set()
        self._done: set[str] = set()
        self.shown: set[Selector] = set()
        """Selectors that some answer shows; chunks of others go nowhere."""
        self._reasons: set[str] = set()
        self._prepare(graph)

    def _prepare(self, graph: Graph) -> None:
        by_writers: dict[frozenset[str], _Reach] = {}
        for name, node in self._nodes.items():
            parts = node.response()
            if parts is None or name not in graph.reachable:
                continue
            session = self._sessions[name] = _Session(name, parts)
            selectors = {one for one in parts if isinstance(one, tuple)}
            self.shown |= selectors
            writers = frozenset(
                other.id for other in self._nodes.values()
                if any(tuple(written) == one[: len(written)] for written in other.writes() for one in selectors)
            )  # fmt: skip
            if writers not in by_writers:
                by_writers[writers] = _Reach(graph, self._blocker(writers))
            self._waiting[session.node] = by_writers[writers]
        self._reaches = list(by_writers.values())

    def _blocker(self, writers: frozenset[str]) -> Callable[[str], bool]:
        def blocks(name: str) -> bool:
            node = self._nodes[name]
            return (
                name in writers
                or node.branches
                or node.kind in (NodeKind.CONTAINER, NodeKind.RESPONSE)
            )  # fmt: skip

        return blocks

    @property
    def is_needed(self) -> bool:
        return bool(self._sessions)

    # what the engine tells

    def begin(self) -> None:
        if self._sessions:
            self._admit()
            self._flush()

    def chunk(self, node: str, name: str, text: str, *, is_final: bool) -> None:
        selector = (node, name)
        if selector not in self.shown:
            return
        stream = self._streams.get(selector)
        if stream is None:
            stream = self._streams[selector] = _Stream()
        if text:
            stream.chunks.append(text)
        stream.is_final = stream.is_final or is_final
        self._flush()

    def finished(self, node: str, taken: Sequence[int], skipped: Sequence[str]) -> None:
        """A node is done and its outputs are in the pool."""
        if not self._sessions:
            return
        self._done.add(node)
        self._skipped.update(skipped)
        for stream in [one for key, one in self._streams.items() if key[0] == node]:
            stream.is_final = True
        if (session := self._sessions.get(node)) is not None:
            session.is_closed = True
        for reach in self._reaches:
            reach.take(taken)
        self._admit()
        self._flush()

    def may_reason(self, node: str) -> bool:
        """Whether what this node's model thinks is to be shown: an answer that is reached shows its text."""
        return any(
            isinstance(part, tuple) and part[0] == node and part[1] in ("text", "reasoning_content")
            for name, session in self._sessions.items()
            if name not in self._waiting
            for part in session.parts
        )

    # inside

    def _admit(self) -> None:
        """Answers that are sure to be reached queue up."""
        ready = sorted(name for name, reach in self._waiting.items() if name in reach.reached)
        for name in ready:
            del self._waiting[name]
            self._queue.append(self._sessions[name])

    def _flush(self) -> None:
        while True:
            if self._active is None:
                if not self._queue:
                    return
                self._active = self._queue.popleft()
            if not self._say(self._active):
                return
            self._active = None

    def _say(self, session: _Session) -> bool:
        """Say what can be said; whether that was all of it."""
        while session.place < len(session.parts):
            part = session.parts[session.place]
            if isinstance(part, str):
                self._emit(session.node, (session.node, "answer"), part, session.place + 1 == len(session.parts))
            elif not self._say_variable(session, part):
                return False
            session.place += 1
            session.said = 0
        return True

    def _say_variable(self, session: _Session, selector: Selector) -> bool:
        source = selector[0]
        if source in self._skipped:
            return True
        stream = self._streams.get(selector[:2])
        if stream is not None and len(selector) == 2:
            chunks = stream.chunks
            while session.said < len(chunks):
                is_last = stream.is_final and session.said + 1 == len(chunks)
                self._emit(source, selector, chunks[session.said], is_last)
                session.said += 1
            return stream.is_final
        if source in PSEUDO or source in self._done or source not in self._nodes:
            value = self._pool.get(selector)
            if value is MISSING and source == CONVERSATION and not session.is_closed:
                return False
            self._whole(session, selector, value)
            return True
        if session.is_closed:
            self._whole(session, selector, MISSING)
        return session.is_closed

    def _whole(self, session: _Session, selector: Selector, value: Any) -> None:
        """A value that nobody streamed. What does not exist leaves its name, as in the answer itself."""
        text = ".".join(selector) if value is MISSING else to_markdown(value)
        if not text:
            return
        if selector[0] in PSEUDO or value is MISSING:
            self._emit(session.node, (session.node, "answer"), text, False)
        else:
            self._emit(selector[0], selector, text, True)
