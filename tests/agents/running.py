"""Runs a case of an agent and holds what happened against what was written down."""

import asyncio
import re
from contextlib import aclosing
from pathlib import Path
from typing import Any

import yaml

from modelyard.agents.events import (
    AgentFinished,
    AnyAgentEvent,
    RoundStarted,
    TextDelta,
    ThoughtDelta,
    ToolFinished,
    ToolStarted,
)
from modelyard.agents.loop import AgentLoop
from modelyard.agents.state import AgentLimits, Task
from modelyard.agents.strategies import strategy_of
from modelyard.base.errors import ModelyardError
from modelyard.models.messages import ToolPromptMessage
from modelyard.testing.agents import Cut, Replies
from modelyard.tools.entities import ToolContext
from modelyard.tools.manager import ToolManager
from tests.agents.toolbox import TOOLS

FOLDER = Path(__file__).parent / "cases"
CUTS: tuple[Cut, ...] = ("whole", "words", "signs")


def cases() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.stem}: {one['name']}", one)
        for path in sorted(FOLDER.glob("*.yml"))
        for one in yaml.safe_load(path.read_text("utf-8"))
    ]


def told(events: list[AnyAgentEvent]) -> list[str]:
    """Events as the cases write them; the pieces of a text as one."""
    found: list[str] = []
    for one in events:
        match one:
            case RoundStarted():
                found.append(f"{'last ' if one.is_last else ''}round {one.round}")
            case TextDelta():
                if found and found[-1].startswith("say "):
                    found[-1] += one.text
                else:
                    found.append(f"say {one.text}")
            case ToolStarted():
                found.append(f"call {one.call.name} {one.call.arguments}".strip())
            case ToolFinished():
                found.append(f"{one.error or 'saw'} {one.observation}")
            case AgentFinished():
                found.append(f"end {one.reason}")
            case _:
                pass
    return found


async def _run(case: dict[str, Any], cut: Cut) -> tuple[list[AnyAgentEvent], Replies, str]:
    model = Replies(replies=case["replies"], cut=cut)
    loop = AgentLoop(
        model, strategy_of(case.get("strategy", "function_calling")), ToolManager(),
        limits=AgentLimits(**case.get("limits", {})), context=ToolContext(user="ada", app="shop"),
    )  # fmt: skip
    task = Task(
        query=case.get("query", "?"), instruction=case.get("instruction", ""), prompt=case.get("prompt", ""),
        tools=[TOOLS[name] for name in case.get("tools", ())], schema=case.get("schema"),
    )  # fmt: skip
    events: list[AnyAgentEvent] = []
    try:
        async with aclosing(loop.run(task)) as stream:
            async for one in stream:
                events.append(one)
    except ModelyardError as error:
        return events, model, str(error)
    return events, model, ""


def wrong(case: dict[str, Any], cut: Cut) -> list[str]:  # noqa: C901  one check a line
    """What is not as it was written down."""
    events, model, error = asyncio.run(_run(case, cut))
    found: list[str] = []

    def check(what: str, got: Any, wanted: Any) -> None:
        if got != wanted:
            found.append(f"{what}: {got!r} is not {wanted!r}")

    def check_like(what: str, got: str, pattern: str) -> None:
        if not re.search(pattern, got, re.DOTALL):
            found.append(f"{what}: {got!r} does not hold {pattern!r}")

    if "error" in case:
        check_like("error", error, case["error"])
        return found
    if error:
        return [f"error: {error}"]
    last = events[-1]
    assert isinstance(last, AgentFinished)
    steps = told(events)
    if "steps" in case:
        wanted = [str(one) for one in case["steps"]]
        check(
            "steps",
            sorted(steps) if case.get("any_order") else steps,
            sorted(wanted) if case.get("any_order") else wanted,
        )
    said = "".join(one.text for one in events if isinstance(one, TextDelta))
    check(
        "what was streamed and what was answered", said.replace("\n", ""), last.text.replace("\n", "")
    ) if "value" not in case else None
    thoughts = "".join(one.text for one in events if isinstance(one, ThoughtDelta))
    for name, got in (("text", last.text), ("end", last.reason), ("value", last.value), ("rounds", last.rounds), ("thoughts", thoughts)):  # fmt: skip
        if name in case:
            check(name, got, case[name])
    if "thoughts_like" in case:
        check_like("thoughts", thoughts, case["thoughts_like"])
    results = [one.text for one in model.requests[-1].messages if isinstance(one, ToolPromptMessage)]
    if "asked" in case:
        check("results", results, [str(one) for one in case["asked"]])
    for got, pattern in zip(results, case.get("asked_like", ()), strict=False):
        check_like("result", got, pattern)
    if "asked_text" in case:
        check_like("prompt", "\n".join(one.text for one in model.requests[-1].messages), case["asked_text"])
    if "last_messages" in case:
        sent = [{one.role.value: one.text} for one in model.requests[-1].messages[-len(case["last_messages"]) :]]
        check("messages", sent, case["last_messages"])
    if "stop" in case:
        check("stop", model.requests[0].stop, case["stop"])
    return found
