"""Cases of each node type and each quirk: an app, what goes in, what must come out, and in which order it happens."""

from pathlib import Path
from typing import Any

import pytest
import yaml

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

FOLDER = Path(__file__).parent / "cases"


def cases() -> list[Any]:
    found: list[Any] = []
    for path in sorted(FOLDER.glob("*.yml")):
        for case in yaml.safe_load(path.read_text("utf-8")):
            found.append(pytest.param(case, id=f"{path.stem}: {case['name']}"))
    return found


def told(event: AnyEvent) -> str | None:
    """An event as the cases write it."""
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
    more = {
        name: [{"name": key, **one} for key, one in case.get(short, {}).items()]
        for name, short in (("environment_variables", "env"), ("conversation_variables", "conversation"))
    }
    app = app_of(case["nodes"], case.get("edges", ()), mode=case.get("mode", "workflow"), **more)
    bench.model.answers += [(one[0], one[1]) for one in case.get("model", ())]
    bench.http.answers += [
        (one[0], one[1], {"content-type": one[2]}, str(one[3]).encode()) for one in case.get("http", ())
    ]
    bench.tools.messages.update(case.get("tools", {}))
    bench.agents.messages += case.get("agent", [])
    bench.datasets.segments += case.get("segments", [])
    bench.forms.answers.update(case.get("forms", {}))
    bench.files.contents.update({name: str(text).encode() for name, text in case.get("files", {}).items()})
    bench.turns += [Turn(**one) for one in case.get("turns", ())]
    inputs = from_object(case.get("inputs", {}))
    outcome, events = bench.run(app, inputs=inputs, query=case.get("query", ""), files=case.get("sys_files", ()))
    assert (outcome.error, outcome.status.value) == (case.get("error", ""), case.get("status", "succeeded"))
    if "outputs" in case:
        assert outcome.outputs == case["outputs"]
    if "says" in case:
        assert "".join(one.chunk for one in events if isinstance(one, NodeRunStreamChunk)) == case["says"]
    if "order" in case:
        assert [one for one in map(told, events) if one is not None] == case["order"]
    by_node = {
        one.node_id: one for one in events if isinstance(one, NodeRunSucceeded | NodeRunException | NodeRunFailed)
    }
    for name, wanted in case.get("node", {}).items():
        for field, value in wanted.items():
            got = getattr(by_node[name], field)
            if isinstance(value, dict):
                got = {key: got.get(key) for key in value}
            assert got == value, f"{name}.{field}"
    if "asked" in case:
        sent = [{one.role.value: one.text} for one in bench.model.requests[-1].messages]
        assert sent == case["asked"]
    if "form" in case:
        [form] = bench.forms.asked.values()
        assert {name: form[name] for name in case["form"]} == case["form"]
    if "requests" in case:
        sent = [{"method": one[0], "url": one[1], "body": one[3].decode()} for one in bench.http.seen]
        assert sent == case["requests"]
