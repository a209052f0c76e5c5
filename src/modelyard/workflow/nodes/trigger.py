"""Trigger nodes: start a run by a webhook, a schedule or a plugin's event, and pass its
data on."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.bounded_json import decode_body
from modelyard.workflow.node import (
    NodeContext,
    NodeData,
    NodeError,
    NodeKind,
    NodeResult,
    SyncNode,
)
from modelyard.workflow.variables import matches_type, type_of


class Parameter(msgspec.Struct, kw_only=True):
    """A header, query parameter or body field that a webhook declares."""

    name: str
    type: str = "string"
    required: bool = False


class WebhookData(NodeData, kw_only=True):
    """Data of a webhook trigger in a DSL file. `timeout` is in seconds."""

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
    """A schedule that was entered in a form."""

    on_minute: int = 0
    time: str = "12:00 AM"
    weekdays: list[str] = []
    """`sun` to `sat`."""
    monthly_days: list[int | str] = []
    """1 to 31, or `last`."""


class ScheduleData(NodeData, kw_only=True):
    """Data of a schedule trigger in a DSL file."""

    mode: str = "visual"
    """`visual` or `cron`."""
    frequency: str = ""
    """`hourly`, `daily`, `weekly` or `monthly`."""
    cron_expression: str = ""
    visual_config: VisualSchedule = msgspec.field(default_factory=VisualSchedule)
    timezone: str = "UTC"


class PluginTriggerData(NodeData, kw_only=True):
    """Data of a plugin trigger in a DSL file."""

    plugin_id: str = ""
    provider_id: str = ""
    """`author/plugin/provider`."""
    event_name: str = ""
    subscription_id: str = ""
    """Empty for all of the tenant's subscriptions with this provider."""
    event_parameters: dict[str, Any] = {}
    """Filter for the events: name → value, or `{type, value}`."""


class _Trigger(SyncNode):
    """Base of triggers."""

    kind = NodeKind.ROOT

    def compute(self, context: NodeContext) -> NodeResult:
        """Return the data with which the run was started."""
        inputs = dict(context.pool.node_variables(self.id))
        return NodeResult(outputs=inputs, inputs=inputs)


class WebhookNode(_Trigger):
    """Starts a run by an HTTP request."""

    type = "trigger-webhook"
    Data = WebhookData

    def compute(self, context: NodeContext) -> NodeResult:
        """Return the declared values and the raw request. Raises NodeError."""
        inputs = dict(context.pool.node_variables(self.id))
        # A test run has no HTTP request; its inputs replace it.
        raw = inputs.get("_webhook_raw") or {"inputs": inputs}
        return NodeResult(
            outputs={**declared_values(self.data, inputs), "_webhook_raw": raw},
            inputs=inputs,
        )


def declared_values(data: WebhookData, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the webhook declares. Raises NodeError if one is missing
    or has the wrong type."""
    values: dict[str, Any] = {}
    for parameter in [*data.headers, *data.params, *data.body]:
        # Names are those of the request; outputs have underscores instead.
        value = inputs.get(parameter.name)
        if value is None and parameter.required:
            raise NodeError(
                f"{parameter.name} is required by the webhook", error_type="InputError"
            )
        # Header names contain hyphens, which selectors cannot.
        values[parameter.name.replace("-", "_")] = _cast(parameter, value)
    return values


def _cast(parameter: Parameter, value: Any) -> Any:
    """Return a value in the declared type: texts are converted, values of a JSON body
    have to be of the type. Raises NodeError."""
    if value is None or parameter.type not in _CHECKED_TYPES:
        return value
    try:
        converted = _converted(parameter.type, value)
    except (ValueError, KeyError) as error:
        raise _mismatch(parameter, value) from error
    if not matches_type(converted, parameter.type):
        raise _mismatch(parameter, value)
    return converted


_OBJECTS = (
    "object",
    "array[string]",
    "array[number]",
    "array[boolean]",
    "array[object]",
)
_CHECKED_TYPES = frozenset({"string", "number", "boolean", *_OBJECTS})
# Query parameters and form fields are texts, so clients spell booleans.
_BOOLEANS = {
    "true": True,
    "1": True,
    "yes": True,
    "false": False,
    "0": False,
    "no": False,
}


def _converted(type_name: str, value: Any) -> Any:
    """Return a text as a value of the type; other values are returned unchanged. Raises
    ValueError or KeyError."""
    if not isinstance(value, str) or type_name == "string":
        return value
    match type_name:
        case "number":
            # A whole number stays an integer: templates would show `3.0` otherwise.
            return float(value) if "." in value else int(value)
        case "boolean":
            return _BOOLEANS[value.lower()]
        case _:
            # The text comes from outside, so its depth and number of values are
            # limited.
            return decode_body(value)


def _mismatch(parameter: Parameter, value: Any) -> NodeError:
    """Return the error of a value that is not of the declared type."""
    # Shortened: the value comes from outside and may be of any length.
    return NodeError(
        f"{parameter.name} must be {parameter.type}, not {type_of(value)}"
        f" {str(value)[:60]!r}",
        error_type="InputError",
    )


class ScheduleNode(_Trigger):
    """Starts a run at the times of a schedule."""

    type = "trigger-schedule"
    Data = ScheduleData


class PluginTriggerNode(_Trigger):
    """Starts a run by an event of a plugin."""

    type = "trigger-plugin"
    Data = PluginTriggerData


NODES = {
    node_class.type: node_class
    for node_class in (WebhookNode, ScheduleNode, PluginTriggerNode)
}
