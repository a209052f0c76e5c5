"""The triggers in an app's DSL file, which start runs without a caller."""

import secrets
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from modelyard.base.errors import ConfigError
from modelyard.base.json_types import is_mapping
from modelyard.tenancy.resource_types import AppTrigger
from modelyard.workflow.dsl import App
from modelyard.workflow.nodes.trigger import (
    PluginTriggerData,
    ScheduleData,
    WebhookData,
)
from modelyard.workflow.schedule import Schedule, ScheduleError, schedule_of


def triggers_of(app: App) -> list[AppTrigger]:
    """Return the triggers of an app. An invalid schedule is omitted; the app's warnings
    report it."""
    triggers: list[AppTrigger] = []
    # Chat apps run only in a conversation.
    if app.is_chat:
        return triggers
    for root in app.roots:
        node = app.graph(root).nodes[root]
        match node.data:
            case WebhookData():
                triggers.append(AppTrigger(node=root, title=node.title, type="webhook"))
            case ScheduleData():
                try:
                    schedule = schedule_of(node.data)
                except (ScheduleError, ConfigError):
                    continue
                triggers.append(
                    AppTrigger(
                        node=root,
                        title=node.title,
                        type="schedule",
                        cron=schedule.cron,
                        timezone=schedule.timezone,
                    )
                )
            case PluginTriggerData() as data:
                triggers.append(
                    AppTrigger(
                        node=root,
                        title=node.title,
                        type="plugin",
                        provider=data.provider_id,
                        event=data.event_name,
                        subscription=data.subscription_id,
                        parameters=_constants(data.event_parameters),
                    )
                )
            case _:
                pass
    return triggers


def schedule_problems(app: App) -> list[str]:
    """Return why schedules of an app never start a run, each with its node's title.

    A schedule that this installation cannot compute is not among them.
    """
    problems: list[str] = []
    for root in () if app.is_chat else app.roots:
        node = app.graph(root).nodes[root]
        if not isinstance(node.data, ScheduleData):
            continue
        try:
            schedule_of(node.data)
        except ScheduleError as error:
            problems.append(f"{node.title}: {error}")
        except ConfigError:
            continue
    return problems


def webhooks_of(
    app: App, published: Sequence[AppTrigger], existing_tokens: Mapping[str, str]
) -> dict[str, str]:
    """Return webhook node → token in its URL. Existing tokens are kept, so that URLs
    stay valid."""
    # Published nodes that the draft has removed keep their URLs until the next
    # publication.
    nodes = {
        trigger.node
        for trigger in (*triggers_of(app), *published)
        if trigger.type == "webhook"
    }
    return {
        node: existing_tokens.get(node) or secrets.token_urlsafe(18)
        for node in sorted(nodes)
    }


def next_times(trigger: AppTrigger, current_time: float, count: int = 3) -> list[float]:
    """Return the next `count` times of a schedule, in seconds since 1970."""
    return list(
        islice(
            Schedule(trigger.cron, trigger.timezone).times_after(current_time), count
        )
    )


def _constants(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constant values of event parameters."""
    return {
        name: parameter.get("value")
        if is_mapping(parameter) and "type" in parameter
        else parameter
        for name, parameter in parameters.items()
    }
