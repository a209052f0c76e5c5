"""Agents in apps: what a crash leaves, what waits for somebody, and what tools' words cannot bring about."""

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
from modelyard.testing.agents import Replies
from modelyard.testing.workflows import scripted_models
from modelyard.tools.entities import ToolContext
from modelyard.tools.function import tool
from modelyard.workflow.dsl import AppMapping
from modelyard.workflow.engine import Status
from modelyard.workflow.events import NodeRunAgentThought, NodeRunStreamChunk

done: list[str] = []


@tool(needs_approval=True)
async def refund(order: str) -> str:
    """Pays back."""
    done.append(f"refund {order}")
    return f"{order} is paid back"


@tool
async def note(text: str, context: ToolContext) -> str:
    """Notes something."""
    done.append(f"{context.tenant}/{context.user}: {text}")
    return "noted"


def app_text(mode: str = "advanced-chat", **parameters: Any) -> str:
    tools = [
        {"enabled": True, "provider_type": "function", "provider_name": "", "tool_name": one.name}
        for one in (refund, note)
    ]
    agent = {
        "type": "agent", "title": "agent", "agent_strategy_name": "function_calling", "memory": {"window": {"enabled": False}},
        "agent_parameters": {
            "model": {"type": "constant", "value": {"provider": "openai", "model": "gpt-4o"}},
            "tools": {"type": "constant", "value": tools}, "query": {"type": "constant", "value": "{{#sys.query#}}"},
            **{name: {"type": "constant", "value": value} for name, value in parameters.items()},
        },
    }  # fmt: skip
    nodes = {"start": {"type": "start"}, "agent": agent, "answer": {"type": "answer", "answer": "{{#agent.text#}}"}}
    graph = {
        "nodes": [{"id": name, "data": {"title": name, **data}} for name, data in nodes.items()],
        "edges": [{"source": "start", "target": "agent"}, {"source": "agent", "target": "answer"}],
    }
    return yaml.dump(
        {"kind": "app", "version": "0.6.0", "app": {"name": "agent", "mode": mode}, "workflow": {"graph": graph}}
    )


Work = Callable[[Modelyard], Coroutine[Any, Any, Any]]


def within(home: Path, model: Replies, work: Work) -> Any:
    """Something done with a yard that is closed afterwards, as a process that ends."""

    async def go() -> Any:
        definition, builder = scripted_models(model)  # type: ignore[arg-type]
        async with Modelyard(
            Settings(home=str(home)), definitions=[definition], builders={"scripted": builder}, environ={}
        ) as yard:
            yard.tools.functions.add(refund)
            yard.tools.functions.add(note)
            return await work(yard)

    return asyncio.run(go())


async def begin(yard: Modelyard, text: str = "", query: str = "go") -> Any:
    await yard.apps.add("default", text or app_text(), mapping=AppMapping(models={"*": "scripted/model"}))
    found = yard.apps.find("default", "agent")
    run, _ = await yard.services.workflows.chats.send(
        found, await yard.apps.app(found), query=query, inputs={}, user="ada"
    )
    return await yard.runs.ended("default", run.id)


@pytest.fixture(autouse=True)
def _clean() -> None:
    done.clear()


REPLIES: list[Any] = [
    {"text": "Let me see.", "calls": [["note", {"text": "one"}], ["refund", {"order": "A1"}]]}, "All is done.",
]  # fmt: skip


@pytest.mark.parametrize(("action", "effect", "told"), [
    ("approve", ["refund A1"], "A1 is paid back"), ("refuse", [], "not called: permission was refused: too much"),
])  # fmt: skip
def test_a_tool_waits_for_approval_and_a_restart_loses_nothing(
    tmp_path: Path, action: str, effect: list[str], told: str
):
    first = Replies(replies=REPLIES)

    async def until_paused(yard: Modelyard) -> tuple[str, str]:
        run = await begin(yard)
        assert run.status is Status.PAUSED
        assert "refund" in run.reasons[0]["form_content"]
        return run.id, run.reasons[0]["form_token"]

    run_id, token = within(tmp_path, first, until_paused)
    assert done == []  # nothing runs before somebody has said so, not even what needs no approval
    second = Replies(replies=["All is done."])

    async def answered(yard: Modelyard) -> Any:
        await yard.runs.journal.forms.fill(token, {"action": action, "inputs": {"reason": "too much"}})
        assert await yard.runs.resume("default", run_id)
        ended = await yard.runs.ended("default", run_id)
        events = [event for _, event in await yard.runs.journal.events(run_id, 0)]
        return ended, events

    ended, events = within(tmp_path, second, answered)
    assert ended.status is Status.SUCCEEDED
    assert sorted(done) == sorted(["default/ada: one", *effect])
    assert len(second.requests) == 1  # the first reply was kept: it was not asked for again
    results = [one.text for one in second.requests[0].messages if one.role.value == "tool"]
    assert results == ["noted", told]
    assert ended.outputs["answer"] == "Let me see.\nAll is done."
    thoughts = [(one.position, one.tool, one.observation) for one in events if isinstance(one, NodeRunAgentThought)]
    observed = json.dumps({"note": "noted", "refund": told})
    assert thoughts == [(1, "note;refund", ""), (1, "note;refund", observed), (2, "", "")]


