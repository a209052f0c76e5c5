"""trigger-webhook, trigger-schedule, trigger-plugin: what starts a run without a caller. They give on what they got."""

from typing import Any

import msgspec

from modelyard.workflow.node import NodeContext, NodeData, NodeError, NodeKind, NodeResult, QuickNode
from modelyard.workflow.variables import type_of


class Parameter(msgspec.Struct, kw_only=True):
    name: str
    type: str = "string"
    required: bool = False


class WebhookData(NodeData, kw_only=True):
    method: str = "get"
    content_type: str = ""
    headers: list[Parameter] = []
    params: list[Parameter] = []
    body: list[Parameter] = []
    async_mode: bool = True
    status_code: int = 200
    response_body: str = ""
    timeout: float = 30


class _Trigger(QuickNode):
    kind = NodeKind.ROOT

    def compute(self, context: NodeContext) -> NodeResult:
        given = dict(context.pool.of(self.id))
        return NodeResult(outputs=given, inputs=given)


class WebhookNode(_Trigger):
    type = "trigger-webhook"
    Data = WebhookData

    def compute(self, context: NodeContext) -> NodeResult:
        given = dict(context.pool.of(self.id))
        outputs: dict[str, Any] = {}
        for one in [*self.data.headers, *self.data.params, *self.data.body]:
            value = given.get(one.name)
            if value is None and one.required:
                raise NodeError(f"{one.name} is required by the webhook", kind="InputError")
            outputs[one.name.replace("-", "_")] = _cast(one, value)
        raw = given.get("_webhook_raw") or {"inputs": given}
        return NodeResult(outputs={**outputs, "_webhook_raw": raw}, inputs=given)


def _cast(parameter: Parameter, value: Any) -> Any:
    if value is None or parameter.type in ("string", "") or not isinstance(value, str):
        return value
    try:
        match parameter.type:
            case "number":
                return float(value) if "." in value else int(value)
            case "boolean":
                return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
            case "object" | "array[string]" | "array[number]" | "array[boolean]" | "array[object]":
                return msgspec.json.decode(value)
            case _:
                return value
    except (ValueError, KeyError, msgspec.DecodeError) as error:
        raise NodeError(
            f"{parameter.name} must be {parameter.type}, not {type_of(value)} {value[:60]!r}", kind="InputError"
        ) from error


class ScheduleNode(_Trigger):
    type = "trigger-schedule"


class PluginTriggerNode(_Trigger):
    type = "trigger-plugin"


NODES = {one.type: one for one in (WebhookNode, ScheduleNode, PluginTriggerNode)}
