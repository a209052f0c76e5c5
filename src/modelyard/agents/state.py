"""What an agent has before it and behind it: data that strategies read. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from modelyard.agents.events import AgentCall
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMUsage
from modelyard.models.messages import AnyPromptMessage, AssistantPromptMessage, PromptMessageContent, PromptMessageTool
from modelyard.tools.entities import Tool

ABSOLUTE_MOST = 99
"""Iterations, whatever is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """0 is no limit, where that is not said otherwise. Every limit ends the run clearly; none of them is silent."""

    iterations: int = 10
    """Turns of the model that may call tools, at most 99; one more follows without tools, for the answer."""
    tool_calls: int = 100
    at_once: int = 10
    """Tools that run side by side."""
    calls_a_round: int = 32
    """Calls of one turn; those beyond are refused to the model."""
    tokens: int = 0
    cost: float = 0.0
    """In the currency of the model's prices."""
    seconds: float = 0.0
    observation: int = 16_000
    """Characters of one result that go into the prompt."""
    repeats: int = 3
    """The same call with the same result so often is a loop."""
    depth: int = 3
    """Agents that call agents."""


@dataclass(slots=True, kw_only=True)
class Task:
    """What is to be done."""

    query: str = ""
    instruction: str = ""
    history: list[AnyPromptMessage] = field(default_factory=list[AnyPromptMessage])
    files: list[PromptMessageContent] = field(default_factory=list[PromptMessageContent])
    tools: Sequence[Tool] = ()
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    stop: list[str] = field(default_factory=list[str])
    prompt: str = ""
    """A ReAct prompt of the app's own, with {{instruction}}, {{tools}}, {{tool_names}}."""
    schema: Mapping[str, Any] | None = None
    """The JSON schema that the answer must satisfy."""


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of one call, as the next prompt tells it."""

    call: AgentCall
    text: str
    is_error: bool = False


@dataclass(slots=True, kw_only=True)
class Reply:
    """What the model said in one turn."""

    text: str = ""
    """For the user."""
    thought: str = ""
    calls: list[AgentCall] = field(default_factory=list[AgentCall])
    message: AssistantPromptMessage = field(default_factory=AssistantPromptMessage)
    usage: LLMUsage = field(default_factory=LLMUsage)
    model: str = ""
    finish_reason: str = ""


@dataclass(slots=True, kw_only=True)
class Turn:
    reply: Reply
    results: list[Result] = field(default_factory=list[Result])


@dataclass(slots=True, kw_only=True)
class State:
    task: Task
    turns: list[Turn] = field(default_factory=list[Turn])
    is_last: bool = False
    """This turn must answer: no tools."""

    @property
    def round(self) -> int:
        return len(self.turns) + 1


class Reader(Protocol):
    """Reads one reply as it comes."""

    def feed(self, chunk: LLMResultChunk) -> Sequence[tuple[str, str]]:
        """Pieces in order: (`text` for the user or `thought`, what it says)."""
        ...

    def finish(self) -> tuple[Sequence[tuple[str, str]], Reply]: ...


class Strategy(Protocol):
    """What to ask, and how to read the reply: functions of the state, without clock, network or memory."""

    name: str

    def ask(self, state: State) -> LLMRequest: ...

    def reader(self, state: State) -> Reader: ...

    def is_done(self, state: State) -> bool:
        """Whether the last turn was the answer."""
        ...

    def answer(self, state: State) -> str:
        """What the user was told in the end, of all turns."""
        ...


def prompt_tools(tools: Sequence[Tool]) -> list[PromptMessageTool]:
    return [one.as_prompt_tool() for one in tools]
