"""Usage and money: one row for every attempt at serving a call, whatever became of it.

Before a provider is called, that it will be is written down; what it came to is written when it is known. Both survive
the process. What a process that was killed left open is closed by the next one. Why so: docs/design/0005-ledger.md.
"""

import asyncio
import fcntl
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.ids import new_id
from modelyard.models.types import ModelUsage
from modelyard.runtime.invocation import Invocation
from modelyard.storage import rejected
from modelyard.storage.database import Connection, Database, StorageUnavailableError, statements
from modelyard.storage.journal import Abandoned, Journal, Segment, Slot, abandoned
from modelyard.storage.usage_sums import Booked, UsageSums, is_answer

logger = logging.getLogger("modelyard.ledger")

_encode = msgspec.json.Encoder().encode
_OPENED, _SETTLED = "o", "s"
_BEGINNINGS = (b'["o",', b'["s",')
"""Of every record in the journal: an attempt that was opened, and one that was settled."""
_NANO = Decimal(1_000_000_000)
_MOST_NANOS = (1 << 63) - 1
_DAY = 86_400
_FORGOTTEN_AT_ONCE = 2_000
_MOST_ATTEMPTS = 64
T = TypeVar("T")
_MOST_BEHIND = 50_000
"""Rows that may wait in the journal for a database server that is away."""


class LedgerUnavailableError(ModelyardError):
    """What a call costs could not be written down, so it is not made."""

    code = "ledger_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"no call is made, since its cost could not be written down: {reason}")
        self.retry_after = 1.0


class UsageRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """In the order of the table's columns; the last two, what was asked for and the app that ran on
    behalf of the key, are the limits' alone."""

    id: str
    invocation: str
    attempt: int
    tenant: str
    api_key: str
    user: str | None
    created_at: float
    day: int
    provider: str
    model: str
    model_type: str
    credential: str
    credential_id: str
    status: str
    counted_by: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    characters: int
    seconds: float
    searches: int
    total_price: Decimal | None
    """None where nobody knows the price."""
    nanos: int | None
    currency: str
    price_source: str
    price_version: str
    latency: float
    first_chunk: float | None

    @property
    def estimated(self) -> bool:
        return self.counted_by != "provider"

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__struct_fields__}


class Priced(NamedTuple):
    """What something costs, and who says so."""

    total_price: Decimal | None
    currency: str
    source: str
    version: str


FREE = Priced(Decimal(0), "USD", "", "")


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that is about to be made."""

    invocation: str
    attempt: int
    tenant: str
    api_key: str
    user: str | None
    created_at: float
    provider: str
    model: str
    model_type: str
    credential: str
    credential_id: str
    prompt_tokens: int
    """About; for the row that is written where the process ends before the provider has counted."""
    asked: str = ""
    """The model that the call's limits know it by, as `provider/model`; the attempt may be made with another."""
    app: str = ""
    """`app:ID` of the app that runs on behalf of the API key; empty where none does."""


