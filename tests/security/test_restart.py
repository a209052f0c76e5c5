"""Tests for restarts: requests are served at once, and limits continue exactly."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tools.show.servers import Postgres
from tools.show.truth_log import (
    TruthfulUpstream,
    home_with,
    kill,
    server_forker,
    wait_until_healthy,
)

from modelyard.app.admission import CounterInitialiser
from modelyard.app.recovery import Recovery
from modelyard.base.errors import InvokeError
from modelyard.base.ids import new_id
from modelyard.models.llm import LLMUsage
from modelyard.models.types import ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger, LedgerUnavailableError
from modelyard.runtime.limits import (
    CounterStart,
    Estimate,
    Subject,
    applicable_limits,
    charge,
    initial_level,
    usage_query,
    window_days,
)
from modelyard.storage import usage_sums
from modelyard.storage.counters import Charge, DatabaseCounters, MemoryCounters
from modelyard.storage.database import Connection, Database, migrations, statements
from modelyard.tenancy.caller import Caller, matches_pattern
from modelyard.tenancy.resource_types import Limit
from modelyard.testing import FakeClock
from modelyard.transport.http import HttpClient, Timeouts

pytestmark = pytest.mark.proof("restart")

TEST_TIME = 1_790_000_000.0
DAY = 86_400.0
MODELS = ("openai/a", "openai/b", "nimbus/c")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Postgres(tmp_path_factory.mktemp("postgres") / "data") as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database."""
    if request.param == "sqlite":
        return str(tmp_path / "x.db")
    import psycopg

    server, name = request.getfixturevalue("postgres"), new_id("d").lower()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
    return server.replace("/postgres?", f"/{name}?")


# ---------------------------------------------------------------------- a random ledger


def some_calls(
    rng: Random, tenant: str, count: int, *, since: float, until: float
) -> list[dict[str, Any]]:
    """Return random attempts of calls.

    Some fail over to another model, some are cache hits, some are cancelled.
    """
    attempts: list[dict[str, Any]] = []
    for number in range(count):
        requested_model, created_at = rng.choice(MODELS), rng.uniform(since, until)
        key = rng.choice(["", "k1", "k2", "app:1"])
        base = {
            "invocation": f"{tenant}-{number}-{rng.random()}",
            "tenant": tenant,
            "api_key": key,
            "app": rng.choice(["", "app:1", "app:2"]) if key.startswith("k") else "",
            "user": rng.choice([None, "ada", "bob", "-"]),
            "asked": requested_model,
            "at": created_at,
        }
        attempts += [base | attempt for attempt in _some_attempts(rng, requested_model)]
    return [
        attempt_row | {"tokens": rng.randint(0, 50), "price": rng.randint(0, 9)}
        for attempt_row in attempts
    ]


def _some_attempts(rng: Random, requested_model: str) -> list[dict[str, Any]]:
    """Return one to three attempts of a call, or its cache hit."""
    if rng.random() < 0.1:
        cached = {"attempt": 0, "model": requested_model, "status": "cached"}
        return [cached | {"first_chunk": None}]
    attempts: list[dict[str, Any]] = []
    for number in range(1, rng.randint(1, 3) + 1):
        status = rng.choice(["ok", "ok", "cancelled", "upstream_unavailable", "lost"])
        first_chunk = rng.choice([None, 0.1]) if status != "ok" else 0.1
        model = requested_model if number == 1 else rng.choice(MODELS)
        attempt = {"attempt": number, "model": model, "status": status}
        attempts.append(attempt | {"first_chunk": first_chunk})
    return attempts


def settle(ledger: Ledger, call: dict[str, Any]) -> None:
    provider, _, model = call["model"].partition("/")
    invocation = Invocation(
        id=call["invocation"], tenant=call["tenant"], user=call["user"],
        caller=Caller(tenant=call["tenant"], key=call["api_key"], app=call.get("app", "")),
        provider=provider, model=model, model_type=ModelType.LLM, request=None, credential="main",
    )  # fmt: skip
    invocation.record.requested_model = call["asked"]
    usage = LLMUsage.of(
        call["tokens"], 1, total_price=Decimal(call["price"]) / 1_000_000_000
    )
    opened = ledger.begin(invocation, attempt=call["attempt"], created_at=call["at"])
    ledger.settle(
        opened, status=call["status"], usage=usage, counted_by="provider", price_version="", latency=0.1,
        first_chunk=call["first_chunk"],
    )  # fmt: skip


