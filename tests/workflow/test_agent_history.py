"""What agents remember of their tools, and what they say if they have none."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.app import Modelyard
from modelyard.gateway.service.agui_events import AgUiEvents
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    ToolPromptMessage,
)
from modelyard.testing.agents import ScriptedChatModel
from modelyard.tools.function import tool
from modelyard.workflow.engine import Status
from modelyard.workflow.events import AgentToolCall, NodeRunAgentThought
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import Limits, Thought, Turn
from tests.agents.test_runs import start_run, within
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench, StubMemory

START: dict[str, Any] = {"start": {"type": "start", "variables": []}}


@tool
async def look_up(word: str) -> str:
    """Looks a word up."""
    return f"{word} is found"


# ------------------------------------------------------------------ tools that are gone


def agent(*tools: str, **fields: Any) -> dict[str, Any]:
    """Return an agent node with tools of these names."""
    listed = [
        {"enabled": True, "provider_type": "builtin", "provider_id": "function", "tool_name": name}
        for name in tools
    ]  # fmt: skip
    return {
        "type": "agent",
        "agent_strategy_name": "function_calling",
        "agent_parameters": {
            "model": {"type": "constant", "value": {"provider": "o", "model": "m"}},
            "tools": {"type": "constant", "value": listed},
            "query": {"type": "constant", "value": "go"},
        },
        **fields,
    }


def run_agent(bench: Bench, *tools: str) -> Any:
    """Run an agent with the tools that the server has."""
    answer = {"type": "answer", "answer": "{{#x.text#}}"}
    app = app_of(
        {**START, "x": agent(*tools), "answer": answer},
        ["start > x", "x > answer"],
        mode="advanced-chat",
    )
    services = bench.services(app)
    services.tools = bench.yard.services.workflows.services(app).tools
    outcome, _ = bench.run(app, query="go", services=services)
    return outcome


def test_an_agent_without_any_of_its_tools_fails_and_names_them(bench: Bench):
    outcome = run_agent(bench, "crm", "billing")
    assert (outcome.status, outcome.error_type) == (
        Status.FAILED,
        "AgentToolsUnavailable",
    )
    assert outcome.error.startswith(
        "None of the agent's tools is available: crm (Tool "
    )
    assert "; billing (Tool " in outcome.error
    assert bench.model.requests == []


def test_an_agent_with_one_of_its_tools_works(bench: Bench):
    bench.yard.tools.functions.add(look_up)
    outcome = run_agent(bench, "crm", "look_up")
    assert outcome.status is Status.SUCCEEDED, outcome.error
    offered = [offered_tool.name for offered_tool in bench.model.requests[0].tools]
    assert offered == ["crm", "look_up"]


def test_an_agent_that_never_had_tools_works(bench: Bench):
    assert run_agent(bench).status is Status.SUCCEEDED


# ------------------------------------------------------------------------ earlier calls


def test_each_of_several_calls_of_one_tool_is_replayed_with_its_result(tmp_path: Path):
    calls = [["look_up", {"word": "one"}], ["look_up", {"word": "two"}]]
    model = ScriptedChatModel(
        replies=[
            {"thinking": "Two words.", "text": "Both.", "calls": calls},
            "Found.",
            "As I said.",
        ]
    )

    async def talk(yard: Modelyard) -> None:
        yard.tools.functions.add(look_up)
        run = await start_run(yard, _app_with_look_up(), query="look up")
        app_record = yard.apps.get_by_id_or_name("default", "agent")
        second_run, _ = await yard.services.workflows.chats.send(
            app_record,
            await yard.apps.published_app(app_record),
            query="and?",
            inputs={},
            user="ada",
            conversation_id=run.conversation,
        )
        await yard.runs.wait_until_ended("default", second_run.id)

    within(tmp_path, model, talk)
    assert _shown(model.requests[-1].messages)[1:] == [
        ("user", "look up"),
        ("assistant", "Both.", [("past_0_0_0", '{"word": "one"}'), ("past_0_0_1", '{"word": "two"}')]),
        ("tool", "one is found", "past_0_0_0"),
        ("tool", "two is found", "past_0_0_1"),
        ("assistant", "Found.", []),
        ("user", "and?"),
    ]  # fmt: skip


def _app_with_look_up() -> str:
    """Return the chat of an agent that has the tool."""
    from tests.agents.test_runs import app_text

    tools = [{"enabled": True, "provider_type": "function", "provider_name": "", "tool_name": "look_up"}]  # fmt: skip
    return app_text(tools=tools)


def _shown(messages: Sequence[AnyPromptMessage]) -> list[tuple[Any, ...]]:
    """Return role, text and calls of messages."""
    shown: list[tuple[Any, ...]] = []
    for message in messages:
        if isinstance(message, AssistantPromptMessage):
            calls = [(call.id, call.function.arguments) for call in message.tool_calls]
            shown.append(("assistant", message.text, calls))
        elif isinstance(message, ToolPromptMessage):
            shown.append(("tool", message.text, message.tool_call_id))
        else:
            shown.append((message.role.value, message.text))
    return shown


def turn(index: int, result: str) -> Turn:
    """Return a turn in which a tool was called."""
    call = AgentToolCall(name="t", arguments='{"n": 1}', observation=result)
    return Turn(
        id=f"m{index}",
        query=f"question {index}",
        answer=f"answer {index}",
        thoughts=[Thought(calls=[call])],
    )


def ask_agent(bench: Bench, memory: StubMemory, **limits: Any) -> list[Any]:
    """Ask an agent with a memory; return the messages of its last request."""
    answer = {"type": "answer", "answer": "{{#x.text#}}"}
    node = agent("look_up", memory={"window": {"enabled": False}})
    app = app_of(
        {**START, "x": node, "answer": answer},
        ["start > x", "x > answer"],
        mode="advanced-chat",
    )
    bench.yard.tools.functions.add(look_up)
    services = bench.services(app)
    services.tools = bench.yard.services.workflows.services(app).tools
    services.memory = memory
    bench.model.requests.clear()
    options = {"limits": Limits(**limits)} if limits else {}
    outcome, _ = bench.run(app, query="go", services=services, **options)
    assert outcome.status is Status.SUCCEEDED, outcome.error
    return _shown(bench.model.requests[0].messages)


def test_old_calls_are_left_out_with_their_results_before_questions_are(bench: Bench):
    # A result has 500 to 1,000 tokens here; the context has 32,768.
    turns = [turn(index, " ".join(["lorem"] * 2000)) for index in range(60)]
    messages = ask_agent(bench, StubMemory(turns))
    questions = [message[1] for message in messages if message[0] == "user"]
    assert questions == [*(f"question {index}" for index in range(60)), "go"]
    calls = [call for message in messages if message[0] == "assistant" for call, _ in message[2]]  # fmt: skip
    results = [message[2] for message in messages if message[0] == "tool"]
    assert calls == results
    # Those of the newest turns are there.
    assert 5 < len(calls) < 60
    assert calls[-1] == "past_59_0_0"


LONG = " ".join(["lorem"] * 2500)


def test_an_agents_old_turns_are_summarised_or_left_out_as_the_limit_says(bench: Bench):
    bench.model.answers.append(("What was said since", "Ada asked much."))
    turns = [Turn(id=f"m{n}", query=f"question {n} {LONG}", answer="a") for n in range(20)]  # fmt: skip
    memory = StubMemory(turns)
    assert "keep the record" in ask_agent(bench, memory)[0][1]
    assert memory.kept is not None
    assert memory.kept.text == "Ada asked much."
    unsummarised = StubMemory(turns)
    messages = ask_agent(bench, unsummarised, summary_tokens=0)
    assert unsummarised.kept is None
    questions = [message[1][:12] for message in messages if message[0] == "user"]
    assert questions[-2:] == ["question 19 ", "go"]
    assert len(questions) < 20


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        ('{"t": "found"}', [AgentToolCall(name="t", arguments='{"a": 1}', observation="found")]),
        ("", [AgentToolCall(name="t", arguments='{"a": 1}')]),
    ],
)  # fmt: skip
def test_messages_of_earlier_versions_have_one_call_for_each_tool(
    tmp_path: Path, observation: str, expected: list[AgentToolCall]
):
    from modelyard.workflow.conversations import (
        Message,
        _thoughts,  # pyright: ignore[reportPrivateUsage]
    )

    shown = {"thought": "hm", "tool": "t;t", "tool_input": json.dumps({"t": {"a": 1}}), "observation": observation}  # fmt: skip
    message = Message(
        tenant="t",
        id="m",
        app="a",
        user="u",
        conversation="c",
        metadata={"agent_thoughts": [shown]},
    )
    assert _thoughts(message) == [Thought(text="hm", calls=expected)]


def test_agui_shows_each_of_several_calls_of_one_tool():
    event = NodeRunAgentThought(
        id="e",
        node_id="n",
        node_type="agent",
        thought_id="t",
        tool="look_up;look_up",
        calls=[AgentToolCall(name="look_up", arguments=word) for word in ("1", "2")],
    )
    done = msgspec.structs.replace(
        event,
        observation="{}",
        calls=[
            msgspec.structs.replace(call, observation=f"{call.arguments}!")
            for call in event.calls
        ],
    )
    translated = AgUiEvents(RunRecord(tenant="t", id="r", app="a"))
    shown = [*translated.feed(event), *translated.feed(done)]
    assert [
        (entry["toolCallId"], entry.get("delta") or entry.get("content"))
        for entry in shown
        if entry["type"] in ("TOOL_CALL_ARGS", "TOOL_CALL_RESULT")
    ] == [("t-0", "1"), ("t-1", "2"), ("t-0", "1!"), ("t-1", "2!")]
