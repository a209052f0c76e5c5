"""Tests for agents in apps: crashes, pauses for approval, and injected tool output."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.tenancy.caller import Caller
from modelyard.testing.agents import ScriptedChatModel
from modelyard.testing.workflows import scripted_models
from modelyard.tools.entities import ToolContext
from modelyard.tools.function import tool
from modelyard.workflow.dsl import AppMapping
from modelyard.workflow.engine import Status
from modelyard.workflow.events import NodeRunAgentThought, NodeRunStreamChunk

executed_calls: list[str] = []


@tool(needs_approval=True)
async def refund(order: str) -> str:
    """Pays back."""
    executed_calls.append(f"refund {order}")
    return f"{order} is paid back"


@tool
async def note(text: str, context: ToolContext) -> str:
    """Notes something."""
    executed_calls.append(f"{context.tenant}/{context.user}: {text}")
    return "noted"


def app_text(mode: str = "advanced-chat", **parameters: Any) -> str:
    tools = [
        {
            "enabled": True,
            "provider_type": "function",
            "provider_name": "",
            "tool_name": function_tool.name,
        }
        for function_tool in (refund, note)
    ]
    agent = {
        "type": "agent", "title": "agent", "agent_strategy_name": "function_calling", "memory": {"window": {"enabled": False}},
        "agent_parameters": {
            "model": {"type": "constant", "value": {"provider": "openai", "model": "gpt-4o"}},
            "tools": {"type": "constant", "value": tools}, "query": {"type": "constant", "value": "{{#sys.query#}}"},
            **{name: {"type": "constant", "value": value} for name, value in parameters.items()},
        },
    }  # fmt: skip
    nodes = {
        "start": {"type": "start"},
        "agent": agent,
        "answer": {"type": "answer", "answer": "{{#agent.text#}}"},
    }
    graph = {
        "nodes": [
            {"id": name, "data": {"title": name, **data}}
            for name, data in nodes.items()
        ],
        "edges": [
            {"source": "start", "target": "agent"},
            {"source": "agent", "target": "answer"},
        ],
    }
    return yaml.dump(
        {
            "kind": "app",
            "version": "0.6.0",
            "app": {"name": "agent", "mode": mode},
            "workflow": {"graph": graph},
        }
    )


Work = Callable[[Modelyard], Coroutine[Any, Any, Any]]


def within(home: Path, model: ScriptedChatModel, work: Work) -> Any:
    """Run a coroutine with a new application and close it, like a process that ends."""

    async def go() -> Any:
        definition, builder = scripted_models(model)  # type: ignore[arg-type]
        async with Modelyard(
            Settings(home=str(home)),
            definitions=[definition],
            builders={"scripted": builder},
            environ={},
        ) as yard:
            yard.tools.functions.add(refund)
            yard.tools.functions.add(note)
            return await work(yard)

    return asyncio.run(go())


async def start_run(yard: Modelyard, text: str = "", query: str = "go") -> Any:
    await yard.apps.add(
        "default",
        text or app_text(),
        mapping=AppMapping(models={"*": "scripted/model"}),
    )
    app_record = yard.apps.get_by_id_or_name("default", "agent")
    run, _ = await yard.services.workflows.chats.send(
        app_record,
        await yard.apps.published_app(app_record),
        query=query,
        inputs={},
        user="ada",
    )
    return await yard.runs.wait_until_ended("default", run.id)


@pytest.fixture(autouse=True)
def _clean() -> None:
    executed_calls.clear()


REPLIES: list[Any] = [
    {"text": "Let me see.", "calls": [["note", {"text": "one"}], ["refund", {"order": "A1"}]]}, "All is done.",
]  # fmt: skip


@pytest.mark.parametrize(("action", "effect", "expected_result"), [
    ("approve", ["refund A1"], "A1 is paid back"), ("refuse", [], "not called: permission was refused: too much"),
])  # fmt: skip
def test_a_tool_waits_for_approval_across_a_restart(
    tmp_path: Path, action: str, effect: list[str], expected_result: str
):
    first = ScriptedChatModel(replies=REPLIES)

    async def until_paused(yard: Modelyard) -> tuple[str, str]:
        run = await start_run(yard)
        assert run.status is Status.PAUSED
        assert "refund" in run.reasons[0]["form_content"]
        return run.id, run.reasons[0]["form_token"]

    run_id, token = within(tmp_path, first, until_paused)
    # Nothing runs before somebody has approved, not even tools that need no approval.
    assert executed_calls == []
    second = ScriptedChatModel(replies=["All is done."])

    async def answered(yard: Modelyard) -> Any:
        await yard.runs.journal.forms.fill(
            token, {"action": action, "inputs": {"reason": "too much"}}
        )
        assert await yard.runs.resume("default", run_id)
        ended = await yard.runs.wait_until_ended("default", run_id)
        events = [event for _, event in await yard.runs.journal.events(run_id, 0)]
        return ended, events

    ended, events = within(tmp_path, second, answered)
    assert ended.status is Status.SUCCEEDED
    assert sorted(executed_calls) == sorted(["default/ada: one", *effect])
    # The first reply was recorded and is not requested again.
    assert len(second.requests) == 1
    results = [
        message.text
        for message in second.requests[0].messages
        if message.role.value == "tool"
    ]
    assert results == ["noted", expected_result]
    assert ended.outputs["answer"] == "Let me see.\nAll is done."
    thoughts = [
        (event.position, event.tool, event.observation)
        for event in events
        if isinstance(event, NodeRunAgentThought)
    ]
    observed = json.dumps({"note": "noted", "refund": expected_result})
    assert thoughts == [
        (1, "note;refund", ""),
        (1, "note;refund", observed),
        (2, "", ""),
    ]


def test_steps_are_shown_with_their_results(tmp_path: Path):
    model = ScriptedChatModel(
        replies=[
            {"thinking": "hm", "text": "", "calls": [["note", {"text": "x"}]]},
            "Done.",
        ]
    )

    async def work(yard: Modelyard) -> Any:
        run = await start_run(yard)
        return [event for _, event in await yard.runs.journal.events(run.id, 0)], run

    events, run = within(tmp_path, model, work)
    thoughts = [event for event in events if isinstance(event, NodeRunAgentThought)]
    assert [(thought.position, thought.thought, thought.tool, thought.observation) for thought in thoughts] == [
        (1, "hm", "note", ""), (1, "hm", "note", json.dumps({"note": "noted"})), (2, "Done.", "", ""),
    ]  # fmt: skip
    assert (
        "".join(
            event.chunk for event in events if isinstance(event, NodeRunStreamChunk)
        )
        == "Done."
    )
    assert run.outputs["answer"] == "Done."


def test_the_history_of_a_conversation_is_sent_again(tmp_path: Path):
    model = ScriptedChatModel(replies=["First answer.", "Second answer."])

    async def work(yard: Modelyard) -> Any:
        await yard.apps.add(
            "default", app_text(), mapping=AppMapping(models={"*": "scripted/model"})
        )
        app_record = yard.apps.get_by_id_or_name("default", "agent")
        app = await yard.apps.published_app(app_record)
        run, conversation = await yard.services.workflows.chats.send(
            app_record, app, query="one", inputs={}, user="ada"
        )
        await yard.runs.wait_until_ended("default", run.id)
        run, _ = await yard.services.workflows.chats.send(
            app_record,
            app,
            query="two",
            inputs={},
            user="ada",
            conversation_id=conversation.id,
        )
        await yard.runs.wait_until_ended("default", run.id)

    within(tmp_path, model, work)
    history = [
        (message.role.value, message.text)
        for message in model.requests[1].messages
        if message.role.value != "system"
    ]
    assert history == [("user", "one"), ("assistant", "First answer."), ("user", "two")]


def test_apps_can_be_tools_up_to_a_depth(tmp_path: Path):
    caller = yaml.safe_load(app_text())
    tools = [
        {
            "enabled": True,
            "provider_type": "workflow",
            "provider_name": "agent",
            "tool_name": "agent",
        }
    ]
    caller["app"]["name"] = "boss"
    caller["workflow"]["graph"]["nodes"][1]["data"]["agent_parameters"]["tools"][
        "value"
    ] = tools
    model = ScriptedChatModel(replies=[
        {"calls": [["agent", {"query": "do it"}]]}, "The helper's answer.", "The helper said it.",
    ])  # fmt: skip

    async def work(yard: Modelyard) -> Any:
        await yard.apps.add(
            "default", app_text(), mapping=AppMapping(models={"*": "scripted/model"})
        )
        await yard.apps.add(
            "default",
            yaml.dump(caller),
            mapping=AppMapping(models={"*": "scripted/model"}),
        )
        app_record = yard.apps.get_by_id_or_name("default", "boss")
        run, _ = await yard.services.workflows.chats.send(
            app_record,
            await yard.apps.published_app(app_record),
            query="go",
            inputs={},
            user="ada",
        )
        return await yard.runs.wait_until_ended("default", run.id)

    ended = within(tmp_path, model, work)
    assert ended.outputs["answer"] == "The helper said it."
    assert [
        message.text
        for message in model.requests[2].messages
        if message.role.value == "tool"
    ] == ["The helper's answer."]


def test_errors_name_what_is_wrong(tmp_path: Path):
    async def failing(yard: Modelyard) -> list[str]:
        run_errors: list[str] = []
        text = app_text()
        unknown_strategy = text.replace("function_calling", "clairvoyance")
        for broken_app in (unknown_strategy, app_text(maximum_iterations="many")):
            run = await start_run(yard, broken_app)
            run_errors.append(run.error)
        return run_errors

    errors = within(tmp_path, ScriptedChatModel(replies=[{"error": "down"}]), failing)
    assert "Agent strategy /clairvoyance is neither built in" in errors[0]
    assert "maximum_iterations must be a number, not 'many'" in errors[1]


def test_an_apps_usage_is_counted_and_limited_like_a_keys(tmp_path: Path):
    async def work(yard: Modelyard) -> tuple[list[str], list[str]]:
        first = await start_run(yard)
        row = f"app:{first.app}"
        limit = {"unit": "requests", "amount": 1, "key": row}
        await yard.services.tenancy.administration.create(
            Caller(tenant="default"), "default", "limit", "one", limit
        )
        errors = [(await start_run(yard)).error for _ in range(2)]
        await yard.services.calls.ledger.flush()
        return errors, [
            usage_row.api_key
            for usage_row in await yard.services.calls.ledger.usage.recent("default")
        ] + [row]

    errors, keys = within(tmp_path, ScriptedChatModel(replies=["ok"]), work)
    assert "limited to 1 requests per minute (limit 'one')" in errors[-1]
    assert len(set(keys)) == 1
