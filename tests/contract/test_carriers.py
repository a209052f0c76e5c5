"""Tests for durable runs: each carrier, with real servers, and each database.

A run that is killed in the middle of any step continues.
"""

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tools.show.run_kill import Effects

from tests.contract.conftest import new_database

pytestmark = pytest.mark.proof("carriers")

ROOT = Path(__file__).parents[2]
STEPS = [
    "start",
    "one",
    "text",
    "two",
    "if",
    "three",
    "each[0]/inner",
    "each[1]/inner",
    "each[2]/inner",
    "each",
    "last",
    "end",
]


class Stopping(Effects):
    """Holds back one request until the process that sent it has been killed."""

    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.at = stop_at
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def hold(self, number: int) -> None:
        if number == self.at:
            self.reached.set()
            self.go_on.wait(30)


@pytest.fixture(params=["sqlite", "postgresql", "dbos", "temporal"])
def carrier(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, str]:
    """Return a carrier, a new database, and the address of its engine."""
    if request.param == "sqlite":
        return "embedded", str(tmp_path / "x.db"), ""
    # A new database: the run has the same id in each test.
    where = new_database(request.getfixturevalue("postgres_url"))
    if request.param != "temporal":
        return request.param.replace("postgresql", "embedded"), where, ""
    return "temporal", where, request.getfixturevalue("temporal_server").address


def start(
    carrier: tuple[str, str, str], url: str, mode: str
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.contract.carriers", *carrier, url, mode]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process: "subprocess.Popen[str]") -> dict[str, Any]:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-2000:]
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("killed_at", [0, 1, 3, 5, 7])
def test_a_run_killed_in_a_step_resumes_there(
    carrier: tuple[str, str, str], killed_at: int
):
    # With an engine the steps are in the same record: two of them show that it goes on.
    if carrier[0] != "embedded" and killed_at not in (0, 5):
        pytest.skip("tried with the embedded carrier")
    effects = Stopping(killed_at)
    threading.Thread(target=effects.serve_forever, daemon=True).start()
    try:
        process = start(carrier, effects.url, "begin")
        if killed_at:
            assert effects.reached.wait(60), process.communicate()[1][-2000:]
            process.send_signal(signal.SIGKILL)
            process.communicate()
            effects.go_on.set()
            process = start(carrier, effects.url, "recover")
        result = finished(process)
    finally:
        effects.go_on.set()
        effects.shutdown()
        effects.server_close()
    assert (result["status"], result["error"]) == ("succeeded", "")
    assert result["steps"] == STEPS
    counts = Counter(step for _, _, step, _ in effects.done)
    order = ["one", "two", "three", "inner0", "inner1", "inner2", "last"]
    assert set(counts) == set(order)
    assert (
        {name for name, count in counts.items() if count > 1} <= {order[killed_at - 1]}
        if killed_at
        else not counts - Counter(order)
    )
    assert len({key for _, _, step, key in effects.done for _ in [step]}) == len(order)
