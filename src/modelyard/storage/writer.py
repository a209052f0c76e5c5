"""The thread that writes: in order, several writes to a transaction, again where that may help."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from modelyard.base.errors import ConfigError
from modelyard.storage.engine import Connection, DuplicateError, Engine, StorageUnavailableError
from modelyard.storage.pages import Pages
from modelyard.storage.statements import insert

logger = logging.getLogger("modelyard.storage")

_GATHER_SECONDS = 0.02  # writes of so long share one commit: a commit costs more CPU than fifty rows
_RETRY_SECONDS = 0.5
_MAX_WAITING = 100_000

T = TypeVar("T")
_RowWrite = tuple[str, Sequence[Any]]
"""A statement with one `VALUES (?, …)`, and a row for it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """More than one statement, done as a whole or not at all."""

    work: Callable[[Connection], Any]
    done: "Future[Any]"
    is_kept: bool
    may_gather: bool


_Entry = _RowWrite | _Work | Future[None] | None
"""To be written · to be done · to be told that all before it is committed · the end."""


class _Queue:
    """What waits to be written, in order. Anybody puts; one thread takes."""

    def __init__(self) -> None:
        # A deque and one event a batch: a queue.Queue would lock and wake for every row.
        self._waiting: deque[_Entry] = deque()
        self._has_work = threading.Event()
        self._is_urgent = threading.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, entry: _Entry) -> None:
        self._waiting.append(entry)
        if not self._has_work.is_set():
            self._has_work.set()

    def hurry(self) -> None:
        """Wait for no company of what was put."""
        self._is_urgent.set()

    def take(self) -> list[_Entry]:
        """All that waits, once something does; what comes within moments of the first is taken with it."""
        self._has_work.wait()
        self._is_urgent.wait(_GATHER_SECONDS)
        self._is_urgent.clear()
        self._has_work.clear()
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

    def put_back(self, entries: Sequence[_Entry]) -> None:
        """Before all that came meanwhile. They are taken when something is `put`, or at once after `wake`."""
        self._waiting.extendleft(reversed(entries))

    def wake(self) -> None:
        self._has_work.set()


