"""Recovery of the journals and reservations of processes that have exited.

The next process puts their rows into the database exactly once. The reasons are in
docs/design/0005-ledger.md.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from modelyard.runtime.usage_row import (
    Columns,
    Intent,
    LostUsage,
    Priced,
    complete_columns,
    row_from,
    row_of,
)
from modelyard.storage import rejected_records
from modelyard.storage.database import Connection, Database, StorageUnavailableError
from modelyard.storage.journal import OrphanedJournal, Slot, orphaned_journals

logger = logging.getLogger("modelyard.ledger")

_encode = msgspec.json.Encoder().encode
OPENED, SETTLED = "o", "s"
"""The type tags at the start of a journal record: an opened attempt, and a settled one.
"""
# The same tags as they appear in the encoded JSON; used to find where records start in
# damaged data.
_BEGINNINGS = (b'["o",', b'["s",')
# The lock on the folder is held meanwhile, and other processes wait for it.
_WRITE_SECONDS = 30.0
# File locks cannot be awaited, and a thread that waits could not be cancelled.
_POLL_SECONDS = 0.02

Settle = Callable[[str], Awaitable[None]]
"""Settles what the named process had reserved. Called once its rows are in the
database. Raises if that is not possible."""
PriceLookup = Callable[[Intent, int], Priced]
"""Returns the price of an attempt that was started and produced this many tokens."""
Insert = Callable[[Connection, Sequence[Columns], str], None]
"""Inserts rows. If an owner's name is given, its reservations are released in the same
transaction."""


class _RejectedRecord(NamedTuple):
    """A journal record that could not be taken over, as its original bytes, with the
    reason."""

    record: bytes
    reason: str


class _Contents(NamedTuple):
    """The content of one journal: settled rows, rows of attempts that were never
    settled, and unreadable records."""

    settled: list[Columns]
    lost: list[Columns]
    bad: list[_RejectedRecord]


class OrphanedJournals:
    """Takes over orphaned journals. `folder` holds the journals of all processes."""

    def __init__(
        self, folder: Path, database: Database, insert: Insert, price: PriceLookup
    ) -> None:
        self._folder = folder
        self._database = database
        self._insert = insert
        self._price = price

    async def recover(self, settle: Settle) -> bool:
        """Take over the journals of processes that have exited, and settle what they
        had reserved.

        Waits for another process that is doing the same. Returns False if something has
        to wait until the storage is available.
        """
        is_all = True
        async with _exclusive_lock(self._folder):
            # Not in a thread: a cancelled recovery would leave the thread running, and
            # the locks it took would stay locked.
            for left in orphaned_journals(self._folder):
                is_all &= await self._recover_journal(left, settle)
        return is_all

    async def _recover_journal(self, left: OrphanedJournal, settle: Settle) -> bool:
        """Recover one journal and remove it; return False if it has to be tried again
        when the storage is available."""
        try:
            await self._take_over(left)
            await settle(left.name)
            # Remove the journal last: if this process is killed before that, the next
            # one finds the rows already in the database.
            await asyncio.to_thread(left.remove)
            return True
        except (StorageUnavailableError, TimeoutError, OSError) as error:
            logger.error(
                "orphaned journal not recovered yet",
                extra={"fields": {"error": str(error)}},
            )
            return False
        # A journal that fails in an unexpected way must not prevent the server from
        # starting; it is tried again at the next start.
        except Exception:
            logger.exception("orphaned journal cannot be recovered")
            return True
        finally:
            left.close()

    async def _take_over(self, left: OrphanedJournal) -> None:
        """Insert the rows of one dead process into the database.

        If they cannot be inserted together, they are inserted one by one. Records that
        cannot be read or written are moved to the rejected folder, so that they block
        nothing. Raises StorageUnavailableError or TimeoutError.
        """
        contents = await asyncio.to_thread(self._contents, left)
        refused = await self._insert_with_fallback(
            left.name, [*contents.settled, *contents.lost]
        )
        set_aside = [*contents.bad, *refused]
        if set_aside:
            await asyncio.to_thread(
                rejected_records.save_rejected, left.folder, left.name, set_aside
            )
        level = logging.ERROR if set_aside else logging.INFO
        fields = {
            "settled": len(contents.settled),
            "lost": len(contents.lost),
            "rejected": len(set_aside),
        }
        logger.log(level, "recovered orphaned journal", extra={"fields": fields})

    def _contents(self, left: OrphanedJournal) -> _Contents:
        """Read one journal. Blocking; runs in a thread."""
        settled, opened, unreadable = _parse_records(
            left.records(_BEGINNINGS, _is_complete_record)
        )
        # An attempt that was never settled still costs the tokens that its slot in the
        # journal had counted.
        lost_rows = [
            self._lost_attempt_row(intent, left.progress(slot))
            for intent, slot in opened
        ]
        return _Contents(settled, lost_rows, unreadable)

    async def _insert_with_fallback(
        self, owner: str, rows: Sequence[Columns]
    ) -> list[_RejectedRecord]:
        """Insert all rows and release the reservations of `owner` in one transaction.

        If that fails because of a row, insert the rows one by one. Returns the rows
        that the database refused.
        """
        try:
            await self._insert_rows(rows, owner)
        except (StorageUnavailableError, TimeoutError):
            raise
        except Exception:  # noqa: BLE001
            refused = [
                _RejectedRecord(_encode(row), problem)
                for row in rows
                if (problem := await self._insert_error(row))
            ]
            # Release the reservations only after the accepted rows are in, so that
            # quotas never show too little use.
            await self._insert_rows([], owner)
            return refused
        return []

    async def _insert_error(self, row: Columns) -> str:
        """Insert one row. Returns the reason if the database refuses it, else the empty
        string."""
        try:
            await self._insert_rows([row])
        except (StorageUnavailableError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {error}"
        return ""

    async def _insert_rows(self, rows: Sequence[Columns], owner: str = "") -> None:
        """Insert rows in one transaction, within the write timeout."""
        adding = self._database.transact(
            lambda connection: self._insert(connection, rows, owner)
        )
        await asyncio.wait_for(adding, _WRITE_SECONDS)

    def _lost_attempt_row(self, intent: Intent, tokens: int | None) -> Columns:
        """Return the row of an attempt whose process was killed, priced with the tokens
        received by then.

        If the price is unknown, the row says so; it is still written because the call
        was made.
        """
        try:
            price = self._price(intent, tokens or 0)
        except Exception as error:  # noqa: BLE001
            fields = {
                "id": f"{intent.invocation}.{intent.attempt}",
                "error": str(error),
            }
            logger.error("cost of lost call unknown", extra={"fields": fields})
            price = Priced(None, "USD", "", "")
        usage = LostUsage(intent.prompt_tokens, tokens or 0, price)
        return row_of(intent, "lost", usage, "estimate", price.version, 0.0, None)


@asynccontextmanager
async def _exclusive_lock(folder: Path) -> AsyncGenerator[None, None]:
    """Hold an exclusive lock on a folder, so that only one process recovers it at a
    time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Polling instead of a blocking lock in a thread: if the waiting task were
        # cancelled, the thread would still take the lock and keep it.
        while not _try_lock(descriptor):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Try to take the lock without blocking; return whether it is held now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_complete_record(record: bytes) -> bool:
    """Return whether the bytes are exactly one complete record, valid or not."""
    if not record.startswith(_BEGINNINGS):
        return False
    try:
        msgspec.json.decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True


