"""The proofs of `make show` that no other test covers, in a size that fits into every
test run.

A short form runs the code of the full proof with fewer kills, calls or seconds. What is
measured in wall time is measured by the full proof alone: a short form also has to pass
on a machine that does other work.
"""

import asyncio
from collections.abc import Mapping
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
from tools.show import (
    app_clients,
    budget_race,
    loop_hostage,
    loop_stall,
    one_record,
    security,
    tenancy,
    tool_translation,
)
from tools.show.ledger_kill import killed_database, killed_servers
from tools.show.proof import Proof

from tests.docs.claims import problem_of
from tests.wire.formats import MODULES

_ANY_TIME = 3600.0
"""Instead of a limit in seconds, which only the full proof checks."""

_SIZES: Mapping[str, Mapping[str, object]] = {
    "three-credentials": {},
    "foreign-yaml": {},
    "stream-cut": {"_STREAMS": 100, "_MAX_SECONDS_TO_CLOSE": _ANY_TIME},
    "dead-credential": {"_CALLS": 600, "_CALL_INTERVAL_SECONDS": 0.1},
    "plugin-streams": {"STREAMS": 60, "AT_ONCE": 10},
    "plugin-signatures": {},
    "run-kill": {"KILLS": 12},
    "run-owners": {"_OUTAGES": (1.0,), "_FROZEN_SECONDS": 17.0},
    # Plugins of several servers have tests of their own in tests/contract.
    "three-nodes": {
        "_FILES": 4,
        "_MESSAGES": 3,
        "_STREAMS_AT_ONCE": 3,
        "_RUNS_AT_ONCE": 1,
        "_WITH_PLUGINS": False,
        "_WITH_SCHEDULE": False,
    },
    "agent-kill": {"KILLS": 12},
    "index-kill": {"KILLS": 6},
    "permissions": {
        "PEOPLE": 3,
        "DOCUMENTS": 8,
        "CHANGES": 1,
        "STORES": ("memory",),
        "_MIN_CASES": 300,
        "_COST_DOCUMENTS": 50,
        "_SEARCHES": 3,
        "_MAX_RATIO": _ANY_TIME,
        "_MAX_SECONDS": 60.0,
    },
    "app-files": {},
    "corrupt": {"_CALLS": 40},
    "injection": {},
    "memory": {"_WARM_UP": 3000, "_REQUESTS": 3000},
    "noisy-tenant": {"_SECONDS": 1.5, "_MAX_RATIO": _ANY_TIME},
    "overload": {
        "_SECONDS": 2.0,
        "_FIRST_RATE": 400.0,
        "_GROWTH": 1.6,
        "_MULTIPLES": (3,),
        # The best rate may be measured while the machine is idle, and the overload while
        # other tests need the processors.
        "_MIN_GOODPUT": 0.05,
        "_MAX_REFUSAL_SECONDS": _ANY_TIME,
        "_MAX_SLOWDOWN": _ANY_TIME,
        # Where other work takes the processors, the calls of a second arrive in one
        # turn, and a tenant's burst does not cover them. The loud tenants, at six
        # refusals for each served call, would still be far beyond this.
        "_MAX_QUIET_REFUSED": 1.0,
    },
    # So few streams say little about the memory of each: the interpreter takes it in
    # blocks of a megabyte.
    "slow-streams": {
        "_STREAMS": 150,
        "_EVENTS": 4,
        "_EVENT_SECONDS": 0.3,
        "_WARM_UP_CALLS": 40,
        "_MAX_STREAM_KB": 50.0,
        "_MAX_GROWTH_KB": 25.0,
        "_IDLE_CONNECTIONS": 1000,
        "_MAX_IDLE_MB": 12.0,
        "_SAMPLES": 2,
    },
    "never-hangs": {"RUNS": 90},
    "plugin-orphans": {"_MAX_SECONDS_TO_EXIT": _ANY_TIME},
    "rotate": {"_ROTATIONS": 1, "_CALLERS": 2},
}
"""Constants of the proof's module that its short form replaces."""


def _proof_module(name: str) -> ModuleType:
    return import_module(f"tools.show.{name.replace('-', '_')}")


def _holds(proof: Proof) -> None:
    assert proof.ok, "\n".join(proof.table())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.proof(name)) for name in _SIZES]
)
def test_the_goal_holds(name: str, monkeypatch: pytest.MonkeyPatch):
    module = _proof_module(name)
    for constant, value in _SIZES[name].items():
        monkeypatch.setattr(module, constant, value)
    _holds(module.prove())


@pytest.mark.proof("ledger-kill")
@pytest.mark.timeout(600)
def test_no_row_is_lost_when_the_server_is_killed(tmp_path: Path):
    kills = 15
    report, _ = killed_servers(kills, tmp_path)
    assert (report.lost, report.doubled, report.wrong) == (0, 0, 0)
    assert report.requests > kills
    # Tokens that the provider sent and no row has: they were still in the buffers of the
    # operating system when the process ended. A busy machine leaves more of them there;
    # the full proof allows 2 %.
    assert report.difference < 0.25