class Writer:
    """Takes writes from any thread, and makes them in one of its own."""

    def __init__(self, engine: Engine, pages: Pages) -> None:
        self._engine = engine
        self._pages = pages
        self._queue = _Queue()
        self._error: Exception | None = None
        self.trouble: str | None = None
        """Why nothing can be written at the moment, where that is so; what waits is kept and tried again."""
        self._is_renewing = False
        self.is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modelyard-database", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Writes that wait for their commit."""
        return len(self._queue)

    def write(self, statement: str, values: Sequence[Any]) -> None:
        """See `Database.write`."""
        if self._error is not None:
            raise ConfigError(f"database {self._engine.where!r} cannot be written: {self._error}")
        if len(self._queue) >= _MAX_WAITING:
            where = self._engine.where
            raise StorageUnavailableError(f"database {where!r} is too slow: {_MAX_WAITING:,} writes are waiting")
        self._queue.put((statement, values))

    def submit(self, work: Callable[[Connection], T], *, is_kept: bool, may_gather: bool) -> "Future[T]":
        """See `Database.submit`."""
        done: Future[T] = Future()
        if not self._thread.is_alive():
            done.set_exception(StorageUnavailableError(f"database {self._engine.where!r} is closed"))
            return done
        self._queue.put(_Work(work, done, is_kept, may_gather))
        if not may_gather:
            self._queue.hurry()
        return done

    def flush(self) -> "Future[None]":
        """Done when all that was written before is committed."""
        done: Future[None] = Future()
        if self._thread.is_alive():
            self._queue.put(done)
            self._queue.hurry()
        else:
            done.set_result(None)
        return done

    def renew(self) -> None:
        """Use the connection that is open now no more: another file took the database's place."""
        self._is_renewing = True

    def close(self) -> None:
        """Commit what is waiting, and end."""
        self.is_closing.set()
        if self._thread.is_alive():
            self._queue.put(None)
            self._queue.hurry()
            self._thread.join()

    # in the thread

    def _run(self) -> None:
        connection: Connection | None = None
        is_open = True
        while is_open:
            batch = self._queue.take()
            is_open = None not in batch
            writes = [entry for entry in batch if isinstance(entry, tuple | _Work)]
            try:
                if self._pages.damage is not None and writes:
                    raise StorageUnavailableError(self._pages.damage)
                if self._is_renewing and connection is not None:
                    connection.close()
                    connection = None
                self._is_renewing = False
                connection = connection or self._engine.connect()
                self._commit(connection, writes)
                self.trouble = None
            except (*self._engine.errors, DuplicateError, StorageUnavailableError, ConfigError) as error:
                if self._engine.is_damaged(error):
                    self._pages.note_damage(str(error))
                connection = self._rolled_back(connection)
                self._fail(writes, error, may_wait=is_open and not self.is_closing.is_set())
            for entry in batch:
                if isinstance(entry, Future):  # whoever waited for it may have gone away
                    _settle(entry, None, None)
        if connection is not None:
            connection.close()

    def _commit(self, connection: Connection, writes: Sequence[_RowWrite | _Work]) -> None:
        if not writes:
            return
        connection.execute(self._engine.begin())
        outcomes: list[tuple[_Work, Any]] = []
        for statement, same in groupby(writes, key=lambda entry: entry[0] if isinstance(entry, tuple) else None):
            if statement is None:
                outcomes += [(entry, self._worked(connection, entry)) for entry in same if isinstance(entry, _Work)]
            else:
                insert(connection, statement, [entry[1] for entry in same if isinstance(entry, tuple)])
        connection.execute("COMMIT")
        for entry, (result, error) in outcomes:
            _settle(entry.done, result, error)

    def _worked(self, connection: Connection, entry: _Work) -> tuple[Any, Exception | None]:
        """What came of it; one that fails for reasons of its own leaves the others alone."""
        connection.execute("SAVEPOINT work")
        try:
            result = entry.work(connection)
        except self._engine.errors as error:
            if self._engine.passes(error):
                raise
            connection.execute("ROLLBACK TO SAVEPOINT work")
            return None, error
        except Exception as error:  # noqa: BLE001  the work's own, handed to whoever asked for it
            connection.execute("ROLLBACK TO SAVEPOINT work")
            return None, error
        connection.execute("RELEASE SAVEPOINT work")
        return result, None

    def _rolled_back(self, connection: Connection | None) -> Connection | None:
        if connection is None:
            return None
        with suppress(*self._engine.errors):  # nothing was begun, or the connection is gone
            connection.execute("ROLLBACK")
        if self._engine.name == "sqlite":
            return connection
        connection.close()
        return None

    def _fail(self, writes: Sequence[_RowWrite | _Work], error: Exception, *, may_wait: bool) -> None:
        """Tell those who wait, but for those whose writes are kept: these are tried again after a while."""
        passes = isinstance(error, StorageUnavailableError | ConfigError) or self._engine.passes(error)
        keeps = passes and may_wait
        kept = [entry for entry in writes if isinstance(entry, tuple) or entry.is_kept]
        fields = {"writes": len(writes), "error": str(error), "kept": len(kept) if keeps else 0}
        if self.trouble != str(error):  # once, not at every try
            logger.error("the database cannot be written", extra={"fields": fields})
        refusal = StorageUnavailableError(f"database {self._engine.where!r} cannot be written: {error}")
        for entry in writes:
            if isinstance(entry, _Work) and not (keeps and entry.is_kept):
                _settle(entry.done, None, refusal)
        if not passes:
            self._error = error
        elif keeps and kept:
            self.trouble = str(error)
            self._queue.put_back(kept)
            self.is_closing.wait(_RETRY_SECONDS)
            self._queue.wake()


def _settle(done: "Future[Any]", result: Any, error: Exception | None) -> None:
    if not done.set_running_or_notify_cancel():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)
