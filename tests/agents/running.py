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
from modelyard.agents.strategies import get_strategy
from modelyard.base.errors import ModelyardError
from modelyard.models.messages import ToolPromptMessage
from modelyard.testing.agents import Cut, ScriptedChatModel
from modelyard.tools.entities import ToolContext
from modelyard.tools.manager import ToolManager
from tests.agents.toolbox import TOOLS

FOLDER = Path(__file__).parent / "cases"
CUTS: tuple[Cut, ...] = ("whole", "words", "signs")


def cases() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.stem}: {case['name']}", case)
        for path in sorted(FOLDER.glob("*.yml"))
        for case in yaml.safe_load(path.read_text("utf-8"))
    ]


def describe_events(events: list[AnyAgentEvent]) -> list[str]:
    """Events as the cases write them; the pieces of a text as one."""
    steps: list[str] = []
    for event in events:
        match event:
            case RoundStarted():
                steps.append(f"{'last ' if event.is_last else ''}round {event.round}")
            case TextDelta():
                if steps and steps[-1].startswith("say "):
                    steps[-1] += event.text
                else:
                    steps.append(f"say {event.text}")
            case ToolStarted():
                steps.append(f"call {event.call.name} {event.call.arguments}".strip())
            case ToolFinished():
                steps.append(f"{event.error or 'saw'} {event.observation}")
            case AgentFinished():
                steps.append(f"end {event.reason}")
            case _:
                pass
    return steps


async def _run(
    case: dict[str, Any], cut: Cut
) -> tuple[list[AnyAgentEvent], ScriptedChatModel, str]:
    model = ScriptedChatModel(replies=case["replies"], cut=cut)
    loop = AgentLoop(
        model, get_strategy(case.get("strategy", "function_calling")), ToolManager(),
        limits=AgentLimits(**case.get("limits", {})), context=ToolContext(user="ada", app="shop"),
    )  # fmt: skip
    task = Task(
        query=case.get("query", "?"), instruction=case.get("instruction", ""), prompt=case.get("prompt", ""),
        tools=[TOOLS[name] for name in case.get("tools", ())], schema=case.get("schema"),
    )  # fmt: skip
    events: list[AnyAgentEvent] = []
    try:
        async with aclosing(loop.run(task)) as stream:
            async for event in stream:
                events.append(event)
    except ModelyardError as error:
        return events, model, str(error)
    return events, model, ""


def case_mismatches(case: dict[str, Any], cut: Cut) -> list[str]:  # noqa: C901
    """What is not as it was written down."""
    events, model, error = asyncio.run(_run(case, cut))
    mismatches: list[str] = []

    def check(label: str, actual: Any, expected: Any) -> None:
        if actual != expected:
            mismatches.append(f"{label}: {actual!r} is not {expected!r}")

    def check_like(label: str, actual: str, pattern: str) -> None:
        if not re.search(pattern, actual, re.DOTALL):
            mismatches.append(f"{label}: {actual!r} does not hold {pattern!r}")

    if "error" in case:
        check_like("error", error, case["error"])
        return mismatches
    if error:
        return [f"error: {error}"]
    last = events[-1]
    assert isinstance(last, AgentFinished)
    steps = describe_events(events)
    if "steps" in case:
        expected_steps = [str(step) for step in case["steps"]]
        check(
            "steps",
            sorted(steps) if case.get("any_order") else steps,
            sorted(expected_steps) if case.get("any_order") else expected_steps,
        )
    streamed_text = "".join(
        event.text for event in events if isinstance(event, TextDelta)
    )
    check(
        "what was streamed and what was answered",
        streamed_text.replace("\n", ""),
        last.text.replace("\n", ""),
    ) if "value" not in case else None
    thoughts = "".join(
        event.text for event in events if isinstance(event, ThoughtDelta)
    )
    for name, actual in (("text", last.text), ("end", last.reason), ("value", last.value), ("rounds", last.rounds), ("thoughts", thoughts)):  # fmt: skip
        if name in case:
            check(name, actual, case[name])
    if "thoughts_like" in case:
        check_like("thoughts", thoughts, case["thoughts_like"])
    results = [
        message.text
        for message in model.requests[-1].messages
        if isinstance(message, ToolPromptMessage)
    ]
    if "asked" in case:
        check(
            "results",
            results,
            [str(expected_result) for expected_result in case["asked"]],
        )
    for actual, pattern in zip(results, case.get("asked_like", ()), strict=False):
        check_like("result", actual, pattern)
    if "asked_text" in case:
        check_like(
            "prompt",
            "\n".join(message.text for message in model.requests[-1].messages),
            case["asked_text"],
        )
    if "last_messages" in case:
        sent = [
            {message.role.value: message.text}
            for message in model.requests[-1].messages[-len(case["last_messages"]) :]
        ]
        check("messages", sent, case["last_messages"])
    if "stop" in case:
        check("stop", model.requests[0].stop, case["stop"])
    return mismatches