@pytest.mark.proof("ledger-kill")
@pytest.mark.timeout(300)
def test_no_row_is_lost_when_postgresql_is_killed(tmp_path: Path):
    report = killed_database(2, tmp_path)
    assert (report.lost, report.doubled, report.wrong) == (0, 0, 0)


@pytest.mark.proof("budget-race")
@pytest.mark.timeout(300)
def test_racing_callers_do_not_overspend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = 100
    monkeypatch.setattr(budget_race, "_CALLS", calls)
    report, spent = budget_race.run_race(tmp_path, shared="database")
    assert report.other == []
    assert spent <= calls * budget_race._COST + budget_race._ESTIMATE


@pytest.mark.proof("one-record")
@pytest.mark.timeout(300)
def test_each_call_has_one_record(tmp_path: Path):
    _holds(one_record.check(tmp_path, 100, 20))


@pytest.mark.proof("tenancy")
def test_no_tenant_sees_data_of_another_and_no_secret_is_shown():
    _holds(asyncio.run(tenancy._prove()))


@pytest.mark.proof("loop-stall")
@pytest.mark.timeout(300)
def test_no_statement_runs_on_the_event_loop(monkeypatch: pytest.MonkeyPatch):
    # Which thread a statement runs on does not depend on how long it takes; how long
    # the loop stands still is measured by the full proof.
    seconds = {
        "STATEMENT_SECONDS": 0.002,
        "_STAY_SECONDS": 1.0,
        "_UPKEEP_SECONDS": 0.1,
        "_MAX_CALL_SECONDS": 120.0,
        "_MAX_STALL_SECONDS": _ANY_TIME,
    }
    for constant, value in seconds.items():
        monkeypatch.setattr(loop_stall, constant, value)
    outcome = asyncio.run(loop_stall.slow_database(""))
    on_loop = [
        f"{call.name}: {call.where}" for call in outcome.calls if call.is_on_loop
    ]
    assert on_loop == []
    assert len(outcome.calls) > 500
    assert all(call.status for call in outcome.calls)


@pytest.mark.proof("security")
def test_every_test_that_covers_a_weakness_exists():
    covering = {*chain(*security.WEAKNESSES.values(), *security.RULES.values())}
    assert len(covering) > 80
    tests = [f"tests/security/test_{name}" for name in sorted(covering)]
    problems = [problem_of(test.replace("::", ".py::test_")) for test in tests]
    assert [problem for problem in problems if problem] == []


@pytest.mark.proof("loop-hostage")
@pytest.mark.timeout(300)
def test_hostile_patterns_do_not_hold_up_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
):
    # A pattern that backtracks takes minutes; a busy machine takes a second or two.
    monkeypatch.setenv("MODELYARD_SHOW_ONLY", "pattern")
    monkeypatch.setattr(loop_hostage, "ROUNDS", 1)
    monkeypatch.setattr(loop_hostage, "_MAX_STALL_SECONDS", 5.0)
    monkeypatch.setattr(loop_hostage, "_MAX_P99_RATIO", _ANY_TIME)
    proof = loop_hostage.prove()
    assert proof.figures["fields"] > 0
    _holds(proof)


_WEATHER = {
    "function": [
        {
            "name": "weather.forecast",
            "description": "Look up the weather.",
            "parameters": {
                "type": "dict",
                "properties": {
                    "place": {
                        "type": "dict",
                        "properties": {"city": {"type": "string"}},
                    },
                    "days": {"type": "tuple", "items": {"type": "integer"}},
                    "unit": {"type": "string", "enum": ["°C", "°F"]},
                    "height": {"type": "float"},
                },
                "required": ["place"],
            },
        }
    ],
    "question": [[{"role": "user", "content": "Weather in Zürich and 東京?"}]],
}
_FORECASTS = [
    {"weather.forecast": {"place": [{"city": "Zürich"}], "days": [[1, 2]]}},
    {"weather.forecast": {"place": [{"city": '東京 "центр"'}], "unit": ["°C"]}},
    {"weather.forecast": {"place": [{"city": ""}], "height": [0.5]}},
]


@pytest.mark.proof("tool-translation")
@pytest.mark.parametrize("format_name", tool_translation.FORMATS)
@pytest.mark.parametrize("count", range(len(_FORECASTS) + 1))
def test_tools_and_calls_survive_the_translation(format_name: str, count: int):
    calls = tool_translation._accepted_calls(_WEATHER["function"], _FORECASTS[:count])
    assert len(calls) == count
    mismatches = tool_translation.translated(
        MODULES[format_name], tool_translation._request_of(_WEATHER), calls
    )
    assert mismatches == []


@pytest.mark.proof("app-clients")
@pytest.mark.timeout(300)
def test_a_client_of_the_service_api_works_unchanged():
    _client_works(_proof_module("app-clients"), "dify-client-python")


@pytest.mark.proof("dataset-clients")
@pytest.mark.timeout(300)
def test_a_client_of_the_knowledge_api_works_unchanged():
    _client_works(_proof_module("dataset-clients"), "dify-dataset-sdk")


def _client_works(module: ModuleType, client: str) -> None:
    """Run one of the clients that a proof installs from PyPI."""
    _holds(app_clients.prove_clients({client: module.CLIENTS[client]}))
