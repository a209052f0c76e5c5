"""The usage ledger: one row for every attempt at serving a call, whatever its outcome.

An attempt is recorded before the provider is called, and its result is recorded when it
is known. Both survive a crash: attempts that a killed process left open are closed by
the next process. The reasons are in docs/design/0005-ledger.md.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.ids import new_id
from modelyard.models.types import ModelUsage
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.orphaned_journals import (
    OPENED,
    SETTLED,
    OrphanedJournals,
    PriceLookup,
    Settle,
)
from modelyard.runtime.usage_row import (
    Columns,
    Intent,
    Priced,
    intent_like,
    intent_of,
    row_of,
)
from modelyard.runtime.usage_table import UsageTable
from modelyard.storage import rejected_records
from modelyard.storage.database import Connection, Database, StorageUnavailableError
from modelyard.storage.journal import Journal, Segment, Slot
from modelyard.storage.usage_sums import UsageSums

logger = logging.getLogger("modelyard.ledger")

_encode = msgspec.json.Encoder().encode
_MAX_UNCOMMITTED_ROWS = 50_000
"""How many rows may wait in the journal while a database server is unreachable."""


class LedgerUnavailableError(ModelyardError):
    """The intent to make a call could not be recorded, so the call is not made."""

    code = "ledger_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"Calls are refused because usage cannot be recorded: {reason}"
        )
        self.retry_after = 1.0

    @property
    def public_text(self) -> str:
        """The message for callers, without addresses and paths of the server."""
        return (
            "Calls are refused because usage cannot be recorded at the moment; try again"
            " later"
        )


class OpenAttempt(msgspec.Struct, eq=False):
    """An attempt that is recorded but not settled yet."""

    intent: Intent
    # Segment and slot are None if the ledger has no journal.
    segment: Segment | None
    slot: Slot | None


async def _settle_nothing(owner: str) -> None:
    """Do nothing. The default for a deployment without counters."""
    del owner


def _unpriced(intent: Intent, tokens: int) -> Priced:
    """Return an unknown price. The default for a ledger without a price table."""
    del intent, tokens
    return Priced(None, "USD", "", "")


class Ledger:
    """Records usage rows without making the call wait for the database. `usage` reads
    them back, one tenant at a time.

    Without a journal `folder`, rows that are not committed yet exist only in memory.
    """

    def __init__(
        self,
        database: Database,
        folder: Path | None = None,
        *,
        price: PriceLookup = _unpriced,
    ) -> None:
        self._database = database
        self._folder = folder
        self._journal = Journal(folder) if folder else None
        self.owner = self._journal.name if self._journal else new_id("by")
        """This process's name: the name of its journal, by which a later process takes
        over what it left."""
        self.sums = UsageSums(database, writer=self.owner)
        self.usage = UsageTable(database, self.sums)
        self._orphaned_journals = (
            OrphanedJournals(folder, database, self._insert_recovered, price)
            if folder
            else None
        )
        self._settled: list[Columns] = []
        self._segments: list[Segment] = []
        self._lock = threading.Lock()
        # True while a database job is queued that will pick up the waiting rows; it
        # prevents one job for each row.
        self._is_folding = False
        self.settled: Counter[str] = Counter()
        """The number of attempts that this process has settled, by tenant. A watcher
        compares it to detect new rows."""

    # writing

    def begin(
        self,
        invocation: Invocation,
        *,
        attempt: int,
        created_at: float,
        prompt_tokens: int = 0,
        template: Intent | None = None,
    ) -> OpenAttempt:
        """Record that a provider is about to be called.

        `template` is the intent of an earlier call of the same caller to the same
        deployment. Raises LedgerUnavailableError if the call cannot be recorded; the
        provider must not be called then.
        """
        intent = (
            intent_of(
                invocation,
                attempt=attempt,
                created_at=created_at,
                prompt_tokens=prompt_tokens,
            )
            if template is None
            else intent_like(
                template,
                invocation,
                attempt=attempt,
                created_at=created_at,
                prompt_tokens=prompt_tokens,
            )
        )
        database = self._database
        if database.damage is not None or database.trouble is not None:
            refusal = self.refusal
            if refusal is not None:
                raise LedgerUnavailableError(refusal)
        if self._journal is None:
            return OpenAttempt(intent, None, None)
        # The slot is the part of the journal that holds the token count while the
        # stream runs; there may be none free.
        slot = self._journal.take_slot()
        try:
            number, mark = (slot.number, slot.mark) if slot else (-1, 0)
            return OpenAttempt(
                intent,
                self._journal.append(_encode((OPENED, number, mark, intent))),
                slot,
            )
        except StorageUnavailableError as error:
            if slot:
                # Without a journal record the slot would be reserved for good.
                self._journal.give_back(slot)
            raise LedgerUnavailableError(str(error)) from error

    @property
    def refusal(self) -> str | None:
        """Why no billable call is made at present; None while calls are made.

        A full disk will soon refuse the journal as well, but a database server may be
        reachable again at any moment, and until then the journal can hold the rows.
        """
        # A damaged database may have lost rows already, so quotas cannot be trusted and
        # no call is made.
        if self._database.damage is not None:
            return "the database is damaged"
        trouble = self._database.trouble
        if trouble is None:
            return None
        can_wait = self._database.is_shared and self._journal is not None
        if can_wait and len(self._settled) <= _MAX_UNCOMMITTED_ROWS:
            return None
        return trouble

    def progress(self, opened: OpenAttempt, tokens: int) -> None:
        """Record how many completion tokens have been received so far.

        If the process is killed now, this number is all that is known about the
        attempt.
        """
        if opened.slot is not None and self._journal is not None:
            self._journal.progress(opened.slot, tokens)

    def settle(
        self,
        opened: OpenAttempt,
        *,
        status: str,
        usage: ModelUsage | None,
        counted_by: str,
        price_version: str,
        latency: float,
        first_chunk: float | None,
    ) -> None:
        """Record the result of an attempt. `latency` and `first_chunk` are in seconds.

        Never raises for a failing journal: the row still goes to the database.
        """
        row = row_of(
            opened.intent,
            status,
            usage,
            counted_by,
            price_version,
            latency,
            first_chunk,
        )
        # The journal's segments may be deleted only after the row is in the database.
        segments = [opened.segment] if opened.segment else []
        if self._journal is not None:
            try:
                segments.append(self._journal.append(_encode((SETTLED, row))))
            # The row is still queued for the database.
            except StorageUnavailableError as error:
                logger.error(
                    "the journal is not writable",
                    extra={"fields": {"error": str(error)}},
                )
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
        """Record a row for an answer without a provider, as one from the cache.

        `latency` and `first_chunk` are in seconds, `created_at` is Unix time. Returns
        at once; the row is written in the background.
        """
        intent = intent_of(invocation, attempt=attempt, created_at=created_at)
        counted_by = (
            "" if usage is None else "estimate" if usage.estimated else "provider"
        )
        # Opened and settled at once: without a provider there is nothing to wait for.
        self.settle(
            OpenAttempt(intent, None, None),
            status=status,
            usage=usage,
            counted_by=counted_by,
            price_version="",
            latency=latency,
            first_chunk=first_chunk,
        )

    def _queue(self, row: Columns, segments: Sequence[Segment]) -> None:
        """Queue a row for the database.

        `segments` are the journal's, which hold it until it is committed. Returns at
        once; one database job inserts all rows that have gathered when it runs.
        """
        # The fourth column of a row is its tenant.
        self.settled[row[3]] += 1
        # Rows are added on the event loop and collected on the database thread.
        with self._lock:
            self._settled.append(row)
            self._segments.extend(segments)
            is_folding, self._is_folding = self._is_folding, True
        if not is_folding:
            self._flush_settled()

    def _flush_settled(self) -> None:
        """Queue one database job that inserts all rows waiting at the time it runs."""
        rows: list[Columns] = []
        segments: list[Segment] = []

        def work(connection: Connection) -> None:
            """Insert the waiting rows. Runs on the database thread inside a
            transaction."""
            # Take the rows and reset the flag together: a row that is added after this
            # starts a new job.
            with self._lock:
                rows.extend(self._settled)
                segments.extend(self._segments)
                self._settled, self._segments, self._is_folding = [], [], False
            self.usage.insert(connection, rows)

        def on_committed(future: Any) -> None:
            """Release the journal's segments once the rows are committed; keep them if
            the insert failed."""
            if (error := future.exception()) is not None:
                logger.error(
                    "ledger rows not committed, kept in journal",
                    extra={"fields": {"rows": len(rows), "error": str(error)}},
                )
            elif self._journal is not None:
                self._journal.forget(segments)

        self._database.submit(work, is_retried=True, may_gather=True).add_done_callback(
            on_committed
        )

    async def flush(self) -> None:
        """Wait until all rows added so far are in the database."""
        await asyncio.wrap_future(self._database.flush())

    def close(self) -> None:
        """Close the journal. Call it after the database has written what it can."""
        if self._journal is not None:
            self._journal.close()

    def _insert_recovered(
        self, connection: Connection, rows: Sequence[Columns], owner: str
    ) -> None:
        """Insert rows of a dead process and release its reservations, in the
        transaction of `connection`."""
        if rows:
            self.usage.insert(connection, rows)
        if owner:
            self.sums.release(connection, owner)

    # what others left

    async def recover(self, settle: Settle = _settle_nothing) -> bool:
        """Take over the journals of processes that have exited, and settle what they
        had reserved.

        Waits for another process that is doing the same. Returns False if something has
        to wait until the storage is available.
        """
        return self._orphaned_journals is None or await self._orphaned_journals.recover(
            settle
        )

    def count_rejected(self) -> int:
        """Return how many records of dead processes could not be taken over."""
        return rejected_records.count_rejected(self._folder) if self._folder else 0
