"""What a server does beside answering: hear of others' changes, take over what the dead left, ask for health where that
is wanted, and tidy up."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from modelyard.app.calls import CallParts
from modelyard.app.knowledge import KnowledgeParts
from modelyard.app.live_settings import LiveSettings
from modelyard.app.network import Clients, NetworkParts
from modelyard.app.plugins import PluginParts
from modelyard.app.storage import StorageParts
from modelyard.app.workflows import WorkflowParts
from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError, InvokeError, ModelyardError
from modelyard.base.settings import ProviderSettings, Settings
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.storage.database import Database, StorageUnavailableError
from modelyard.storage.resources import Resources
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy.directory import Directory
from modelyard.transport.http import Timeouts

logger = logging.getLogger("modelyard.upkeep")

_REFRESH_SECONDS = 0.4
"""A key that is revoked anywhere serves nobody after a second."""
_RECOVER_SECONDS = 5.0
_SUM_SECONDS = 60.0
_BETWEEN_CHUNKS = 0.02
_TIDY_SECONDS = 3600.0
_CHECK_SECONDS = 10.0
_TRIGGER_SECONDS = 1.0
_FOLLOW_SECONDS = 1.0
_DAY = 86_400.0
_AFTER_LONGEST_CALL = 300.0
"""Seconds after which a reservation is given back whose call must have ended long ago."""


class Upkeep:
    """Tasks that run again and again, from `start` on until `stop`."""

    def __init__(self, freshness: "Freshness", begin: Callable[["Upkeep"], None]) -> None:
        """`begin` adds the tasks that every server has, once there is a loop for them."""
        self._freshness = freshness
        self._begin = begin
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_fresh(self) -> bool:
        """Whether changes of others are heard of."""
        return self._freshness.is_fresh

    def start(self) -> None:
        """Begin, on the running loop."""
        self._begin(self)

    def every(self, seconds: float, act: Callable[[], "object"]) -> None:
        """Have something done at once and again and again; a coroutine is waited for."""
        self.run(_again(seconds, act))

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something go on beside the others."""
        self._tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        """Cancel all of them, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()


async def _again(seconds: float, act: Callable[[], "object"]) -> None:
    while True:
        try:
            done = act()
            if asyncio.iscoroutine(done):
                await done
        except Exception:  # whatever is wrong this time, the next may be better
            logger.exception("upkeep failed")
        await asyncio.sleep(seconds)


def build_upkeep(
    live: LiveSettings,
    clock: Clock,
    *,
    network: NetworkParts,
    storage: StorageParts,
    directory: Directory,
    providers: ProviderManager,
    calls: CallParts,
    plugins: PluginParts,
    workflows: WorkflowParts,
    knowledge: KnowledgeParts,
) -> Upkeep:
    """What every server has done; nothing begins before `start`."""
    freshness = Freshness(storage.keys, storage.resources, directory)
    tidying = Tidying(live, clock, storage.resources, calls, plugins, workflows)
    health = HealthChecks(network.clients, providers)

    def begin(upkeep: Upkeep) -> None:
        upkeep.every(_REFRESH_SECONDS, freshness.refresh)
        upkeep.every(_RECOVER_SECONDS, partial(_recover, live, clock, calls))
        upkeep.every(_SUM_SECONDS, partial(sum_up, calls.ledger, clock))
        upkeep.every(_TIDY_SECONDS, tidying.tidy)
        upkeep.every(_TIDY_SECONDS, tidying.renew)
        upkeep.every(_TIDY_SECONDS, tidying.forget_runs)
        upkeep.run(watch_pages(storage.database, clock))
        upkeep.run(_listen(plugins))
        workflows.runs.begin_upkeep()
        upkeep.every(_TRIGGER_SECONDS, workflows.triggers.tick)
        knowledge.begin()
        for provider in live.current.providers:
            if provider.health_url:
                upkeep.every(provider.health_seconds, partial(health.check, provider))

    return Upkeep(freshness, begin)


async def _listen(plugins: PluginParts) -> None:
    await plugins.debug.listen()


class Freshness:
    """Hears of what other processes changed."""

    def __init__(self, keys: KeyRing, resources: Resources, directory: Directory) -> None:
        self._keys = keys
        self._resources = resources
        self._directory = directory
        self.is_fresh = True
        """Whether the last attempt succeeded."""

    async def refresh(self) -> None:
        """Bring in what changed: the keys' file, and what tenants set up."""
        try:
            await asyncio.to_thread(self._keys.read_again)
            if await self._resources.revision() != self._directory.revision:
                await self._directory.refresh()
        except StorageUnavailableError as error:
            if self.is_fresh:
                logger.error("changes cannot be heard of", extra={"fields": {"error": str(error)}})
            self.is_fresh = False
            return
        self.is_fresh = True


