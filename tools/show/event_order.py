"""Laws on the order of a run's events, for any app. Pure functions."""

from collections.abc import Iterator, Sequence

from modelyard.workflow.events import (
    AnyEvent,
    GraphRunStarted,
    NodeEvent,
    NodeRunAgentLog,
    NodeRunAgentThought,
    NodeRunException,
    NodeRunFailed,
    NodeRunHumanInputFormFilled,
    NodeRunHumanInputFormTimeout,
    NodeRunIterationFailed,
    NodeRunIterationNext,
    NodeRunIterationStarted,
    NodeRunIterationSucceeded,
    NodeRunLoopFailed,
    NodeRunLoopNext,
    NodeRunLoopStarted,
    NodeRunLoopSucceeded,
    NodeRunPauseRequested,
    NodeRunReasoningChunk,
    NodeRunRetrieverResource,
    NodeRunRetry,
    NodeRunStarted,
    NodeRunStreamChunk,
    NodeRunSucceeded,
)
from modelyard.workflow.single_run import FINAL_EVENTS

_ENDS = NodeRunSucceeded | NodeRunFailed | NodeRunException | NodeRunPauseRequested
_OPENINGS = NodeRunIterationStarted | NodeRunLoopStarted
_ROUNDS = NodeRunIterationNext | NodeRunLoopNext
_CLOSINGS = (
    NodeRunIterationSucceeded
    | NodeRunIterationFailed
    | NodeRunLoopSucceeded
    | NodeRunLoopFailed
)
_DURING = (
    NodeRunAgentLog
    | NodeRunAgentThought
    | NodeRunHumanInputFormFilled
    | NodeRunHumanInputFormTimeout
    | NodeRunReasoningChunk
    | NodeRunRetrieverResource
)
"""Events that a node emits while it runs."""
_RESPONSES = ("answer", "end", "knowledge-index")
"""Nodes whose text may be sent before they run."""


def disorder_of_run(events: Sequence[AnyEvent]) -> list[str]:
    """Return what is wrong with the order of all events of a run; nothing if it is
    right."""
    problems: list[str] = []
    if not events or not isinstance(events[0], GraphRunStarted):
        problems.append("the run does not start with its own event")
    ends = [
        index for index, event in enumerate(events) if isinstance(event, FINAL_EVENTS)
    ]
    if ends != [len(events) - 1]:
        problems.append(f"the run ends at {ends} of {len(events)} events")
    return problems + disorder_of_nodes(events)


def disorder_of_nodes(events: Sequence[AnyEvent]) -> list[str]:
    """Return what is wrong with the order of the events of nodes."""
    state = _State()
    problems: list[str] = []
    for event in events:
        if isinstance(event, NodeEvent):
            problems += state.next(event)
    return problems + [f"{name} never ends" for name in state.unfinished()]


class _State:
    """What the events so far have shown."""

    def __init__(self) -> None:
        # The executions that are running, by id, with the number of their retries.
        self._running: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._ended_nodes: set[str] = set()
        self._seen: set[str] = set()
        self._last_index = 0
        # The containers that are open: the next round of each.
        self._rounds: dict[str, int] = {}

    def next(self, event: NodeEvent) -> Iterator[str]:
        """Yield what is wrong with an event at this point."""
        yield from self._outside(event)
        match event:
            case NodeRunStarted():
                yield from self._start(event)
            case NodeRunRetry():
                yield from self._retry(event)
            case _ if isinstance(event, _ENDS):
                yield from self._end(event)
            case _ if isinstance(event, _OPENINGS):
                yield from self._during(event)
                self._rounds[event.node_id] = 0
            case _ if isinstance(event, _ROUNDS):
                yield from self._round(event)
            case _ if isinstance(event, _CLOSINGS):
                yield from self._during(event)
                if self._rounds.pop(event.node_id, None) is None:
                    yield f"{event.node_id} closes before it opens"
            case NodeRunStreamChunk():
                yield from self._chunk(event)
            case _ if isinstance(event, _DURING):
                yield from self._during(event)
            case _:
                pass

    def unfinished(self) -> list[str]:
        """Return the nodes that have started and not ended."""
        return sorted(self._names[execution] for execution in self._running)

    def _outside(self, event: NodeEvent) -> Iterator[str]:
        """Yield a problem if an event inside of a container comes while that is closed."""
        for container in (event.in_iteration_id, event.in_loop_id):
            is_late_text = isinstance(event, NodeRunStreamChunk)
            if container and container not in self._rounds and not is_late_text:
                yield f"{event.node_id} is outside of its container {container}"

    def _start(self, event: NodeRunStarted) -> Iterator[str]:
        """Yield what is wrong with the start of a node."""
        if event.id in self._seen:
            yield f"{event.node_id} starts twice"
        before = event.predecessor_node_id
        if before and before not in self._ended_nodes:
            yield f"{event.node_id} starts before {before} has ended"
        if event.index <= self._last_index:
            yield f"{event.node_id} has the number {event.index} after {self._last_index}"
        self._last_index = event.index
        self._seen.add(event.id)
        self._running[event.id] = 0
        self._names[event.id] = event.node_id

    def _end(self, event: NodeEvent) -> Iterator[str]:
        """Yield what is wrong with the end of a node."""
        yield from self._during(event)
        self._running.pop(event.id, None)
        self._ended_nodes.add(event.node_id)

    def _retry(self, event: NodeRunRetry) -> Iterator[str]:
        """Yield what is wrong with a repetition."""
        yield from self._during(event)
        expected = self._running.get(event.id, 0) + 1
        if event.retry_index != expected:
            yield f"{event.node_id} is repeated for the {event.retry_index}. time, not {expected}."
        self._running[event.id] = event.retry_index

    def _round(self, event: NodeRunIterationNext | NodeRunLoopNext) -> Iterator[str]:
        """Yield what is wrong with the start of a round."""
        yield from self._during(event)
        expected = self._rounds.get(event.node_id)
        if event.round != expected:
            yield f"{event.node_id} begins round {event.round}, not {expected}"
        self._rounds[event.node_id] = event.round + 1

    def _chunk(self, event: NodeRunStreamChunk) -> Iterator[str]:
        """Yield a problem if a text comes from a node that has not started."""
        nodes = set(self._names.values())
        is_early = event.node_id not in nodes and event.node_type not in _RESPONSES
        if is_early and event.node_type:
            yield f"{event.node_id} sends a text before it starts"

    def _during(self, event: NodeEvent) -> Iterator[str]:
        """Yield a problem if a node that does not run emits an event."""
        if event.id not in self._running:
            name = type(event).__name__
            yield f"{event.node_id} emits {name} while it does not run"
