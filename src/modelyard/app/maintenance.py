"""Background maintenance of a server: refresh shared state, recover the reservations of
dead processes, run health checks and delete expired data."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from modelyard.app.calls import CallServices
from modelyard.app.knowledge import KnowledgeServices
from modelyard.app.live_settings import LiveSettings
from modelyard.app.network import Clients, NetworkServices
from modelyard.app.plugins import PluginHostServices
from modelyard.app.shared_settings import SharedSettings
from modelyard.app.storage import StorageServices
from modelyard.app.workflows import WorkflowParts
from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError, InvokeError, ModelyardError
from modelyard.base.settings import ProviderSettings, Settings
from modelyard.knowledge.segment_imports import JOBS_SCOPE
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.overload import LoopLag
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.storage.database import Database, StorageUnavailableError
from modelyard.storage.moved_files import MovedFileStorage
from modelyard.storage.resources import RESOURCES_TOPIC, Resources
from modelyard.storage.secrets import KeyRing
from modelyard.storage.server_settings import SETTINGS_TOPIC
from modelyard.storage.signals import Signals
from modelyard.tenancy.directory import Directory
from modelyard.transport.http import Timeouts

logger = logging.getLogger("modelyard.upkeep")

_REFRESH_SECONDS = 0.4
"""A revoked key must stop working in all processes within one second."""
_HEARD_REFRESH_SECONDS = 10.0
"""The same while the database signals each change at once."""
# How soon the open calls of a killed process are settled.
_RECOVER_SECONDS = 5.0
_PING_SECONDS = 2.0
"""How soon a load balancer learns that a Valkey is away although nobody calls."""
_SUM_SECONDS = 60.0
# SQLite has one writer: calls of users get the database between two chunks.
_CHUNK_PAUSE_SECONDS = 0.02
# What is tidied is kept for days, so an hour more does not matter.
_TIDY_SECONDS = 3600.0
_CHECK_SECONDS = 10.0
# A schedule names minutes; a second is as exact as anybody expects.
_TRIGGER_SECONDS = 1.0
_MAIL_SECONDS = 1.0
"""Somebody waits for the mail, but a run waits for hours: a second more does not
matter."""
_FOLLOW_SECONDS = 1.0
_SOURCE_SECONDS = 2.0
"""Schedules of sources are in minutes; a request of a person may wait this long."""
_DAY = 86_400.0
_STRANGER_DAYS = 30
"""How long refused calls of callers without a valid key are kept."""
_JOB_DAYS = 30
"""How long the reports of imports can be read."""
_RESERVATION_GRACE_SECONDS = 300.0
"""Seconds after the longest possible call at which its reservation is released."""


class MaintenanceTasks:
    """Periodic background tasks that run from `start` until `stop`."""

    def __init__(
        self, freshness: "ChangePoller", add_tasks: Callable[["MaintenanceTasks"], None]
    ) -> None:
        """Create the task list. `add_tasks` registers the tasks of every server once an
        event loop exists."""
        self._freshness = freshness
        self._begin = add_tasks
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_fresh(self) -> bool:
        """Whether the last poll for changes of other processes succeeded."""
        return self._freshness.is_fresh

    def start(self) -> None:
        """Start the tasks on the running loop."""
        self._begin(self)

    def run_periodically(self, seconds: float, act: Callable[[], "object"]) -> None:
        """Call `act` now and then every `seconds`; a coroutine that it returns is
        awaited."""
        self.add_task(_run_forever(seconds, act))

    def add_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as one more background task."""
        self._tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()


async def _run_forever(seconds: float, act: Callable[[], "object"]) -> None:
    """Call `act` forever with a pause of `seconds`."""
    while True:
        await _try(act)
        # A pause and not a fixed rhythm, so that a slow task never runs twice at once.
        await asyncio.sleep(seconds)


async def _refresh_forever(
    signals: Signals, topic: str, refresh: Callable[[], "object"]
) -> None:
    """Refresh at each signal of a change, and now and then without one."""
    await signals.call_at(
        topic,
        partial(_try, refresh),
        _HEARD_REFRESH_SECONDS,
        unheard_seconds=_REFRESH_SECONDS,
    )


async def _try(act: Callable[[], "object"]) -> None:
    """Call `act`, a plain function or a coroutine function; errors are logged."""
    try:
        outcome = act()
        if asyncio.iscoroutine(outcome):
            await outcome
    # The next attempt may succeed.
    except Exception:
        logger.exception("maintenance task failed")


