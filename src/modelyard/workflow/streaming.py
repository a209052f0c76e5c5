"""Merges the output of parallel branches into one response text, in the order of the
answer templates. No I/O.

An answer may start as soon as it is certain to be reached: if a path from the root
leads to it whose *blocking* edges were all taken. Blocking edges leave a branch, a
container, another answer, or a node that writes a variable which the answer shows.
Reachability is updated as edges are taken, so paths are never enumerated: eighteen
diamonds in a row have a quarter of a million paths.

What was emitted can turn out to be void: a node is run again after it has streamed, or
fails and leads to another branch. The text without it then replaces all that was
emitted. A graph whose text cannot be replaced holds back what may become void.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from modelyard.workflow.graph import SOURCE, SUCCEEDED, Graph
from modelyard.workflow.node import Node, NodeKind
from modelyard.workflow.variables import (
    CONVERSATION,
    MISSING,
    NAMESPACES,
    VariablePool,
    to_markdown,
)

Selector = tuple[str, ...]
Emit = Callable[[str, Sequence[str], str, bool], None]
"""(node that produced it, selector, text, is_final)."""
Replace = Callable[[str], None]
"""Called with the text that replaces all text emitted so far."""


@dataclass(slots=True, eq=False)
class _Session:
    """The progress of one response node's template."""

    node: str
    parts: Sequence[str | Selector]
    part_index: int = 0
    """Index of the part that is being emitted."""
    emitted_count: int = 0
    """Number of chunks of that part that were emitted."""
    is_closed: bool = False
    """Whether the node has run: values that are still missing will not arrive."""


@dataclass(slots=True)
class _Stream:
    """Chunks of one node output that have arrived."""

    chunks: list[str] = field(default_factory=list[str])
    is_final: bool = False
    """Whether no more chunks follow, unless the node is run again."""
    is_over: bool = False
    """Whether the chunks are certain to stay."""


class _Reachability:
    """The nodes to which a path leads whose blocking edges were all taken."""

    def __init__(self, graph: Graph, blocks: Callable[[str], bool]) -> None:
        self._graph = graph
        self._blocks = blocks
        self.reached: set[str] = set()
        self._taken: set[int] = set()
        self._grow([graph.root])

    def take(self, edges: Iterable[int]) -> None:
        """Mark edges as taken and extend the reached nodes."""
        for edge_index in edges:
            self._taken.add(edge_index)
            edge = self._graph.edges[edge_index]
            # An edge from an unreached node is only remembered.
            if edge.source in self.reached:
                self._grow([edge.target])

    def _grow(self, nodes: list[str]) -> None:
        """Add nodes and everything that can be reached from them now."""
        # A stack instead of recursion: graphs may be deep.
        todo = [candidate for candidate in nodes if candidate not in self.reached]
        self.reached.update(todo)
        while todo:
            node = todo.pop()
            blocks = self._blocks(node)
            # Edges of a blocking node count only once they were taken.
            for edge_index in self._graph.outgoing[node]:
                target = self._graph.edges[edge_index].target
                if target not in self.reached and (
                    not blocks or edge_index in self._taken
                ):
                    self.reached.add(target)
                    todo.append(target)


def _writes_any(node: Node, selectors: Set[Selector]) -> bool:
    """Return whether the node writes one of the variables, or an object around it."""
    return any(
        tuple(variable) == selector[: len(variable)]
        for variable in node.writes()
        for selector in selectors
    )


