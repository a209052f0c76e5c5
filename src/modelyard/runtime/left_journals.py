"""What processes that are gone have left: journals, and what they had reserved. Whoever comes next puts it
into the database, once. Why so: docs/design/0005-ledger.md.
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

from modelyard.runtime.usage_row import Columns, Intent, LostUsage, Priced, row_from, row_of, whole_columns
from modelyard.storage import rejected
from modelyard.storage.database import Connection, Database, StorageUnavailableError
from modelyard.storage.journal import Abandoned, Slot, abandoned

logger = logging.getLogger("modelyard.ledger")

_encode = msgspec.json.Encoder().encode
OPENED, SETTLED = "o", "s"
"""How records of a journal begin: an attempt that was opened, and one that was settled."""
_BEGINNINGS = (b'["o",', b'["s",')
_WRITE_SECONDS = 30.0
_BETWEEN_TRIES = 0.02

Settle = Callable[[str], Awaitable[None]]
"""Settles what the process of this name had reserved: its rows are in the database. Raises where that cannot be."""
PriceLookup = Callable[[Intent, int], Priced]
"""What an attempt costs that was to be made, and brought so many tokens."""
Insert = Callable[[Connection, Sequence[Columns], str], None]
"""Puts rows into the database; with an owner's name, what it had reserved is released in the same transaction."""


class _Refused(NamedTuple):
    """A record that could not be taken over, as the journal held it, and why."""

    record: bytes
    reason: str


class _Contents(NamedTuple):
    """What one journal held: rows that were settled, rows of attempts that never were, and what cannot be read."""

    settled: list[Columns]
    lost: list[Columns]
    bad: list[_Refused]


class LeftJournals:
    """`folder` is where all processes' journals lie."""

    def __init__(self, folder: Path, database: Database, insert: Insert, price: PriceLookup) -> None:
        self._folder = folder
        self._database = database
        self._insert = insert
        self._price = price

    async def recover(self, settle: Settle) -> bool:
        """Put into the database what processes that are gone have left, and have settled what they had reserved.
        Whoever else does so meanwhile is waited for. False where something has to wait for the storage."""
        is_all = True
        async with _alone(self._folder):
            # Not by a thread: what it had locked would stay locked where nobody waits for it any more.
            for left in abandoned(self._folder):
                is_all &= await self._recovered(left, settle)
        return is_all

    async def _recovered(self, left: Abandoned, settle: Settle) -> bool:
        try:
            await self._take_over(left)
            await settle(left.name)
            # Last: whoever is killed before that leaves it to the next, who finds the rows there.
            await asyncio.to_thread(left.remove)
            return True
        except (StorageUnavailableError, TimeoutError, OSError) as error:
            logger.error("what a process left waits", extra={"fields": {"error": str(error)}})
            return False
        except Exception:  # it stays for the next start; nobody else's calls may wait for it
            logger.exception("what a process left cannot be taken over")
            return True
        finally:
            left.close()

    async def _take_over(self, left: Abandoned) -> None:
        """Have what one process left in the database, row by row where it does not go together. What cannot be read or
        written is set aside, so that it stands in nobody's way. Raises StorageUnavailableError, TimeoutError."""
        contents = await asyncio.to_thread(self._contents, left)
        refused = await self._add_each(left.name, [*contents.settled, *contents.lost])
        set_aside = [*contents.bad, *refused]
        if set_aside:
            await asyncio.to_thread(rejected.keep, left.folder, left.name, set_aside)
        level = logging.ERROR if set_aside else logging.INFO
        fields = {"settled": len(contents.settled), "lost": len(contents.lost), "rejected": len(set_aside)}
        logger.log(level, "took over what a process left", extra={"fields": fields})

    def _contents(self, left: Abandoned) -> _Contents:
        settled, opened, bad = _read(left.records(_BEGINNINGS, _is_whole))
        lost = [self._lost(intent, left.progress(slot)) for intent, slot in opened]
        return _Contents(settled, lost, bad)

    async def _add_each(self, owner: str, rows: Sequence[Columns]) -> list[_Refused]:
        """All at once, with what the process had reserved; if one of them is refused, each by itself. Returns those
        that were refused."""
        try:
            await self._add(rows, owner)
        except (StorageUnavailableError, TimeoutError):
            raise
        except Exception:  # noqa: BLE001  the database's word on one of the rows: which one is found out below
            refused = [_Refused(_encode(row), problem) for row in rows if (problem := await self._problem_of(row))]
            await self._add([], owner)
            return refused
        return []

    async def _problem_of(self, row: Columns) -> str:
        """Add one row. Why the database does not take it; empty where it does."""
        try:
            await self._add([row])
        except (StorageUnavailableError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001  as above
            return f"{type(error).__name__}: {error}"
        return ""

    async def _add(self, rows: Sequence[Columns], owner: str = "") -> None:
        adding = self._database.transact(lambda it: self._insert(it, rows, owner))
        await asyncio.wait_for(adding, _WRITE_SECONDS)

    def _lost(self, intent: Intent, tokens: int | None) -> Columns:
        """The row of an attempt whose process was killed: what had come by then, priced. Where the price cannot be
        told, that is what the row says: the call was made."""
        try:
            price = self._price(intent, tokens or 0)
        except Exception as error:  # noqa: BLE001  a model or price that is gone or broken since; others' rows wait for this
            fields = {"id": f"{intent.invocation}.{intent.attempt}", "error": str(error)}
            logger.error("what a lost call cost is not known", extra={"fields": fields})
            price = Priced(None, "USD", "", "")
        usage = LostUsage(intent.prompt_tokens, tokens or 0, price)
        return row_of(intent, "lost", usage, "estimate", price.version, 0.0, None)


@asynccontextmanager
async def _alone(folder: Path) -> AsyncGenerator[None, None]:
    """Wait until nobody else takes over what lies in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # A thread that waits for the lock would get it and keep it where nobody waits for the thread any more.
        while not _is_locked(descriptor):  # noqa: ASYNC110  another process holds it
            await asyncio.sleep(_BETWEEN_TRIES)
        yield
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Lock it, where nobody else has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_whole(record: bytes) -> bool:
    """Whether these are the bytes of a single record, whatever it says."""
    if not record.startswith(_BEGINNINGS):
        return False
    try:
        msgspec.json.decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True


_Opening = tuple[str, int, int, Intent]


def _read(records: Iterable[bytes]) -> tuple[list[Columns], list[tuple[Intent, Slot]], list[_Refused]]:
    """The rows that were settled, the attempts that never were, and records that cannot be read."""
    settled: dict[str, Columns] = {}
    opened: dict[str, tuple[Intent, Slot]] = {}
    bad: list[_Refused] = []
    for record in records:
        try:
            if record.startswith(b'["s",'):
                row = whole_columns(msgspec.json.decode(record)[1])
                settled[row_from(row).id] = row
            else:
                _, number, mark, intent = msgspec.json.decode(record, type=_Opening)
                opened[f"{intent.invocation}.{intent.attempt}"] = intent, Slot(number, mark)
        except (msgspec.MsgspecError, IndexError, ValueError, TypeError) as error:  # damaged, by whatever
            logger.error("a record of a journal cannot be read", extra={"fields": {"error": str(error)}})
            bad.append(_Refused(record, str(error)))
    never_settled = [begun for name, begun in opened.items() if name not in settled]
    return list(settled.values()), never_settled, bad
