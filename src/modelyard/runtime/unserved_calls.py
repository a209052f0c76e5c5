"""Calls that ended before any attempt was made: refused, cancelled while they waited, or
failed. The ledger has no row for them.

Up to a limit each of them has a row. Beyond it, calls that are alike are counted: one
row for a minute says how many they were, so that a flood of refused calls neither fills
the disk nor is lost. Rationale: docs/design/0026-request-records.md.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.ids import new_id
from modelyard.base.log import redaction
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.statements import insert

logger = logging.getLogger("modelyard.unserved_calls")

Outcome = Literal["refused", "cancelled", "failed"]
NO_TENANT = ""
"""The tenant of calls whose caller was not authenticated. No tenant has this name."""
CLIENT_CLOSED_STATUS = 499
"""The status that stands for a client that disconnected before it was answered."""

_MINUTE, _DAY = 60, 86_400
_MAX_CODE_CHARS, _MAX_MESSAGE_CHARS, _MAX_NAME_CHARS = 64, 300, 200
_DELETE_BATCH_SIZE = 2_000


class UnservedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call without an attempt, in the order of the table's columns."""

    id: str
    """The id of the request, which its caller got as `x-request-id`."""
    tenant: str = NO_TENANT
    created_at: float = 0.0
    day: int = 0
    calls: int = 1
    """How many calls the row stands for."""
    is_counting: int = 0
    """1 if the row stands for calls that have no rows of their own."""
    outcome: Outcome = "refused"
    status: int
    """The HTTP status of the response; 499 if the client disconnected."""
    code: str
    message: str = ""
    route: str = ""
    """Method and path, with names in place of values; empty for a path that does not
    exist."""
    api_key: str = ""
    fingerprint: str = ""
    """The beginning of the digest of a key that is not valid."""
    user: str | None = None
    app: str = ""
    asked: str = ""
    """The model as the caller named it."""
    provider: str = ""
    model: str = ""
    model_type: str = ""
    session: str = ""
    project: str = ""
    tags: str = ""


class RecordCaps(NamedTuple):
    """How many calls of a process get rows of their own."""

    alike_a_minute: int = 100
    """Calls of one key that are refused for the same reason."""
    tenant_a_minute: int = 600
    tenant_a_day: int = 20_000
    """About 8 MB of rows."""
    strangers_a_minute: int = 200
    """Calls whose caller was not authenticated."""
    strangers_a_day: int = 10_000
    groups_of_tenant: int = 100
    """Counting rows of one tenant in a minute. Beyond them, calls are counted by status
    alone."""
    unsaved: int = 5_000
    """Rows that wait for a database that is away."""


DEFAULT_CAPS = RecordCaps()


class _Group(NamedTuple):
    """What calls have in common that are counted together."""

    tenant: str
    outcome: Outcome
    status: int
    code: str
    route: str
    api_key: str


class _CountedGroup:
    """The calls of a group within a minute."""

    __slots__ = ("counted", "id", "minute", "rows")

    def __init__(self, minute: int) -> None:
        self.id = new_id("sum")
        self.minute = minute
        self.rows = 0
        """Calls that have rows of their own."""
        self.counted = 0
        """Calls that have none."""


def outcome_of(status: int) -> Outcome:
    """Return how a call ended that was answered with an HTTP status and made no
    attempt."""
    if status == CLIENT_CLOSED_STATUS:
        return "cancelled"
    # 503 is what an overloaded server says, or one without a usable credential.
    return "refused" if status < 500 or status == 503 else "failed"