def every_limit() -> list[Limit]:
    return [
        Limit(
            unit=unit, amount=1e6, window=window, per=per, key=key, user=user, model=model,
            credits={"openai/a": 3, "nimbus/*": 7},
        )
        for unit, window, per, (key, user, model) in product(
            ("requests", "tokens", "cost", "credits", "times"), ("day", "month", "total"),
            ("tenant", "key", "user", "model"),
            (("", "", ""), ("k1", "", ""), ("", "ada", ""), ("k1", "ada", "openai/*"), ("", "", "openai/b"),
             ("app:1", "", ""), ("app:1", "ada", "")),
        )
    ]  # fmt: skip


def level_by_rows(
    calls: Sequence[dict[str, Any]],
    limit: Limit,
    subject: Subject,
    current_time: float,
    *,
    by: str = "asked",
) -> float:
    """Return the level of a limit, computed row by row without sums."""
    first, last = window_days(limit.window, current_time)
    used, seen_invocations, answered = 0.0, set[str](), set[str]()
    for call in sorted(calls, key=lambda call: (call["invocation"], call["attempt"])):
        if not first <= call["at"] // DAY <= last:
            continue
        if not _is_counted(call, limit, subject, call[by]):
            continue
        invocation = call["invocation"]
        is_answer = call["status"] in ("ok", "cached", "lost") or (
            call["first_chunk"] is not None
        )
        is_first_answer = is_answer and invocation not in answered
        is_cached = call["status"] == "cached"
        used += {
            "requests": float(invocation not in seen_invocations),
            "times": float(is_first_answer),
            "credits": _credits_per_answer(limit, call[by]) * is_first_answer,
            "tokens": 0.0 if is_cached else call["tokens"] + 1,
            "cost": 0.0 if is_cached else call["price"],
        }[limit.unit]
        seen_invocations.add(invocation)
        if is_answer:
            answered.add(invocation)
    return used


def _is_counted(
    call: dict[str, Any], limit: Limit, subject: Subject, model: str
) -> bool:
    """Return whether a limit counts a call for the subject, apart from its window."""
    keys = {call["api_key"], call.get("app", "")}
    if limit.key and limit.key not in keys:
        return False
    owner = {
        "tenant": call["tenant"],
        "key": limit.key or call["api_key"] or "-",
        "user": call["user"] or "-",
        "model": model,
    }
    expected_owner = {
        "tenant": subject.tenant,
        "key": limit.key or subject.key or "-",
        "user": subject.user or "-",
        "model": subject.model,
    }
    return (
        call["tenant"] == subject.tenant
        and owner[limit.per] == expected_owner[limit.per]
        and limit.user in ("", call["user"] or "")
        and matches_pattern(limit.model, model)
    )


def _credits_per_answer(limit: Limit, model: str) -> float:
    """Return the credits of the first pattern that matches the model, else 1."""
    for pattern, credit_amount in limit.credits.items():
        if matches_pattern(pattern, model):
            return credit_amount
    return 1.0


async def level_by_sums(
    ledger: Ledger, limit: Limit, subject: Subject, current_time: float
) -> float | None:
    """Return the level of a limit by the sums; None if it does not apply."""
    for applicable_limit in applicable_limits([("l", "l", limit)], subject):
        return initial_level(
            applicable_limit,
            await ledger.sums.between(
                usage_query(applicable_limit, subject),
                *window_days(limit.window, current_time),
            ),
            current_time,
        )
    return None


