"""The text that clients show is the text of the answer, also if a node streamed a part
of it and then failed, was run again, or led to another branch."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.base.errors import ModelyardError
from modelyard.testing.workflows import StubTools
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import GraphEngine, Outcome, Status
from modelyard.workflow.events import (
    AnyEvent,
    NodeRunException,
    NodeRunRetry,
    NodeRunStreamChunk,
    TextReplaced,
)
from modelyard.workflow.node import RunContext, Services
from modelyard.workflow.variables import VariablePool
from tests.workflow.building import app_of

pytestmark = pytest.mark.proof("workflow-cases")

FAIL = "(fails)"
"""In a script: the attempt fails here."""


class ScriptedTools(StubTools):
    """Tools that stream the words of a script. Each call takes the tool's next one."""

    def __init__(self, scripts: Mapping[str, Sequence[Sequence[str]]]) -> None:
        super().__init__()
        self.scripts = {tool: list(attempts) for tool, attempts in scripts.items()}

    async def invoke(
        self, provider_type: str, provider: str, tool: str, *rest: Any, **options: Any
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        for word in self.scripts[tool].pop(0):
            await asyncio.sleep(0)
            if word == FAIL:
                raise ModelyardError("connection lost")
            yield {"type": "text", "message": {"text": word}}


def tool(name: str, **data: Any) -> dict[str, Any]:
    return {"type": "tool", "provider_id": "p", "tool_name": name, **data}


def retried(times: int) -> dict[str, Any]:
    return {"retry_config": {"retry_enabled": True, "max_retries": times}}


def run(app: App, tools: StubTools) -> tuple[Outcome, list[AnyEvent]]:
    events: list[AnyEvent] = []

    async def work() -> Outcome:
        context = RunContext(run_id="r", services=Services(tools=tools))
        pool = VariablePool({"start": {"l": ["x", "y"]}, "sys": {"query": "q"}})
        return await GraphEngine(app.graph(), pool, context, events.append).execute()

    return asyncio.run(work()), events


def shown(events: Sequence[AnyEvent]) -> str:
    """Return the text that a client shows after all events."""
    text = ""
    for event in events:
        if isinstance(event, NodeRunStreamChunk):
            text += event.chunk
        elif isinstance(event, TextReplaced):
            text = event.text
    return text


def chat(nodes: Mapping[str, Any], edges: Sequence[str]) -> App:
    return app_of({"start": {"type": "start"}, **nodes}, edges, mode="advanced-chat")


def test_a_retry_replaces_the_partial_text():
    app = chat(
        {
            "m": tool("m", **retried(3)),
            "a": {"type": "answer", "answer": "<{{#m.text#}}>"},
        },
        ["start > m", "m > a"],
    )
    tools = ScriptedTools(
        {"m": [["one ", "two ", FAIL], [FAIL], ["one ", "two ", "three"]]}
    )
    outcome, events = run(app, tools)
    assert outcome.outputs["answer"] == shown(events) == "<one two three>"
    # The client gets the new text only after it dropped the old one.
    kinds = [
        type(event)
        for event in events
        if isinstance(event, NodeRunStreamChunk | TextReplaced | NodeRunRetry)
    ]
    text, dropped, again = NodeRunStreamChunk, TextReplaced, NodeRunRetry
    assert kinds == [*[text] * 3, again, dropped, again, *[text] * 4]
    replaced = [event for event in events if isinstance(event, TextReplaced)]
    assert [(event.text, event.reason) for event in replaced] == [("<", "retry")]


def test_defaults_replace_the_partial_text():
    node = tool(
        "m",
        error_strategy="default-value",
        default_value=[{"key": "text", "type": "string", "value": "fallback"}],
    )
    app = chat(
        {"m": node, "a": {"type": "answer", "answer": "<{{#m.text#}}>"}},
        ["start > m", "m > a"],
    )
    outcome, events = run(app, ScriptedTools({"m": [["one ", FAIL]]}))
    assert outcome.status is Status.PARTIAL
    assert outcome.outputs["answer"] == shown(events) == "<fallback>"


BRANCHES = {
    "m": tool("m", error_strategy="fail-branch"),
    "good": {"type": "answer", "answer": "good: {{#m.text#}}"},
    "bad": {"type": "answer", "answer": "bad: {{#m.error_message#}}"},
}
BRANCH_EDGES = ["start > m", "m:success-branch > good", "m:fail-branch > bad"]


def test_a_fail_branch_does_not_hold_the_text_back():
    app = chat(BRANCHES, BRANCH_EDGES)
    outcome, events = run(app, ScriptedTools({"m": [["one ", "two"]]}))
    assert outcome.outputs["answer"] == shown(events) == "good: one two"
    first_text = next(
        index
        for index, event in enumerate(events)
        if isinstance(event, NodeRunStreamChunk)
    )
    ends = [index for index, event in enumerate(events) if event_ends(event, "m")]
    assert first_text < ends[0]
    assert not [event for event in events if isinstance(event, TextReplaced)]


def event_ends(event: AnyEvent, node: str) -> bool:
    return type(event).__name__ == "NodeRunSucceeded" and event.node_id == node  # type: ignore[union-attr]


def test_the_text_of_a_branch_that_is_not_taken_is_withdrawn():
    app = chat(BRANCHES, BRANCH_EDGES)
    outcome, events = run(app, ScriptedTools({"m": [["one ", FAIL]]}))
    assert outcome.status is Status.PARTIAL
    assert (
        outcome.outputs["answer"]
        == shown(events)
        == ("bad: Failed to invoke tool m: connection lost")
    )
    [exception] = [event for event in events if isinstance(event, NodeRunException)]
    assert exception.node_id == "m"


def test_nothing_is_replaced_where_nothing_was_shown():
    app = chat(BRANCHES, BRANCH_EDGES)
    _, events = run(app, ScriptedTools({"m": [[FAIL]]}))
    assert not [event for event in events if isinstance(event, TextReplaced)]


def test_text_inside_a_container_is_held_back_until_it_is_certain():
    app = chat(
        {
            "it": {"type": "iteration", "iterator_selector": ["start", "l"], "output_selector": ["m", "text"], "start_node_id": "m"},
            "m": tool("m", **{"in": "it"}, **retried(1)),
            "a": {"type": "answer", "in": "it", "answer": "<{{#m.text#}}>"},
            "end": {"type": "answer", "answer": "done"},
        },
        ["start > it", "m > a", "it > end"],
    )  # fmt: skip
    scripts = {"m": [["one ", FAIL], ["one ", "two"], ["x ", FAIL], ["x ", "y"]]}
    outcome, events = run(app, ScriptedTools(scripts))
    assert outcome.status is Status.SUCCEEDED, outcome.error
    assert shown(events) == "<one two><x y>done"
    assert not [event for event in events if isinstance(event, TextReplaced)]


WORDS = st.lists(st.sampled_from(["a ", "b ", "c "]), max_size=3)


@given(
    attempts=st.lists(WORDS, max_size=3),
    last=WORDS,
    fails=st.booleans(),
    strategy=st.sampled_from(["", "fail-branch", "default-value"]),
    other=WORDS,
    template=st.sampled_from(
        ["{{#m.text#}}", "x {{#m.text#}} y", "{{#n.text#}}{{#m.text#}}", "{{#m.text#}}{{#n.text#}} z"]
    ),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_the_shown_text_is_the_answer(
    attempts: list[list[str]],
    last: list[str],
    fails: bool,
    strategy: str,
    other: list[str],
    template: str,
):
    """However often nodes fail, and wherever, clients end up with the answer's text."""
    node = tool("m", **retried(len(attempts)), error_strategy=strategy)
    if strategy == "default-value":
        default = {"key": "text", "type": "string", "value": "default"}
        node["default_value"] = [default]
    handle = ":success-branch" if strategy == "fail-branch" else ""
    app = chat(
        {
            "m": node,
            "n": tool("n"),
            "join": {"type": "variable-aggregator", "variables": [["n", "text"]]},
            "a": {"type": "answer", "answer": template},
            "bad": {"type": "answer", "answer": "bad"},
        },
        ["start > m", "start > n", f"m{handle} > a", "n > a"]
        + (["m:fail-branch > bad"] if strategy == "fail-branch" else []),
    )
    final = [*last, FAIL] if fails else last
    scripts = {"m": [*([*words, FAIL] for words in attempts), final], "n": [other]}
    outcome, events = run(app, ScriptedTools(scripts))
    if outcome.status is Status.FAILED:
        assert fails
        return
    if strategy == "fail-branch" and fails:
        # Both answers are reached, in either order.
        return
    assert shown(events) == outcome.outputs["answer"]


@pytest.mark.parametrize("fails", [True, False])
def test_a_resumed_run_replaces_what_a_killed_attempt_showed(fails: bool):
    """The text that a killed process streamed is replaced, then the node runs again."""
    from tests.workflow.test_laws import _Recorder  # pyright: ignore[reportPrivateUsage]

    app = chat(
        {
            "m": tool("m", **retried(1)),
            "a": {"type": "answer", "answer": "<{{#m.text#}}>"},
        },
        ["start > m", "m > a"],
    )
    first = _Recorder()
    events: list[AnyEvent] = [
        NodeRunStreamChunk(
            id="", node_id="m", node_type="tool", selector=[], chunk="<one "
        )
    ]

    async def work(recorder: _Recorder, tools: StubTools) -> Outcome:
        context = RunContext(run_id="r", services=Services(tools=tools))
        pool = VariablePool({"start": {}, "sys": {"query": "q"}})
        engine = GraphEngine(
            app.graph(), pool, context, events.append, recorder=recorder
        )
        return await engine.execute()

    asyncio.run(work(first, ScriptedTools({"m": [["one"]]})))
    del events[1:]
    attempts = [["on", FAIL], ["one ", "two"]] if fails else [["one ", "two"]]
    resumed = _Recorder(first.kept[:1], shown_text="<one ")
    outcome = asyncio.run(work(resumed, ScriptedTools({"m": attempts})))
    assert outcome.outputs["answer"] == shown(events) == "<one two>"
