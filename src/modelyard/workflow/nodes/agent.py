"""Agent node: a model that calls tools until it has an answer, or an agent strategy of
a plugin."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from modelyard.agents.strategies import get_strategy
from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_mapping
from modelyard.workflow.agent_execution import BuiltInStrategy
from modelyard.workflow.agent_tools import (
    resolve_tool_inputs,
    tool_input_parameters,
)
from modelyard.workflow.events import (
    NodeRunAgentLog,
)
from modelyard.workflow.node import (
    Effect,
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeResult,
)
from modelyard.workflow.prompts import (
    MemoryConfig,
)
from modelyard.workflow.template import render, selectors_in
from modelyard.workflow.tool_messages import ToolMessageCollector, tool_input


class AgentData(NodeData, kw_only=True):
    """Data of an agent node in a DSL file."""

    agent_strategy_provider_name: str = ""
    agent_strategy_name: str = ""
    agent_strategy_label: str = ""
    agent_parameters: dict[str, Any] = {}
    memory: MemoryConfig | None = None
    plugin_unique_identifier: str = ""
    output_schema: dict[str, Any] | None = None


class AgentNode(Node):
    """Runs a built-in strategy or a plugin's strategy."""

    type = "agent"
    Data = AgentData

    @property
    def effect(self) -> Effect:
        """Tools may act outside, so a repetition may have effects."""
        return Effect.REPEATABLE

    async def run(self, context: NodeContext) -> NodeResult:
        """Run the strategy: a plugin's if one provides it, else the built-in one.
        Raises NodeError."""
        data: AgentData = self.data
        parameters = {
            name: _parameter(parameter, context)
            for name, parameter in data.agent_parameters.items()
        }
        if "tools" in parameters:
            parameters["tools"] = resolve_tool_inputs(
                parameters["tools"], lambda parameter: tool_input(parameter, context)
            )
        provider, name = data.agent_strategy_provider_name, data.agent_strategy_name
        agents = context.services.agents
        # Plugins have priority: they may provide a strategy with a built-in name.
        if provider and agents is not None and agents.serves(provider, name):
            return await _PluginStrategy(self, context, parameters).run()
        # An unknown strategy is reported before any model is called.
        try:
            get_strategy(name or "function_calling")
        except NotFoundError as error:
            raise NodeError(
                f"Agent strategy {provider}/{name} is neither built in nor provided by"
                f" an installed plugin: {error}",
                error_type="AgentStrategyNotFoundError",
                inputs=parameters,
            ) from error
        return await BuiltInStrategy(
            self, context, parameters, name or "function_calling"
        ).run()

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors in the node's parameters, from variables and from
        templates."""
        selectors: list[tuple[str, ...]] = []
        tools = self.data.agent_parameters.get("tools")
        tool_list = tools.get("value") if is_mapping(tools) else tools
        for parameter in (
            *self.data.agent_parameters.values(),
            *tool_input_parameters(tool_list),
        ):
            # Old exports may hold plain values instead of objects with a type.
            if not is_mapping(parameter):
                continue
            value = parameter.get("value")
            if parameter.get("type") == "variable" and is_array(value):
                selectors.append(tuple(str(part) for part in value))
            elif isinstance(value, str):
                selectors += selectors_in(value)
        return selectors


def _parameter(parameter: Any, context: NodeContext) -> Any:
    """Return the value of a parameter. A constant text may contain selectors: existing
    DSL files rely on it."""
    # Files and selectors in constants are resolved like in templates.
    if is_mapping(parameter) and parameter.get("type") == "constant":
        constant = parameter.get("value")
        if isinstance(constant, str):
            return render(constant, context.pool)
    return tool_input(parameter, context)


# ------------------------------------------------------------------- plugin strategies


class _PluginStrategy:
    """One execution of a plugin's strategy: its messages become outputs, its logs
    events."""

    def __init__(
        self, node: AgentNode, context: NodeContext, parameters: Mapping[str, Any]
    ) -> None:
        self._node = node
        self._context = context
        self._parameters = parameters

    async def run(self) -> NodeResult:
        """Run the strategy and collect its messages. Raises NodeError."""
        data: AgentData = self._node.data
        context, parameters = self._context, self._parameters
        strategy = {
            "provider": data.agent_strategy_provider_name,
            "name": data.agent_strategy_name,
            "plugin": data.plugin_unique_identifier,
            "key": context.idempotency_key,
        }
        gathered = ToolMessageCollector(context)
        logs: list[dict[str, Any]] = []
        usage: Mapping[str, Any] = {}
        agents: Any = context.services.agents
        try:
            messages: Any = agents.run(strategy, parameters)
            async with aclosing(messages) as stream:
                async for message in stream:
                    # Log messages become events; everything else becomes output.
                    if message.get("type") == "log":
                        logs.append(self._emit_log(message.get("message") or {}))
                        continue
                    # Plugins report their token usage in a JSON message with this key.
                    json_object = (message.get("message") or EMPTY_OBJECT).get(
                        "json_object"
                    )
                    if (
                        message.get("type") == "json"
                        and is_mapping(json_object)
                        and "execution_metadata" in json_object
                    ):
                        usage = json_object["execution_metadata"]
                        continue
                    await gathered.add(message)
        except ModelyardError as error:
            raise NodeError(
                str(error), error_type="AgentInvocationError", inputs=dict(parameters)
            ) from error
        outputs = gathered.outputs()
        # The plugin's logs come before its JSON messages.
        outputs["json"] = [*logs, *outputs["json"]]
        outputs["usage"] = dict(usage)
        return NodeResult(
            inputs=dict(parameters),
            outputs=outputs,
            metadata={**usage, "agent_log": logs},
        )

    def _emit_log(self, log: Mapping[str, Any]) -> dict[str, Any]:
        """Emit a log message of the plugin and return it as a log entry."""
        entry: dict[str, Any] = {
            "id": str(log.get("id") or ""),
            "parent_id": log.get("parent_id"),
            "label": str(log.get("label") or ""),
            "status": str(log.get("status") or ""),
            "error": log.get("error"),
            "data": dict(log.get("data") or {}),
            "metadata": dict(log.get("metadata") or {}),
        }
        self._context.emit(
            NodeRunAgentLog(
                **self._node.event_fields(self._context.execution_id),
                at=self._context.run.now(),
                message_id=entry["id"],
                **{name: entry[name] for name in entry if name != "id"},
            )
        )
        return entry


NODES = {"agent": AgentNode}
