"""What a server does beside answering: hear of others' changes, take over what the dead left, follow its settings,
ask for health where that is wanted, and tidy up."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.base.errors import ConfigError, InvokeError, ModelyardError
from modelyard.base.settings import ProviderSettings, Settings
from modelyard.storage.database import StorageUnavailableError
from modelyard.transport.http import Timeouts

if TYPE_CHECKING:
    from modelyard.app import Modelyard

logger = logging.getLogger("modelyard.upkeep")

_REFRESH_SECONDS = 0.4
"""A key that is revoked anywhere serves nobody after a second."""
_RECOVER_SECONDS = 5.0
_SUM_SECONDS = 60.0
_BETWEEN_CHUNKS = 0.02
_TIDY_SECONDS = 3600.0
_CHECK_SECONDS = 10.0
_DAY = 86_400.0


class Upkeep:
    def __init__(self, yard: "Modelyard") -> None:
        self._yard = yard
        self._tasks: list[asyncio.Task[None]] = []
        self._seen: tuple[float, int] | None = None
        self.is_fresh = True
        """Whether changes of others are heard of."""

    def start(self, *, settings_file: Path | None = None, load: Callable[[], Settings] | None = None) -> None:
        """Begin, on the running loop. With a file, its changes are taken up."""
        self.every(_REFRESH_SECONDS, self._refresh)
        self.every(_RECOVER_SECONDS, self._recover)
        self.every(_SUM_SECONDS, self._sum_up)
        self.every(_TIDY_SECONDS, self._tidy)
        self.every(_TIDY_SECONDS, self._renew)
        self._tasks.append(asyncio.create_task(self._watch_pages()))
        self._tasks.append(asyncio.create_task(self._listen()))
        self._yard.workflow_parts.begin()
        self._yard.knowledge.begin()
        if settings_file is not None and load is not None:
            self._seen = _stamp(settings_file)
            self.every(1.0, lambda: self._follow(settings_file, load))
        for one in self._yard.settings.providers:
            if one.health_url:
                self.every(one.health_seconds, lambda one=one: self._ask(one))

    def every(self, seconds: float, act: Callable[[], "object"]) -> None:
        """Have something done at once and again and again; a coroutine is waited for."""

        async def again() -> None:
            while True:
                try:
                    done = act()
                    if asyncio.iscoroutine(done):
                        await done
                except Exception:  # whatever is wrong this time, the next may be better
                    logger.exception("upkeep failed")
                await asyncio.sleep(seconds)

        self._tasks.append(asyncio.create_task(again()))

    async def _listen(self) -> None:
        await self._yard.plugin_parts.listen()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()

    async def _refresh(self) -> None:
        directory, resources = self._yard.directory, self._yard.resources
        try:
            await asyncio.to_thread(self._yard.keys.read_again)
            if await resources.revision() != directory.revision:
                await directory.refresh()
        except StorageUnavailableError as error:
            if self.is_fresh:
                logger.error("changes cannot be heard of", extra={"fields": {"error": str(error)}})
            self.is_fresh = False
            return
        self.is_fresh = True

    async def _recover(self) -> None:
        yard = self._yard
        await yard.recovery.run()
        longest = (yard.settings.timeouts.total or _DAY) + 300
        yard.counters.release_older(yard.clock.time() - longest)

    async def _sum_up(self) -> None:
        """Bring rows from before there were sums into them, with pauses for others."""
        sums = self._yard.ledger.sums
        has_more = True
        while has_more:
            has_more = await sums.sum_more(self._yard.clock.time())
            await asyncio.sleep(_BETWEEN_CHUNKS)
        await sums.forget_moments(self._yard.clock.time())

    async def _watch_pages(self) -> None:
        """Look whether the database's pages are whole, so seldom that it takes a fiftieth of the time at most."""
        while True:
            begun = self._yard.clock.monotonic()
            try:
                await asyncio.to_thread(self._yard.database.check)
            except StorageUnavailableError as error:
                logger.warning("the database cannot be checked", extra={"fields": {"error": str(error)}})
            except Exception:  # whatever is wrong this time, the next may be better
                logger.exception("upkeep failed")
            took = self._yard.clock.monotonic() - begun
            await asyncio.sleep(max(_CHECK_SECONDS, 50 * took))

    async def _tidy(self) -> None:
        yard, now = self._yard, self._yard.clock.time()
        telemetry = yard.settings.telemetry
        yard.traces.forget(now - telemetry.decision_days * _DAY)
        if telemetry.usage_days:
            await yard.ledger.usage.forget(now - telemetry.usage_days * _DAY)
        yard.resources.forget(now - 7 * _DAY)
        await asyncio.to_thread(yard.plugin_parts.host.packages.collect, older_than=7 * _DAY)

    async def _renew(self) -> None:
        await self._yard.plugin_parts.subscriptions.renew(self._yard.clock.time() + 2 * _TIDY_SECONDS)

    # settings

    async def _follow(self, path: Path, load: Callable[[], Settings]) -> None:
        stamp = _stamp(path)
        if stamp == self._seen or stamp is None:
            return
        self._seen = stamp
        try:
            self._yard.reload(await asyncio.to_thread(load))
            logger.info("the settings were taken up", extra={"fields": {"file": str(path)}})
        except ModelyardError as error:
            fields = {"file": str(path), "error": str(error)}
            logger.error("the new settings are wrong; going on with the old ones", extra={"fields": fields})

    # health

    async def _ask(self, one: ProviderSettings) -> None:
        """Let a provider's credentials rest while its health address does not answer with success."""
        yard = self._yard
        limits = Timeouts(connect=5.0, first_byte=5.0, between_bytes=5.0)
        try:
            response = await yard.clients.by(one.proxy).send("GET", one.health_url, headers={}, timeouts=limits)
            status = response.status
            response.close()
            problem = "" if 200 <= status < 300 else f"HTTP status {status}"
        except (InvokeError, ConfigError) as error:
            problem = str(error)
        if problem:
            fields = {"provider": one.name, "error": problem}
            logger.warning("a provider is not healthy", extra={"fields": fields})
            for credential in yard.providers.credentials("default", one.name):
                yard.providers.health.rest(credential.id, one.health_seconds * 1.5)


def _stamp(path: Path) -> tuple[float, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime, found.st_size
