"""Engines that are missing, away, or not wanted: each says so, and nothing is lost."""

import asyncio
import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tools.show.carriers import prove_engine
from tools.show.proof import Proof, free_port
from tools.show.servers import Temporal

from modelyard.app import Modelyard
from modelyard.app.carriers import carrier_problem
from modelyard.app.readiness import Readiness
from modelyard.base.errors import ConfigError
from modelyard.base.settings import (
    DbosSettings,
    LocalSettings,
    Settings,
    TemporalSettings,
    WorkflowSettings,
)
from modelyard.cli import run as run_command
from modelyard.workflow.engine import Status
from tests.contract.test_carried_runs import asking

pytestmark = pytest.mark.proof("carriers")


def settings_of(folder: Path, **workflows: Any) -> Settings:
    return Settings(
        home=str(folder),
        workflows=WorkflowSettings(**workflows),
        local=LocalSettings(enabled=False),
    )


@pytest.mark.parametrize(
    ("workflows", "message"),
    [
        ({"carrier": "dbos"}, "needs PostgreSQL: set database"),
        ({"execute": False}, "nobody else could execute runs"),
    ],
)
def test_a_carrier_that_cannot_work_is_refused_at_the_start(
    tmp_path: Path, workflows: Any, message: str
):
    settings = settings_of(tmp_path, **workflows)
    assert message in carrier_problem(settings)
    with pytest.raises(ConfigError, match=message):
        Modelyard(settings, environ={})


@pytest.mark.parametrize("carrier", ["dbos", "temporal"])
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, carrier: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    problem = carrier_problem(settings_of(tmp_path, carrier=carrier))
    assert f"pip install 'modelyard[{carrier}]'" in problem


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TemporalSettings(address="temporal"), "must be HOST:PORT"),
        (lambda: TemporalSettings(address="http://a:1"), "must be HOST:PORT"),
        (lambda: TemporalSettings(api_key="x"), "needs an encrypted connection"),
        (lambda: DbosSettings(database="x.db"), "must be postgresql://"),
    ],
)
def test_settings_that_no_engine_could_use_are_refused(build: Any, message: str):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_worker_that_would_get_no_runs_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path))
    assert run_command(["worker"]) == 1
    assert "a worker would get none" in capsys.readouterr().err


def test_the_doctor_says_that_the_engine_is_away(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path))
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "local": {"enabled": False},
        "workflows": {"carrier": "temporal", "temporal": {"address": address}},
    }
    (tmp_path / "modelyard.yaml").write_text(json.dumps(settings))
    assert run_command(["doctor", "--json"]) == 1
    report = capsys.readouterr().out
    assert f"Temporal cannot be reached at {address}: Connection refused" in report


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Temporal]:
    """A Temporal server that has not been started yet."""
    not_started = Temporal(tmp_path / "temporal")
    (tmp_path / "temporal").mkdir()
    yield not_started
    not_started.__exit__()


def _readiness(yard: Modelyard) -> Readiness:
    services = yard.services
    return Readiness(
        services.settings,
        services.storage,
        services.calls.ledger,
        services.upkeep,
        services.shared_settings,
        lambda: False,
        services.workflows.runs,
    )


async def _until(is_true: Callable[[], bool]) -> None:
    """Wait until something holds that the engine's state is told by."""
    for _ in range(1_800):
        if is_true():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never became true")


def test_runs_are_accepted_and_wait_while_the_engine_is_away(
    tmp_path: Path, server: Temporal
):
    async def work() -> None:
        settings = settings_of(
            tmp_path / "home",
            carrier="temporal",
            temporal=TemporalSettings(address=server.address),
        )
        async with Modelyard(settings, environ={}) as yard:
            yard.services.upkeep.start()
            app_record, app, _ = await yard.apps.add("default", asking("waiting"))
            chats = yard.services.workflows.chats
            runs = [
                await chats.run(app_record, app, inputs={}, user="u") for _ in range(3)
            ]
            # Balancers go on sending calls of models.
            await _until(lambda: _readiness(yard).problem() is not None)
            problem = _readiness(yard).problem()
            assert problem is not None
            assert problem.takes_calls
            assert server.address in problem.text
            # To stop or pause a run that waits, no engine is needed.
            assert await yard.runs.stop("default", runs[0].id)
            assert await yard.runs.pause("default", runs[1].id)
            found = [await yard.runs.find("default", run.id) for run in runs]
            assert [run.status for run in found] == [
                Status.STOPPED, Status.PAUSED, Status.RUNNING,
            ]  # fmt: skip
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(90):
                waiting = await yard.runs.wait_until_ended("default", runs[2].id)
                assert (waiting.status, bool(waiting.reasons)) == (Status.PAUSED, True)
                # The pause that was asked for is an event of the past.
                last = await yard.runs.journal.last_event_number(runs[1])
                assert await yard.runs.resume("default", runs[1].id)
                async with aclosing(
                    yard.runs.watch("default", runs[1].id, after=last)
                ) as events:
                    names = [type(event).__name__ async for _, event in events]
                assert (names[0], names[-1]) == ("GraphRunStarted", "GraphRunPaused")
            await _until(lambda: _readiness(yard).problem() is None)
            assert (
                await yard.runs.find("default", runs[0].id)
            ).status is Status.STOPPED
            await yard.services.upkeep.stop()

    asyncio.run(work())


def test_workers_without_an_api_execute_runs_and_are_replaced():
    proof = Proof()
    prove_engine(proof, "dbos", 8, faults=["kill", "stop"])
    assert proof.ok, list(proof.table())
    assert Counter(proof.figures)["dbos_runs"] == 8