def build_maintenance(
    live_settings: LiveSettings,
    clock: Clock,
    *,
    network: NetworkServices,
    storage: StorageServices,
    directory: Directory,
    providers: ProviderManager,
    calls: CallServices,
    plugins: PluginHostServices,
    workflows: WorkflowParts,
    knowledge: KnowledgeServices,
    shared_settings: SharedSettings,
) -> MaintenanceTasks:
    """Build the maintenance tasks of a server. Nothing runs before `start`."""
    freshness = ChangePoller(storage.keys, storage.resources, directory)
    tidying = RetentionCleanup(live_settings, clock, storage, calls, plugins, workflows)
    health = HealthChecks(network.clients, providers)
    record_lag = partial(calls.metrics.loop_lag.observe, ())

    def add_tasks(upkeep: MaintenanceTasks) -> None:
        """Register the tasks that every server has."""
        # The refresh comes first: the other tasks read the state that it loads.
        upkeep.add_task(storage.database.signals.run())
        signals = storage.database.signals
        upkeep.add_task(_refresh_forever(signals, RESOURCES_TOPIC, freshness.refresh))
        upkeep.add_task(
            _refresh_forever(signals, SETTINGS_TOPIC, shared_settings.refresh)
        )
        if storage.valkey is not None:
            upkeep.run_periodically(_PING_SECONDS, storage.valkey.ping)
        upkeep.run_periodically(
            _RECOVER_SECONDS, partial(_recover, live_settings, clock, calls)
        )
        upkeep.run_periodically(
            _SUM_SECONDS, partial(aggregate_usage, calls.ledger, clock)
        )
        upkeep.run_periodically(_TIDY_SECONDS, tidying.delete_expired)
        upkeep.run_periodically(_TIDY_SECONDS, tidying.renew_subscriptions)
        upkeep.run_periodically(_TIDY_SECONDS, tidying.delete_old_runs)
        upkeep.run_periodically(_TIDY_SECONDS, tidying.tidy_files)
        # These two are loops of their own: their pause depends on the work, not on a
        # fixed interval.
        upkeep.add_task(check_database_forever(storage.database, clock))
        upkeep.add_task(_listen(plugins))
        upkeep.add_task(LoopLag(calls.load, clock, record_lag).run())
        upkeep.run_periodically(_MAIL_SECONDS, workflows.delivery.send_due)
        workflows.runs.start_maintenance()
        upkeep.run_periodically(_TRIGGER_SECONDS, workflows.triggers.tick)
        knowledge.start()
        upkeep.run_periodically(_SOURCE_SECONDS, knowledge.source_scheduler.tick)
        # Only providers with a health URL are checked actively.
        for provider in live_settings.current.providers:
            if provider.health_url:
                upkeep.run_periodically(
                    provider.health_seconds, partial(health.check, provider)
                )

    return MaintenanceTasks(freshness, add_tasks)


async def _listen(plugins: PluginHostServices) -> None:
    """Accept connections of plugins that are being debugged."""
    await plugins.debug.listen()


class ChangePoller:
    """Polls for the changes that other processes made."""

    def __init__(
        self, keys: KeyRing, resources: Resources, directory: Directory
    ) -> None:
        self._keys = keys
        self._resources = resources
        self._directory = directory
        self.is_fresh = True
        """Whether the last attempt succeeded."""

    async def refresh(self) -> None:
        """Reload the key file and the tenants' resources if they changed."""
        try:
            await asyncio.to_thread(self._keys.reload)
            # The revision number is cheap to read, so the directory is reloaded only if
            # it changed.
            started_at = time.monotonic()
            if await self._resources.revision() != self._directory.revision:
                await self._directory.refresh()
            self._directory.note_checked(started_at)
        except StorageUnavailableError as error:
            # Log only the first failure of a series: this runs several times a second.
            if self.is_fresh:
                logger.error(
                    "change subscription failed",
                    extra={"fields": {"error": str(error)}},
                )
            self.is_fresh = False
            return
        self.is_fresh = True


async def _recover(
    live_settings: LiveSettings, clock: Clock, calls: CallServices
) -> None:
    """Settle the open reservations of processes that have exited."""
    await calls.recovery.run()
    # No call can run longer than the total timeout, so an older reservation belongs to
    # a lost call.
    longest = (
        live_settings.current.timeouts.total or _DAY
    ) + _RESERVATION_GRACE_SECONDS
    calls.counters.release_older(clock.time() - longest)


async def aggregate_usage(ledger: Ledger, clock: Clock) -> None:
    """Add usage rows that are not aggregated yet to the sums, with pauses for other
    work."""
    has_more = True
    # One chunk at a time keeps write transactions short.
    while has_more:
        has_more = await ledger.sums.sum_next_span(clock.time())
        await asyncio.sleep(_CHUNK_PAUSE_SECONDS)
    await ledger.sums.forget_moments(clock.time())


async def check_database_forever(database: Database, clock: Clock) -> None:
    """Check the integrity of the database forever, using at most one fiftieth of the
    time."""
    while True:
        started_at = clock.monotonic()
        try:
            await asyncio.to_thread(database.check)
        except StorageUnavailableError as error:
            logger.warning(
                "database check failed",
                extra={"fields": {"error": str(error)}},
            )
        # The next check may succeed.
        except Exception:
            logger.exception("maintenance task failed")
        took = clock.monotonic() - started_at
        # A pause of 50 times the duration bounds the load that the check causes on
        # large databases.
        await asyncio.sleep(max(_CHECK_SECONDS, 50 * took))


