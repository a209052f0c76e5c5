"""What an agent does, as it happens. Each event is plain data: stored, shown, replayed."""

from __future__ import annotations

from typing import Any

import msgspec

from modelyard.models.llm import LLMUsage


class AgentEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    round: int = 0
    """Which turn of the model, from 1."""
    at: float = 0.0


class RoundStarted(AgentEvent, frozen=True, kw_only=True, tag="round_started"):
    is_last: bool = False
    """No tools are offered any more."""


class TextDelta(AgentEvent, frozen=True, kw_only=True, tag="text"):
    """A piece of what the user is told."""

    text: str


class ThoughtDelta(AgentEvent, frozen=True, kw_only=True, tag="thought"):
    """A piece of what the model thinks."""

    text: str


class AgentCall(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    arguments: str = ""
    """As the model wrote them."""
    label: dict[str, str] = {}
    provider: str = ""
    kind: str = ""


class RoundFinished(AgentEvent, frozen=True, kw_only=True, tag="round_finished"):
    """The model has said what it wanted: `calls` are what it wants done."""

    text: str = ""
    thought: str = ""
    calls: list[AgentCall] = []
    usage: LLMUsage = LLMUsage()
    model: str = ""
    started_at: float = 0.0
    is_known: bool = False
    """It was told before: the run was taken up again."""


class ToolStarted(AgentEvent, frozen=True, kw_only=True, tag="tool_started"):
    call: AgentCall


class ToolFinished(AgentEvent, frozen=True, kw_only=True, tag="tool_finished"):
    call: AgentCall
    observation: str = ""
    error: str = ""
    """In which way it failed; empty where it did not."""
    arguments: dict[str, Any] = {}
    files: list[dict[str, Any]] = []
    values: list[Any] = []
    sources: list[dict[str, Any]] = []
    seconds: float = 0.0
    is_known: bool = False
    """It was told before: the run was taken up again."""


class ApprovalNeeded(AgentEvent, frozen=True, kw_only=True, tag="approval_needed"):
    """It waits until somebody agrees to these calls."""

    calls: list[AgentCall]


class AgentFinished(AgentEvent, frozen=True, kw_only=True, tag="finished"):
    """`reason`: `answer`, or the limit that ended it: `iterations`, `tool_calls`, `tokens`, `cost`, `time`, `loop`;
    `approval` where it waits, `error` where the model failed."""

    text: str = ""
    reason: str = "answer"
    error: str = ""
    usage: LLMUsage = LLMUsage()
    rounds: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    value: Any = None
    """The answer as the schema wants it, where there is one."""
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
_DECODER = msgspec.json.Decoder(AnyAgentEvent)


def dump_event(event: AnyAgentEvent) -> bytes:
    return msgspec.json.encode(event)


def parse_event(data: bytes | str) -> AnyAgentEvent:
    return _DECODER.decode(data)