_Opening = tuple[str, int, int, Intent]


def _parse_records(
    records: Iterable[bytes],
) -> tuple[list[Columns], list[tuple[Intent, Slot]], list[_RejectedRecord]]:
    """Parse journal records into settled rows, attempts that were never settled, and
    unreadable records."""
    settled: dict[str, Columns] = {}
    opened: dict[str, tuple[Intent, Slot]] = {}
    unreadable: list[_RejectedRecord] = []
    for record in records:
        try:
            if record.startswith(b'["s",'):
                # The row is checked against the column types here, so that damage is
                # found before the database sees it.
                row = complete_columns(msgspec.json.decode(record)[1])
                settled[row_from(row).id] = row
            else:
                _, number, mark, intent = msgspec.json.decode(record, type=_Opening)
                opened[f"{intent.invocation}.{intent.attempt}"] = (
                    intent,
                    Slot(number, mark),
                )
        except (
            msgspec.MsgspecError,
            IndexError,
            ValueError,
            TypeError,
        ) as error:
            logger.error(
                "journal record not readable",
                extra={"fields": {"error": str(error)}},
            )
            unreadable.append(_RejectedRecord(record, str(error)))
    # An attempt's row has the id `invocation.attempt`, which links the two records.
    never_settled = [attempt for name, attempt in opened.items() if name not in settled]
    return list(settled.values()), never_settled, unreadable
