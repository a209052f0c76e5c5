"""The README's tour and the code blocks of the documentation are run and compared."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modelyard.base.settings import load_settings
from tests.docs.pages import blocks_of
from tests.e2e.conftest import Served

ROOT = Path(__file__).parents[2]
README = "README.md"


def blocks(page: str, language: str) -> list[str]:
    return [block.body for block in blocks_of(page) if block.language == language]


def test_the_tour_works_as_shown(served: Served, tmp_path: Path):
    commands = [
        part for block in blocks(README, "console") for part in block.split("$ ")[1:]
    ]
    assert len(commands) >= 8
    environ = {**served.environ, "MODELYARD_HOME": str(tmp_path / "home")}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    for part in commands:
        command, _, expected_output = part.partition("\n")
        command = command.replace("127.0.0.1:8790", f"127.0.0.1:{served.port}")
        result = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, (command, result.stderr)
        assert likeness(expected_output.strip()) == likeness(
            (result.stdout + result.stderr).strip()
        ), command


def likeness(output: str) -> object:
    """Return what must not change although model output varies.

    The keys of JSON, or a table's first word and number of lines.
    """
    if output.startswith("{"):
        return sorted(json.loads(output))
    lines = output.splitlines()
    return (len(lines), lines[0].split()[0] if len(lines) > 2 else "")


WORKFLOWS = "docs/how-to/run-workflows.md"
KNOWLEDGE = "docs/how-to/ask-documents.md"
AGENTS = "docs/how-to/use-agents.md"
PYTHON = [
    block
    for page in (README, WORKFLOWS, KNOWLEDGE, AGENTS)
    for block in blocks(page, "python")
]


@pytest.mark.parametrize("source", PYTHON)
def test_the_readmes_python_runs(served: Served, tmp_path: Path, source: str):
    script = tmp_path / "example.py"
    script.write_text(
        source.replace("127.0.0.1:8790", f"127.0.0.1:{served.port}"), "utf-8"
    )
    environ = {**served.environ, "MODELYARD_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_yaml_block_is_valid(page: Path, tmp_path: Path):
    for source in blocks(page.relative_to(ROOT).as_posix(), "yaml"):
        document = yaml.safe_load(source)
        if "providers" in document:
            (tmp_path / "modelyard.yaml").write_text(source, "utf-8")
            load_settings({"MODELYARD_HOME": str(tmp_path), "OPENAI_API_KEY": "sk-x"})


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_link_has_a_target(page: Path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
