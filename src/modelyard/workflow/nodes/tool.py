"""tool: one tool of a plugin, another workflow, an API; its messages become outputs, its texts stream."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.workflow.node import Effect, Node, NodeContext, NodeData, NodeError, NodeResult
from modelyard.workflow.template import selectors_in
from modelyard.workflow.tool_messages import Gathered, tool_input


class ToolInput(msgspec.Struct, kw_only=True):
    type: str = "mixed"
    value: Any = None


class ToolData(NodeData, kw_only=True):
    provider_id: str = ""
    provider_type: str = "builtin"
    provider_name: str = ""
    tool_name: str = ""
    tool_label: str = ""
    tool_configurations: dict[str, Any] = {}
    tool_parameters: dict[str, Any] = {}
    credential_id: str = ""
    plugin_unique_identifier: str = ""

    @property
    def provider(self) -> str:
        return self.provider_id or self.provider_name


class ToolNode(Node):
    type = "tool"
    Data = ToolData

    @property
    def effect(self) -> Effect:
        return Effect.REPEATABLE

    async def run(self, context: NodeContext) -> NodeResult:
        data: ToolData = self.data
        every = {**data.tool_configurations, **data.tool_parameters}
        parameters = {name: tool_input(given, context) for name, given in every.items()}
        parameters = {name: value for name, value in parameters.items() if value is not None}
        about = {"tool_info": {"provider_type": data.provider_type, "provider_id": data.provider}}
        if (tools := context.services.tools) is None:
            raise NodeError("there are no tools here", kind="ToolNodeError", inputs=parameters, metadata=about)
        gathered = Gathered(context)
        try:
            messages: Any = tools.invoke(
                data.provider_type, data.provider, data.tool_name, parameters, credential=data.credential_id,
                key=context.idempotency_key,
            )  # fmt: skip
            async with aclosing(messages) as stream:
                async for message in stream:
                    await gathered.take(message)
        except ModelyardError as error:
            raise NodeError(
                f"Failed to invoke tool {data.tool_label or data.tool_name}: {error}", kind="ToolInvokeError",
                inputs=parameters, metadata=about,
            ) from error  # fmt: skip
        return NodeResult(inputs=parameters, outputs=gathered.outputs(), metadata=about)

    def references(self) -> Sequence[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for given in [*self.data.tool_configurations.values(), *self.data.tool_parameters.values()]:
            if isinstance(given, Mapping) and given.get("type") == "variable" and isinstance(given.get("value"), list):
                found.append(tuple(str(part) for part in given["value"]))
            elif isinstance(given, Mapping) and given.get("type") == "mixed" and isinstance(given.get("value"), str):
                found += selectors_in(given["value"])
        return found


NODES = {"tool": ToolNode}
