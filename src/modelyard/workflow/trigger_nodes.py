"""What of an app's file begins runs of it without a caller."""

import secrets
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from modelyard.base.errors import ConfigError
from modelyard.tenancy.kinds import AppTrigger
from modelyard.workflow.dsl import App
from modelyard.workflow.nodes.trigger import PluginTriggerData, ScheduleData, WebhookData
from modelyard.workflow.schedule import Schedule, ScheduleError, schedule_of


def triggers_of(app: App) -> list[AppTrigger]:
    """What begins an app by itself. A schedule that says no time is left out: its file's warnings name it."""
    found: list[AppTrigger] = []
    if app.is_chat:
        return found
    for root in app.roots:
        node = app.graph(root).nodes[root]
        match node.data:
            case WebhookData():
                found.append(AppTrigger(node=root, title=node.title, type="webhook"))
            case ScheduleData():
                try:
                    schedule = schedule_of(node.data)
                except (ScheduleError, ConfigError):
                    continue
                found.append(AppTrigger(
                    node=root, title=node.title, type="schedule", cron=schedule.cron, timezone=schedule.timezone
                ))  # fmt: skip
            case PluginTriggerData() as data:
                found.append(AppTrigger(
                    node=root, title=node.title, type="plugin", provider=data.provider_id, event=data.event_name,
                    subscription=data.subscription_id, parameters=_constants(data.event_parameters),
                ))  # fmt: skip
            case _:
                pass
    return found


def webhooks_of(app: App, published: Sequence[AppTrigger], known: Mapping[str, str]) -> dict[str, str]:
    """Webhook node → what names it in its address: as it was, where it was there before."""
    nodes = {one.node for one in (*triggers_of(app), *published) if one.type == "webhook"}
    return {node: known.get(node) or secrets.token_urlsafe(18) for node in sorted(nodes)}


def next_times(trigger: AppTrigger, now: float, count: int = 3) -> list[float]:
    """A schedule's next times."""
    return list(islice(Schedule(trigger.cron, trigger.timezone).after(now), count))


def _constants(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: one.get("value") if isinstance(one, Mapping) and "type" in one else one for name, one in given.items()
    }
