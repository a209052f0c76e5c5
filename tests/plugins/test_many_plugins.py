"""The proofs that run over many plugins, with a few that are made here: how plugins are
chosen, started beside plain processes, and driven against played vendors."""

import asyncio
from pathlib import Path

import pytest
from tools.show import plugins_all, plugins_driven
from tools.show.made_plugins import MADE, compatible_plugin
from tools.show.odd_plugins import odd_plugin
from tools.show.plugged import EXAMPLES
from tools.show.plugins_all import Outcome
from tools.show.proof import Proof
from tools.show.real_plugins import by_difference, plugin_folders, spread, traits

pytestmark = pytest.mark.timeout(600)


@pytest.mark.proof("plugins-all")
def test_plugins_start_beside_plain_processes(tmp_path: Path):
    crashing = odd_plugin(tmp_path / "odd", "crash")
    folders = [EXAMPLES / "mockgpt", EXAMPLES / "webhook", EXAMPLES / "pulse", crashing]
    outcomes = asyncio.run(plugins_all.run(folders, tmp_path))
    by_name = {outcome.name.partition("/")[2]: outcome for outcome in outcomes}
    for name, kind in (
        ("mockgpt", "model"),
        ("webhook", "extension"),
        ("pulse", "trigger"),
    ):
        outcome = by_name[name]
        assert (outcome.problem, outcome.plain_problem) == ("", "")
        assert (outcome.kind, outcome.stage) == (kind, "answered")
        assert min(outcome.seconds, outcome.plain_seconds, outcome.plain_mb) > 0
    crashed = by_name["crash"]
    assert "I will not start" in crashed.problem
    assert "I will not start" in crashed.plain_problem
    assert not crashed.is_fault


@pytest.mark.proof("plugins-all")
def test_the_goal_counts_what_starts_plainly():
    outcomes = [Outcome(name=f"a/{index}", kind="tool") for index in range(98)]
    outcomes += [Outcome(name="a/b", kind="tool", problem="x", plain_problem="x")]
    proof = Proof()
    plugins_all._report_kinds(proof, outcomes)
    assert proof.ok
    outcomes += [Outcome(name="a/c", kind="tool", problem="x")]
    assert outcomes[-1].is_fault
    proof = Proof()
    plugins_all._report_kinds(proof, outcomes)
    plugins_all._report_faults(proof, outcomes)
    # 98 of 99 are less than the goal.
    assert not proof.ok
    assert proof.figures["tool"] == [98, 99, 100]


@pytest.mark.proof("plugins-all")
def test_the_most_different_plugins_come_first(tmp_path: Path):
    plugins = [
        (tmp_path / "a", frozenset({"kind x"})),
        (tmp_path / "b", frozenset({"kind x"})),
        (tmp_path / "c", frozenset({"kind x", "sdk 1", "needs y"})),
        (tmp_path / "d", frozenset({"kind z", "sdk 1"})),
    ]
    assert [path.name for path in by_difference(plugins)] == ["c", "d", "a", "b"]
    folders = [tmp_path / str(index) for index in range(10)]
    assert [path.name for path in spread(folders, 3)] == ["0", "3", "6"]


@pytest.mark.proof("plugins-all")
def test_plugins_are_chosen_from_a_repository_or_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MODELYARD_PLUGINS_FOLDER", raising=False)
    names = {path.name for path in plugin_folders(tmp_path / "made")}
    assert {"mockgpt", "planner", "llm", "trigger", "extension"} <= names
    monkeypatch.setenv("MODELYARD_PLUGINS_FOLDER", str(EXAMPLES))
    assert {path.name for path in plugin_folders(tmp_path)} == {
        path.name for path in EXAMPLES.iterdir() if path.is_dir()
    }
    assert "offers models" in traits(EXAMPLES / "mockgpt")


@pytest.mark.proof("plugins-driven")
def test_a_plugin_of_the_sdk_is_driven_through_the_gateway(tmp_path: Path):
    compatible_plugin(tmp_path)
    results = plugins_driven.run(tmp_path, tmp_path, MADE, {})["models/compatible"]
    assert {name: problem for name, problem in results.items() if problem} == {}
    assert {
        "good credentials", "bad credentials", "chat", "stream", "tools", "json",
        "thoughts", "faults", "embeddings", "rerank", "speech", "transcription",
    } <= set(results)  # fmt: skip
