"""Tests for `modelyard plugin …` as a user types it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.conftest import EXAMPLES

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, environments: Path) -> Run:
    home = tmp_path / "home"
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "environments").symlink_to(environments)
    (home / "modelyard.yaml").write_text(
        f"plugins: {{markets: ['{tmp_path / 'market'}']}}\nlocal: {{enabled: false}}\n"
    )

    def work(
        *arguments: object, stdin_text: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        command = [
            sys.executable,
            "-m",
            "modelyard",
            "plugin",
            *(str(argument) for argument in arguments),
        ]
        environ = {**os.environ, "MODELYARD_HOME": str(home)}
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            input=stdin_text,
            timeout=120,
        )

    return work


@pytest.mark.parametrize(
    "category", ["llm", "text-embedding", "tool", "extension", "datasource", "trigger"]
)
def test_a_generated_plugin_passes_its_checks(run: Run, category: str):
    assert (
        run(
            "init", "made", "--category", category, "--author", "me", "--quick"
        ).returncode
        == 0
    )
    result = run("test", "made", "--json")
    checks = json.loads(result.stdout)
    assert result.returncode == 0, checks
    assert all(check["is_good"] is not False for check in checks)
    assert json.loads(run("list", "--json").stdout) == []


def test_a_marketplace_plugin_is_installed_restricted_upgraded_and_removed(
    run: Run, tmp_path: Path
):
    assert run("market", "add", "market", EXAMPLES / "toolbox").returncode == 0
    newer = tmp_path / "newer"
    subprocess.run(["cp", "-r", str(EXAMPLES / "toolbox"), str(newer)], check=True)
    manifest = newer / "manifest.yaml"
    manifest.write_text(
        manifest.read_text().replace("version: 0.0.1\ntype", "version: 0.0.2\ntype")
    )
    run("market", "add", "market", newer)
    searched = json.loads(run("market", "search", "tools", "--json").stdout)
    assert [(listing["plugin"], listing["version"]) for listing in searched] == [
        ("modelyard/toolbox", "0.0.2")
    ]
    installed = run(
        "install", "modelyard/toolbox", "--version", "0.0.1", "--grant", "storage"
    )
    assert (installed.returncode, "modelyard/toolbox 0.0.1" in installed.stdout) == (
        0,
        True,
    )
    (listed,) = json.loads(run("list", "--json").stdout)
    assert (listed["version"], listed["permissions"]) == ("0.0.1", ["storage"])
    assert json.loads(
        run("permission", "modelyard/toolbox", "--grant", "model.llm", "--json").stdout
    )["granted"] == ["model.llm"]
    assert run("upgrade", "modelyard/toolbox", "0.0.2").returncode == 0
    (listed,) = json.loads(run("list", "--json").stdout)
    assert (listed["version"], listed["permissions"]) == ("0.0.2", ["model.llm"])
    assert run("uninstall", "modelyard/toolbox").returncode == 0
    assert json.loads(run("list", "--json").stdout) == []


def test_run_prints_json_lines(run: Run):
    request = {
        "invoke_id": "7", "type": "tool", "action": "invoke_tool",
        "request": {"provider": "toolbox", "tool": "add", "credentials": {}, "tool_parameters": {"a": 1, "b": 2}},
    }  # fmt: skip
    invalid_requests = ["nonsense", "[1]", '"text"', "null", "[" * 100_000]
    incomplete_requests = [
        {"invoke_id": "8", "type": "tool"},
        {"invoke_id": "8", "type": 1, "action": "invoke_tool"},
        {**request, "invoke_id": "8", "request": [1]},
    ]
    requests = [json.dumps(request), *invalid_requests]
    requests += [json.dumps(incomplete) for incomplete in incomplete_requests]
    text = "".join(f"{line}\n" for line in requests)
    result = run("run", EXAMPLES / "toolbox", stdin_text=text)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[0]["type"] == "plugin_ready"
    mine = [line for line in lines if line["invoke_id"] == "7"]
    assert mine[0]["response"]["message"]["text"] == "3"
    assert mine[-1]["type"] == "plugin_invoke_end"
    invalid = _errors_for(lines, None)
    assert len(invalid) == len(invalid_requests)
    assert [error.partition(":")[0] for error in invalid] == ["Invalid request"] * 5
    assert "got [1]" in invalid[1]
    incomplete = sorted(_errors_for(lines, "8"))
    assert [error.split()[0] for error in incomplete] == [
        "'action'",
        "'request'",
        "'type'",
    ]


def _errors_for(lines: list[Any], invoke_id: str | None) -> list[str]:
    """Return the errors that answer a request."""
    return [
        line["response"]["error"]
        for line in lines
        if (line["type"], line["invoke_id"]) == ("error", invoke_id)
    ]


def test_credentials_are_checked_and_kept(run: Run):
    run("install", EXAMPLES / "toolbox", EXAMPLES / "shelf", EXAMPLES / "mockgpt")
    refused = run(
        "credential", "add", "modelyard/toolbox/toolbox", "--set", "token=wrong"
    )
    assert (refused.returncode, "this token is refused" in refused.stderr) == (1, True)
    missing = run("credential", "add", "modelyard/shelf/shelf")
    assert "'token' is missing" in missing.stderr
    model = "modelyard/mockgpt/mockgpt"
    wrong = run("credential", "add", model, "--set", "api_key=wrong")
    assert (wrong.returncode, "this key is refused" in wrong.stderr) == (1, True)
    stored = run("credential", "add", model, "--set", "api_key=good", "--model", "own")
    assert stored.stdout.startswith("credential_")
    again = run("credential", "add", model, "--set", "api_key=good", "--model", "own")
    assert (again.returncode, stored.stdout.strip() in again.stderr) == (1, True)
    assert "has a credential 'default' already" in again.stderr
    second = run("credential", "add", model, "--set", "api_key=good", "--label", "b")
    taken = run("credential", "rename", second.stdout.strip(), "default")
    assert "has a credential 'default' already" in taken.stderr
    assert run("credential", "rename", second.stdout.strip(), "c").returncode == 0
    assert run("credential", "remove", stored.stdout.strip()).returncode == 0
    added = run("credential", "add", "modelyard/shelf/shelf", "--set", "token=good")
    assert added.stdout.startswith("tool_credential_")
    assert run("credential", "rename", added.stdout.strip(), "mine").returncode == 0
    assert run("credential", "remove", added.stdout.strip()).returncode == 0


def test_endpoints_are_added_listed_and_removed(run: Run):
    run("install", EXAMPLES / "webhook")
    added = run("endpoint", "add", "modelyard/webhook", "--set", "greeting=Hi")
    address = added.stdout.strip()
    assert "/e/endpoint_" in address
    assert address in run("endpoint", "list").stdout
    assert run("endpoint", "remove", address).returncode == 0
    assert address not in run("endpoint", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["install", "nowhere.difypkg"], "File 'nowhere.difypkg' does not exist"),
        (["install", "a/b"], "Plugin 'a/b' is not listed"),
        (["uninstall", "a/b"], "Plugin 'a/b' is not installed"),
        (["package", "."], "manifest.yaml is missing"),
        (["verify", "x.difypkg"], "cannot be read"),
        (
            ["init", "x", "--category", "tool", "--name", "Big Name", "--quick"],
            "Name 'Big Name' may contain",
        ),
        (["permission", "a/b"], "is not installed"),
    ],
)
def test_errors_are_named(run: Run, arguments: list[str], reason: str):
    result = run(*arguments)
    assert result.returncode == 1
    assert reason in result.stderr


def test_a_key_file_is_never_overwritten(run: Run):
    assert run("keygen", "k").returncode == 0
    assert "already exists" in run("keygen", "k").stderr