async def agrees(
    ledger: Ledger, calls: Sequence[dict[str, Any]], tenant: str, *, by: str = "asked"
) -> int:
    """Compare every limit's initial level with a count by hand.

    Returns the number of compared limits.
    """
    subjects = [
        Subject(tenant, key, user, model, app)
        for key, user, model, app in (
            ("k1", "ada", "openai/a", ""),
            ("", "", "openai/b", ""),
            ("k2", "-", "nimbus/c", ""),
            ("k1", "ada", "openai/a", "app:1"),
            ("app:1", "bob", "openai/b", ""),
        )
    ]
    compared = 0
    for limit, subject in product(every_limit(), subjects):
        if (
            level := await level_by_sums(ledger, limit, subject, TEST_TIME)
        ) is not None:
            assert level == level_by_rows(calls, limit, subject, TEST_TIME, by=by), (
                limit,
                subject,
            )
            compared += 1
    return compared


def test_every_limit_starts_as_counted_from_the_rows(url: str, tmp_path: Path):
    rng, tenant = Random(1), new_id("t")
    calls = some_calls(
        rng, tenant, 150, since=TEST_TIME - 70 * DAY, until=TEST_TIME + DAY
    )
    calls += some_calls(rng, "other", 20, since=TEST_TIME - DAY, until=TEST_TIME)
    rng.shuffle(calls)
    for call in calls:  # attempts of a call stay in order
        call["order"] = rng.random()
    calls.sort(key=lambda call: call["attempt"])

    async def work() -> None:
        databases = [Database(url), Database(url)]
        ledgers = [
            Ledger(database, tmp_path / f"ledger{index}")
            for index, database in enumerate(databases)
        ]
        for call_index, call in enumerate(calls):
            settle(ledgers[hash(call["invocation"]) % 2], call)
            if call_index % 40 == 0:
                await asyncio.gather(*(ledger.flush() for ledger in ledgers))
        await asyncio.gather(*(ledger.flush() for ledger in ledgers))
        for call in rng.sample(calls, 60):  # written twice, as by a recovery
            settle(ledgers[0], call)
        await ledgers[0].flush()
        assert await agrees(ledgers[0], calls, tenant) > 300
        for ledger, database in zip(ledgers, databases, strict=True):
            await asyncio.to_thread(database.close)
            ledger.close()

    asyncio.run(work())


def test_attempts_of_one_call_count_as_one_call(
    url: str,
):
    async def work() -> None:
        database = Database(url)
        ledger, tenant = Ledger(database), new_id("t")
        base = {
            "invocation": "x", "tenant": tenant, "api_key": "", "user": None, "asked": "openai/a", "tokens": 1,
            "price": 0, "first_chunk": None,
        }  # fmt: skip
        midnight = TEST_TIME // DAY * DAY
        for attempt, status, offset in (
            (1, "upstream_unavailable", -5),
            (2, "ok", 5),
            (3, "ok", 6),
        ):
            settle(
                ledger,
                base
                | {
                    "attempt": attempt,
                    "status": status,
                    "at": midnight + offset,
                    "model": "nimbus/c",
                },
            )
            await ledger.flush()
        rows = await ledger.sums.between(sought_by_tenant(tenant), 0, 1 << 40)
        assert [(row.model, row.calls, row.served, row.tokens) for row in rows] == [
            ("openai/a", 1, 1, 6)
        ]
        await asyncio.to_thread(database.close)

    asyncio.run(work())


async def exported(ledger: Ledger, tenant: str, until: float) -> int:
    """Return how many rows a tenant has."""
    return sum(
        [len(page) async for page in ledger.usage.export(tenant, since=0, until=until)]
    )


def sought_by_tenant(tenant: str) -> usage_sums.UsageQuery:
    return usage_sums.UsageQuery(tenant, "tenant")


def test_names_too_long_for_an_index_are_counted(url: str):
    async def work() -> None:
        database = Database(url)
        ledger, tenant = Ledger(database), new_id("t")
        names = ["ä" * 4000 + "1", "ä" * 4000 + "2"]
        for number, user in enumerate(names):
            base = {
                "tenant": tenant,
                "api_key": "",
                "asked": "openai/a",
                "model": "openai/a",
                "price": 0,
                "at": TEST_TIME,
            }
            for call_number in range(number + 1):
                settle(ledger, base | {
                    "invocation": new_id("x"), "attempt": 1, "user": user, "status": "ok", "first_chunk": 0.1,
                    "tokens": call_number,
                })  # fmt: skip
        await ledger.flush()
        assert database.trouble is None
        for number, user in enumerate(names):
            usage_rows = await ledger.sums.between(
                usage_sums.UsageQuery(tenant, "user", user), 0, 1 << 40
            )
            assert [row.calls for row in usage_rows] == [number + 1]
        await asyncio.to_thread(database.close)

    asyncio.run(work())


