"""The laws on the order of events notice a wrong order."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from tools.show.event_order import disorder_of_nodes, disorder_of_run

from modelyard.workflow.events import (
    AnyEvent,
    NodeRunIterationNext,
    NodeRunLoopNext,
    NodeRunRetry,
    NodeRunStarted,
    NodeRunStreamChunk,
    NodeRunSucceeded,
)
from modelyard.workflow.node_events import NodeEvents
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("node-cases")

MODEL = {"provider": "scripted", "name": "model", "mode": "chat"}
NODES: dict[str, dict[str, Any]] = {
    "start": {"type": "start"},
    "list": {"type": "code", "code_language": "python3", "code": "def main():\n    return {'items': ['a', 'b']}", "variables": [], "outputs": {"items": {"type": "array[string]"}}},
    "each": {"type": "iteration", "iterator_selector": ["list", "items"], "output_selector": ["inner", "output"], "start_node_id": "first"},
    "first": {"type": "iteration-start", "iteration_id": "each"},
    "inner": {"type": "template-transform", "template": "{{ x }}", "variables": [{"variable": "x", "value_selector": ["each", "item"]}], "iteration_id": "each"},
    "round": {"type": "loop", "loop_count": 2, "loop_variables": [], "start_node_id": "begin"},
    "begin": {"type": "loop-start", "loop_id": "round"},
    "again": {"type": "http-request", "url": "http://x.example", "method": "get", "retry_config": {"retry_enabled": True, "max_retries": 2, "retry_interval": 1}, "error_strategy": "default-value", "default_value": [{"key": "body", "type": "string", "value": "no"}]},
    "llm": {"type": "llm", "model": MODEL, "prompt_template": [{"role": "user", "text": "{{#sys.query#}}"}]},
    "answer": {"type": "answer", "answer": "{{#llm.text#}}"},
}  # fmt: skip
EDGES = ["start > list", "list > each", "first > inner", "each > round", "round > again", "again > llm", "llm > answer"]  # fmt: skip


@pytest.fixture
def events(bench: Bench) -> list[AnyEvent]:
    """Return the events of a run with everything that has an order."""
    bench.http.answers.append(("x.example", 500, {}, b""))
    app = app_of(NODES, EDGES, mode="advanced-chat")
    outcome, events = bench.run(app, query="one two")
    assert outcome.status.value == "partial-succeeded"
    assert disorder_of_run(events) == []
    return events


def _indexes(events: Sequence[AnyEvent], *types: type) -> list[int]:
    found = [index for index, event in enumerate(events) if isinstance(event, types)]
    assert found
    return found


def _moved(events: Sequence[AnyEvent], source: int, target: int) -> list[AnyEvent]:
    others = [*events[:source], *events[source + 1 :]]
    return [*others[:target], events[source], *others[target:]]


def test_a_start_or_an_end_that_is_missing_or_doubled_is_found(events: list[AnyEvent]):
    for index in _indexes(events, NodeRunStarted, NodeRunSucceeded):
        assert disorder_of_run([*events[:index], *events[index + 1 :]])
        assert disorder_of_run([*events[: index + 1], *events[index:]])


def test_nodes_in_another_order_are_found(events: list[AnyEvent]):
    starts = _indexes(events, NodeRunStarted)
    for left, right in pairwise(starts):
        assert disorder_of_run(_moved(events, right, left))
    ends = _indexes(events, NodeRunSucceeded)
    for index in ends:
        assert disorder_of_run(_moved(events, index, 1))


def test_rounds_and_repetitions_in_another_order_are_found(events: list[AnyEvent]):
    for event_type in (NodeRunIterationNext, NodeRunLoopNext, NodeRunRetry):
        first, second = _indexes(events, event_type)
        swapped = list(events)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        assert disorder_of_run(swapped)
        assert disorder_of_run(_moved(events, second, 1))


def test_a_text_before_its_node_is_found(events: list[AnyEvent]):
    for index in _indexes(events, NodeRunStreamChunk):
        assert disorder_of_run(_moved(events, index, 1))


def test_a_run_that_does_not_start_or_end_as_it_must_is_found(events: list[AnyEvent]):
    assert disorder_of_run([]) == ["the run does not start with its own event", "the run ends at [] of 0 events"]  # fmt: skip
    assert disorder_of_run(events[1:])
    assert disorder_of_run(events[:-1])
    assert disorder_of_run([*events, events[-1]])
    assert disorder_of_run(_moved(events, len(events) - 1, 3))


def test_an_event_outside_of_its_container_is_found(events: list[AnyEvent]):
    inner = next(
        event
        for event in events
        if isinstance(event, NodeRunStarted) and event.node_id == "inner"
    )
    elsewhere = msgspec.structs.replace(inner, in_iteration_id="nowhere")
    changed = [elsewhere if event is inner else event for event in events]
    assert "inner is outside of its container nowhere" in disorder_of_nodes(changed)


def test_an_engine_that_does_not_say_what_starts_is_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(NodeEvents, "started", lambda self, running: None)
    app = app_of(
        {"start": {"type": "start"}, "end": {"type": "end", "outputs": []}},
        ["start > end"],
    )
    _, events = bench.run(app)
    assert "start emits NodeRunSucceeded while it does not run" in disorder_of_run(
        events
    )