class RetentionCleanup:
    """Deletes data whose retention period has passed."""

    def __init__(
        self,
        live_settings: LiveSettings,
        clock: Clock,
        storage: StorageServices,
        calls: CallServices,
        plugins: PluginHostServices,
        workflows: WorkflowParts,
    ) -> None:
        self._live = live_settings
        self._clock = clock
        self._storage = storage
        self._calls = calls
        self._plugins = plugins
        self._workflows = workflows

    async def delete_expired(self) -> None:
        """Delete old call traces, usage rows, deleted resources, reports of imports and
        unused plugin packages."""
        current_time, telemetry = self._clock.time(), self._live.current.telemetry
        self._calls.traces.forget(current_time - telemetry.decision_days * _DAY)
        # 0 days means that usage rows are kept forever.
        if telemetry.usage_days:
            cutoff = current_time - telemetry.usage_days * _DAY
            await self._calls.ledger.usage.delete_before(cutoff)
            await self._calls.unserved.delete_before(cutoff)
        # Anybody who reaches the server can add these.
        await self._calls.unserved.delete_before(
            current_time - _STRANGER_DAYS * _DAY, of_strangers=True
        )
        # The rows of deleted resources stay for a week.
        self._storage.resources.forget(current_time - 7 * _DAY)
        # Documents may be gone by then, so nothing else would delete their jobs.
        await self._storage.scoped_store.forget(
            JOBS_SCOPE, current_time - _JOB_DAYS * _DAY
        )
        await asyncio.to_thread(
            self._plugins.host.packages.collect, older_than=7 * _DAY
        )

    async def tidy_files(self) -> None:
        """Move files of an earlier version to the storage, and delete what killed
        uploads have left."""
        file_storage = self._storage.file_storage
        if isinstance(file_storage, MovedFileStorage):
            await file_storage.move()
        await self._plugins.fetcher.share_packages()
        # No upload takes a day.
        await file_storage.clean(self._clock.time() - _DAY)

    async def renew_subscriptions(self) -> None:
        """Renew the trigger subscriptions that expire before the next run of this task."""
        # Twice the interval: one failed run still leaves a second attempt.
        await self._plugins.subscriptions.renew(self._clock.time() + 2 * _TIDY_SECONDS)

    async def delete_old_runs(self) -> None:
        """Delete workflow runs that are older than the configured number of days."""
        days = self._live.current.workflows.keep_days
        # 0 days means that runs are kept forever.
        if days:
            await self._workflows.delete_old_runs(self._clock.time(), days)


class SettingsFileWatcher:
    """Watches a settings file and applies each change."""

    def __init__(
        self,
        path: Path,
        load: Callable[[], Settings],
        take_up: Callable[[Settings], None],
    ) -> None:
        """Watch `path`. `take_up` raises ConfigError for invalid settings and then
        keeps the current ones."""
        self._path = path
        self._load = load
        self._take_up = take_up
        self._last_version = _file_version(path)

    def start_watching(self, upkeep: MaintenanceTasks) -> None:
        """Check the file every second from now on."""
        upkeep.run_periodically(_FOLLOW_SECONDS, self.reload_if_changed)

    async def reload_if_changed(self) -> None:
        """Apply the file if it changed since the last check."""
        stamp = await asyncio.to_thread(_file_version, self._path)
        if stamp == self._last_version or stamp is None:
            return
        # Remember the version before loading: an invalid file is reported once, not
        # every second.
        self._last_version = stamp
        try:
            self._take_up(await asyncio.to_thread(self._load))
            logger.info(
                "settings reloaded",
                extra={"fields": {"file": str(self._path)}},
            )
        except ModelyardError as error:
            fields = {"file": str(self._path), "error": str(error)}
            logger.error(
                "invalid settings file; the previous settings stay in effect",
                extra={"fields": fields},
            )


class HealthChecks:
    """Polls providers' health URLs and puts the credentials of an unhealthy provider in
    cooldown."""

    def __init__(self, clients: Clients, providers: ProviderManager) -> None:
        self._clients = clients
        self._providers = providers

    async def check(self, provider: ProviderSettings) -> None:
        """Check one provider and put its credentials in cooldown if it is unhealthy."""
        problem = await self._problem(provider)
        if not problem:
            return
        logger.warning(
            "provider health check failed",
            extra={"fields": {"provider": provider.name, "error": problem}},
        )
        for credential in self._providers.credentials("default", provider.name):
            # The cooldown is longer than the check interval, so it lasts until the next
            # check has run.
            self._providers.health.cool_down(
                credential.id, provider.health_seconds * 1.5
            )

    async def _problem(self, provider: ProviderSettings) -> str:
        """Return why the provider is unhealthy, or an empty string if it is healthy."""
        limits = Timeouts(connect=5.0, first_byte=5.0, between_bytes=5.0)
        try:
            client = self._clients.by(provider.proxy)
            response = await client.send(
                "GET", provider.health_url, headers={}, timeouts=limits
            )
        except (InvokeError, ConfigError) as error:
            return str(error)
        status = response.status
        # Only the status matters; the body is not read.
        response.close()
        return "" if 200 <= status < 300 else f"HTTP status {status}"


def _file_version(path: Path) -> tuple[float, int] | None:
    """Return the modification time and the size of a file, or None if it does not
    exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime, status.st_size
