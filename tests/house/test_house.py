"""Tests for the repository's rules.

Layers, reference pages, sizes, licences, and what no commit may contain.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.reference import REFERENCE, pages
from tools.show.house import (
    MAX_IMPORTS,
    MAX_METHODS,
    contracted_layers,
    documented_layers,
    import_cycles,
    own_figures,
)
from tools.show.house_change import DATASET_FEATURE, ROUTE, Addition

# One worker reads the package's sources once for all of these tests.
pytestmark = [pytest.mark.proof("house"), pytest.mark.xdist_group("house")]

ROOT = Path(__file__).parents[2]


def test_the_page_and_the_contract_name_the_same_layers():
    assert documented_layers() == contracted_layers()


def test_there_is_no_import_cycle():
    assert import_cycles() == []


def test_no_class_and_no_file_is_too_large():
    figures = own_figures()
    assert figures.largest_class.count <= MAX_METHODS, figures.largest_class
    assert figures.widest_file.count <= MAX_IMPORTS, figures.widest_file


def test_the_reference_is_not_stale():
    """The settings, the command line and every API's description must match exactly."""
    for name, text in pages().items():
        if name != "catalogue.md":  # see the catalogue's own test
            page_text = (REFERENCE / name).read_text("utf-8")
            assert page_text == text.rstrip() + "\n", (
                f"{name}: run `python -m tools.reference`"
            )


def test_no_description_of_a_removed_api_is_left():
    expected_names = {
        Path(name).name for name in pages() if name.startswith("openapi/")
    }
    assert {path.name for path in (REFERENCE / "openapi").iterdir()} == expected_names


def test_importing_the_package_loads_nothing_heavy():
    code = "import modelyard, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {
        "asyncio",
        "msgspec",
        "uvicorn",
        "yaml",
        "rich",
        "numpy",
        "modelyard.app",
    } & set(loaded)


def test_help_loads_no_command():
    code = "from modelyard.cli import run; run(['--help']); import sys; print(*sorted(sys.modules), file=sys.stderr)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stderr.split()
    assert not {
        "asyncio",
        "msgspec",
        "uvicorn",
        "yaml",
        "rich",
        "modelyard.cli.serve",
    } & set(loaded)


def test_the_server_needs_no_engine():
    code = "import modelyard.cli.serve, modelyard.providers.local.provider, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {
        "numpy",
        "xllamacpp",
        "onnxruntime",
        "ctranslate2",
        "soundfile",
        "sentencepiece",
    } & set(loaded)


def test_every_public_name_exists():
    import modelyard

    for name in modelyard.__all__:
        assert getattr(modelyard, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = modelyard.nothing


def test_the_core_is_small():
    packages = [
        line
        for line in (ROOT / "requirements/core.txt").read_text().splitlines()
        if "==" in line
    ]
    assert len(packages) <= 20  # one of them for Windows only


def test_every_requirement_is_hashed_and_names_no_index():
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "http" not in re.sub(
            r"(exporter-[\w-]*http|http(tools|x2?|core2?|x-sse))[\w.-]*", "", text
        )
        for entry in re.split(r"\n(?=\S)", text.strip()):
            assert "--hash=sha256:" in entry, entry.splitlines()[0]


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return [ROOT / line for line in listed.stdout.splitlines()]


@pytest.mark.parametrize(
    "parts", [("/home", "/"), ("/root", "/"), ("/Users", "/"), ("index", "-url")]
)
def test_no_file_contains_machine_specific_data(parts: tuple[str, str]):
    forbidden_text = "".join(parts)
    for path in tracked():
        if (
            path.suffix in (".py", ".md", ".yaml", ".toml", ".txt", "")
            and path.is_file()
            and path != Path(__file__)
        ):
            assert forbidden_text not in path.read_text("utf-8", "replace"), path


# The arguments that uvloop accepts for a subprocess. It raises ValueError for others,
# while asyncio's own loop, with which most tests run, accepts more.
_SUBPROCESS_ARGUMENTS = {
    "stdin", "stdout", "stderr", "limit", "cwd", "env", "preexec_fn", "close_fds",
    "restore_signals", "start_new_session", "executable", "pass_fds",
}  # fmt: skip


_STARTER = "create_subprocess_exec"


def test_subprocess_arguments_work_with_every_event_loop():
    called = 0
    for path in sorted((ROOT / "src" / "modelyard").rglob("*.py")):
        for node in _subprocess_calls(path):
            called += 1
            names = {keyword.arg for keyword in node.keywords if keyword.arg}
            assert names <= _SUBPROCESS_ARGUMENTS, f"{path}:{node.lineno}"
    assert called > 4


def _subprocess_calls(path: Path) -> Iterator[ast.Call]:
    """Yield the calls in a module that start a subprocess."""
    source = path.read_text("utf-8")
    # Most modules do not have the name at all, and need not be parsed.
    nodes = ast.walk(ast.parse(source)) if _STARTER in source else ()
    for node in nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(_STARTER):
            yield node


@pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" not in os.environ, reason="tests run in one process here"
)
def test_a_group_of_tests_is_named_to_the_scheduler(request: pytest.FixtureRequest):
    """Otherwise each worker starts the servers that a group's tests share."""
    assert request.node.nodeid.endswith("@house")


def test_every_task_is_held_until_it_is_done():
    """The event loop holds tasks only weakly: one that nobody else holds may be
    collected before it is done. The linter finds those; none may be excused."""
    for path in sorted((ROOT / "src" / "modelyard").rglob("*.py")):
        assert "RUF006" not in path.read_text("utf-8"), path
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    assert "RUF006" not in settings
    assert '"RUF"' in settings


@pytest.mark.parametrize(
    "addition", [ROUTE, DATASET_FEATURE], ids=lambda addition: addition.about
)
def test_what_the_proof_edits_is_there(addition: Addition):
    """The proof `house` adds a route and a feature on a copy, by replacing texts."""
    for path, edits in addition.edits.items():
        text = (ROOT / path).read_text("utf-8")
        assert [old for old, _ in edits if old not in text] == [], path
