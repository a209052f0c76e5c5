"""Options of the form NAME=VALUE."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from modelyard.cli import run
from modelyard.cli.assignments import Assignment

COMMANDS = {
    "tools add-mcp": ("tools", "add-mcp", "s", "http://h", "--header"),
    "plugin credential add": ("plugin", "credential", "add", "a/b/c", "--set"),
    "plugin credential client": ("plugin", "credential", "client", "a/b/c", "--set"),
    "plugin endpoint add": ("plugin", "endpoint", "add", "a/b", "--set"),
    "plugin test": ("plugin", "test", "p", "--credential"),
    "providers add": ("providers", "add", "openai", "--set"),
    "workflow run": ("workflow", "run", "app.yaml", "--input"),
}


@pytest.mark.parametrize("assignment", ["X-Token", "X-Token: 1", "=value", " =value"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_without_a_name_or_value_is_a_usage_error(
    command: str,
    assignment: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    Path("app.yaml").write_text("")
    arguments = COMMANDS[command]
    assert run([*arguments, assignment]) == 2
    message = capsys.readouterr().err
    form = "FIELD=VALUE" if command == "providers add" else "NAME=VALUE"
    assert arguments[-1] in message
    assert f"expected {form}, got {assignment!r}" in message
    assert not (tmp_path / "home").exists()


def test_a_value_may_be_empty_and_contain_equals_signs():
    @click.command()
    @click.option("--set", "fields", multiple=True, type=Assignment())
    def show(fields: tuple[tuple[str, str], ...]) -> None:
        click.echo(repr(fields))

    result = CliRunner().invoke(show, ["--set", "a=", "--set", "b=c=d"])
    assert result.output.strip() == "(('a', ''), ('b', 'c=d'))"
