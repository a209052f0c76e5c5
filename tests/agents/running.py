"""Runs a case of an agent and compares the outcome with the case's file."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
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
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import AnyPromptMessage, ToolPromptMessage
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
    """Return events in the notation of the cases, with a text's chunks joined."""
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


def case_mismatches(case: dict[str, Any], cut: Cut) -> list[str]:
    """Return how a case's run differs from its file; empty if it does not."""
    events, model, error = asyncio.run(_run(case, cut))
    comparison = _Comparison(case)
    if "error" in case:
        comparison.match("error", error, case["error"])
        return comparison.mismatches
    if error:
        return [f"error: {error}"]
    comparison.check_events(events)
    comparison.check_requests(model.requests)
    return comparison.mismatches


@dataclass
class _Comparison:
    """Compares a run with its case and collects the mismatches."""

    case: dict[str, Any]
    mismatches: list[str] = field(default_factory=list[str])

    def equal(self, label: str, actual: Any, expected: Any) -> None:
        """Check that a value is the expected one."""
        if actual != expected:
            self.mismatches.append(f"{label}: {actual!r} is not {expected!r}")

    def match(self, label: str, actual: str, pattern: str) -> None:
        """Check that a text contains a match of the pattern."""
        if not re.search(pattern, actual, re.DOTALL):
            self.mismatches.append(f"{label}: {actual!r} does not match {pattern!r}")

    def check_events(self, events: Sequence[Any]) -> None:
        """Check the agent's steps, texts and final result."""
        last = events[-1]
        assert isinstance(last, AgentFinished)
        if "steps" in self.case:
            self._check_steps(describe_events(events))
        if "value" not in self.case:
            streamed_text = _joined_text(events, TextDelta)
            self.equal(
                "streamed text and answer",
                streamed_text.replace("\n", ""),
                last.text.replace("\n", ""),
            )
        thoughts = _joined_text(events, ThoughtDelta)
        for name, actual in (
            ("text", last.text),
            ("end", last.reason),
            ("value", last.value),
            ("rounds", last.rounds),
            ("thoughts", thoughts),
        ):
            if name in self.case:
                self.equal(name, actual, self.case[name])
        if "thoughts_like" in self.case:
            self.match("thoughts", thoughts, self.case["thoughts_like"])

    def _check_steps(self, steps: list[str]) -> None:
        """Check the steps, in any order if the case says so."""
        expected = [str(step) for step in self.case["steps"]]
        if self.case.get("any_order"):
            steps, expected = sorted(steps), sorted(expected)
        self.equal("steps", steps, expected)

    def check_requests(self, requests: Sequence[LLMRequest]) -> None:
        """Check the messages that the model received in its last request."""
        case, messages = self.case, requests[-1].messages
        self._check_results(messages)
        if "asked_text" in case:
            prompt = "\n".join(message.text for message in messages)
            self.match("prompt", prompt, case["asked_text"])
        if "last_messages" in case:
            last_messages = messages[-len(case["last_messages"]) :]
            sent = [{message.role.value: message.text} for message in last_messages]
            self.equal("messages", sent, case["last_messages"])
        if "stop" in case:
            self.equal("stop", requests[0].stop, case["stop"])

    def _check_results(self, messages: Sequence[AnyPromptMessage]) -> None:
        """Check the tool results among the messages."""
        results = [
            message.text
            for message in messages
            if isinstance(message, ToolPromptMessage)
        ]
        if "asked" in self.case:
            expected = [str(result) for result in self.case["asked"]]
            self.equal("results", results, expected)
        patterns = self.case.get("asked_like", ())
        for actual, pattern in zip(results, patterns, strict=False):
            self.match("result", actual, pattern)


def _joined_text(events: Sequence[Any], event_type: type[Any]) -> str:
    """Return the text of all events of a type."""
    return "".join(event.text for event in events if isinstance(event, event_type))