@dataclass(slots=True, eq=False)
class Opened:
    """An attempt that was written down and not settled yet."""

    intent: Intent
    segment: Segment | None
    slot: Slot | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Many rows as one line."""

    key: tuple[str, ...]
    calls: int
    attempts: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    characters: int
    seconds: float
    searches: int
    cost: Decimal
    currency: str
    unpriced: int
    """Rows whose price nobody knows: the cost leaves them out."""


class Took(NamedTuple):
    """What a call took, by its rows."""

    tokens: int
    nanos: int
    is_served: bool


TakeOver = Callable[[str], None]
"""Settles what the process of this name had reserved: its rows are in the database. Raises where that cannot be."""
_NANOS = UsageRow.__struct_fields__.index("nanos")
PriceLookup = Callable[[Intent, int], Priced]
"""What an attempt costs that was to be made, and brought so many tokens."""


class Ledger:
    """Writes rows without making the call wait; reads them back within one tenant.

    Without a `folder` for its journal it holds what is not committed yet in memory alone.
    """

    def __init__(self, database: Database, folder: Path | None = None, *, price: PriceLookup | None = None) -> None:
        self._database = database
        self._sql = statements("usage")
        self._folder = folder
        self._journal = Journal(folder) if folder else None
        self.owner = self._journal.name if self._journal else new_id("by")
        """This process's name: that of its journal, which whoever takes that over knows it by."""
        self.sums = UsageSums(database, writer=self.owner)
        self._price = price or (lambda intent, tokens: Priced(None, "USD", "", ""))
        self._settled: list[tuple[Any, ...]] = []
        self._segments: list[Segment] = []
        self._lock = threading.Lock()
        self._is_folding = False
        self.settled: Counter[str] = Counter()
        """Tenant → how many attempts this process has settled: who watches sees that there is something new."""

    # writing

    def begin(self, invocation: Invocation, *, attempt: int, created_at: float, prompt_tokens: int = 0) -> Opened:
        """Write down that a provider is about to be called. Raises LedgerUnavailableError where that cannot be."""
        intent = Intent(
            invocation.id,
            attempt,
            invocation.tenant,
            invocation.api_key,
            invocation.user,
            created_at,
            invocation.provider,
            invocation.model,
            invocation.model_type.value,
            invocation.credential,
            invocation.credential_id,
            prompt_tokens,
            _asked(invocation),
            invocation.app,
        )
        if self._database.damage is not None:
            raise LedgerUnavailableError("the database is damaged")
        if self._database.trouble is not None:
            self._refuse_while_in_trouble(self._database.trouble)
        if self._journal is None:
            return Opened(intent, None, None)
        slot = self._journal.take_slot()
        try:
            number, mark = (slot.number, slot.mark) if slot else (-1, 0)
            return Opened(intent, self._journal.append(_encode((_OPENED, number, mark, intent))), slot)
        except StorageUnavailableError as error:
            if slot:
                self._journal.give_back(slot)
            raise LedgerUnavailableError(str(error)) from error

    def _refuse_while_in_trouble(self, trouble: str) -> None:
        """A full disk will not hold the journal for long either; a server that is away may be back any moment."""
        if self._database.engine == "sqlite" or self._journal is None or len(self._settled) > _MOST_BEHIND:
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
        row = _row(opened.intent, status, usage, counted_by, price_version, latency, first_chunk)
        segments = [opened.segment] if opened.segment else []
        if self._journal is not None:
            try:
                segments.append(self._journal.append(_encode((_SETTLED, row))))
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
        intent = Intent(
            invocation.id, attempt, invocation.tenant, invocation.api_key, invocation.user, created_at,
            invocation.provider, invocation.model, invocation.model_type.value, invocation.credential,
            invocation.credential_id, 0, _asked(invocation), invocation.app,
        )  # fmt: skip
        counted_by = "" if usage is None else "estimate" if usage.estimated else "provider"
        self.settle(
            Opened(intent, None, None), status=status, usage=usage, counted_by=counted_by, price_version="",
            latency=latency, first_chunk=first_chunk,
        )  # fmt: skip

    def _queue(self, row: tuple[Any, ...], segments: Sequence[Segment]) -> None:
        self.settled[row[3]] += 1
        with self._lock:
            self._settled.append(row)
            self._segments.extend(segments)
            is_folding, self._is_folding = self._is_folding, True
        if not is_folding:
            self._fold()

    def _fold(self) -> None:
        """Have the database take all rows that are waiting when it comes to it."""
        taken: list[tuple[Any, ...]] = []
        segments: list[Segment] = []

        def work(connection: Connection) -> None:
            with self._lock:
                taken.extend(self._settled)
                segments.extend(self._segments)
                self._settled, self._segments, self._is_folding = [], [], False
            self._insert(connection, taken)

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

    def _insert(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows that are there already stay as they are, and are not counted again."""
        new = {row["id"] for row in Database.insert_new(connection, self._sql["add"], rows)}
        fresh: dict[str, tuple[Any, ...]] = {}
        for row in rows:
            if row[0] in new:
                fresh.setdefault(row[0], row)
        self.sums.add(connection, [_booked(row) for row in fresh.values()])

    # what others left

    def recover(self, take_over: TakeOver = lambda owner: None) -> bool:
        """Put into the database what processes that are gone have left, and have settled what they had reserved.
        Whoever else does so meanwhile is waited for. False where something has to wait for the storage."""
        if self._folder is None:
            return True
        is_all = True
        with _alone(self._folder):
            for left in abandoned(self._folder):
                is_all &= self._recovered(left, take_over)
        return is_all

    def _recovered(self, left: Abandoned, take_over: TakeOver) -> bool:
        try:
            self._take_over(left)
            take_over(left.name)
            left.remove()  # last: whoever is killed before that leaves it to the next, who finds the rows there
            return True
        except (StorageUnavailableError, TimeoutError, OSError) as error:
            logger.error("what a process left waits", extra={"fields": {"error": str(error)}})
            return False
        except Exception:  # it stays for the next start; nobody else's calls may wait for it
            logger.exception("what a process left cannot be taken over")
            return True
        finally:
            left.close()

    def _take_over(self, left: Abandoned) -> None:
        """Have what one process left in the database, row by row where it does not go together. What cannot be read or
        written is set aside, so that it stands in nobody's way. Raises StorageUnavailableError, TimeoutError."""
        settled, opened, bad = _read(left.records(_BEGINNINGS, _is_whole))
        lost = [self._lost(intent, left.progress(slot)) for intent, slot in opened]
        refused = self._add_each(left.name, [*settled, *lost])
        set_aside = [*bad, *((_encode(row), reason) for row, reason in refused)]
        if set_aside:
            rejected.keep(left.folder, left.name, set_aside)
        fields = {"settled": len(settled), "lost": len(opened), "rejected": len(set_aside)}
        logger.log(
            logging.ERROR if set_aside else logging.INFO, "took over what a process left", extra={"fields": fields}
        )

    def _add_each(self, owner: str, rows: Sequence[tuple[Any, ...]]) -> list[tuple[tuple[Any, ...], str]]:
        """All at once, with what the process had reserved; if one of them is refused, each by itself. Returns those
        that were refused, with the reason."""
        try:
            self._add_now(rows, owner)
        except (StorageUnavailableError, TimeoutError):
            raise
        except Exception:  # noqa: BLE001  the database's word on one of the rows: which one is found out below
            refused = [(row, problem) for row in rows if (problem := self._problem_of(row))]
            self._add_now([], owner)
            return refused
        return []

    def _problem_of(self, row: tuple[Any, ...]) -> str:
        """Add one row. Why the database does not take it; empty where it does."""
        try:
            self._add_now([row])
        except (StorageUnavailableError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001  as above
            return f"{type(error).__name__}: {error}"
        return ""

    def _add_now(self, rows: Sequence[tuple[Any, ...]], owner: str = "") -> None:
        """Add rows; with an owner, what that process had reserved is released in the same transaction."""

        def work(connection: Connection) -> None:
            if rows:
                self._insert(connection, rows)
            if owner:
                self.sums.release(connection, owner)

        self._database.submit(work).result(30)

    def set_aside(self) -> int:
        """How many records of processes that are gone could not be taken over."""
        return rejected.count(self._folder) if self._folder else 0

    def _lost(self, intent: Intent, tokens: int | None) -> tuple[Any, ...]:
        """The row of an attempt whose process was killed: what had come by then, priced. Where the price cannot be
        told, that is what the row says: the call was made."""
        try:
            price = self._price(intent, tokens or 0)
        except Exception as error:  # noqa: BLE001  a model or price that is gone or broken since; others' rows wait for this
            fields = {"id": f"{intent.invocation}.{intent.attempt}", "error": str(error)}
            logger.error("what a lost call cost is not known", extra={"fields": fields})
            price = Priced(None, "USD", "", "")
        return _row(
            intent, "lost", _Lost(intent.prompt_tokens, tokens or 0, price), "estimate", price.version, 0.0, None
        )

    # reading

    def recent(self, tenant: str, *, most: int = 50, since: float = 0.0) -> list[UsageRow]:
        """Newest first."""
        return self._rows(self._database.read(self._sql["recent"], {"tenant": tenant, "since": since, "most": most}))

    def of_invocation(self, tenant: str, invocation: str) -> list[UsageRow]:
        found = self._database.read(self._sql["invocation"], {"tenant": tenant, "invocation": invocation})
        return self._rows(found)

    def export(self, tenant: str, *, since: float, until: float, page: int = 1000) -> Iterator[UsageRow]:
        """All rows of a span of time, oldest first, a page at a time."""
        after, after_id = since - 1, ""
        while True:
            values = {
                "tenant": tenant, "since": since, "until": until, "after": after, "after_id": after_id, "most": page,
            }  # fmt: skip
            rows = self._rows(self._database.read(self._sql["page"], values, is_long=True))
            yield from rows
            if len(rows) < page:
                return
            after, after_id = rows[-1].created_at, rows[-1].id

    def summary(self, tenant: str, *, by: Sequence[str], since: float = 0.0, until: float = 1e12) -> list[Spending]:
        """Rows added up by some of GROUPINGS, dearest first; currencies stay apart."""
        columns = ", ".join(GROUPINGS[name] for name in by)
        selected = ", ".join(self._hour if name == "hour" else GROUPINGS[name] for name in by)
        statement = self._sql["sums"].replace("{selected}", selected).replace("{columns}", columns)
        rows = self._database.read(statement, {"tenant": tenant, "since": since, "until": until}, is_long=True)
        lines = [_spending(row, by) for row in rows]
        return sorted(lines, key=lambda line: (-line.cost, -line.calls, line.key))

    @property
    def _hour(self) -> str:
        whole = "FLOOR(created_at / 3600)" if self._database.engine == "postgresql" else "created_at / 3600"
        return f"CAST({whole} AS INTEGER) AS hour"

    def page(
        self, tenant: str, *, since: float, until: float, most: int, skip: int = 0, **wanted: str
    ) -> tuple[list[UsageRow], int]:
        """A tenant's attempts, newest first, from `skip` on, and how many there are. `wanted`: values of FILTERS."""
        if unknown := wanted.keys() - FILTERS.keys():
            raise ValueError(f"no filter {unknown}")
        clauses = "".join(f" AND {FILTERS[name]} = :{name}" for name in wanted)
        if wanted.get("status") == "failed":
            clauses = clauses.replace("status = :status", "status NOT IN ('ok', 'cached') AND :status <> ''")
        values = {"tenant": tenant, "since": since, "until": until, **wanted}
        counting = self._sql["count_attempts"].replace("{clauses}", clauses)
        count = self._database.read(counting, values, is_long=True)[0]["count"]
        if skip >= count:
            return [], count
        statement = self._sql["attempts"].replace("{clauses}", clauses)
        return self._rows(self._database.read(statement, {**values, "most": most, "skip": skip}, is_long=True)), count

    def percentiles(self, tenant: str, *, since: float, until: float) -> list[dict[str, Any]]:
        """By model, of attempts that went well: `latency` and `first_chunk`, in seconds."""
        values = {"tenant": tenant, "since": since, "until": until}
        whole = {row["model"]: dict(row) for row in self._database.read(self._sql["latencies"], values, is_long=True)}
        for row in self._database.read(self._sql["first_chunks"], values, is_long=True):
            whole[row["model"]] |= {f"first_{name}": row[name] for name in ("p50", "p90", "p99")}
        return list(whole.values())

    async def took(self, name: str) -> Took | None:
        """What a call took by all of its attempts, or one of these by itself, by its name; None where none was made."""
        names = [name, *(f"{name}.{attempt}" for attempt in range(_MOST_ATTEMPTS))]
        rows = await self._database.fetch(self._sql["of_call"].replace("{places}", ", ".join("?" * len(names))), names)
        if not rows:
            return None
        is_served = any(is_answer(row["status"], row["first_chunk"]) for row in rows)
        return Took(sum(int(row["tokens"]) for row in rows), sum(int(row["nanos"]) for row in rows), is_served)

    async def at_length(self, ask: Callable[[], T]) -> T:
        """What one of the readers here returns, without holding up the loop or anybody's short read."""
        return await self._database.at_length(ask)

    async def forget(self, before: float) -> None:
        """Drop rows that are older than they are to be kept, a few at a time. What limits count stays in the sums."""
        if not self.sums.is_complete:
            return  # rows that are not in the sums yet are not dropped
        for row in await self._database.fetch(self._sql["tenants"]):
            while (until := await self._oldest(row["tenant"], before)) is not None:
                values = row["tenant"], until
                await self._database.transact(lambda it, values=values: it.execute(self._sql["forget"], values))

    async def _oldest(self, tenant: str, before: float) -> float | None:
        values = {"tenant": tenant, "before": before, "most": _FORGOTTEN_AT_ONCE}
        return (await self._database.fetch(self._sql["oldest"], values))[0]["until"]

    @staticmethod
    def _rows(rows: Iterable[Any]) -> list[UsageRow]:
        return [_from_row(tuple(dict(row).values())) for row in rows]


GROUPINGS = {
    "provider": "provider",
    "model": "model",
    "model_type": "model_type",
    "credential": "credential",
    "key": "api_key",
    "user": '"user"',
    "tenant": "tenant",
    "status": "status",
    "day": "day",
    "hour": "hour",
}
"""What sums may be made by → the column; `hour` is made of a time, in each database's own words."""
FILTERS = {
    "provider": "provider",
    "model": "model",
    "type": "model_type",
    "credential": "credential",
    "key": "api_key",
    "user": '"user"',
    "status": "status",
    "call": "invocation",
}
"""What attempts may be picked by → the column. The status `failed` stands for all that did not go well."""


class _Lost(NamedTuple):
    """The usage of an attempt that nobody saw the end of."""

    prompt_tokens: int
    completion_tokens: int
    price: Priced

    @property
    def total_price(self) -> Decimal | None:
        return self.price.total_price

    @property
    def currency(self) -> str:
        return self.price.currency

    @property
    def price_source(self) -> str:
        return self.price.source


def _row(
    intent: Intent,
    status: str,
    usage: "ModelUsage | _Lost | None",
    counted_by: str,
    price_version: str,
    latency: float,
    first_chunk: float | None,
) -> tuple[Any, ...]:
    """In the order of the table's columns. Nothing was used: nothing is owed. Something was, at an unknown price:
    nobody knows."""
    counted: Any = usage
    price = Decimal(0) if usage is None else usage.total_price
    return (
        f"{intent.invocation}.{intent.attempt}",
        intent.invocation,
        intent.attempt,
        intent.tenant,
        intent.api_key,
        intent.user,
        intent.created_at,
        int(intent.created_at // _DAY),
        intent.provider,
        intent.model,
        intent.model_type,
        intent.credential,
        intent.credential_id,
        status,
        counted_by,
        _went_in(counted),
        getattr(counted, "completion_tokens", 0),
        getattr(counted, "cached_tokens", 0),
        getattr(counted, "cache_write_tokens", 0),
        getattr(counted, "reasoning_tokens", 0),
        getattr(counted, "characters", 0),
        float(getattr(counted, "seconds", 0.0)),
        getattr(counted, "searches", 0),
        None if price is None else format(price, "f"),
        None if price is None else min(int(price * _NANO), _MOST_NANOS),
        usage.currency if usage else "USD",
        usage.price_source if usage else "",
        price_version,
        latency,
        first_chunk,
        intent.asked or f"{intent.provider}/{intent.model}",
        intent.app,
    )


def _asked(invocation: Invocation) -> str:
    return invocation.record.asked or f"{invocation.provider}/{invocation.model}"


def tokens_of(usage: ModelUsage) -> int:
    """As the row's columns add up to: limits count what the ledger counts."""
    counted: Any = usage
    return _went_in(counted) + getattr(counted, "completion_tokens", 0)


def _went_in(counted: Any) -> int:
    return getattr(counted, "prompt_tokens", None) or getattr(counted, "tokens", 0)


def _booked(row: Sequence[Any]) -> Booked:
    """What the sums take of a row; an answer from the cache took no tokens of any limit."""
    (
        id_, invocation, attempt, tenant, api_key, user, created_at, _, provider, model, _, credential, _, status, _,
        went_in, came_out, *_, first_chunk, asked, app,
    ) = row  # fmt: skip
    is_cached = status == "cached"
    return Booked(
        id_, invocation, attempt, tenant, api_key, user or "", created_at, asked, f"{provider}/{model}",
        f"{provider}/{credential}", is_answer(status, first_chunk), 0 if is_cached else went_in + came_out,
        0 if is_cached else row[_NANOS] or 0, app,
    )  # fmt: skip


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Wait until nobody else takes over what lies in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _from_row(row: Sequence[Any]) -> UsageRow:
    return msgspec.convert(list(row), UsageRow, strict=False)


def _spending(row: Any, by: Sequence[str]) -> Spending:
    columns = [GROUPINGS[name].strip('"') for name in by]
    return Spending(
        key=tuple(str(row[column] if row[column] is not None else "") or "-" for column in columns),
        calls=int(row["calls"]),
        attempts=int(row["attempts"]),
        failed=int(row["failed"]),
        prompt_tokens=int(row["prompt_tokens"]),
        completion_tokens=int(row["completion_tokens"]),
        cached_tokens=int(row["cached_tokens"]),
        reasoning_tokens=int(row["reasoning_tokens"]),
        characters=int(row["characters"]),
        seconds=float(row["seconds"]),
        searches=int(row["searches"]),
        cost=(Decimal(int(row["nanos"])) / _NANO).normalize() + 0,
        currency=row["currency"],
        unpriced=int(row["unpriced"]),
    )


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


def _read(
    records: Iterable[bytes],
) -> tuple[list[tuple[Any, ...]], list[tuple[Intent, Slot]], list[tuple[bytes, str]]]:
    """The rows that were settled, the attempts that never were, and records that cannot be read, with the reason."""
    settled: dict[str, tuple[Any, ...]] = {}
    opened: dict[str, tuple[Intent, Slot]] = {}
    bad: list[tuple[bytes, str]] = []
    for record in records:
        try:
            if record.startswith(b'["s",'):
                row = _whole(msgspec.json.decode(record)[1])
                settled[_from_row(row).id] = row
            else:
                _, number, mark, intent = msgspec.json.decode(record, type=_Opening)
                opened[f"{intent.invocation}.{intent.attempt}"] = intent, Slot(number, mark)
        except (msgspec.MsgspecError, IndexError, ValueError, TypeError) as error:  # damaged, by whatever
            logger.error("a record of a journal cannot be read", extra={"fields": {"error": str(error)}})
            bad.append((record, str(error)))
    return list(settled.values()), [one for name, one in opened.items() if name not in settled], bad


def _whole(row: Sequence[Any]) -> tuple[Any, ...]:
    """A row of a journal, with the columns that versions before did not write: what was asked for, and the app."""
    known = len(UsageRow.__struct_fields__)
    if len(row) <= known:
        one = _from_row(row)
        row = [*row, f"{one.provider}/{one.model}"]
    return (*row, "") if len(row) == known + 1 else tuple(row)
