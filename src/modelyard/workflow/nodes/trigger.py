"""trigger-webhook, trigger-schedule, trigger-plugin: what starts a run without a caller. They give on what they got."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.bodies import decode_body
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


class VisualSchedule(msgspec.Struct, kw_only=True):
    """A schedule as its form says it."""

    on_minute: int = 0
    time: str = "12:00 AM"
    weekdays: list[str] = []
    """`sun` to `sat`."""
    monthly_days: list[int | str] = []
    """1 to 31, or `last`."""


class ScheduleData(NodeData, kw_only=True):
    mode: str = "visual"
    """`visual` or `cron`."""
    frequency: str = ""
    """`hourly`, `daily`, `weekly` or `monthly`."""
    cron_expression: str = ""
    visual_config: VisualSchedule = msgspec.field(default_factory=VisualSchedule)
    timezone: str = "UTC"


class PluginTriggerData(NodeData, kw_only=True):
    plugin_id: str = ""
    provider_id: str = ""
    """`author/plugin/provider`."""
    event_name: str = ""
    subscription_id: str = ""
    """Empty for all that the tenant has of this provider."""
    event_parameters: dict[str, Any] = {}
    """Name → value, or `{type, value}`: which of the events are meant."""


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
        raw = given.get("_webhook_raw") or {"inputs": given}
        return NodeResult(outputs={**values_of(self.data, given), "_webhook_raw": raw}, inputs=given)


def values_of(data: WebhookData, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a webhook declares, of what came. Raises NodeError where something is missing, or is of another type."""
    found: dict[str, Any] = {}
    for one in [*data.headers, *data.params, *data.body]:
        value = given.get(one.name)
        if value is None and one.required:
            raise NodeError(f"{one.name} is required by the webhook", kind="InputError")
        found[one.name.replace("-", "_")] = _cast(one, value)
    return found


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
                return decode_body(value)
            case _:
                return value
    except (ValueError, KeyError) as error:
        raise NodeError(
            f"{parameter.name} must be {parameter.type}, not {type_of(value)} {value[:60]!r}", kind="InputError"
        ) from error


class ScheduleNode(_Trigger):
    type = "trigger-schedule"
    Data = ScheduleData


class PluginTriggerNode(_Trigger):
    type = "trigger-plugin"
    Data = PluginTriggerData


NODES = {one.type: one for one in (WebhookNode, ScheduleNode, PluginTriggerNode)}