# ------------------------------------------------------ ledgers of the previous release


def old_database(url: str, calls: Sequence[dict[str, Any]]) -> None:
    """Create a database with these rows as the previous release did."""
    from modelyard.storage.database import open_engine
    from modelyard.storage.schema import split_statements

    engine = open_engine(url)
    connection = engine.connect()
    connection.execute(engine.begin())
    engine.lock_schema(connection)
    for number, text in migrations():
        if number < 10:
            for statement in split_statements(text):
                connection.execute(engine.translate(statement))
            engine.set_version(connection, number)
    for call in calls:
        provider, _, model = call["model"].partition("/")
        row = {
            "id": f"{call['invocation']}.{call['attempt']}", "invocation": call["invocation"], "attempt": call["attempt"],
            "tenant": call["tenant"], "api_key": call["api_key"], '"user"': call["user"], "created_at": call["at"],
            "day": int(call["at"] // DAY), "provider": provider, "model": model, "model_type": "llm",
            "credential": "main", "status": call["status"], "prompt_tokens": call["tokens"], "completion_tokens": 1,
            "characters": 0, "seconds": 0.0, "nanos": call["price"], "currency": "USD", "latency": 0.1,
            "first_chunk": call["first_chunk"],
        }  # fmt: skip
        placeholders = ", ".join("?" * len(row))
        connection.execute(
            f"INSERT INTO usage ({', '.join(row)}) VALUES ({placeholders})",
            list(row.values()),
        )
    connection.execute("COMMIT")
    connection.close()


def test_rows_older_than_the_sums_are_added_once(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(usage_sums, "_ROWS_OF_SPAN", 37)
    rng, tenant = Random(2), new_id("t")
    calls = some_calls(rng, tenant, 150, since=TEST_TIME - 70 * DAY, until=TEST_TIME)
    for call in calls:
        # Old rows do not record the requested model name.
        call["asked"] = call["model"]
        call["app"] = ""
    old_database(url, calls)

    async def work() -> None:
        databases = [Database(url), Database(url)]
        ledgers = [Ledger(database) for database in databases]
        monkeypatch.setattr(usage_sums, "_LINES_AT_ONCE", 11)
        new = some_calls(rng, tenant, 40, since=TEST_TIME - 70 * DAY, until=TEST_TIME)
        new.sort(key=lambda call: call["attempt"])
        await _settle_while_summing(ledgers, new)
        assert not ledgers[0].sums.is_complete
        # Rows that are not in the sums yet must not be deleted.
        await ledgers[0].usage.delete_before(TEST_TIME)
        assert await exported(ledgers[0], tenant, 1e12) == len(calls) + len(new)
        while any([await ledger.sums.sum_next_span(TEST_TIME) for ledger in ledgers]):
            pass
        await asyncio.gather(*(ledger.sums.reaches(tenant, 0) for ledger in ledgers))
        assert ledgers[0].sums.is_complete
        summed_tokens = await _summed_tokens(ledgers[1], tenant)
        for model in MODELS:
            assert summed_tokens[model] == _tokens_of(model, [*calls, *new])
        await ledgers[0].usage.delete_before(TEST_TIME)
        assert await exported(ledgers[0], tenant, TEST_TIME) == 0
        # The sums outlive the rows.
        assert await _summed_tokens(ledgers[1], tenant) == summed_tokens
        for database in databases:
            await asyncio.to_thread(database.close)

    asyncio.run(work())


async def _settle_while_summing(
    ledgers: Sequence[Ledger], calls: Sequence[dict[str, Any]]
) -> None:
    """Settle calls while two servers add old rows to the sums."""
    for turn, call in enumerate(calls):
        settle(ledgers[0], call)
        if turn % 25 == 0:
            await asyncio.gather(
                *(ledger.sums.sum_next_span(TEST_TIME) for ledger in ledgers)
            )
    await ledgers[0].flush()


async def _summed_tokens(ledger: Ledger, tenant: str) -> dict[str, int]:
    """Return the tokens in the sums, by model."""
    rows = await ledger.sums.between(sought_by_tenant(tenant), 0, 1 << 40)
    return {row.model: row.tokens for row in rows}


def _tokens_of(model: str, calls: Sequence[dict[str, Any]]) -> int:
    """Return the tokens of a model's calls that did not come from the cache."""
    return sum(
        call["tokens"] + 1
        for call in calls
        if call["asked"] == model and call["status"] != "cached"
    )


def test_summing_continues_after_a_killed_process(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(usage_sums, "_LINES_AT_ONCE", 7)
    tenant = new_id("t")
    calls = some_calls(
        Random(5), tenant, 80, since=TEST_TIME - 70 * DAY, until=TEST_TIME
    )
    for call in calls:
        call["asked"] = call["model"] = "openai/a"
        call["app"] = ""
    old_database(url, calls)

    async def work() -> None:
        database = Database(url)
        killed, other_ledger = Ledger(database), Ledger(database)
        slices, original_put = [0], killed.sums._put

        def dies(connection: Connection, lines: Any) -> None:
            slices[0] += 1
            if slices[0] == 4:
                raise RuntimeError
            original_put(connection, lines)

        monkeypatch.setattr(killed.sums, "_put", dies)
        with suppress(Exception):
            await killed.sums.sum_next_span(TEST_TIME)
        # The first process may still be summing.
        assert not await other_ledger.sums.sum_next_span(TEST_TIME + 1)
        await database.transact(
            lambda connection: other_ledger.sums.release(connection, killed.owner)
        )
        while await other_ledger.sums.sum_next_span(TEST_TIME + 2):
            pass
        assert await agrees(other_ledger, calls, tenant) > 300
        await asyncio.to_thread(database.close)

    asyncio.run(work())


def test_old_rows_are_summed_like_new_ones(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(usage_sums, "_ROWS_OF_SPAN", 50)
    tenant = new_id("t")
    calls = some_calls(
        Random(3), tenant, 120, since=TEST_TIME - 70 * DAY, until=TEST_TIME
    )
    # One model per call: the previous release counted a call with several models for
    # each of them.
    for call in calls:
        call["asked"] = call["model"] = "openai/a"
        call["app"] = ""
    old_database(url, calls)

    async def work() -> None:
        database = Database(url)
        ledger = Ledger(database)
        while await ledger.sums.sum_next_span(TEST_TIME):
            pass
        assert await agrees(ledger, calls, tenant) > 300
        await asyncio.to_thread(database.close)

    asyncio.run(work())


def test_a_call_sums_what_it_needs_first_within_a_time_limit(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(usage_sums, "_ROWS_OF_SPAN", 20)
    clock = FakeClock(TEST_TIME)
    calls = [
        call
        for tenant in ("aaa", "mine")
        for call in some_calls(
            Random(4), tenant, 60, since=TEST_TIME - 60 * DAY, until=TEST_TIME
        )
    ]
    old_database(url, calls)

    async def work() -> None:
        database = Database(url)
        ledger, counters = Ledger(database, tmp_path / "ledger"), MemoryCounters(clock)
        seeds = CounterInitialiser(
            counters, ledger, clock, Recovery(ledger, counters).wait_until_recovered
        )
        limit = Limit(unit="tokens", amount=1e6, window="month", per="user")
        subject = Subject("mine", "", "ada", "openai/a")
        started = started_counter(limit, subject)
        await seeds.start(subject, [started])
        level = (await counters.levels([started.charge.name]))[started.charge.name]
        assert level == level_by_rows(
            [call | {"asked": call["model"]} for call in calls],
            limit,
            subject,
            TEST_TIME,
        )
        left = {
            row["tenant"]
            for row in await database.fetch("SELECT tenant FROM usage_unsummed")
        }
        # Only the month that was needed, and only the tenant's own.
        assert left == {
            "aaa",
            "mine",
        }

        async def never_finishes(*_: object) -> bool:
            clock.advance(20)
            return True

        monkeypatch.setattr(ledger.sums, "sum_next_span", never_finishes)
        other_subject = Subject("aaa", "", "ada", "openai/a")
        with pytest.raises(LedgerUnavailableError, match="being summed"):
            await seeds.start(other_subject, [started_counter(limit, other_subject)])
        await asyncio.to_thread(database.close)
        ledger.close()

    asyncio.run(work())


def started_counter(limit: Limit, subject: Subject) -> CounterStart:
    (applicable_limit,) = applicable_limits([("l", "l", limit)], subject)
    return CounterStart(
        applicable_limit,
        charge(applicable_limit, subject, Estimate(0, 0), TEST_TIME),
        TEST_TIME,
    )


# --------------------------------------------------------------------- initialised once


def test_a_counter_is_started_once_for_all_who_wait_and_after_what_the_dead_left(
    url: str, tmp_path: Path
):
    async def work() -> None:
        clock, tenant = FakeClock(TEST_TIME), new_id("t")
        database = Database(url)
        dead = Ledger(Database(url), tmp_path / "ledger")
        invocation = Invocation(
            tenant=tenant,
            provider="openai",
            model="a",
            model_type=ModelType.LLM,
            request=None,
        )
        dead.begin(invocation, attempt=1, created_at=TEST_TIME, prompt_tokens=11)
        _abandon(dead)
        ledger, counters = Ledger(database, tmp_path / "ledger"), MemoryCounters(clock)
        seeds, looked_up_names = (
            CounterInitialiser(
                counters, ledger, clock, Recovery(ledger, counters).wait_until_recovered
            ),
            list[str](),
        )
        original_between = ledger.sums.between

        async def counting_between(sought: Any, first: int, last: int) -> Any:
            looked_up_names.append(sought.name)
            return await original_between(sought, first, last)

        ledger.sums.between = counting_between  # type: ignore[method-assign]
        subject = Subject(tenant, "", "", "openai/a")
        started = started_counter(
            Limit(unit="tokens", amount=100, window="month"), subject
        )
        waiting = [
            asyncio.create_task(seeds.start(subject, [started])) for _ in range(64)
        ]
        await asyncio.sleep(0)
        waiting[0].cancel()  # the first waiting call is cancelled
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [
            result
            for result in results
            if result is not None and not isinstance(result, asyncio.CancelledError)
        ] == []
        assert len(looked_up_names) == 1
        assert await counters.levels([started.charge.name]) == {
            started.charge.name: 11.0
        }
        await asyncio.to_thread(database.close)
        ledger.close()

    asyncio.run(work())


def _abandon(ledger: Ledger) -> None:
    """Simulate a killed process: its files stay, and the lock on them is released."""
    import os

    journal: Any = ledger._journal
    os.close(journal._owner)
    ledger._database.close()


def test_a_failed_initialisation_fails_all_waiting_calls_and_is_retried(
    tmp_path: Path,
):
    async def work() -> None:
        clock, database = FakeClock(TEST_TIME), Database(tmp_path / "x.db")
        ledger, counters = Ledger(database), MemoryCounters(clock)
        fails = [True]

        async def recovered() -> None:
            if fails[0]:
                raise LedgerUnavailableError("the disk is full")

        seeds, subject = (
            CounterInitialiser(counters, ledger, clock, recovered),
            Subject("t", "", "", "openai/a"),
        )
        started = started_counter(
            Limit(unit="tokens", amount=100, window="month"), subject
        )
        results = await asyncio.gather(
            *(seeds.start(subject, [started]) for _ in range(5)), return_exceptions=True
        )
        assert [type(result) for result in results] == [LedgerUnavailableError] * 5
        fails[0] = False
        await seeds.start(subject, [started])
        assert await counters.levels([started.charge.name]) == {
            started.charge.name: 0.0
        }
        await asyncio.to_thread(database.close)

    asyncio.run(work())


def test_reservations_of_a_dead_process_are_settled_by_its_rows(
    url: str, tmp_path: Path
):
    """Three calls of a dead process.

    One whose row was written but whose counter is not settled, one in progress, and one
    that was never made.
    """

    async def work() -> None:
        clock, tenant = FakeClock(TEST_TIME), new_id("t")
        dead_database, live_database = Database(url), Database(url)
        dead = Ledger(dead_database, tmp_path / "ledger")
        dead_counters = DatabaseCounters(dead_database, clock, owner=dead.owner)
        name = new_id("counter")
        await dead_counters.seed(
            {name: 0.0},
            [(token_charge := Charge(name, 50, 50, 1000, 0.0, 1e6, "tokens"))],
        )
        finished_call, half, unmade_call = (
            Invocation(
                tenant=tenant,
                provider="openai",
                model="a",
                model_type=ModelType.LLM,
                request=None,
            )
            for _ in range(3)
        )
        for call in (finished_call, half, unmade_call):
            assert await dead_counters.reserve(call.id, [token_charge]) is None
        opened = dead.begin(finished_call, attempt=1, created_at=TEST_TIME)
        dead.settle(
            opened, status="ok", usage=LLMUsage.of(3, 4), counted_by="provider", price_version="", latency=0.1,
            first_chunk=0.1,
        )  # fmt: skip
        dead.progress(
            dead.begin(half, attempt=1, created_at=TEST_TIME, prompt_tokens=5), 8
        )
        await dead.flush()
        assert await dead_counters.levels([name]) == {name: 150.0}
        _abandon(dead)
        ledger = Ledger(live_database, tmp_path / "ledger")
        counters = DatabaseCounters(live_database, clock, owner=ledger.owner)
        await Recovery(ledger, counters).run()
        assert await counters.levels([name]) == {name: 3 + 4 + 5 + 8}
        assert await counters.reservations_of(dead.owner) == []
        assert not list((tmp_path / "ledger").glob(f"{dead.owner}*"))
        await asyncio.to_thread(live_database.close)
        ledger.close()

    asyncio.run(work())


# ------------------------------------------------------------------------------ indexes


def test_statements_of_admission_use_indexes(tmp_path: Path):
    """Property over the statements of admission and startup: each uses an index."""
    database = Database(tmp_path / "x.db")
    used = statements("usage_sums")["used"]
    checked_statements = [
        used.replace("{group}", "model").replace("{bucket}", "MAX(bucket)"),
        used.replace("{group}", "model, bucket").replace("{bucket}", "bucket"),
        statements("usage_sums")["chunk"],
        statements("usage_sums")["oldest"],
        statements("usage")["oldest"],
        statements("usage")["of_call"].replace("{places}", ":name, :other"),
        statements("counters")["held_by"],
    ]
    names = (
        "tenant scope apps name other span first last api_key until most before owner"
    )
    values = dict.fromkeys(names.split(), "1")
    for statement in checked_statements:
        plan = [
            row["detail"]
            for row in database.read(f"EXPLAIN QUERY PLAN {statement}", values)
        ]
        assert not [
            plan_step
            for plan_step in plan
            if plan_step.startswith(("SCAN usage", "SCAN reservations"))
        ], plan
        assert any("SEARCH" in plan_step for plan_step in plan), plan
    (search,) = [
        row["detail"]
        for row in database.read(f"EXPLAIN QUERY PLAN {checked_statements[0]}", values)
        if row["detail"].startswith("SEARCH")
    ]
    assert (
        "tenant=? AND scope=? AND name=? AND span=? AND bucket>? AND bucket<?" in search
    )
    database.close()


def test_short_windows_start_from_ten_second_buckets(url: str):
    async def work() -> None:
        database = Database(url)
        ledger, tenant = Ledger(database), new_id("t")
        base = {
            "tenant": tenant, "api_key": "", "user": "ada", "asked": "openai/a", "model": "openai/a", "price": 0,
            "attempt": 1, "status": "ok", "first_chunk": 0.1,
        }  # fmt: skip
        for ago, tokens in ((7300, 999), (100, 29), (30, 39), (5, 9)):
            settle(
                ledger,
                base
                | {"invocation": new_id("x"), "tokens": tokens, "at": TEST_TIME - ago},
            )
        await ledger.flush()
        subject = Subject(tenant, "", "ada", "openai/a")
        for window, min_level, max_level in (("minute", 9, 40), ("hour", 78, 80)):
            applicable_limit = started_counter(
                Limit(unit="tokens", amount=60, window=window), subject
            ).applied
            used = await ledger.sums.moments(
                usage_query(applicable_limit, subject), TEST_TIME - 7200, TEST_TIME
            )
            assert (
                min_level
                <= initial_level(applicable_limit, used, TEST_TIME)
                <= max_level
            )
        await ledger.sums.forget_moments(TEST_TIME + 2 * 3600)
        left = await ledger.sums.moments(sought_by_tenant(tenant), 0, TEST_TIME)
        # Entries older than three hours are gone.
        assert sum(row.tokens for row in left) == 30 + 40 + 10
        await asyncio.to_thread(database.close)

    asyncio.run(work())


def test_long_reads_do_not_block_short_ones(tmp_path: Path):
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :most) SELECT max(i) FROM n"

    async def work() -> None:
        database = Database(tmp_path / "x.db")
        long_reads = [
            asyncio.create_task(
                database.fetch(endless, {"most": 3_000_000}, is_long=True)
            )
            for _ in range(4)
        ]
        await asyncio.sleep(0.01)
        for _ in range(20):
            assert (await database.fetch("SELECT 1 AS x"))[0]["x"] == 1
        assert not any(task.done() for task in long_reads)
        await asyncio.gather(*long_reads)
        await asyncio.to_thread(database.close)

    asyncio.run(work())


# ------------------------------------------------------------------------ a real server


_LIMIT, _FIRST = 40, 12


@pytest.mark.parametrize(
    "settings", [{}, {"shared": "database"}], ids=["memory", "database"]
)
def test_limits_go_on_to_the_unit_after_kill_9(
    tmp_path: Path, settings: dict[str, Any]
):
    with TruthfulUpstream(events=200, gap=0.02) as upstream:
        limits = {"month": {"unit": "requests", "amount": _LIMIT, "window": "month"}}
        environ = home_with(tmp_path, upstream.url, limits=limits, **settings)
        with server_forker(environ) as servers:
            from tools.show.proof import free_port

            port = free_port()
            server = servers.start("serve", "--port", str(port))
            assert wait_until_healthy(port)

            async def first() -> None:
                # Blocking calls, and streams during which the server is killed.
                assert await requested_statuses(port, _FIRST) == [200] * _FIRST
                served_before = len(upstream.served)
                open_ = [
                    asyncio.create_task(ask(port, f"s{number}", stream=True))
                    for number in range(5)
                ]
                await asyncio.to_thread(until_served, upstream, served_before + 5)
                await asyncio.to_thread(kill, server)
                await asyncio.gather(*open_, return_exceptions=True)

            asyncio.run(first())
            server = servers.start("serve", "--port", str(port))
            assert wait_until_healthy(port)
            statuses = asyncio.run(requested_statuses(port, 64))
            assert set(statuses) == {200, 429}
            assert statuses.count(200) == _LIMIT - _FIRST - 5
            assert len(upstream.served) == _LIMIT
            kill(server, 15)


def until_served(upstream: TruthfulUpstream, count: int) -> None:
    while len(upstream.served) < count:
        time.sleep(0.01)


async def requested_statuses(port: int, count: int) -> list[int]:
    return await asyncio.gather(*(ask(port, f"u{number}") for number in range(count)))


async def ask(port: int, user: str, *, stream: bool = False) -> int:
    import msgspec

    client = HttpClient(keep_idle=0)
    body = {
        "model": "openai/gpt-5-mini",
        "user": user,
        "stream": stream,
        "messages": [{"role": "user", "content": "hi"}],
    }
    with suppress(InvokeError):
        response = await client.send(
            "POST", f"http://127.0.0.1:{port}/v1/chat/completions", headers={"content-type": "application/json"},
            body=[msgspec.json.encode(body)], timeouts=Timeouts(connect=20, first_byte=60, between_bytes=60),
        )  # fmt: skip
        with suppress(InvokeError):
            await response.read(max_bytes=1 << 20)
        await client.aclose()
        return response.status
    await client.aclose()
    return 0