def test_steps_are_shown_with_what_came_of_them(tmp_path: Path):
    model = Replies(replies=[{"thinking": "hm", "text": "", "calls": [["note", {"text": "x"}]]}, "Done."])

    async def work(yard: Modelyard) -> Any:
        run = await begin(yard)
        return [event for _, event in await yard.runs.journal.events(run.id, 0)], run

    events, run = within(tmp_path, model, work)
    thoughts = [one for one in events if isinstance(one, NodeRunAgentThought)]
    assert [(one.position, one.thought, one.tool, one.observation) for one in thoughts] == [
        (1, "hm", "note", ""), (1, "hm", "note", json.dumps({"note": "noted"})), (2, "Done.", "", ""),
    ]  # fmt: skip
    assert "".join(one.chunk for one in events if isinstance(one, NodeRunStreamChunk)) == "Done."
    assert run.outputs["answer"] == "Done."


def test_the_history_of_a_conversation_is_told_again(tmp_path: Path):
    model = Replies(replies=["First answer.", "Second answer."])

    async def work(yard: Modelyard) -> Any:
        await yard.apps.add("default", app_text(), mapping=AppMapping(models={"*": "scripted/model"}))
        found = yard.apps.find("default", "agent")
        app = await yard.apps.app(found)
        run, conversation = await yard.services.workflows.chats.send(found, app, query="one", inputs={}, user="ada")
        await yard.runs.ended("default", run.id)
        run, _ = await yard.services.workflows.chats.send(
            found, app, query="two", inputs={}, user="ada", conversation_id=conversation.id
        )
        await yard.runs.ended("default", run.id)

    within(tmp_path, model, work)
    asked = [(one.role.value, one.text) for one in model.requests[1].messages if one.role.value != "system"]
    assert asked == [("user", "one"), ("assistant", "First answer."), ("user", "two")]


def test_an_app_is_a_tool_of_another_and_depth_has_an_end(tmp_path: Path):
    caller = yaml.safe_load(app_text())
    tools = [{"enabled": True, "provider_type": "workflow", "provider_name": "agent", "tool_name": "agent"}]
    caller["app"]["name"] = "boss"
    caller["workflow"]["graph"]["nodes"][1]["data"]["agent_parameters"]["tools"]["value"] = tools
    model = Replies(replies=[
        {"calls": [["agent", {"query": "do it"}]]}, "The helper's answer.", "The helper said it.",
    ])  # fmt: skip

    async def work(yard: Modelyard) -> Any:
        await yard.apps.add("default", app_text(), mapping=AppMapping(models={"*": "scripted/model"}))
        await yard.apps.add("default", yaml.dump(caller), mapping=AppMapping(models={"*": "scripted/model"}))
        found = yard.apps.find("default", "boss")
        run, _ = await yard.services.workflows.chats.send(
            found, await yard.apps.app(found), query="go", inputs={}, user="ada"
        )
        return await yard.runs.ended("default", run.id)

    ended = within(tmp_path, model, work)
    assert ended.outputs["answer"] == "The helper said it."
    assert [one.text for one in model.requests[2].messages if one.role.value == "tool"] == ["The helper's answer."]


def test_errors_name_what_is_wrong(tmp_path: Path):
    async def failing(yard: Modelyard) -> list[str]:
        found: list[str] = []
        text = app_text()
        wrong = text.replace("function_calling", "clairvoyance")
        for one in (wrong, app_text(maximum_iterations="many")):
            run = await begin(yard, one)
            found.append(run.error)
        return found

    errors = within(tmp_path, Replies(replies=[{"error": "down"}]), failing)
    assert "strategy /clairvoyance is no strategy of ours" in errors[0]
    assert "maximum_iterations must be a number, not 'many'" in errors[1]


def test_what_an_app_uses_is_counted_and_limited_as_a_key_of_its_own(tmp_path: Path):
    async def work(yard: Modelyard) -> tuple[list[str], list[str]]:
        first = await begin(yard)
        row = f"app:{first.app}"
        limit = {"unit": "requests", "amount": 1, "key": row}
        await yard.services.tenancy.administration.create(Caller(tenant="default"), "default", "limit", "one", limit)
        errors = [(await begin(yard)).error for _ in range(2)]
        await yard.services.calls.ledger.flush()
        return errors, [one.api_key for one in await yard.services.calls.ledger.usage.recent("default")] + [row]

    errors, keys = within(tmp_path, Replies(replies=["ok"]), work)
    assert "may use 1 requests a minute (limit 'one')" in errors[-1]
    assert len(set(keys)) == 1
