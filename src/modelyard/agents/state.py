"""The state of an agent run: the task, the turns so far, and the interfaces of
strategies. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from modelyard.agents.events import AgentCall
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMUsage
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageContent,
    PromptMessageTool,
)
from modelyard.tools.entities import Tool

MAX_ITERATIONS = 99
"""Maximum number of iterations, whatever is configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """Limits of a run. 0 means unlimited unless stated otherwise. A run that reaches a
    limit ends with that as its reason."""

    iterations: int = 10
    """Turns in which the model may call tools, at most 99. One more turn without tools
    follows for the answer."""
    tool_calls: int = 100
    at_once: int = 10
    """Maximum number of tools that run in parallel."""
    calls_a_round: int = 32
    """Maximum number of calls per turn; the model is told that further ones were
    refused."""
    tokens: int = 0
    cost: float = 0.0
    """In the currency of the model's prices."""
    seconds: float = 0.0
    observation: int = 16_000
    """Maximum number of characters of one result in the prompt."""
    repeats: int = 3
    """The number of identical calls with identical results that counts as a loop."""
    depth: int = 3
    """Maximum nesting of agents that call agents."""


@dataclass(slots=True, kw_only=True)
class Task:
    """The input of a run: query, instruction, history, files, tools and model
    parameters."""

    query: str = ""
    instruction: str = ""
    history: list[AnyPromptMessage] = field(default_factory=list[AnyPromptMessage])
    files: list[PromptMessageContent] = field(
        default_factory=list[PromptMessageContent]
    )
    tools: Sequence[Tool] = ()
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    stop: list[str] = field(default_factory=list[str])
    prompt: str = ""
    """The app's own ReAct prompt, with {{instruction}}, {{tools}} and {{tool_names}};
    empty for the default."""
    schema: Mapping[str, Any] | None = None
    """The JSON schema that the answer must satisfy; None for free text."""


@dataclass(slots=True, kw_only=True)
class Result:
    """The result of one tool call as the next prompt shows it."""

    call: AgentCall
    text: str
    is_error: bool = False


@dataclass(slots=True, kw_only=True)
class ModelTurn:
    """The model's output in one turn."""

    text: str = ""
    """Text for the user."""
    thought: str = ""
    calls: list[AgentCall] = field(default_factory=list[AgentCall])
    message: AssistantPromptMessage = field(default_factory=AssistantPromptMessage)
    usage: LLMUsage = field(default_factory=LLMUsage)
    model: str = ""
    finish_reason: str = ""


@dataclass(slots=True, kw_only=True)
class Turn:
    """One turn: the model's reply and the results of its tool calls."""

    reply: ModelTurn
    # Results are in the order of the calls in the reply.
    results: list[Result] = field(default_factory=list[Result])


@dataclass(slots=True, kw_only=True)
class State:
    """The task and the turns so far; the only input of a strategy."""

    task: Task
    turns: list[Turn] = field(default_factory=list[Turn])
    is_last: bool = False
    """True if this turn must answer without tools."""

    @property
    def round(self) -> int:
        """Number of the turn that comes next, from 1."""
        return len(self.turns) + 1


class ReplyParser(Protocol):
    """Parses one reply while it streams."""

    def feed(self, chunk: LLMResultChunk) -> Sequence[tuple[str, str]]:
        """Parse a chunk. Returns deltas in order: (`text` for the user or `thought`,
        the text)."""
        ...

    def finish(self) -> tuple[Sequence[tuple[str, str]], ModelTurn]:
        """Return (remaining deltas, the complete reply)."""
        ...


class Strategy(Protocol):
    """How to prompt the model and how to read its reply.

    Strategies are pure functions of the state: no clock, network or memory.
    """

    name: str

    def ask(self, state: State) -> LLMRequest:
        """Build the request of the next turn."""
        ...

    def reader(self, state: State) -> ReplyParser:
        """Return a new parser for the reply to that request."""
        ...

    def is_done(self, state: State) -> bool:
        """Return whether the last turn was the answer."""
        ...

    def answer(self, state: State) -> str:
        """Return the final text for the user, built from all turns."""
        ...


def prompt_tools(tools: Sequence[Tool]) -> list[PromptMessageTool]:
    """Return the tools in the form that model requests need."""
    return [tool.as_prompt_tool() for tool in tools]
