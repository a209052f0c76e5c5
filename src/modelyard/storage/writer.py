"""The writer thread: writes in order, several per transaction, with retries of
transient failures."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from modelyard.base.errors import ConfigError
from modelyard.storage.engine import (
    Connection,
    DuplicateError,
    Engine,
    StorageUnavailableError,
)
from modelyard.storage.page_damage import PageHealth
from modelyard.storage.statements import insert

logger = logging.getLogger("modelyard.storage")

# Writes within this time share one commit, because a commit costs more CPU than fifty
# rows. A single row waits this long for others.
_GATHER_SECONDS = 0.02
_LONG_GATHER_SECONDS = 0.08
"""How much longer is waited if there is nothing but work that may wait: what it writes
is safe elsewhere, as the ledger's rows are in their journal."""
# Another process may hold SQLite's only lock for a while.
_RETRY_SECONDS = 0.5
# What waits is in memory alone, and lost with the process.
_MAX_WAITING = 100_000

T = TypeVar("T")
_RowWrite = tuple[str, Sequence[Any]]
"""A statement with one `VALUES (?, …)`, and the values of one row."""


@dataclass(frozen=True, slots=True, eq=False)
class _WorkItem:
    """A unit of several statements that is executed atomically."""

    work: Callable[[Connection], Any]
    done: "Future[Any]"
    is_kept: bool
    may_gather: bool


_Entry = _RowWrite | _WorkItem | Future[None] | None
"""A row to write, work to run, a flush notification, or None to stop."""


def _is_patient(entry: "_Entry") -> bool:
    """Return whether an entry may wait for others."""
    return isinstance(entry, _WorkItem) and entry.may_gather


class _Queue:
    """Pending writes in order. Any thread adds; only the writer thread takes."""

    def __init__(self) -> None:
        # A deque with one event per batch: queue.Queue would lock and notify for every
        # row.
        self._waiting: deque[_Entry] = deque()
        self._has_work = threading.Event()
        self._is_urgent = threading.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, entry: _Entry) -> None:
        """Add an entry and wake the writer if it is idle."""
        self._waiting.append(entry)
        # Checking first is cheaper than setting the event for every row.
        if not self._has_work.is_set():
            self._has_work.set()

    def hurry(self) -> None:
        """Do not wait for further writes before the next batch."""
        self._is_urgent.set()

    def take(self) -> list[_Entry]:
        """Wait for entries, then briefly for more, and return all of them."""
        self._has_work.wait()
        self._is_urgent.wait(_GATHER_SECONDS)
        if all(map(_is_patient, tuple(self._waiting))):
            self._is_urgent.wait(_LONG_GATHER_SECONDS)
        # Cleared before the queue is emptied: an entry that is added in between sets
        # the event again, and is not forgotten.
        self._is_urgent.clear()
        self._has_work.clear()
        # The length is read once: entries added meanwhile belong to the next batch.
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

    def put_back(self, entries: Sequence[_Entry]) -> None:
        """Return entries to the front of the queue. They are taken after the next `put`
        or `wake`."""
        self._waiting.extendleft(reversed(entries))

    def wake(self) -> None:
        """Wake the writer."""
        self._has_work.set()


