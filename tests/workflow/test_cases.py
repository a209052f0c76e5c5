"""Cases for each node type and each quirk.

An app, its inputs, the expected outputs, and the expected order of events.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.show.event_order import disorder_of_run

from modelyard.workflow.events import (
    AnyEvent,
    NodeRunException,
    NodeRunFailed,
    NodeRunIterationNext,
    NodeRunLoopNext,
    NodeRunReasoningChunk,
    NodeRunRetry,
    NodeRunStarted,
    NodeRunStreamChunk,
    NodeRunSucceeded,
)
from modelyard.workflow.node import Turn
from modelyard.workflow.variables import from_object
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("node-cases")

FOLDER = Path(__file__).parent / "cases"


def cases() -> list[Any]:
    params: list[Any] = []
    for path in sorted(FOLDER.glob("*.yml")):
        for case in yaml.safe_load(path.read_text("utf-8")):
            params.append(pytest.param(case, id=f"{path.stem}: {case['name']}"))
    return params


def event_line(event: AnyEvent) -> str | None:
    """Return an event in the notation of the cases, or None if it is not listed."""
    match event:
        case NodeRunStarted():
            return f"start {event.node_id}"
        case NodeRunSucceeded():
            return f"done {event.node_id}"
        case NodeRunFailed():
            return f"failed {event.node_id}"
        case NodeRunException():
            return f"exception {event.node_id}"
        case NodeRunRetry():
            return f"retry {event.node_id} {event.retry_index}"
        case NodeRunIterationNext() | NodeRunLoopNext():
            return f"round {event.node_id} {event.round}"
        case NodeRunStreamChunk():
            return f"say {event.chunk}"
        case NodeRunReasoningChunk():
            return f"think {event.chunk}" if event.chunk else None
        case _:
            return None


@pytest.mark.parametrize("case", cases())
def test_case(bench: Bench, case: dict[str, Any]):
    app = app_of(
        case["nodes"],
        case.get("edges", ()),
        mode=case.get("mode", "workflow"),
        environment_variables=_variables(case.get("env", {})),
        conversation_variables=_variables(case.get("conversation", {})),
    )
    _prepare(bench, case)
    inputs = from_object(case.get("inputs", {}))
    outcome, events = bench.run(
        app, inputs=inputs, query=case.get("query", ""), files=case.get("sys_files", ())
    )
    assert (outcome.error, outcome.status.value) == (
        case.get("error", ""),
        case.get("status", "succeeded"),
    )
    if "outputs" in case:
        assert outcome.outputs == case["outputs"]
    # The order that every run has, and the one that the case says.
    assert disorder_of_run(events) == []
    _check_events(case, events)
    _check_nodes(case, events)
    _check_outside(bench, case)


def _variables(variables: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the variables of a case in the format of an app file."""
    return [{"name": name, **variable} for name, variable in variables.items()]


def _prepare(bench: Bench, case: dict[str, Any]) -> None:
    """Configure the answers of the case's models, servers, tools and users."""
    bench.model.answers += [(reply[0], reply[1]) for reply in case.get("model", ())]
    bench.http.answers += [
        (reply[0], reply[1], {"content-type": reply[2]}, str(reply[3]).encode())
        for reply in case.get("http", ())
    ]
    bench.tools.messages.update(case.get("tools", {}))
    bench.agents.messages += case.get("agent", [])
    bench.datasets.segments += case.get("segments", [])
    bench.forms.answers.update(case.get("forms", {}))
    bench.files.contents.update(
        {name: str(text).encode() for name, text in case.get("files", {}).items()}
    )
    bench.turns += [Turn(**turn) for turn in case.get("turns", ())]


def _check_events(case: dict[str, Any], events: Sequence[Any]) -> None:
    """Check the streamed text and the order of the events."""
    if "says" in case:
        chunks = [event for event in events if isinstance(event, NodeRunStreamChunk)]
        assert "".join(event.chunk for event in chunks) == case["says"]
    if "order" in case:
        lines = [event_line(event) for event in events]
        assert [line for line in lines if line is not None] == case["order"]


def _check_nodes(case: dict[str, Any], events: Sequence[Any]) -> None:
    """Check the fields of each node's last event; of dictionaries only given keys."""
    ended = NodeRunSucceeded | NodeRunException | NodeRunFailed
    by_node = {event.node_id: event for event in events if isinstance(event, ended)}
    for name, expected_fields in case.get("node", {}).items():
        for field, value in expected_fields.items():
            actual = getattr(by_node[name], field)
            if isinstance(value, dict):
                actual = {key: actual.get(key) for key in value}
            assert actual == value, f"{name}.{field}"


def _check_outside(bench: Bench, case: dict[str, Any]) -> None:
    """Check what models, users and servers received."""
    if "asked" in case:
        sent = [
            {message.role.value: message.text}
            for message in bench.model.requests[-1].messages
        ]
        assert sent == case["asked"]
    if "form" in case:
        [form] = bench.forms.asked.values()
        assert {name: form[name] for name in case["form"]} == case["form"]
    if "requests" in case:
        sent = [
            {"method": request[0], "url": request[1], "body": request[3].decode()}
            for request in bench.http.seen
        ]
        assert sent == case["requests"]
