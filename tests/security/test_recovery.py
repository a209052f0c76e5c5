"""Tests for recovery after a killed process.

Every good record is in the ledger once, whatever is wrong with the others.
"""

import asyncio
import base64
import json
import random
import struct
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from modelyard.cli.doctor import doctor
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.usage_row import Intent, Priced
from modelyard.storage.database import Database
from modelyard.storage.journal import Journal
from modelyard.storage.usage_sums import UsageQuery
from tests.contract.conftest import postgres_url  # noqa: F401
from tests.gateway.conftest import start_gateway  # noqa: F401
from tests.gateway.test_traffic import ask


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    where = str(tmp_path / "x.db")
    if request.param != "sqlite":
        where = request.getfixturevalue("postgres_url")
    opened = Database(where)
    yield opened
    opened.close()


def _intent(tenant: str, number: int, **changes: Any) -> Intent:
    values: dict[str, Any] = {
        "invocation": f"call_{tenant}_{number}", "attempt": 1, "tenant": tenant, "api_key": "", "user": None,
        "created_at": 1_700_000_000.0 + number, "provider": "p", "model": "m", "model_type": "llm", "credential": "c",
        "credential_id": "default/p/1", "prompt_tokens": 10, **changes,
    }  # fmt: skip
    return Intent(**values)


def _opened(intent: Intent) -> bytes:
    return msgspec.json.encode(("o", -1, 0, intent))


def _write_orphaned_journal(folder: Path, records: Sequence[bytes]) -> Path:
    """Write a journal as a killed process leaves it; return its file."""
    journal = Journal(folder, segment_bytes=1 << 16)
    for record in records:
        journal.append(record)
    (path,) = folder.glob(f"{journal.name}.*.journal")
    journal.close()
    return path


def _price(intent: Intent, tokens: int) -> Priced:
    if intent.model == "broken":
        raise ArithmeticError("a price that is none")
    if intent.model_type != "llm":
        raise ValueError(f"{intent.model_type!r} is no model type")
    return Priced(Decimal("0.5"), "USD", "test", "")


def _recovered(database: Database, folder: Path, tenant: str) -> dict[str, Any]:
    ledger = Ledger(database, folder, price=_price)
    asyncio.run(ledger.recover())
    ledger.close()
    rows = asyncio.run(ledger.usage.recent(tenant, limit=1000))
    assert len({row.id for row in rows}) == len(rows)
    return {row.id: row for row in rows}


def test_an_unpriceable_or_unreadable_row_does_not_block_others(
    database: Database, tmp_path: Path
):
    tenant = tmp_path.name.replace("_", "-")[:30]
    settled = json.loads(msgspec.json.encode(_settled_row(tenant, 6)))
    invalid_records = [
        b"not a record", b'["o",1]', b'["s",["too","short"]]', b'["x",{}]', b'["o","a","b",["c"]]',
        _opened(_intent(tenant, 90, created_at=1e300)),
        _opened(_intent(tenant, 91, prompt_tokens=10**30)),
        msgspec.json.encode(("s", [*settled[:15], "many", *settled[16:]])),
        msgspec.json.encode(("s", [f"call_{tenant}_92.1", *settled[1:15], 10**30, *settled[16:]])),
    ]  # fmt: skip
    valid_records = [
        _opened(_intent(tenant, 1)),
        _opened(_intent(tenant, 2, model="broken")),
        _opened(_intent(tenant, 3, model_type="telepathy")),
        _opened(_intent(tenant, 4)),
        msgspec.json.encode(("s", settled)),
    ]
    records = [
        record
        for pair in zip(invalid_records, [*valid_records, *valid_records], strict=False)
        for record in pair
    ]
    folder = tmp_path / "ledger"
    _write_orphaned_journal(folder, records)
    rows = _recovered(database, folder, tenant)
    assert rows.keys() == {f"call_{tenant}_{number}.1" for number in (1, 2, 3, 4, 6)}
    assert [rows[f"call_{tenant}_{n}.1"].total_price for n in (1, 2, 3, 4)] == [
        Decimal("0.5"), None, None, Decimal("0.5"),
    ]  # fmt: skip
    ledger = Ledger(database, folder, price=_price)
    assert ledger.count_rejected() == len(invalid_records)
    assert asyncio.run(ledger.recover())  # no record fails again
    ledger.close()
    (rejected_file,) = (folder / "rejected").glob("*.jsonl")
    lines = [json.loads(line) for line in rejected_file.read_text().splitlines()]
    assert all(line["reason"] for line in lines)
    assert b"not a record" in [
        base64.b64decode(line["record"]).lstrip(b"\x0c\0") for line in lines
    ]
    assert (
        rejected_file.stat().st_mode & 0o777,
        rejected_file.parent.stat().st_mode & 0o777,
    ) == (0o600, 0o700)


def _settled_row(tenant: str, number: int) -> list[Any]:
    return [
        f"call_{tenant}_{number}.1", f"call_{tenant}_{number}", 1, tenant, "", None, 1_700_000_000.0, 19675, "p", "m",
        "llm", "c", "default/p/1", "ok", "provider", 10, 5, 0, 0, 0, 0, 0.0, 0, "0.5", 500_000_000, "USD", "test", "",
        1.0, 0.5,
    ]  # fmt: skip


