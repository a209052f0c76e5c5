"""Tool node: calls a tool of a plugin, a workflow or an API. Its messages become
outputs, its texts are streamed."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import is_array, is_mapping
from modelyard.workflow.node import (
    Effect,
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeResult,
)
from modelyard.workflow.template import selectors_in
from modelyard.workflow.tool_messages import ToolMessageCollector, tool_input


class ToolInput(msgspec.Struct, kw_only=True):
    """A parameter: a constant, a variable, or a template (`mixed`)."""

    type: str = "mixed"
    value: Any = None


class ToolData(NodeData, kw_only=True):
    """Data of a tool node in a DSL file."""

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
        """Id of the tool's provider; old exports have only its name."""
        return self.provider_id or self.provider_name


class ToolNode(Node):
    """Calls one tool."""

    type = "tool"
    Data = ToolData

    @property
    def effect(self) -> Effect:
        """A tool may act outside, so a repetition may have effects."""
        return Effect.REPEATABLE

    async def run(self, context: NodeContext) -> NodeResult:
        """Call the tool and return its outputs. Raises NodeError."""
        data: ToolData = self.data
        # Configurations and parameters are passed to the tool alike.
        configured = {**data.tool_configurations, **data.tool_parameters}
        parameters = {
            name: tool_input(parameter, context)
            for name, parameter in configured.items()
        }
        # An optional parameter without a value is omitted, so that the tool uses its
        # default.
        parameters = {
            name: value for name, value in parameters.items() if value is not None
        }
        # Shown with the node also if the call fails.
        metadata = {
            "tool_info": {
                "provider_type": data.provider_type,
                "provider_id": data.provider,
            }
        }
        if (tools := context.services.tools) is None:
            raise NodeError(
                "No tools are available",
                error_type="ToolNodeError",
                inputs=parameters,
                metadata=metadata,
            )
        gathered = ToolMessageCollector(context)
        try:
            messages: Any = tools.invoke(
                data.provider_type,
                data.provider,
                data.tool_name,
                parameters,
                credential=data.credential_id,
                key=context.idempotency_key,
            )
            # If this block ends with an error, closing the stream cancels the call.
            async with aclosing(messages) as stream:
                async for message in stream:
                    await gathered.add(message)
        except ModelyardError as error:
            raise NodeError(
                f"Failed to invoke tool {data.tool_label or data.tool_name}: {error}",
                error_type="ToolInvokeError",
                inputs=parameters,
                metadata=metadata,
            ) from error
        return NodeResult(
            inputs=parameters, outputs=gathered.outputs(), metadata=metadata
        )

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors in the parameters."""
        selectors: list[tuple[str, ...]] = []
        for parameter in [
            *self.data.tool_configurations.values(),
            *self.data.tool_parameters.values(),
        ]:
            if (
                is_mapping(parameter)
                and parameter.get("type") == "variable"
                and is_array(parameter.get("value"))
            ):
                selectors.append(tuple(str(part) for part in parameter["value"]))
            elif (
                is_mapping(parameter)
                and parameter.get("type") == "mixed"
                and isinstance(parameter.get("value"), str)
            ):
                selectors += selectors_in(parameter["value"])
        return selectors


NODES = {"tool": ToolNode}
