"""The instruments of the benchmarks, each with a few calls: they run and measure
something. The figures themselves are compared with their limits by `make show`, on a
machine that does nothing else."""

import asyncio
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from bench import agents, formats, gateway, plugins, starts, workflow
from bench.native import compiler
from bench.peers import PRODUCT, REFERENCE, nginx_binary
from tools.show.proof import ROOT

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.testing.workflows import ScriptedModel, scripted_models
from modelyard.workflow.dsl import loads


@pytest.mark.proof("bench-basics")
def test_the_core_installs_small():
    core = starts.core_size()
    assert core["packages"] <= starts.MAX_CORE_PACKAGES
    assert 0 < core["megabytes"] <= starts.MAX_CORE_MEGABYTES


@pytest.mark.proof("bench-formats")
def test_the_cost_of_a_format_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(formats, "_ROUNDS", 1)
    monkeypatch.setattr(formats, "_SECONDS", 0.0005)
    rows = formats.measure()
    assert len({row["format"] for row in rows}) == len(formats.MODULES)
    assert all(row["us"] > 0 and row["bare_us"] > 0 for row in rows)


@pytest.mark.proof("bench-gateway")
@pytest.mark.skipif(compiler() is None, reason="needs a C compiler")
def test_the_cost_of_a_call_is_measured():
    reference = [REFERENCE] if nginx_binary() else []
    scenarios = gateway.scenarios(chunks=20)
    report = gateway.measure(
        [*reference, PRODUCT],
        chosen=scenarios.values(),
        rounds=1,
        seconds=0.1,
        warm_up=0.1,
    )
    figures = report.figures()
    assert figures["missing"] == {}
    rows = {(row["server"], row["scenario"]): row for row in figures["rows"]}
    assert rows.keys() == {*product([PRODUCT, *reference], scenarios)}
    # nginx does not translate.
    rows.pop((REFERENCE, "translated"), None)
    assert [row["refused"] for row in rows.values() if row["refused"]] == []
    assert all(row["cpu_us"] > 0 for row in rows.values())
    assert all("ratio" in row for row in rows.values()) == bool(reference)
    assert figures["memory_mb"][PRODUCT] > 10
    assert len(list(gateway.table(figures))) == len(figures["rows"])


@pytest.mark.proof("bench-agents")
def test_the_cost_of_an_agents_step_is_measured():
    assert asyncio.run(agents._steps(3)) > 0


@pytest.mark.proof("bench-workflow")
def test_the_cost_of_a_run_is_measured(settings: Settings):
    assert asyncio.run(_workflow_cpu_ms(settings)) > 0


async def _workflow_cpu_ms(settings: Settings) -> float:
    """Return the milliseconds of CPU of one run of the benchmark's chain."""
    model = ScriptedModel(answers=[("talk", "word")])
    definition, builder = scripted_models(model)
    app = loads(workflow.files()["chain"])
    async with Modelyard(
        settings,
        definitions=[definition],
        builders={"scripted": builder},
        environ={},
    ) as yard:
        cpu_ms, _ = await workflow._cpu(
            app, yard.services.workflows.services(app), times=1
        )
    return cpu_ms


@pytest.mark.proof("bench-plugins")
def test_the_start_of_a_plugin_is_measured():
    seconds, megabytes = asyncio.run(plugins._starts(forks=True, count=1))
    assert seconds > 0
    assert megabytes > 0


@pytest.mark.proof("bench-knowledge")
def test_a_search_is_measured(tmp_path: Path):
    texts = [f"text {number} of the benchmark" for number in range(300)]
    questions = [f"question {number}" for number in range(10)]
    (tmp_path / "texts.json").write_text(
        json.dumps({"texts": texts, "questions": questions})
    )
    chance = np.random.default_rng(7)
    for name, rows in (("vectors", texts), ("asked", questions)):
        np.save(
            tmp_path / f"{name}.npy", chance.normal(size=(len(rows), 64)).astype("f4")
        )
    completed = subprocess.run(
        [sys.executable, "-m", "bench.knowledge", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    figures = json.loads(completed.stdout.splitlines()[-1])
    # With so few rows the search is exact.
    assert figures["recall_10"] == 1