class ResponseStream:
    """The response text of one graph, emitted as early as its order allows."""

    def __init__(
        self,
        graph: Graph,
        pool: VariablePool,
        emit: Emit,
        replace: Replace | None = None,
    ) -> None:
        self._graph = graph
        self._pool = pool
        self._publish = emit
        self._replace = replace
        self._emitted: list[tuple[_Session, str]] = []
        """The emitted pieces of text, each with the session that it belongs to."""
        self._nodes: dict[str, Node] = dict(graph.nodes)
        self._sessions: dict[str, _Session] = {}
        self._queue: deque[_Session] = deque()
        self._active: _Session | None = None
        self._waiting_answers: dict[str, _Reachability] = {}
        self._reaches: list[_Reachability] = []
        self._streams: dict[Selector, _Stream] = {}
        self._skipped: set[str] = set()
        self._done: set[str] = set()
        self.shown: set[Selector] = set()
        """Selectors that some answer shows. Chunks of other selectors are dropped."""
        self._reasons: set[str] = set()
        self._prepare(graph)

    def _prepare(self, graph: Graph) -> None:
        """Create a session for each response node that can be reached."""
        by_writers: dict[frozenset[str], _Reachability] = {}
        for name, node in self._nodes.items():
            parts = node.response()
            if parts is None or name not in graph.reachable:
                continue
            self._sessions[name] = _Session(name, parts)
            # Constant texts need no waiting.
            selectors = {part for part in parts if isinstance(part, tuple)}
            self.shown |= selectors
            # An answer must wait for the nodes that may still change a variable it
            # shows.
            writers = frozenset(
                writer.id
                for writer in self._nodes.values()
                if _writes_any(writer, selectors)
            )
            # Answers with the same writers share one reachability computation.
            if writers not in by_writers:
                by_writers[writers] = _Reachability(graph, self._blocker(writers))
            self._waiting_answers[name] = by_writers[writers]
        self._reaches = list(by_writers.values())

    def _blocker(self, writers: frozenset[str]) -> Callable[[str], bool]:
        """Return the test whether the outgoing edges of a node are blocking."""

        def blocks(name: str) -> bool:
            """Return whether the node's outgoing edges are blocking."""
            node = self._nodes[name]
            return (
                name in writers
                or node.branches
                or node.kind in (NodeKind.CONTAINER, NodeKind.RESPONSE)
            )

        return blocks

    @property
    def is_needed(self) -> bool:
        """Whether the graph has response nodes at all."""
        return bool(self._sessions)

    # Calls of the engine

    def begin(self) -> None:
        """Emit what is available at the start, such as constant text."""
        if self._sessions:
            self._admit()
            self._flush()

    def chunk(self, node: str, name: str, text: str, *, is_final: bool) -> None:
        """Receive a chunk of a node's output. It is buffered until the answer's order
        allows it."""
        # Chunks are addressed by node and output name.
        selector = (node, name)
        if selector not in self.shown:
            return
        stream = self._streams.get(selector)
        if stream is None:
            stream = self._streams[selector] = _Stream()
            self._expect_success(self._nodes[node])
        if text:
            stream.chunks.append(text)
        stream.is_final = stream.is_final or is_final
        stream.is_over = stream.is_final and not self._may_be_void(node)
        self._flush()

    def restart(self, node: str) -> None:
        """Discard what a node has streamed: it is run again, or it has failed."""
        for selector in [key for key in self._streams if key[0] == node]:
            del self._streams[selector]
        session = self._active
        if session is None or not session.emitted_count:
            return
        # The answer waits at this node's output, so its chunks were emitted last.
        if session.parts[session.part_index][0] == node:
            del self._emitted[-session.emitted_count :]
            session.emitted_count = 0
            self._replace_text()

    def finished(
        self, node: str, taken_edges: Sequence[int], skipped: Sequence[str]
    ) -> None:
        """Update the state after a node finished and its outputs are in the pool."""
        if not self._sessions:
            return
        self._done.add(node)
        self._skipped.update(skipped)
        # A finished node streams no more, even if it sent no final chunk.
        for stream in [
            node_stream for key, node_stream in self._streams.items() if key[0] == node
        ]:
            stream.is_final = stream.is_over = True
        if (session := self._sessions.get(node)) is not None:
            session.is_closed = True
        # Void text leaves first, so that nothing is appended to it.
        self._withdraw(skipped)
        for reachability in self._reaches:
            # Taken edges may make further answers certain.
            reachability.take(taken_edges)
        self._admit()
        self._flush()

    def can_emit_reasoning(self, node: str) -> bool:
        """Return whether a node's reasoning may be streamed: a reached answer shows its
        text."""
        sessions = self._sessions.items()
        reached = [
            session for name, session in sessions if name not in self._waiting_answers
        ]
        return any(
            _shows_text(part, node) for session in reached for part in session.parts
        )

    # Text that may become void

    def _may_be_void(self, name: str) -> bool:
        """Return whether a node may be run again, or fail and the run go on."""
        node = self._nodes[name]
        retry = node.data.retry_config
        return bool(
            (retry.retry_enabled and retry.max_retries)
            or node.data.error_strategy in ("fail-branch", "default-value")
        )

    def _expect_success(self, node: Node) -> None:
        """Treat the edges for a node's success as taken as soon as it streams: a fail
        branch must not hold its text back."""
        if self._replace is None or not node.has_fail_branch:
            return
        edges = [
            edge_index
            for edge_index in self._graph.outgoing[node.id]
            if self._graph.edges[edge_index].handle in (SOURCE, SUCCEEDED)
        ]
        for reachability in self._reaches:
            reachability.take(edges)
        self._admit()

    def _withdraw(self, skipped: Iterable[str]) -> None:
        """Take back the answers of skipped nodes that were expected to be reached."""
        void = [
            self._sessions[name]
            for name in skipped
            if name in self._sessions and name not in self._waiting_answers
        ]
        if not void:
            return
        self._queue = deque(session for session in self._queue if session not in void)
        if self._active in void:
            self._active = None
        remaining = [piece for piece in self._emitted if piece[0] not in void]
        if len(remaining) < len(self._emitted):
            self._emitted = remaining
            self._replace_text()

    def _replace_text(self) -> None:
        """Replace all text emitted so far by what remains of it."""
        if self._replace is not None:
            self._replace("".join(text for _, text in self._emitted))

    # Emitting

    def _admit(self) -> None:
        """Queue the answers that have become certain to be reached."""
        # Sorted, so that a replay after a crash gives the same text.
        ready = sorted(
            name
            for name, reachability in self._waiting_answers.items()
            if name in reachability.reached
        )
        for name in ready:
            del self._waiting_answers[name]
            self._queue.append(self._sessions[name])

    def _flush(self) -> None:
        """Emit from the active answer; when it is complete, continue with the next one."""
        while self._active is not None or self._queue:
            if self._active is None:
                self._active = self._queue.popleft()
            # Later answers wait for the active one, so that texts do not mix.
            if not self._emit_available(self._active):
                return
            self._active = None

    def _emit_available(self, session: _Session) -> bool:
        """Emit what is available of an answer. Returns True if it is complete."""
        # Resume where the last call stopped.
        while session.part_index < len(session.parts):
            part = session.parts[session.part_index]
            if isinstance(part, str):
                is_last = session.part_index + 1 == len(session.parts)
                self._emit(
                    session, session.node, (session.node, "answer"), part, is_last
                )
            elif not self._emit_variable(session, part):
                return False
            session.part_index += 1
            session.emitted_count = 0
        return True

    def _emit_variable(self, session: _Session, selector: Selector) -> bool:
        """Emit what is available of a variable. Returns True if it is complete."""
        source = selector[0]
        # A skipped node leaves nothing in the text.
        if source in self._skipped:
            return True
        stream = self._streams.get(selector[:2])
        # Only complete outputs are streamed; a path into an object is not.
        if stream is not None and len(selector) == 2:
            return self._emit_chunks(session, selector, stream)
        # Not streamed, but its value is final: it is in the pool.
        if source in NAMESPACES or source in self._done or source not in self._nodes:
            value = self._pool.get(selector)
            # A conversation variable may still be written before the answer node runs.
            if value is MISSING and source == CONVERSATION and not session.is_closed:
                return False
            self._emit_value(session, selector, value)
            return True
        # The answer node has run, so the value will never come.
        if session.is_closed:
            self._emit_value(session, selector, MISSING)
        return session.is_closed

    def _emit_chunks(
        self, session: _Session, selector: Selector, stream: _Stream
    ) -> bool:
        """Emit the chunks of an output that have arrived. Returns True if they are
        complete."""
        source, chunks = selector[0], stream.chunks
        if not stream.is_over and self._must_hold_back(source):
            return False
        while session.emitted_count < len(chunks):
            is_last = stream.is_final and session.emitted_count + 1 == len(chunks)
            text = chunks[session.emitted_count]
            self._emit(session, source, selector, text, is_last)
            session.emitted_count += 1
        # Even after its last chunk a node may run again, so the answer waits here.
        return stream.is_over

    def _emit_value(self, session: _Session, selector: Selector, value: Any) -> None:
        """Emit a value that was not streamed. A missing value is shown as its selector,
        as in the rendered answer."""
        text = ".".join(selector) if value is MISSING else to_markdown(value)
        if not text:
            return
        # Values without a producing node are attributed to the answer.
        if selector[0] in NAMESPACES or value is MISSING:
            self._emit(
                session,
                session.node,
                (session.node, "answer"),
                text,
                False,
            )
        else:
            self._emit(
                session,
                selector[0],
                selector,
                text,
                True,
            )

    def _must_hold_back(self, node: str) -> bool:
        """Return whether a node's chunks wait for its end, because they may become void
        and cannot be replaced."""
        return self._replace is None and self._may_be_void(node)

    def _emit(
        self,
        session: _Session,
        node: str,
        selector: Sequence[str],
        text: str,
        is_final: bool,
    ) -> None:
        """Emit a piece of a session's text and remember it."""
        self._emitted.append((session, text))
        self._publish(node, selector, text, is_final)


def _shows_text(part: "str | Selector", node: str) -> bool:
    """Return whether a part of an answer is the text of a node."""
    if not isinstance(part, tuple):
        return False
    return part[0] == node and part[1] in ("text", "reasoning_content")
