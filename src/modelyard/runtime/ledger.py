"""Usage and money: one row for every attempt at serving a call, whatever became of it.

Before a provider is called, that it will be is written down; what it came to is written when it is known. Both survive
the process. What a process that was killed left open is closed by the next one. Why so: docs/design/0005-ledger.md.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.ids import new_id
from modelyard.models.types import ModelUsage
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.left_journals import OPENED, SETTLED, LeftJournals, PriceLookup, Settle
from modelyard.runtime.usage_row import Columns, Intent, Priced, intent_of, row_of
from modelyard.runtime.usage_table import UsageTable
from modelyard.storage import rejected
from modelyard.storage.database import Connection, Database, StorageUnavailableError
from modelyard.storage.journal import Journal, Segment, Slot
from modelyard.storage.usage_sums import UsageSums

logger = logging.getLogger("modelyard.ledger")

_encode = msgspec.json.Encoder().encode
_MOST_BEHIND = 50_000
"""Rows that may wait in the journal for a database server that is away."""


class LedgerUnavailableError(ModelyardError):
    """What a call costs could not be written down, so it is not made."""

    code = "ledger_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"no call is made, since its cost could not be written down: {reason}")
        self.retry_after = 1.0


@dataclass(slots=True, eq=False)
class Opened:
    """An attempt that was written down and not settled yet."""

    intent: Intent
    segment: Segment | None
    slot: Slot | None


async def _settle_nothing(owner: str) -> None:
    """For whoever keeps no counters."""
    del owner


def _unpriced(intent: Intent, tokens: int) -> Priced:
    """For whoever knows no prices."""
    del intent, tokens
    return Priced(None, "USD", "", "")


class Ledger:
    """Writes rows without making the call wait; `usage` reads them back within one tenant.

    Without a `folder` for its journal it holds what is not committed yet in memory alone.
    """

    def __init__(self, database: Database, folder: Path | None = None, *, price: PriceLookup = _unpriced) -> None:
        self._database = database
        self._folder = folder
        self._journal = Journal(folder) if folder else None
        self.owner = self._journal.name if self._journal else new_id("by")
        """This process's name: that of its journal, which whoever takes that over knows it by."""
        self.sums = UsageSums(database, writer=self.owner)
        self.usage = UsageTable(database, self.sums)
        self._left = LeftJournals(folder, database, self._insert_left, price) if folder else None
        self._settled: list[Columns] = []
        self._segments: list[Segment] = []
        self._lock = threading.Lock()
        self._is_folding = False
        self.settled: Counter[str] = Counter()
        """Tenant → how many attempts this process has settled: who watches sees that there is something new."""

    # writing

    def begin(self, invocation: Invocation, *, attempt: int, created_at: float, prompt_tokens: int = 0) -> Opened:
        """Write down that a provider is about to be called. Raises LedgerUnavailableError where that cannot be."""
        intent = intent_of(invocation, attempt=attempt, created_at=created_at, prompt_tokens=prompt_tokens)
        if self._database.damage is not None:
            raise LedgerUnavailableError("the database is damaged")
        if self._database.trouble is not None:
            self._refuse_while_in_trouble(self._database.trouble)
        if self._journal is None:
            return Opened(intent, None, None)
        slot = self._journal.take_slot()
        try:
            number, mark = (slot.number, slot.mark) if slot else (-1, 0)
            return Opened(intent, self._journal.append(_encode((OPENED, number, mark, intent))), slot)
        except StorageUnavailableError as error:
            if slot:
                self._journal.give_back(slot)
            raise LedgerUnavailableError(str(error)) from error

    def _refuse_while_in_trouble(self, trouble: str) -> None:
        """A full disk will not hold the journal for long either; a server that is away may be back any moment."""
        if not self._database.is_shared or self._journal is None or len(self._settled) > _MOST_BEHIND:
            raise LedgerUnavailableError(trouble)

    def progress(self, opened: Opened, tokens: int) -> None:
        """How many tokens have come so far: all that is known of them if the process ends now."""
        if opened.slot is not None and self._journal is not None:
            self._journal.progress(opened.slot, tokens)

    def settle(
        self,
        opened: Opened,
        *,
        status: str,
        usage: ModelUsage | None,
        counted_by: str,
        price_version: str,
        latency: float,
        first_chunk: float | None,
    ) -> None:
        """Write down what an attempt came to."""
        row = row_of(opened.intent, status, usage, counted_by, price_version, latency, first_chunk)
        segments = [opened.segment] if opened.segment else []
        if self._journal is not None:
            try:
                segments.append(self._journal.append(_encode((SETTLED, row))))
            except StorageUnavailableError as error:  # the row is still on its way to the database
                logger.error("the journal cannot be written", extra={"fields": {"error": str(error)}})
            if opened.slot is not None:
                self._journal.give_back(opened.slot)
        self._queue(row, segments)

    def add(
        self,
        invocation: Invocation,
        *,
        attempt: int,
        created_at: float,
        status: str,
        usage: ModelUsage | None,
        latency: float,
        first_chunk: float | None = None,
    ) -> None:
        """A row for what called no provider: an answer from the cache."""
        intent = intent_of(invocation, attempt=attempt, created_at=created_at)
        counted_by = "" if usage is None else "estimate" if usage.estimated else "provider"
        self.settle(
            Opened(intent, None, None), status=status, usage=usage, counted_by=counted_by, price_version="",
            latency=latency, first_chunk=first_chunk,
        )  # fmt: skip

    def _queue(self, row: Columns, segments: Sequence[Segment]) -> None:
        self.settled[row[3]] += 1
        with self._lock:
            self._settled.append(row)
            self._segments.extend(segments)
            is_folding, self._is_folding = self._is_folding, True
        if not is_folding:
            self._fold()

    def _fold(self) -> None:
        """Have the database take all rows that are waiting when it comes to it."""
        taken: list[Columns] = []
        segments: list[Segment] = []

        def work(connection: Connection) -> None:
            with self._lock:
                taken.extend(self._settled)
                segments.extend(self._segments)
                self._settled, self._segments, self._is_folding = [], [], False
            self.usage.insert(connection, taken)

        def after(done: Any) -> None:
            if (error := done.exception()) is not None:
                logger.error("rows stay in the journal", extra={"fields": {"rows": len(taken), "error": str(error)}})
            elif self._journal is not None:
                self._journal.forget(segments)

        self._database.submit(work, is_kept=True, may_gather=True).add_done_callback(after)

    async def flush(self) -> None:
        """Until all rows added so far are in the database."""
        await asyncio.wrap_future(self._database.flush())

    def close(self) -> None:
        """After the database has taken what it can."""
        if self._journal is not None:
            self._journal.close()

    def _insert_left(self, connection: Connection, rows: Sequence[Columns], owner: str) -> None:
        if rows:
            self.usage.insert(connection, rows)
        if owner:
            self.sums.release(connection, owner)

    # what others left

    async def recover(self, settle: Settle = _settle_nothing) -> bool:
        """Put into the database what processes that are gone have left, and have settled what they had reserved.
        Whoever else does so meanwhile is waited for. False where something has to wait for the storage."""
        return self._left is None or await self._left.recover(settle)

    def set_aside(self) -> int:
        """How many records of processes that are gone could not be taken over."""
        return rejected.count(self._folder) if self._folder else 0
