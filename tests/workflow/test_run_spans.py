"""The trace of a run: its spans, for any sequence of a run's events."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from modelyard.workflow.engine import Status
from modelyard.workflow.events import (
    AnyEvent,
    NodeRunAgentLog,
    NodeRunFailed,
    NodeRunStarted,
    NodeRunSucceeded,
)
from modelyard.workflow.run_record import RunRecord
from modelyard.workflow.run_spans import spans_of

RUN = RunRecord(
    tenant="t", id="run_1", app="app_1", status=Status.FAILED, error="no s3cret", created_at=1.0, finished_at=9.0,
    inputs={"q": "s3cret"}, user="ada",
)  # fmt: skip


def node(cls: Any, id: str, name: str, **fields: Any) -> AnyEvent:
    usual = {"id": id, "node_id": name, "node_type": "code", "title": name, "at": 5.0}
    return cls(**{**usual, **fields})


NODES = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "a", "b", "x"]), st.booleans()),
    max_size=12,
)  # fmt: skip


@given(NODES, st.booleans())
def test_every_span_has_an_id_of_its_own_and_a_parent_in_the_trace(
    nodes: list[tuple[str, str, bool]], has_content: bool
):
    events: list[AnyEvent] = []
    for number, (name, container, fails) in enumerate(nodes):
        events.append(node(NodeRunStarted, f"n{number}", name, in_loop_id=container))
        cls, more = (NodeRunFailed, {"error": "e"}) if fails else (NodeRunSucceeded, {})
        # A container ends after what is in it.
        if name not in "ab":
            events.append(node(cls, f"n{number}", name, in_loop_id=container, **more))
    for number, (name, container, _) in enumerate(nodes):
        if name in "ab":
            events.append(node(NodeRunSucceeded, f"n{number}", name, in_loop_id=container))  # fmt: skip
    spans = spans_of(RUN, "app", events, has_content=has_content)
    assert len(spans) == 1 + len(nodes)
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    assert spans[0].parent_id == b""
    assert all(span.parent_id in ids for span in spans[1:])
    assert {span.trace_id for span in spans} == {spans[0].trace_id}
    # A trace that is sent again replaces itself.
    assert spans == spans_of(RUN, "app", events, has_content=has_content)


def test_secrets_are_masked_before_texts_are_cut():
    def mask(text: str) -> str:
        return text.replace("s3cret", "***")

    long = node(NodeRunSucceeded, "n", "a", outputs={"x": "-" * 31_990 + "s3cret"})
    root, span = spans_of(RUN, "app", [long], has_content=True, mask=mask)
    assert "s3c" not in str(span.attributes["output.value"])
    assert (root.error, json.loads(str(root.attributes["input.value"]))) == (
        "no ***",
        {"q": "***"},
    )
    (root, span) = spans_of(RUN, "app", [long], has_content=False)
    assert not {"input.value", "output.value"} & {*root.attributes, *span.attributes}


def test_rounds_and_calls_of_an_agent_are_spans_below_its_node():
    def log(name: str, parent: str | None, label: str, **fields: Any) -> AnyEvent:
        return node(NodeRunAgentLog, "n", "a", message_id=name, parent_id=parent, label=label, **fields)  # fmt: skip

    usage = {"elapsed_time": 2.0, "total_tokens": 7}
    events = [
        node(NodeRunStarted, "n", "a"),
        log("r1", None, "ROUND 1", status="start"),
        log("t1", "r1", "echo Thought", metadata=usage),
        log("c1", "r1", "CALL search", status="error", error="away"),
        log("r1", None, "ROUND 1", status="success", metadata=usage),
        node(NodeRunSucceeded, "n", "a", node_type="agent"),
    ]
    _, agent, *entries = spans_of(RUN, "app", events, has_content=True)
    by_name = {span.name: span for span in entries}
    assert len(entries) == len(by_name) == 3
    model, tool = by_name["echo Thought"], by_name["CALL search"]
    assert by_name["ROUND 1"].parent_id == agent.span_id
    assert model.parent_id == tool.parent_id == by_name["ROUND 1"].span_id
    assert (model.started_at, model.ended_at, model.is_model_call) == (3.0, 5.0, True)
    assert model.attributes["llm.token_count.total"] == 7
    assert model.attributes["gen_ai.request.model"] == "echo"
    assert (tool.attributes["gen_ai.tool.name"], tool.error) == ("search", "away")


def test_a_long_loop_is_cut_and_says_so():
    events = [node(NodeRunSucceeded, f"n{number}", "a") for number in range(2_050)]
    spans = spans_of(RUN, "app", events, has_content=False)
    assert (len(spans), spans[0].attributes["modelyard.spans_dropped"]) == (2_001, 50)
