"""Events of an agent run. Each one is plain data that can be stored, displayed and
replayed."""

from __future__ import annotations

from typing import Any

import msgspec

from modelyard.models.llm import LLMUsage


class AgentEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base class of the events of an agent run."""

    round: int = 0
    """Number of the model's turn, from 1."""
    # Unix time in seconds.
    at: float = 0.0


class RoundStarted(AgentEvent, frozen=True, kw_only=True, tag="round_started"):
    """A new turn of the model starts."""

    is_last: bool = False
    """True if the model is offered no tools in this turn and must answer."""


class TextDelta(AgentEvent, frozen=True, kw_only=True, tag="text"):
    """A chunk of text for the user."""

    text: str


class ThoughtDelta(AgentEvent, frozen=True, kw_only=True, tag="thought"):
    """A chunk of the model's reasoning."""

    text: str


class AgentCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call that the model requested."""

    id: str
    name: str
    arguments: str = ""
    """The arguments as the model wrote them; not validated yet."""
    label: dict[str, str] = {}
    provider: str = ""
    kind: str = ""


class RoundFinished(AgentEvent, frozen=True, kw_only=True, tag="round_finished"):
    """The model's turn is complete; `calls` are the tool calls that it requested."""

    text: str = ""
    thought: str = ""
    calls: list[AgentCall] = []
    usage: LLMUsage = LLMUsage()
    model: str = ""
    started_at: float = 0.0
    is_known: bool = False
    """True if the turn was read from a stored run that is being resumed."""


class ToolStarted(AgentEvent, frozen=True, kw_only=True, tag="tool_started"):
    """A tool call starts."""

    call: AgentCall


class ToolFinished(AgentEvent, frozen=True, kw_only=True, tag="tool_finished"):
    """A tool call has ended, successfully or not."""

    call: AgentCall
    observation: str = ""
    error: str = ""
    """The type of failure; empty on success."""
    arguments: dict[str, Any] = {}
    files: list[dict[str, Any]] = []
    values: list[Any] = []
    sources: list[dict[str, Any]] = []
    seconds: float = 0.0
    is_known: bool = False
    """True if the result was read from a stored run that is being resumed."""


class ApprovalNeeded(AgentEvent, frozen=True, kw_only=True, tag="approval_needed"):
    """The run pauses until these calls are approved."""

    calls: list[AgentCall]


class AgentFinished(AgentEvent, frozen=True, kw_only=True, tag="finished"):
    """The run has ended.

    `reason` is `answer`; the limit that ended the run: `iterations`, `tool_calls`,
    `tokens`, `cost`, `time` or `loop`; `approval` if it waits for approval; or `error`
    if the model failed.
    """

    text: str = ""
    reason: str = "answer"
    error: str = ""
    usage: LLMUsage = LLMUsage()
    rounds: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    value: Any = None
    """The answer parsed according to the task's schema, if it has one."""
    files: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []
    seconds: float = 0.0


AnyAgentEvent = (
    RoundStarted
    | TextDelta
    | ThoughtDelta
    | RoundFinished
    | ToolStarted
    | ToolFinished
    | ApprovalNeeded
    | AgentFinished
)
# Built once: creating a decoder for the union is expensive.
_DECODER = msgspec.json.Decoder(AnyAgentEvent)


def dump_event(event: AnyAgentEvent) -> bytes:
    """Encode an event as JSON."""
    return msgspec.json.encode(event)


def parse_event(data: bytes | str) -> AnyAgentEvent:
    """Decode an event that `dump_event` wrote. Raises msgspec.DecodeError."""
    return _DECODER.decode(data)
