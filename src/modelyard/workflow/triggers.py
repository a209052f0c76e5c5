"""Starts runs without a caller: by webhooks, schedules and events of plugins.

A run's id is derived from its cause. One minute of one schedule gives one run, however
many processes see it, and so does a webhook call that its sender repeats with the same
key.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import AppTrigger, StoredApp
from modelyard.workflow.apps import AppRecord, Apps
from modelyard.workflow.chats import Chats
from modelyard.workflow.dsl import App
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.nodes.trigger import WebhookData
from modelyard.workflow.runs import TooManyRunsError
from modelyard.workflow.schedule import Schedule, ScheduleError

logger = logging.getLogger("modelyard.triggers")

USER = "trigger"
"""The user of runs that a trigger starts."""
CREATED_FROM = "trigger"
# Namespace of the derived run ids. It must never change, or repeated causes start a
# second run.
_NAMES = uuid.UUID("6f2a3c1e-54f0-4a53-9b0e-6a8c1d2f7e90")


def _webhook_not_found() -> NotFoundError:
    """Return the error for both cases: it must not tell which apps exist."""
    return NotFoundError(
        "Webhook not found, or its app is not published", code="webhook_not_found"
    )


@dataclass(frozen=True, slots=True)
class Listener:
    """A node that is started by an event of a plugin."""

    found: AppRecord
    trigger: AppTrigger


@dataclass(slots=True)
class _Due:
    """A schedule with its next time."""

    found: AppRecord
    trigger: AppTrigger
    schedule: Schedule
    at: float | None
    """The next time in seconds since 1970; None if there is none."""


class Triggers:
    """Finds the triggers of published apps and starts their runs."""

    def __init__(
        self,
        apps: Apps,
        chats: Chats,
        directory: Directory,
        *,
        catch_up: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._apps = apps
        self._chats = chats
        self._directory = directory
        self._catch_up = catch_up
        self._now = clock
        self._seen_changes = -1
        self._webhooks: dict[str, tuple[AppRecord, str]] = {}
        self._due: dict[tuple[str, str, str], _Due] = {}
        self._listeners: list[Listener] = []

    # Webhooks

    async def webhook(
        self, token: str, *, is_draft: bool = False
    ) -> tuple[AppRecord, App, str, WebhookData]:
        """Return (app version to run, app, node id, node data) of a webhook by the
        token in its URL.

        With `is_draft` the unpublished version is used. Raises NotFoundError.
        """
        self._refresh()
        app_record, node = self._webhooks.get(token, (None, ""))
        # A disabled app or tenant answers like an unknown webhook.
        if app_record is None or not self._may_run(app_record):
            raise _webhook_not_found()
        digest = app_record.stored.digest
        # The draft answers test calls from the editor.
        if is_draft:
            digest = app_record.stored.draft or digest
        if not digest:
            raise _webhook_not_found()
        app_record = self._apps.get_version(app_record, digest)
        app = await self._apps.published_app(app_record)
        data = app.graph(node).nodes[node].data if node in app.roots else None
        if not isinstance(data, WebhookData):
            raise _webhook_not_found()
        return app_record, app, node, data

    # Runs

    async def fire(
        self,
        app_record: AppRecord,
        app: App,
        node: str,
        inputs: Mapping[str, Any],
        *,
        key: str = "",
        is_draft: bool = False,
    ) -> RunRecord:
        """Start a run at a node. All calls with the same key share one run. Raises
        WorkflowError."""
        # Derived from the key, so that of several calls, in any process, one starts the
        # run and the others find it.
        run_id = (
            str(
                uuid.uuid5(
                    _NAMES, "\n".join((app_record.tenant, app_record.id, node, key))
                )
            )
            if key
            else ""
        )
        return await self._chats.run(
            app_record,
            app,
            inputs=inputs,
            user=USER,
            root=node,
            created_from="debugger" if is_draft else CREATED_FROM,
            run_id=run_id,
        )

    # Schedules

    async def tick(self) -> int:
        """Start the runs that are due and return their number. Of several missed times
        only the last one is run."""
        self._refresh()
        started_count = 0
        # A copy, because the triggers may be rebuilt while a run is started.
        for due_trigger in list(self._due.values()):
            current_time = self._now()
            if due_trigger.at is None or due_trigger.at > current_time:
                continue
            # One second earlier, because `latest` excludes its start.
            latest = due_trigger.schedule.latest(
                max(due_trigger.at - 1, current_time - self._catch_up_seconds()),
                current_time,
            )
            if latest is not None and self._may_run(due_trigger.found):
                try:
                    started_count += await self._fire_at(due_trigger, latest)
                except TooManyRunsError:
                    # The time stays due and is tried again at the next tick.
                    continue
            # Computed from now on: older times have been made up for.
            due_trigger.at = due_trigger.schedule.next(current_time)
        return started_count

    async def _fire_at(self, due_trigger: _Due, scheduled_at: float) -> bool:
        """Start the run of a schedule's time. Returns False if it cannot be started,
        which is logged. Raises TooManyRunsError."""
        try:
            app = await self._apps.published_app(due_trigger.found)
            await self.fire(
                due_trigger.found,
                app,
                due_trigger.trigger.node,
                {},
                key=f"schedule {int(scheduled_at)}",
            )
        except TooManyRunsError:
            raise
        except ModelyardError as error:
            fields = {
                "tenant": due_trigger.found.tenant,
                "app": due_trigger.found.name,
                "error": str(error),
            }
            logger.error("scheduled run not started", extra={"fields": fields})
            return False
        return True

    # Plugin events

    def listeners(
        self, tenant: str, subscription: str, provider: str, event: str
    ) -> list[Listener]:
        """Return the nodes that an event starts. `provider` is
        `author/plugin/provider`."""
        self._refresh()
        # A trigger without a subscription listens to all of them.
        return [
            listener
            for listener in self._listeners
            if listener.found.tenant == tenant
            and listener.trigger.event == event
            and self._may_run(listener.found)
            and (listener.trigger.subscription or subscription) == subscription
            and f"/{provider}".endswith(f"/{listener.trigger.provider}")
        ]

    async def start_listener(
        self, listener: Listener, variables: Mapping[str, Any], *, key: str = ""
    ) -> RunRecord:
        """Start the run of a listening node."""
        app_record, node = listener.found, listener.trigger.node
        app = await self._apps.published_app(app_record)
        return await self.fire(app_record, app, node, variables, key=key)

    # The triggers of all published apps

    def _may_run(self, app_record: AppRecord) -> bool:
        """Return whether the app and its tenant are enabled."""
        return app_record.stored.is_enabled and self._directory.is_enabled(
            app_record.tenant
        )

    def _refresh(self) -> None:
        """Rebuild the triggers if anything in the directory has changed."""
        if self._seen_changes == self._directory.changes:
            return
        self._seen_changes = self._directory.changes
        webhooks: dict[str, tuple[AppRecord, str]] = {}
        due_triggers: dict[tuple[str, str, str], _Due] = {}
        listeners: list[Listener] = []
        for tenant, resource, stored_app in self._directory.list_all_tenants(StoredApp):
            # Apps are rebuilt as a whole; this happens only after changes.
            app_record = AppRecord(tenant, resource.id, resource.name, stored_app)
            webhooks |= {
                token: (app_record, node) for node, token in stored_app.webhooks.items()
            }
            for trigger in stored_app.triggers:
                if (
                    trigger.type == "schedule"
                    and (awaited := self._due_trigger(app_record, trigger)) is not None
                ):
                    due_triggers[tenant, resource.id, trigger.node] = awaited
                elif trigger.type == "plugin":
                    listeners.append(Listener(app_record, trigger))
        self._webhooks, self._due, self._listeners = webhooks, due_triggers, listeners

    def _catch_up_seconds(self) -> float:
        """Return for how many seconds missed times are made up; at least a minute, so
        that a late tick misses nothing."""
        return max(self._catch_up(), 60.0)

    def _due_trigger(self, app_record: AppRecord, trigger: AppTrigger) -> _Due | None:
        """Return a schedule with its next time; None if its time zone is unknown.

        A new schedule starts at its publication, but not before the catch-up window.
        Times that already ran have the same run id and are not run again.
        """
        previous = self._due.get((app_record.tenant, app_record.id, trigger.node))
        schedule = Schedule(trigger.cron, trigger.timezone)
        # An unchanged schedule keeps its next time, so that no time is missed or
        # repeated.
        if previous is not None and previous.schedule == schedule:
            return _Due(app_record, trigger, schedule, previous.at)
        published = (
            app_record.stored.versions[-1].at if app_record.stored.versions else 0.0
        )
        since = max(published, self._now() - self._catch_up_seconds())
        try:
            return _Due(app_record, trigger, schedule, schedule.next(since))
        except ScheduleError as error:  # this machine does not have the time zone
            logger.error(
                "schedule ignored: invalid expression or time zone",
                extra={"fields": {"app": app_record.name, "error": str(error)}},
            )
            return None
