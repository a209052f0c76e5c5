"""agent: a strategy that calls tools until it has an answer."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.workflow.events import NodeRunAgentLog
from modelyard.workflow.node import Effect, Node, NodeContext, NodeData, NodeError, NodeResult
from modelyard.workflow.nodes.tool import Gathered, tool_input
from modelyard.workflow.prompts import MemoryConfig
from modelyard.workflow.template import selectors_in


class AgentData(NodeData, kw_only=True):
    agent_strategy_provider_name: str = ""
    agent_strategy_name: str = ""
    agent_strategy_label: str = ""
    agent_parameters: dict[str, Any] = {}
    memory: MemoryConfig | None = None
    plugin_unique_identifier: str = ""


class AgentNode(Node):
    type = "agent"
    Data = AgentData

    @property
    def effect(self) -> Effect:
        return Effect.REPEATABLE

    async def run(self, context: NodeContext) -> NodeResult:
        data: AgentData = self.data
        parameters = {name: tool_input(given, context) for name, given in data.agent_parameters.items()}
        if (agents := context.services.agents) is None:
            raise NodeError("there are no agents here", kind="AgentNodeError", inputs=parameters)
        strategy = {
            "provider": data.agent_strategy_provider_name,
            "name": data.agent_strategy_name,
            "plugin": data.plugin_unique_identifier,
            "key": context.idempotency_key,
        }
        gathered = Gathered(context)
        logs: list[dict[str, Any]] = []
        usage: Mapping[str, Any] = {}
        try:
            messages: Any = agents.run(strategy, parameters)
            async with aclosing(messages) as stream:
                async for message in stream:
                    if message.get("type") == "log":
                        logs.append(self._logged(message.get("message") or {}, context))
                        continue
                    inside = (message.get("message") or {}).get("json_object")
                    if message.get("type") == "json" and isinstance(inside, Mapping) and "execution_metadata" in inside:
                        usage = inside["execution_metadata"]
                        continue
                    gathered.take(message)
        except ModelyardError as error:
            raise NodeError(str(error), kind="AgentInvocationError", inputs=parameters) from error
        outputs = gathered.outputs()
        outputs["json"] = [*logs, *outputs["json"]]
        outputs["usage"] = dict(usage)
        return NodeResult(inputs=parameters, outputs=outputs, metadata={**usage, "agent_log": logs})

    def _logged(self, log: Mapping[str, Any], context: NodeContext) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "id": str(log.get("id") or ""), "parent_id": log.get("parent_id"), "label": str(log.get("label") or ""),
            "status": str(log.get("status") or ""), "error": log.get("error"), "data": dict(log.get("data") or {}),
            "metadata": dict(log.get("metadata") or {}),
        }  # fmt: skip
        context.emit(NodeRunAgentLog(
            id=context.execution_id, node_id=self.id, node_type=self.type, title=self.title, at=context.run.now(),
            message_id=entry["id"], **{name: entry[name] for name in entry if name != "id"},
        ))  # fmt: skip
        return entry

    def references(self) -> Sequence[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for given in self.data.agent_parameters.values():
            if not isinstance(given, Mapping):
                continue
            value = given.get("value")
            if given.get("type") == "variable" and isinstance(value, list):
                found.append(tuple(str(part) for part in value))
            elif given.get("type") == "mixed" and isinstance(value, str):
                found += selectors_in(value)
        return found


NODES = {"agent": AgentNode}