async def _recover(live: LiveSettings, clock: Clock, calls: CallParts) -> None:
    """Take over what processes that are gone have left."""
    await calls.recovery.run()
    longest = (live.current.timeouts.total or _DAY) + _AFTER_LONGEST_CALL
    calls.counters.release_older(clock.time() - longest)


async def sum_up(ledger: Ledger, clock: Clock) -> None:
    """Bring rows from before there were sums into them, with pauses for others."""
    has_more = True
    while has_more:
        has_more = await ledger.sums.sum_more(clock.time())
        await asyncio.sleep(_BETWEEN_CHUNKS)
    await ledger.sums.forget_moments(clock.time())


async def watch_pages(database: Database, clock: Clock) -> None:
    """Look whether the database's pages are whole, so seldom that it takes a fiftieth of the time at most."""
    while True:
        begun = clock.monotonic()
        try:
            await asyncio.to_thread(database.check)
        except StorageUnavailableError as error:
            logger.warning("the database cannot be checked", extra={"fields": {"error": str(error)}})
        except Exception:  # whatever is wrong this time, the next may be better
            logger.exception("upkeep failed")
        took = clock.monotonic() - begun
        await asyncio.sleep(max(_CHECK_SECONDS, 50 * took))


class Tidying:
    """Forgets what the settings keep for a while only."""

    def __init__(
        self,
        live: LiveSettings,
        clock: Clock,
        resources: Resources,
        calls: CallParts,
        plugins: PluginParts,
        workflows: WorkflowParts,
    ) -> None:
        self._live = live
        self._clock = clock
        self._resources = resources
        self._calls = calls
        self._plugins = plugins
        self._workflows = workflows

    async def tidy(self) -> None:
        """Traces, rows of usage, removed resources, and plugins' files that nobody has any more."""
        now, telemetry = self._clock.time(), self._live.current.telemetry
        self._calls.traces.forget(now - telemetry.decision_days * _DAY)
        if telemetry.usage_days:
            await self._calls.ledger.usage.forget(now - telemetry.usage_days * _DAY)
        self._resources.forget(now - 7 * _DAY)
        await asyncio.to_thread(self._plugins.host.packages.collect, older_than=7 * _DAY)

    async def renew(self) -> None:
        """Subscriptions of triggers that end before the next time."""
        await self._plugins.subscriptions.renew(self._clock.time() + 2 * _TIDY_SECONDS)

    async def forget_runs(self) -> None:
        """Old runs of workflows."""
        days = self._live.current.workflows.keep_days
        if days:
            await self._workflows.forget_old_runs(self._clock.time(), days)


class SettingsFile:
    """Has a file of settings taken up whenever it changes."""

    def __init__(self, path: Path, load: Callable[[], Settings], take_up: Callable[[Settings], None]) -> None:
        """`take_up` raises ConfigError for settings that are wrong, and goes on as before then."""
        self._path = path
        self._load = load
        self._take_up = take_up
        self._seen = _stamp(path)

    def begin(self, upkeep: Upkeep) -> None:
        """Look at it every second."""
        upkeep.every(_FOLLOW_SECONDS, self.look)

    async def look(self) -> None:
        """Take the file up if it is another than the last time."""
        stamp = await asyncio.to_thread(_stamp, self._path)
        if stamp == self._seen or stamp is None:
            return
        self._seen = stamp
        try:
            self._take_up(await asyncio.to_thread(self._load))
            logger.info("the settings were taken up", extra={"fields": {"file": str(self._path)}})
        except ModelyardError as error:
            fields = {"file": str(self._path), "error": str(error)}
            logger.error("the new settings are wrong; going on with the old ones", extra={"fields": fields})


class HealthChecks:
    """Asks providers' health addresses, and lets credentials rest while these do not answer with success."""

    def __init__(self, clients: Clients, providers: ProviderManager) -> None:
        self._clients = clients
        self._providers = providers

    async def check(self, provider: ProviderSettings) -> None:
        """Ask one provider."""
        problem = await self._problem(provider)
        if not problem:
            return
        logger.warning("a provider is not healthy", extra={"fields": {"provider": provider.name, "error": problem}})
        for credential in self._providers.credentials("default", provider.name):
            self._providers.health.rest(credential.id, provider.health_seconds * 1.5)

    async def _problem(self, provider: ProviderSettings) -> str:
        """Why it is not healthy; empty where it is."""
        limits = Timeouts(connect=5.0, first_byte=5.0, between_bytes=5.0)
        try:
            client = self._clients.by(provider.proxy)
            response = await client.send("GET", provider.health_url, headers={}, timeouts=limits)
        except (InvokeError, ConfigError) as error:
            return str(error)
        status = response.status
        response.close()
        return "" if 200 <= status < 300 else f"HTTP status {status}"


def _stamp(path: Path) -> tuple[float, int] | None:
    """When the file was last written, and its size; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime, status.st_size
