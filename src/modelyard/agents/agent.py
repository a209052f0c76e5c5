"""`Agent`: a model, its tools and how it goes about things, ready to be asked; and as a tool of other agents."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from modelyard.agents.events import AgentFinished, AnyAgentEvent, RoundFinished, ToolFinished
from modelyard.agents.loop import AgentLoop, Approve, Record, Results, Store
from modelyard.agents.state import AgentLimits, Strategy, Task
from modelyard.agents.strategies import strategy_of
from modelyard.models.entities import ModelFeature
from modelyard.models.llm import LLMUsage
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageContent,
    UserPromptMessage,
)
from modelyard.tools.entities import Message, Tool, ToolContext, ToolEntity, ToolInvokeError, json_message, text_message
from modelyard.tools.manager import ToolManager

_CALLS = frozenset({ModelFeature.TOOL_CALL, ModelFeature.MULTI_TOOL_CALL, ModelFeature.STREAM_TOOL_CALL})


def fitting_strategy(name: str, model: Any, *, is_completion: bool = False) -> Strategy:
    """The strategy of that name, or the one that the model is able to: a model that cannot call tools writes down what
    it wants. Raises NotFoundError."""
    found = strategy_of(name if name not in ("", "auto") else "function_calling")
    schema = getattr(model, "schema", None)
    if found.name == "function_calling" and schema is not None and not _CALLS & frozenset(schema.features):
        found = strategy_of("react")
    return strategy_of("react_completion") if found.name == "react" and is_completion else found


@dataclass(slots=True, kw_only=True)
class AgentResult:
    """What came of a question. `messages` go into the next question's `history`."""

    text: str = ""
    value: Any = None
    """The answer by the agent's schema."""
    reason: str = ""
    """`answer`, or which limit ended it."""
    thoughts: list[str] = field(default_factory=list[str])
    calls: list[ToolFinished] = field(default_factory=list[ToolFinished])
    usage: LLMUsage = field(default_factory=LLMUsage)
    rounds: int = 0
    seconds: float = 0.0
    sources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    messages: list[AnyPromptMessage] = field(default_factory=list[AnyPromptMessage])

    def take(self, event: AnyAgentEvent) -> None:
        match event:
            case RoundFinished() if event.thought:
                self.thoughts.append(event.thought)
            case ToolFinished():
                self.calls.append(event)
            case AgentFinished():
                self.text, self.value, self.reason = event.text, event.value, event.reason
                self.usage, self.rounds, self.seconds = event.usage, event.rounds, event.seconds
                self.sources = event.sources
            case _:
                pass


class Agent:
    def __init__(
        self,
        model: Any,
        manager: ToolManager,
        *,
        tools: Sequence[Tool] = (),
        strategy: str = "auto",
        instruction: str = "",
        name: str = "agent",
        description: str = "",
        limits: AgentLimits | None = None,
        schema: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        context: ToolContext | None = None,
        approve: Approve | None = None,
        results: Results | None = None,
        store: Store | None = None,
    ) -> None:
        """`model` is a ModelInstance, or whatever has `stream_llm`. Raises NotFoundError for an unknown strategy."""
        self.model = model
        self.tools = list(tools)
        self.name = name
        self.description = description or instruction.split("\n")[0][:200] or name
        self.limits = limits or AgentLimits()
        self._manager = manager
        self._strategy = fitting_strategy(strategy, model)
        self._instruction = instruction
        self._schema = schema
        self._parameters = dict(parameters or {})
        self._context = context or ToolContext()
        self._approve = approve
        self._results = results
        self._store = store

    def stream(
        self,
        query: str,
        *,
        history: Sequence[AnyPromptMessage] = (),
        files: Sequence[PromptMessageContent] = (),
        record: Record | None = None,
        context: ToolContext | None = None,
    ) -> AsyncGenerator[AnyAgentEvent, None]:
        """Events as they happen, `AgentFinished` last. Closing the generator stops model and tools."""
        loop = AgentLoop(
            self.model, self._strategy, self._manager, limits=self.limits, context=context or self._context,
            record=record, approve=self._approve, store=self._store, results=self._results,
        )  # fmt: skip
        return loop.run(
            Task(
                query=query, instruction=self._instruction, history=list(history), files=list(files),
                tools=list(self.tools), parameters=dict(self._parameters), schema=self._schema,
            )
        )  # fmt: skip

    async def run(
        self, query: str, *, history: Sequence[AnyPromptMessage] = (), files: Sequence[PromptMessageContent] = ()
    ) -> AgentResult:
        found = AgentResult()
        async with aclosing(self.stream(query, history=history, files=files)) as events:
            async for event in events:
                found.take(event)
        found.messages = [*history, UserPromptMessage(content=query), AssistantPromptMessage(content=found.text)]
        return found

    def as_tool(self, name: str = "", description: str = "") -> Tool:
        """For other agents: they give it a task, it gives them its answer."""
        return AgentTool(self, name or self.name, description or self.description)


class AgentTool(Tool):
    def __init__(self, agent: Agent, name: str, description: str) -> None:
        self._agent = agent
        self.entity = ToolEntity(
            name=name, kind="agent", description=description, seconds=600.0,
            schema={
                "type": "object",
                "properties": {"query": {"type": "string", "description": "The task, with all that must be known."}},
                "required": ["query"],
            },
        )  # fmt: skip

    async def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        if context.depth >= self._agent.limits.depth:
            raise ToolInvokeError(f"agents call each other {context.depth} deep: that is the most")
        found = AgentResult()
        deeper = replace(context, depth=context.depth + 1)
        async with aclosing(self._agent.stream(str(parameters["query"]), context=deeper)) as events:
            async for event in events:
                found.take(event)
        yield json_message(found.value) if found.value is not None else text_message(found.text)
