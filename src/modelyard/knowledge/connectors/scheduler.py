"""Runs the synchronisations that are due. Of all servers one at a time executes a
source; what an interrupted one has not done is done by the next."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.knowledge.connectors.dataset_sources import DatasetSources
from modelyard.knowledge.connectors.sync import SourceSync, SyncReport
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.stored.dataset_sources import (
    LEASE_SECONDS,
    StoredSource,
    StoredSources,
)

logger = logging.getLogger("modelyard.knowledge")

_AT_ONCE = 2
"""Synchronisations of one process at a time: most of their time they wait for the
source, but what they read is parsed here."""
_RENEW_SECONDS = LEASE_SECONDS / 3
_MAX_ERROR_LENGTH = 1000


class SourceScheduler:
    """Executes due synchronisations as tasks of this process."""

    def __init__(
        self,
        store: StoredSources,
        sources: DatasetSources,
        sync: SourceSync,
        datasets: Datasets,
        *,
        renew_seconds: float = _RENEW_SECONDS,
    ) -> None:
        self._store = store
        self._sources = sources
        self._sync = sync
        self._datasets = datasets
        self._renew_seconds = renew_seconds
        self._tasks: set[asyncio.Task[None]] = set()

    async def tick(self) -> int:
        """Start what is due and this process has room for; return how many were
        started. Raises StorageUnavailableError."""
        started_count = 0
        while len(self._tasks) < _AT_ONCE:
            source = await self._store.claim()
            if source is None:
                break
            task = asyncio.create_task(self._run(source))
            # The event loop holds only weak references to tasks.
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            started_count += 1
        return started_count

    async def wait(self) -> None:
        """Wait until the running synchronisations have ended."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def aclose(self) -> None:
        """Stop the running synchronisations; another server continues them."""
        # A cancelled synchronisation gives its claim up, and stays due.
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, source: StoredSource) -> None:
        """Synchronise a claimed source while the claim lasts, and store the result."""
        working = asyncio.create_task(self._synchronise(source))
        renewing = asyncio.create_task(self._renew(source))
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
            # The claim is lost if it cannot be renewed: somebody else continues.
            if working.done():
                report, error = working.result()
                await self._finish(source, report, error)
        finally:
            await _cancelled(working, renewing)
            # Changes nothing after a result was stored. What is left is due again.
            with suppress(ModelyardError):
                await asyncio.shield(self._store.release(source))

    async def _renew(self, source: StoredSource) -> None:
        """Renew the claim until it is lost."""
        is_ours = True
        while is_ours:
            await asyncio.sleep(self._renew_seconds)
            try:
                is_ours = await self._store.renew(source)
            except ModelyardError as error:
                # The lease outlasts a short failure of the database.
                logger.warning("a claim was not renewed: %s", error)

    async def _synchronise(self, source: StoredSource) -> tuple[SyncReport, str]:
        """Return what was done, and why it stopped; empty if it did not."""
        # The report is filled in place, so that an error does not lose what was done.
        report = SyncReport()
        try:
            dataset = await self._datasets.store.datasets.get(
                source.tenant, source.dataset
            )
            opened = self._sources.open(source)
            await self._sync.run(dataset, opened, report)
        except NotFoundError as error:
            # The dataset is being deleted, and its sources with it.
            return report, str(error)
        except ModelyardError as error:
            fields = {"source": source.address, "error": str(error)}
            logger.warning("a source was not synchronised", extra={"fields": fields})
            return report, str(error)[:_MAX_ERROR_LENGTH]
        # A mistake of ours must not look like a running synchronisation for ever.
        except Exception:
            logger.exception("a source was not synchronised")
            return report, "Internal error; the server's log has more"
        return report, ""

    async def _finish(
        self, source: StoredSource, report: SyncReport, error: str
    ) -> None:
        """Store the result, and when the source is due again."""
        # Without a schedule it waits for the next request.
        due_at = None
        if source.schedule and source.is_enabled:
            due_at = self._sources.next_time(
                source.schedule, source.timezone, self._store.now()
            )
        await self._store.finish(source, _stored_report(report), error, due_at)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _stored_report(report: SyncReport) -> Mapping[str, Any]:
    """Return a report without what matters during the synchronisation alone."""
    values = msgspec.to_builtins(report)
    # Batches are of use only to who waits for the index.
    values.pop("batches")
    return values