class Writer:
    """Accepts writes from any thread and executes them in a single one."""

    def __init__(self, engine: Engine, pages: PageHealth) -> None:
        self._engine = engine
        self._pages = pages
        self._queue = _Queue()
        self._error: Exception | None = None
        self.trouble: str | None = None
        """Why writes currently fail, or None. Waiting writes are retained and retried.
        """
        self._is_renewing = False
        self.is_closing = threading.Event()
        # A program that fails before it calls `close` must not hang at its exit.
        self._thread = threading.Thread(
            target=self._run, name="modelyard-database", daemon=True
        )
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Return the number of writes that are waiting for their commit."""
        return len(self._queue)

    def write(self, statement: str, values: Sequence[Any]) -> None:
        """Queue one row to be written by the writer thread, and return at once.

        Raises ConfigError if the database cannot be written at all,
        StorageUnavailableError if too many writes are waiting.
        """
        if self._error is not None:
            raise ConfigError(
                f"Database {self._engine.where!r} cannot be written: {self._error}"
            )
        # Bounds the memory used while the database is unavailable.
        if len(self._queue) >= _MAX_WAITING:
            where = self._engine.where
            raise StorageUnavailableError(
                f"Database {where!r} is too slow: {_MAX_WAITING:,} writes are pending"
            )
        self._queue.put((statement, values))

    def submit(
        self, work: Callable[[Connection], T], *, is_retried: bool, may_gather: bool
    ) -> "Future[T]":
        """Queue a unit of several statements and return its future.

        The unit is executed atomically. The future gets the result of `work`, or its
        error. With `is_retried` the unit waits out transient failures; `may_gather`
        lets it wait briefly for other writes. If the writer is closed, the future fails
        with StorageUnavailableError.
        """
        future: Future[T] = Future()
        if not self._thread.is_alive():
            future.set_exception(
                StorageUnavailableError(f"Database {self._engine.where!r} is closed")
            )
            return future
        self._queue.put(_WorkItem(work, future, is_retried, may_gather))
        if not may_gather:
            self._queue.hurry()
        return future

    def flush(self) -> "Future[None]":
        """Return a future that is done when all earlier writes are committed."""
        future: Future[None] = Future()
        if self._thread.is_alive():
            self._queue.put(future)
            self._queue.hurry()
        else:
            future.set_result(None)
        return future

    def renew(self) -> None:
        """Reopen the connection before the next batch because the database file was
        replaced."""
        self._is_renewing = True

    def close(self) -> None:
        """Commit waiting writes and stop the thread."""
        self.is_closing.set()
        if self._thread.is_alive():
            self._queue.put(None)
            self._queue.hurry()
            self._thread.join()

    # Executed in the writer thread.

    def _run(self) -> None:
        """Execute batches of queued writes until the writer is closed.

        Runs in the writer thread. Futures from `flush` are done after the batch in
        which they were queued.
        """
        connection: Connection | None = None
        is_open = True
        while is_open:
            batch = self._queue.take()
            # None is the last entry; it may arrive together with writes, which are
            # still executed.
            is_open = None not in batch
            writes = [entry for entry in batch if isinstance(entry, tuple | _WorkItem)]
            connection = self._write_batch(connection, writes, is_open=is_open)
            for entry in batch:
                if isinstance(entry, Future):
                    _resolve_future(entry, None, None)
        if connection is not None:
            connection.close()

    def _write_batch(
        self,
        connection: Connection | None,
        writes: Sequence[_RowWrite | _WorkItem],
        *,
        is_open: bool,
    ) -> Connection | None:
        """Write a batch, and return the connection for the next one. On failure, the
        callers get the error, or the writes are retained for a retry while the writer
        is open."""
        try:
            # A damaged database must not be written, but flushes and the stop entry are
            # still processed.
            if self._pages.damage is not None and writes:
                raise StorageUnavailableError(self._pages.damage)
            if self._is_renewing and connection is not None:
                connection.close()
                connection = None
            self._is_renewing = False
            connection = connection or self._engine.connect()
            self._commit(connection, writes)
            self.trouble = None
        except (
            *self._engine.errors,
            DuplicateError,
            StorageUnavailableError,
            ConfigError,
        ) as error:
            if self._engine.is_damaged(error):
                self._pages.note_damage(str(error))
            connection = self._rolled_back(connection)
            self._fail(writes, error, may_wait=is_open and not self.is_closing.is_set())
        return connection

    def _commit(
        self, connection: Connection, writes: Sequence[_RowWrite | _WorkItem]
    ) -> None:
        """Execute a batch of writes in one transaction, then report the results.

        Raises the engine's errors before any caller has been told anything. A unit that
        fails by itself is undone alone and its caller gets the error.
        """
        if not writes:
            return
        connection.execute(self._engine.begin())
        outcomes: list[tuple[_WorkItem, tuple[Any, Exception | None]]] = []
        # Consecutive rows of the same statement are inserted together.
        for statement, group in groupby(writes, key=_statement_of):
            if statement is None:
                outcomes += self._run_items(connection, group)
            else:
                rows = [entry[1] for entry in group if isinstance(entry, tuple)]
                insert(connection, statement, rows)
        connection.execute("COMMIT")
        # Results are reported only after the commit succeeded.
        for item, (result, error) in outcomes:
            _resolve_future(item.done, result, error)

    def _run_items(
        self, connection: Connection, entries: Iterable[_RowWrite | _WorkItem]
    ) -> list[tuple[_WorkItem, tuple[Any, Exception | None]]]:
        """Run units in order and return each with its (result, error)."""
        return [
            (entry, self._run_in_savepoint(connection, entry))
            for entry in entries
            if isinstance(entry, _WorkItem)
        ]

    def _run_in_savepoint(
        self, connection: Connection, entry: _WorkItem
    ) -> tuple[Any, Exception | None]:
        """Run one unit within a savepoint and return (result, error). Its own failure
        does not affect the rest of the batch."""
        # PostgreSQL refuses every statement after a failed one until that is rolled
        # back.
        connection.execute("SAVEPOINT work")
        try:
            result = entry.work(connection)
        except self._engine.errors as error:
            # Transient failures concern the entire transaction, so it is retried as a
            # whole.
            if self._engine.is_transient(error):
                raise
            connection.execute("ROLLBACK TO SAVEPOINT work")
            return None, error
        except Exception as error:  # noqa: BLE001
            connection.execute("ROLLBACK TO SAVEPOINT work")
            return None, error
        connection.execute("RELEASE SAVEPOINT work")
        return result, None

    def _rolled_back(self, connection: Connection | None) -> Connection | None:
        """Roll back a failed transaction and return the connection if it can be reused.

        None if there was none, or if it was one to a server, which is closed.
        """
        if connection is None:
            return None
        # This fails if no transaction was started or the connection is broken.
        with suppress(*self._engine.errors):
            connection.execute("ROLLBACK")
        # A SQLite connection survives errors; one to a server may be broken.
        if self._engine.name == "sqlite":
            return connection
        connection.close()
        return None

    def _fail(
        self,
        writes: Sequence[_RowWrite | _WorkItem],
        error: Exception,
        *,
        may_wait: bool,
    ) -> None:
        """Fail the waiting callers, except those whose writes are retained and retried
        after a pause."""
        is_temporary = isinstance(
            error, StorageUnavailableError | ConfigError
        ) or self._engine.is_transient(error)
        will_retry = is_temporary and may_wait
        # Rows have no waiting caller, so they are always retained.
        retryable_writes = [
            entry for entry in writes if isinstance(entry, tuple) or entry.is_kept
        ]
        retained_count = len(retryable_writes) if will_retry else 0
        self._log_failure(error, len(writes), retained_count)
        self._refuse(writes, error, will_retry=will_retry)
        # A statement that cannot succeed: later calls of `write` report it.
        if not is_temporary:
            self._error = error
        elif will_retry and retryable_writes:
            self.trouble = str(error)
            self._retry_later(retryable_writes)

    def _log_failure(
        self, error: Exception, write_count: int, retained_count: int
    ) -> None:
        """Log a failed batch; the same error is not logged again at every retry."""
        if self.trouble == str(error):
            return
        fields = {"writes": write_count, "error": str(error), "kept": retained_count}
        logger.error("database write failed", extra={"fields": fields})

    def _refuse(
        self,
        writes: Iterable[_RowWrite | _WorkItem],
        error: Exception,
        *,
        will_retry: bool,
    ) -> None:
        """Fail the callers of units that are not retried."""
        refusal = StorageUnavailableError(
            f"Database {self._engine.where!r} cannot be written: {error}"
        )
        for entry in writes:
            if isinstance(entry, _WorkItem) and not (will_retry and entry.is_kept):
                _resolve_future(entry.done, None, refusal)

    def _retry_later(self, writes: Sequence[_RowWrite | _WorkItem]) -> None:
        """Return writes to the queue and pause."""
        self._queue.put_back(writes)
        self.is_closing.wait(_RETRY_SECONDS)
        self._queue.wake()


def _statement_of(entry: _RowWrite | _WorkItem) -> str | None:
    """Return the statement of a row, or None for a unit of several statements."""
    return entry[0] if isinstance(entry, tuple) else None


def _resolve_future(
    future: "Future[Any]", result: Any, error: Exception | None
) -> None:
    """Complete a caller's future with a result or an error, unless it was cancelled."""
    # A caller that was cancelled must not receive a result.
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
