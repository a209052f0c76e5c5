"""Short versions of the demonstrations of `make show`, for every change."""

import asyncio
import os
from pathlib import Path

import pytest
from tools.show import budget_race, dead_credential, stream_cut, tenancy
from tools.show.ledger_kill import killed_database, killed_servers
from tools.show.proof import Proof

_KILLS = int(os.environ.get("MODELYARD_KILLS", "200"))


def holds(proof: Proof) -> None:
    assert proof.ok, "\n".join(proof.table())


@pytest.mark.timeout(600)
def test_no_row_is_lost_when_the_server_is_killed(tmp_path: Path):
    report, _ = killed_servers(_KILLS, tmp_path)
    assert (report.lost, report.doubled, report.wrong) == (0, 0, 0)
    assert report.requests > _KILLS
    # Only requests that reached the process are counted: the kernel's buffers are
    # unknown.
    assert report.difference < 0.02


@pytest.mark.timeout(300)
def test_no_row_is_lost_when_postgresql_is_killed(tmp_path: Path):
    report = killed_database(2, tmp_path)
    assert (report.lost, report.doubled, report.wrong) == (0, 0, 0)


def test_an_interrupted_stream_leaves_one_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream_cut, "_STREAMS", 100)
    # The full demonstration measures the speed; this test only requires success.
    monkeypatch.setattr(stream_cut, "_MAX_SECONDS_TO_CLOSE", 10.0)
    holds(stream_cut.prove())


def test_callers_do_not_notice_a_dead_credential(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dead_credential, "_CALLS", 600)
    holds(dead_credential.prove())


@pytest.mark.timeout(300)
def test_concurrent_callers_do_not_overspend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(budget_race, "_CALLS", 100)
    report, spent = budget_race.run_race(tmp_path, shared="database")
    assert report.other == []
    assert spent <= 100 * budget_race._COST + budget_race._ESTIMATE


def test_no_tenant_sees_others_data_and_no_secret_is_shown():
    proof = asyncio.run(tenancy._prove())
    holds(proof)