def test_records_of_earlier_versions_are_recovered_with_app_usage(
    database: Database, tmp_path: Path
):
    """Without the requested model, with it, and with the app; settled and opened."""
    tenant = tmp_path.name.replace("_", "-")[:30]
    settled = [
        json.loads(msgspec.json.encode(_settled_row(tenant, number)))
        for number in range(3)
    ]
    opened = [
        list(msgspec.to_builtins(_intent(tenant, number))) for number in (3, 4, 5)
    ]
    records = [("s", settled[0]), ("s", [*settled[1], "p/x"]), ("s", [*settled[2], "p/x", "app:1"]),
               ("o", -1, 0, opened[0][:12]), ("o", -1, 0, [*opened[1][:12], "p/x"]),
               ("o", -1, 0, [*opened[2][:12], "p/x", "app:1"])]  # fmt: skip
    _write_orphaned_journal(
        tmp_path / "ledger", [msgspec.json.encode(record) for record in records]
    )
    assert len(_recovered(database, tmp_path / "ledger", tenant)) == 6
    statement = "SELECT asked, app FROM usage WHERE tenant = :tenant ORDER BY id"
    rows = [
        (row["asked"], row["app"])
        for row in database.read(statement, {"tenant": tenant})
    ]
    assert rows == [("p/m", ""), ("p/x", ""), ("p/x", "app:1")] * 2
    sums = Ledger(database).sums
    used = asyncio.run(
        sums.between(UsageQuery(tenant, "key", "app:1", is_apps=True), 0, 1 << 40)
    )
    assert [(usage.model, usage.calls) for usage in used] == [("p/x", 2)]


@pytest.mark.parametrize("seed", range(12))
def test_good_records_are_recovered_once_despite_damaged_ones(
    tmp_path: Path, seed: int
):
    """Property: it holds whichever bytes of the records are damaged, even lengths."""
    rng = random.Random(seed)
    count = 40
    path = _write_orphaned_journal(
        tmp_path / "ledger", [_opened(_intent("t", number)) for number in range(count)]
    )
    data = bytearray(path.read_bytes())
    record_spans: list[tuple[int, int]] = []
    offset = 0
    while length := struct.unpack_from("<I", data, offset)[0]:
        record_spans.append((offset, length))
        offset += 4 + length
    broken = set(rng.sample(range(count), rng.randint(1, count - 1)))
    for number in broken:
        start, length = record_spans[number]
        match rng.choice(["length", "beginning", "middle", "all"]):
            case "length":
                struct.pack_into(
                    "<I",
                    data,
                    start,
                    rng.choice([1, length * 7 + 3, 0x7FFF_FFFF, 0xFFFF_FFFF]),
                )
            case "beginning":
                data[start + 4 : start + 8] = b"\xff\xff\xff\xff"
            case "middle":
                data[start + 4 + length // 2] = 0
            case _:
                data[start : start + 4 + length] = bytes(
                    rng.randrange(1, 256) for _ in range(4 + length)
                )
    path.write_bytes(data)
    database = Database(tmp_path / "x.db")
    rows = _recovered(database, tmp_path / "ledger", "t")
    rows_again = _recovered(database, tmp_path / "ledger", "t")
    database.close()
    intact_ids = {
        f"call_t_{number}.1" for number in range(count) if number not in broken
    }
    assert intact_ids <= rows.keys()
    assert rows_again.keys() == rows.keys()
    assert rows.keys() <= {f"call_t_{number}.1" for number in range(count)}


def test_an_unreadable_journal_does_not_block_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "ledger"
    first = _write_orphaned_journal(folder, [_opened(_intent("t", 1))])
    _write_orphaned_journal(folder, [_opened(_intent("t", 2))])
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path == first:
            raise OSError(5, "Input/output error")
        return real(path)

    database = Database(tmp_path / "x.db")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", read_bytes)
        assert _recovered(database, folder, "t").keys() == {"call_t_2.1"}
    # The unreadable journal waits, and nothing is lost.
    assert _recovered(database, folder, "t").keys() == {
        "call_t_1.1",
        "call_t_2.1",
    }
    database.close()


def test_rejected_records_are_reported(start_gateway: Any, tmp_path: Path):  # noqa: F811
    """By the doctor and, for the operator, /admin/v1/about; /health shows nothing."""
    home = tmp_path / "home"
    _write_orphaned_journal(
        home / "ledger", [_opened(_intent("t", 1)), b"torn", _opened(_intent("t", 2))]
    )
    running = start_gateway(home=str(home))
    until = time.monotonic() + 20
    while not (server_info := ask(running, "GET", "/admin/v1/about").json)[
        "rejected_records"
    ]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert server_info["rejected_records"] == 1
    assert "torn" not in json.dumps(server_info)
    assert ask(running, "GET", "/health").json.keys() == {
        "status",
        "version",
        "sandbox",
    }
    viewer = ask(
        running, "POST", "/admin/v1/keys", {"name": "look", "role": "viewer"}
    ).json["key"]
    assert (
        ask(running, "GET", "/admin/v1/about", key=viewer).json["rejected_records"]
        is None
    )
    environ = {"MODELYARD_HOME": str(home), "MODELYARD_LOCAL__ENABLED": "false"}
    result = CliRunner().invoke(doctor, ["--json"], env=environ, standalone_mode=False)
    finding = next(
        doctor_check
        for doctor_check in json.loads(result.stdout)
        if doctor_check["what"] == "ledger"
    )
    assert (finding["ok"], "rejected" in finding["remedy"]) == (False, True)
