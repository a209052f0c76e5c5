"""What `modelyard workflow run` prints about a run that failed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelyard.cli import run

HINT = "use `--model default`"


@pytest.fixture
def run_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs an app with one node between start and end; returns standard error."""
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path))
    monkeypatch.setenv("MODELYARD_LOCAL__ENABLED", "false")

    def go(node: dict[str, Any], *options: str) -> str:
        path = tmp_path / "app.yml"
        path.write_text(json.dumps(_document(node)))
        assert run(["workflow", "run", str(path), *options]) == 1
        return capsys.readouterr().err

    return go


def _document(node: dict[str, Any]) -> dict[str, Any]:
    nodes = {"start": {"type": "start", "variables": []}, "middle": node}
    nodes["end"] = {"type": "end", "outputs": []}
    graph = {
        "nodes": [
            {"id": name, "data": {"title": name, **data}}
            for name, data in nodes.items()
        ],
        "edges": [
            {"source": "start", "target": "middle", "sourceHandle": "source"},
            {"source": "middle", "target": "end", "sourceHandle": "source"},
        ],
    }
    app = {"name": "test", "mode": "workflow"}
    return {"kind": "app", "version": "0.6.0", "app": app, "workflow": {"graph": graph}}


MODEL = {"provider": "nowhere", "name": "nothing", "mode": "chat"}
PROMPT = [{"role": "user", "text": "hello"}]


@pytest.mark.parametrize(
    "node",
    [
        {"type": "llm", "model": MODEL, "prompt_template": PROMPT},
        {
            "type": "question-classifier",
            "model": MODEL,
            "query_variable_selector": ["sys", "workflow_run_id"],
            "classes": [{"id": "1", "name": "a"}, {"id": "2", "name": "b"}],
        },
    ],
    ids=["llm", "question-classifier"],
)
def test_a_missing_model_leads_to_the_option_that_replaces_it(
    run_app: Callable[..., str], node: dict[str, Any]
):
    printed = run_app(node)
    assert "nothing" in printed
    assert HINT in printed
    assert HINT not in run_app(node, "--model", "nowhere/else")


def test_other_errors_lead_there_not_even_if_they_speak_of_a_mapping(
    run_app: Callable[..., str],
):
    node = {
        "type": "http-request",
        "method": "mapping",
        "url": "http://127.0.0.1:1",
        "authorization": {"type": "no-auth"},
        "headers": "",
        "params": "",
        "body": {"type": "none", "data": []},
    }
    printed = run_app(node)
    assert "mapping" in printed
    assert HINT not in printed
