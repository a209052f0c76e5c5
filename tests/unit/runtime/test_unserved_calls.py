"""Calls without an attempt: rows up to a limit, exact counts beyond it."""

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.base.log import redaction
from modelyard.runtime.unserved_calls import (
    NO_TENANT,
    RecordCaps,
    UnservedCall,
    UnservedCalls,
    outcome_of,
    unserved_from,
)
from modelyard.storage.database import Database
from modelyard.testing import FakeClock

CAPS = RecordCaps(
    alike_a_minute=3,
    tenant_a_minute=5,
    tenant_a_day=8,
    strangers_a_minute=2,
    strangers_a_day=3,
    groups_of_tenant=4,
)


def unserved(number: int, **fields: Any) -> UnservedCall:
    """Return a call."""
    given: dict[str, Any] = {"tenant": "t", "status": 429, "code": "limit_exceeded"}
    return UnservedCall(id=f"req_{number}", **{**given, **fields})


def rows_of(database: Database) -> list[UnservedCall]:
    """Return all rows, the oldest first."""
    database.flush().result(30)
    return unserved_from(
        database.read("SELECT * FROM unserved_calls ORDER BY created_at, id")
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", NO_TENANT]),
            st.sampled_from(["k1", "k2"]),
            st.sampled_from(["x", "y", "z"]),
            st.sampled_from([0, 0, 0, 25, 70]),
        ),
        max_size=60,
    )
)
@settings(max_examples=30, deadline=None)
def test_calls_are_counted_exactly_whatever_has_a_row(
    calls: list[tuple[str, str, str, int]],
):
    """The sums by tenant are the calls that were added; rows stay within the caps."""
    database, clock = Database(":memory:"), FakeClock()
    recorder = UnservedCalls(database, clock, CAPS)
    for number, (tenant, key, code, seconds) in enumerate(calls):
        recorder.add(unserved(number, tenant=tenant, api_key=key, code=code))
        clock.advance(seconds)
    rows = rows_of(database)
    database.close()
    counted = Counter[str]()
    for row in rows:
        counted[row.tenant] += row.calls
    assert counted == Counter(call[0] for call in calls)
    own = Counter(row.tenant for row in rows if not row.is_counting)
    assert max(own["a"], own["b"]) <= CAPS.tenant_a_day
    assert own[NO_TENANT] <= CAPS.strangers_a_day
    counting = Counter((row.tenant, row.created_at) for row in rows if row.is_counting)
    # Beyond that many groups in a minute, calls are told apart by their status alone.
    assert max(counting.values(), default=0) <= CAPS.groups_of_tenant + 1


def test_a_flood_writes_one_row_a_minute_however_long_it_lasts():
    database, clock = Database(":memory:"), FakeClock()
    recorder = UnservedCalls(database, clock, CAPS)
    for number in range(1_000):
        recorder.add(unserved(number))
        if number % 100 == 0:
            database.flush().result(30)
    rows = rows_of(database)
    database.close()
    assert [row.calls for row in rows if row.is_counting] == [997]
    assert sum(row.calls for row in rows) == 1_000


def test_secrets_and_what_databases_refuse_are_not_stored():
    database = Database(":memory:")
    recorder = UnservedCalls(database, FakeClock(), CAPS)
    redaction.add(["sk-canary-4711"])
    text = "key sk-canary-4711 \0 \ud800 " + "x" * 1_000
    recorder.add(unserved(1, message=text, asked="m\0" * 500))
    (row,) = rows_of(database)
    database.close()
    assert "sk-canary" not in row.message
    assert "\0" not in row.message + row.asked
    assert len(row.message) <= 300
    assert len(row.asked) <= 200


def test_old_rows_are_deleted_and_those_of_strangers_sooner():
    database, clock = Database(":memory:"), FakeClock()
    recorder = UnservedCalls(database, clock, CAPS)
    for number, tenant in enumerate(("t", NO_TENANT)):
        recorder.add(unserved(number, tenant=tenant))
    clock.advance(100)
    recorder.add(unserved(9))
    database.flush().result(30)

    def delete(**options: Any) -> list[str]:
        """Delete what is older than 50 s; return what is left."""
        asyncio.run(recorder.delete_before(clock.time() - 50, **options))
        return [row.id for row in rows_of(database)]

    assert delete(of_strangers=True) == ["req_0", "req_9"]
    assert delete() == ["req_9"]
    database.close()


def test_what_waits_for_the_database_is_bounded(tmp_path: Path):
    """While another process holds the database, further calls are counted."""
    path = tmp_path / "m.db"
    database = Database(path)
    caps = CAPS._replace(alike_a_minute=100, tenant_a_minute=100, tenant_a_day=100)
    recorder = UnservedCalls(database, FakeClock(), caps._replace(unsaved=2))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    for number in range(20):
        recorder.add(unserved(number))
    blocker.execute("ROLLBACK")
    blocker.close()
    rows = rows_of(database)
    database.close()
    assert sum(row.calls for row in rows) == 20
    assert len(rows) < 20


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (401, "refused"),
        (429, "refused"),
        (503, "refused"),
        (499, "cancelled"),
        (500, "failed"),
        (504, "failed"),
    ],
)
def test_the_status_tells_how_a_call_ended(status: int, outcome: str):
    assert outcome_of(status) == outcome
