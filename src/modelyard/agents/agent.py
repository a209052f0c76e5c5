"""`Agent`: a model with tools and a strategy. It can be run, streamed, or offered as a
tool to other agents."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from modelyard.agents.events import (
    AgentFinished,
    AnyAgentEvent,
    RoundFinished,
    ToolFinished,
)
from modelyard.agents.loop import AgentLoop, Approve, Results, StepStore, Store
from modelyard.agents.state import AgentLimits, Strategy, Task
from modelyard.agents.strategies import get_strategy
from modelyard.models.entities import ModelFeature
from modelyard.models.llm import LLMUsage
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageContent,
    UserPromptMessage,
)
from modelyard.tools.entities import (
    Message,
    Tool,
    ToolContext,
    ToolEntity,
    ToolInvokeError,
    json_message,
    text_message,
)
from modelyard.tools.manager import ToolManager

_TOOL_CALL_FEATURES = frozenset(
    {
        ModelFeature.TOOL_CALL,
        ModelFeature.MULTI_TOOL_CALL,
        ModelFeature.STREAM_TOOL_CALL,
    }
)


def select_strategy(name: str, model: Any, *, is_completion: bool = False) -> Strategy:
    """Return the strategy of that name; for "" or "auto", one that suits the model.

    A model without tool calling falls back from `function_calling` to ReAct. Raises
    NotFoundError.
    """
    strategy = get_strategy(name if name not in ("", "auto") else "function_calling")
    schema = getattr(model, "schema", None)
    # A model object without a schema is trusted to support tool calls.
    if (
        strategy.name == "function_calling"
        and schema is not None
        and not _TOOL_CALL_FEATURES & frozenset(schema.features)
    ):
        strategy = get_strategy("react")
    return (
        get_strategy("react_completion")
        if strategy.name == "react" and is_completion
        else strategy
    )


@dataclass(slots=True, kw_only=True)
class AgentResult:
    """The outcome of one agent run. Pass `messages` as the next run's `history`."""

    text: str = ""
    value: Any = None
    """The answer parsed according to the agent's schema; None without a schema."""
    reason: str = ""
    """`answer`, or the name of the limit that ended the run."""
    thoughts: list[str] = field(default_factory=list[str])
    calls: list[ToolFinished] = field(default_factory=list[ToolFinished])
    usage: LLMUsage = field(default_factory=LLMUsage)
    rounds: int = 0
    seconds: float = 0.0
    sources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    messages: list[AnyPromptMessage] = field(default_factory=list[AnyPromptMessage])

    def add(self, event: AnyAgentEvent) -> None:
        """Update the result from one event of the run."""
        match event:
            case RoundFinished() if event.thought:
                self.thoughts.append(event.thought)
            case ToolFinished():
                self.calls.append(event)
            case AgentFinished():
                # The last event carries the totals, so nothing is added up here.
                self.text, self.value, self.reason = (
                    event.text,
                    event.value,
                    event.reason,
                )
                self.usage, self.rounds, self.seconds = (
                    event.usage,
                    event.rounds,
                    event.seconds,
                )
                self.sources = event.sources
            case _:
                pass


class Agent:
    """A model with its tools, strategy, instruction and limits."""

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
        """`model` is a ModelInstance, or whatever has `stream_llm`. Raises
        NotFoundError for an unknown strategy."""
        self.model = model
        self.tools = list(tools)
        self.name = name
        self.description = description or instruction.split("\n")[0][:200] or name
        self.limits = limits or AgentLimits()
        self._manager = manager
        self._strategy = select_strategy(strategy, model)
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
        record: StepStore | None = None,
        context: ToolContext | None = None,
    ) -> AsyncGenerator[AnyAgentEvent, None]:
        """Run the agent and yield its events; `AgentFinished` is the last. Closing the
        generator stops the model and the tools."""
        loop = AgentLoop(
            self.model,
            self._strategy,
            self._manager,
            limits=self.limits,
            context=context or self._context,
            record=record,
            approve=self._approve,
            store=self._store,
            results=self._results,
        )
        # The task gets copies, because the loop may add tools to it.
        return loop.run(
            Task(
                query=query,
                instruction=self._instruction,
                history=list(history),
                files=list(files),
                tools=list(self.tools),
                parameters=dict(self._parameters),
                schema=self._schema,
            )
        )

    async def run(
        self,
        query: str,
        *,
        history: Sequence[AnyPromptMessage] = (),
        files: Sequence[PromptMessageContent] = (),
    ) -> AgentResult:
        """Run the agent to its end and return the result."""
        result = AgentResult()
        # `aclosing` stops the model and the tools even if the caller is cancelled.
        async with aclosing(self.stream(query, history=history, files=files)) as events:
            async for event in events:
                result.add(event)
        result.messages = [
            *history,
            UserPromptMessage(content=query),
            AssistantPromptMessage(content=result.text),
        ]
        return result

    def as_tool(self, name: str = "", description: str = "") -> Tool:
        """Return this agent as a tool that takes a task and returns the answer."""
        return AgentTool(self, name or self.name, description or self.description)


class AgentTool(Tool):
    """An agent offered as a tool to other agents."""

    def __init__(self, agent: Agent, name: str, description: str) -> None:
        self._agent = agent
        self.entity = ToolEntity(
            name=name,
            kind="agent",
            description=description,
            seconds=600.0,
            schema={
                "type": "object",
                "properties": {
                    "query": {
                        "type": "string",
                        "description": "The task, with all that must be known.",
                    }
                },
                "required": ["query"],
            },
        )

    async def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Run the agent on `query` and yield its answer. Raises ToolInvokeError if
        agents are nested too deeply."""
        if context.depth >= self._agent.limits.depth:
            # Agents that call each other could otherwise recurse without end.
            raise ToolInvokeError(
                f"Agent call depth limit ({self._agent.limits.depth}) exceeded"
            )
        result = AgentResult()
        deeper = replace(context, depth=context.depth + 1)
        async with aclosing(
            self._agent.stream(str(parameters["query"]), context=deeper)
        ) as events:
            async for event in events:
                result.add(event)
        yield (
            json_message(result.value)
            if result.value is not None
            else text_message(result.text)
        )
