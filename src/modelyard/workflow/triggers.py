"""What begins runs without a caller: webhooks' addresses, times of schedules, events that plugins report.

Each run's id follows from what began it: the same minute of the same schedule is one run, however many processes see it
come, and so is a webhook's call that its sender repeats under the same key.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.kinds import AppTrigger, StoredApp
from modelyard.workflow.apps import Apps, FoundApp
from modelyard.workflow.chats import Chats
from modelyard.workflow.dsl import App
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.nodes.trigger import WebhookData
from modelyard.workflow.runs import TooManyRunsError
from modelyard.workflow.schedule import Schedule, ScheduleError

logger = logging.getLogger("modelyard.triggers")

USER = "trigger"
"""Whose runs they are."""
FROM = "trigger"
_NAMES = uuid.UUID("6f2a3c1e-54f0-4a53-9b0e-6a8c1d2f7e90")


@dataclass(frozen=True, slots=True)
class Listener:
    """A node that waits for an event of a plugin."""

    found: FoundApp
    trigger: AppTrigger


@dataclass(slots=True)
class _Due:
    found: FoundApp
    trigger: AppTrigger
    schedule: Schedule
    at: float | None
    """Its next time; None where none comes."""


class Triggers:
    def __init__(
        self, apps: Apps, chats: Chats, directory: Directory, *, catch_up: Callable[[], float],
        now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._apps = apps
        self._chats = chats
        self._directory = directory
        self._catch_up = catch_up
        self._now = now
        self._seen = -1
        self._webhooks: dict[str, tuple[FoundApp, str]] = {}
        self._due: dict[tuple[str, str, str], _Due] = {}
        self._listeners: list[Listener] = []

    # webhooks

    async def webhook(self, token: str, *, is_draft: bool = False) -> tuple[FoundApp, App, str, WebhookData]:
        """(the app as it is to run, its file, the node, what that takes) by what names it in its address.

        `is_draft`: what waits to be published answers. Raises NotFoundError.
        """
        self._look()
        found, node = self._webhooks.get(token, (None, ""))
        if found is not None and self._may_run(found):
            digest = (found.stored.draft or found.stored.digest) if is_draft else found.stored.digest
            if digest:
                found = self._apps.at(found, digest)
                app = await self._apps.app(found)
                data = app.graph(node).nodes[node].data if node in app.roots else None
                if isinstance(data, WebhookData):
                    return found, app, node, data
        raise NotFoundError("there is no such webhook, or its app is not published", code="webhook_not_found")

    # runs

    async def fire(
        self, found: FoundApp, app: App, node: str, inputs: Mapping[str, Any], *, key: str = "", is_draft: bool = False
    ) -> RunRecord:
        """Begin a run at a node. With a key, one run for all that come under it. Raises WorkflowError."""
        named = str(uuid.uuid5(_NAMES, "\n".join((found.tenant, found.id, node, key)))) if key else ""
        return await self._chats.run(
            found, app, inputs=inputs, user=USER, root=node, created_from="debugger" if is_draft else FROM, run_id=named
        )

    # schedules

    async def tick(self) -> int:
        """Begin what is due; how many. A time that passed while nobody looked is made up for, the last one alone."""
        self._look()
        begun = 0
        for one in list(self._due.values()):
            now = self._now()
            if one.at is None or one.at > now:
                continue
            latest = one.schedule.latest(max(one.at - 1, now - self._window()), now)
            if latest is not None and self._may_run(one.found):
                try:
                    await self._fire_at(one, latest)
                    begun += 1
                except TooManyRunsError:
                    continue  # the next look finds it due still
                except ModelyardError as error:
                    fields = {"tenant": one.found.tenant, "app": one.found.name, "error": str(error)}
                    logger.error("a schedule could not begin its run", extra={"fields": fields})
            one.at = one.schedule.next(now)
        return begun

    async def _fire_at(self, one: _Due, at: float) -> None:
        app = await self._apps.app(one.found)
        await self.fire(one.found, app, one.trigger.node, {}, key=f"schedule {int(at)}")

    # events

    def listeners(self, tenant: str, subscription: str, provider: str, event: str) -> list[Listener]:
        """Nodes that wait for a subscription's event. `provider`: `author/plugin/provider`."""
        self._look()
        return [
            one for one in self._listeners
            if one.found.tenant == tenant and one.trigger.event == event and self._may_run(one.found)
            and (one.trigger.subscription or subscription) == subscription
            and f"/{provider}".endswith(f"/{one.trigger.provider}")
        ]  # fmt: skip

    async def hear(self, one: Listener, variables: Mapping[str, Any], *, key: str = "") -> RunRecord:
        """Begin the run of a node that waited."""
        return await self.fire(one.found, await self._apps.app(one.found), one.trigger.node, variables, key=key)

    # what there is

    def _may_run(self, found: FoundApp) -> bool:
        return found.stored.is_enabled and self._directory.is_enabled(found.tenant)

    def _look(self) -> None:
        """Take up what has changed since the last look."""
        if self._seen == self._directory.changes:
            return
        self._seen = self._directory.changes
        webhooks: dict[str, tuple[FoundApp, str]] = {}
        due: dict[tuple[str, str, str], _Due] = {}
        listeners: list[Listener] = []
        for tenant, one, stored in self._directory.everywhere(StoredApp):
            found = FoundApp(tenant, one.id, one.name, stored)
            webhooks |= {token: (found, node) for node, token in stored.webhooks.items()}
            for trigger in stored.triggers:
                if trigger.type == "schedule" and (awaited := self._awaited(found, trigger)) is not None:
                    due[tenant, one.id, trigger.node] = awaited
                elif trigger.type == "plugin":
                    listeners.append(Listener(found, trigger))
        self._webhooks, self._due, self._listeners = webhooks, due, listeners

    def _window(self) -> float:
        """How far back times are made up for; a look that comes late is no time missed."""
        return max(self._catch_up(), 60.0)

    def _awaited(self, found: FoundApp, trigger: AppTrigger) -> _Due | None:
        """From when it was published on, or as far back as times are made up for: what ran already has its name."""
        known = self._due.get((found.tenant, found.id, trigger.node))
        schedule = Schedule(trigger.cron, trigger.timezone)
        if known is not None and known.schedule == schedule:
            return _Due(found, trigger, schedule, known.at)
        published = found.stored.versions[-1].at if found.stored.versions else 0.0
        since = max(published, self._now() - self._window())
        try:
            return _Due(found, trigger, schedule, schedule.next(since))
        except ScheduleError as error:  # a zone that this machine does not know
            logger.error("a schedule cannot be kept", extra={"fields": {"app": found.name, "error": str(error)}})
            return None