class UnservedCalls:
    """Records calls without an attempt. Adding one never waits for the database.

    A process that is killed loses what it added in the last tenth of a second.
    """

    def __init__(
        self, database: Database, clock: Clock, caps: RecordCaps = DEFAULT_CAPS
    ) -> None:
        self._database = database
        self._clock = clock
        self._caps = caps
        self._sql = database.statements("unserved_calls")
        self._lock = threading.Lock()
        self._minute = self._day = 0
        self._groups: dict[_Group, _CountedGroup] = {}
        self._groups_of_tenant: Counter[str] = Counter()
        self._rows_of_minute: Counter[str] = Counter()
        self._rows_of_day: Counter[str] = Counter()
        self._unsaved: list[UnservedCall] = []
        self._unsaved_groups: dict[str, tuple[_Group, _CountedGroup]] = {}
        self._is_queued = False
        self.added: Counter[str] = Counter()
        """How many calls of each tenant this process has recorded. A watcher compares it
        to detect new ones."""

    # Writing.

    def add(self, call: UnservedCall, request_id: str = "") -> None:
        """Record a call at the present time: by a row, or beyond the caps by counting
        it.

        `request_id` is the id of a further call that is like `call`.
        """
        now = self._clock.time()
        # Calls are added on the event loop and collected on the database thread.
        with self._lock:
            self.added[call.tenant] += 1
            self._turn(now)
            group_key, group = self._group_of(call)
            if self._may_have_row(call.tenant, group):
                group.rows += 1
                self._rows_of_minute[call.tenant] += 1
                self._rows_of_day[call.tenant] += 1
                row_id = request_id or call.id
                self._unsaved.append(_completed(call, row_id, now))
            else:
                group.counted += 1
                self._unsaved_groups[group.id] = group_key, group
            is_queued, self._is_queued = self._is_queued, True
        if not is_queued:
            self._save()

    def _turn(self, now: float) -> None:
        """Begin a new minute, and a new day, if the last one is over."""
        minute, day = int(now // _MINUTE), int(now // _DAY)
        # While the database is away the minute goes on, so that what waits for it does
        # not grow without end.
        if minute != self._minute and len(self._unsaved_groups) < self._caps.unsaved:
            self._minute = minute
            self._groups.clear()
            self._groups_of_tenant.clear()
            self._rows_of_minute.clear()
        if day != self._day:
            self._day = day
            self._rows_of_day.clear()

    def _group_of(self, call: UnservedCall) -> tuple[_Group, _CountedGroup]:
        """Return the group that a call is counted with, creating it if necessary."""
        key = _Group(
            call.tenant,
            call.outcome,
            call.status,
            call.code[:_MAX_CODE_CHARS],
            call.route,
            call.api_key,
        )
        group = self._groups.get(key)
        if group is None:
            # Too many kinds of calls within a minute: only the status is told apart.
            if self._groups_of_tenant[key.tenant] >= self._caps.groups_of_tenant:
                key = _Group(key.tenant, key.outcome, key.status, "various", "", "")
            group = self._groups.setdefault(key, _CountedGroup(self._minute))
            self._groups_of_tenant[key.tenant] += 1
        return key, group

    def _may_have_row(self, tenant: str, group: _CountedGroup) -> bool:
        """Return whether one more call of a group gets a row of its own."""
        caps = self._caps
        a_minute, a_day = caps.tenant_a_minute, caps.tenant_a_day
        if tenant == NO_TENANT:
            a_minute, a_day = caps.strangers_a_minute, caps.strangers_a_day
        return (
            group.rows < caps.alike_a_minute
            and self._rows_of_minute[tenant] < a_minute
            and self._rows_of_day[tenant] < a_day
            and len(self._unsaved) < caps.unsaved
        )

    def _save(self) -> None:
        """Queue one database job that writes what waits at the time it runs."""
        rows: list[UnservedCall] = []
        groups: dict[str, tuple[_Group, _CountedGroup]] = {}

        def work(connection: Connection) -> None:
            """Write the rows. Runs on the database thread inside a transaction, and
            again if the database refuses it."""
            with self._lock:
                rows.extend(self._unsaved)
                groups.update(self._unsaved_groups)
                self._unsaved, self._unsaved_groups = [], {}
                self._is_queued = False
                # A counting row is written with its number so far, so that writing it
                # twice changes nothing.
                counting = [_counting_row(*group) for group in groups.values()]
            # An id occurs once in a statement: PostgreSQL refuses to update a row twice.
            unique = {row.id: row for row in (*rows, *counting)}
            values = [msgspec.structs.astuple(row) for row in unique.values()]
            insert(connection, self._sql["add"], values)

        def on_saved(future: Any) -> None:
            """Report rows that could not be written."""
            if (error := future.exception()) is not None:
                # Otherwise nothing would ever be queued again.
                self._is_queued = False
                fields = {"rows": len(rows), "error": str(error)}
                logger.error("unserved calls not saved", extra={"fields": fields})

        job = self._database.submit(work, is_retried=True, may_gather=True)
        job.add_done_callback(on_saved)

    # Reading. Each method raises StorageUnavailableError if the database cannot be
    # read.

    async def find(self, tenant: str, request_id: str) -> UnservedCall | None:
        """Return a tenant's call by the id of its request; None if it has no row."""
        values = {"tenant": tenant, "id": request_id}
        rows = await self._database.fetch(self._sql["one"], values)
        return unserved_from(rows)[0] if rows else None

    def read(
        self, connection: Connection, tenant: str, ids: Sequence[str]
    ) -> list[UnservedCall]:
        """Return a tenant's rows with these ids, as a step of several reads."""
        if not ids:
            return []
        statement = self._sql["some"].replace("{ids}", ", ".join("?" * len(ids)))
        return unserved_from(connection.execute(statement, (tenant, *ids)))

    # Cleanup.

    async def delete_before(self, cutoff: float, *, of_strangers: bool = False) -> None:
        """Delete rows older than `cutoff` (seconds since 1970), in small batches; with
        `of_strangers` only those of callers who were not authenticated."""
        scope = "tenant = '' AND " if of_strangers else ""
        oldest, forget = (
            self._sql[name].replace("{scope}", scope) for name in ("oldest", "forget")
        )
        values = {"cutoff": cutoff, "batch": _DELETE_BATCH_SIZE}
        while (
            until := (await self._database.fetch(oldest, values))[0]["until"]
        ) is not (None):
            # One transaction for each batch, so that other writers get their turn.
            await self._database.transact(partial(_execute, forget, (until,)))


def _execute(statement: str, values: Sequence[Any], connection: Connection) -> None:
    """Run a statement as a step of a transaction."""
    connection.execute(statement, values)


def unserved_from(rows: Iterable[Row]) -> list[UnservedCall]:
    """Convert database rows."""
    return [msgspec.convert(dict(row), UnservedCall, strict=False) for row in rows]


def _completed(call: UnservedCall, row_id: str, now: float) -> UnservedCall:
    """Return a call as it is stored: with its time, and without secrets or texts that
    are too long."""
    return msgspec.structs.replace(
        call,
        id=row_id,
        created_at=now,
        day=int(now // _DAY),
        code=call.code[:_MAX_CODE_CHARS],
        # The text may repeat what the caller sent, and PostgreSQL refuses NUL.
        message=_storable(redaction.redact(call.message), _MAX_MESSAGE_CHARS),
        asked=_storable(call.asked, _MAX_NAME_CHARS),
        user=call.user and _storable(call.user, _MAX_NAME_CHARS),
    )


def _storable(text: str, max_chars: int) -> str:
    """Return the beginning of a text, with everything that databases refuse replaced."""
    cleaned = text[:max_chars].replace("\0", " ")
    # Lone surrogates come from JSON escapes and have no form in UTF-8.
    return cleaned.encode("utf-8", "replace").decode()


def _counting_row(key: _Group, group: _CountedGroup) -> UnservedCall:
    """Return the row that stands for a group's calls without rows of their own."""
    started_at = float(group.minute * _MINUTE)
    return UnservedCall(
        id=group.id,
        tenant=key.tenant,
        created_at=started_at,
        day=int(started_at // _DAY),
        calls=group.counted,
        is_counting=1,
        outcome=key.outcome,
        status=key.status,
        code=key.code,
        route=key.route,
        api_key=key.api_key,
    )
