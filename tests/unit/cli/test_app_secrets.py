"""Secrets of apps on the command line: given at import, asked for, never printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from modelyard.cli import root
from tests.workflow.building import document

APP = document(
    {"start": {"type": "start"}, "end": {"type": "end", "outputs": []}},
    ["start > end"],
    environment_variables=[
        {"name": "TOKEN", "value": "", "value_type": "secret"},
        {"name": "OTHER", "value": "", "value_type": "secret"},
        {"name": "PLAIN", "value": "x", "value_type": "string"},
    ],
)
VALUE = "s3cret-value-of-the-test"


@pytest.fixture
def modelyard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a command; `$FILE` stands for the file of an app."""
    file = tmp_path / "app.yml"
    file.write_text(yaml.dump(APP), "utf-8")
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELYARD_LOCAL__ENABLED", "false")
    monkeypatch.setenv("VALUE_OF_IT", VALUE)

    def go(*arguments: str, typed: str | None = None) -> Any:
        words = [str(file) if word == "$FILE" else word for word in arguments]
        result = CliRunner().invoke(root, words, input=typed)
        assert VALUE not in result.output
        return result

    return go


@pytest.mark.parametrize(
    ("option", "typed"),
    [
        (f"TOKEN={VALUE}", None),
        ("TOKEN=env:VALUE_OF_IT", None),
        ("TOKEN", f"{VALUE}\n"),
    ],
)
def test_a_secret_is_given_at_import(
    modelyard: Callable[..., Any], option: str, typed: str | None
):
    imported = modelyard("app", "import", "$FILE", "--secret", option, typed=typed)
    assert imported.exit_code == 0
    assert "needs secret OTHER" in imported.output
    assert "modelyard app secrets app_" in imported.output
    assert "--secret OTHER" in imported.output
    exported = modelyard("app", "export", "test")
    assert "TOKEN" in exported.output
    listed = modelyard("app", "secrets", "test", "--json")
    assert json.loads(listed.stdout) == {"TOKEN": True, "OTHER": False}


def test_a_secret_is_set_after_the_import(modelyard: Callable[..., Any]):
    modelyard("app", "import", "$FILE")
    done = modelyard("app", "secrets", "test", "--secret", "OTHER=env:VALUE_OF_IT")
    assert (done.exit_code, done.stdout.count("set")) == (0, 1)
    # A later import of the exported file keeps it.
    modelyard("app", "import", "$FILE")
    listed = modelyard("app", "secrets", "test", "--json")
    assert json.loads(listed.stdout) == {"TOKEN": False, "OTHER": True}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["$FILE", "--secret", f"NAME={VALUE}"], "has no secret variable 'NAME'"),
        (["$FILE", "--secret", f"={VALUE}"], "expected NAME=VALUE"),
        (
            ["$FILE", "--secret", "TOKEN=env:NO_SUCH"],
            "'NO_SUCH' for 'TOKEN' is not set",
        ),
        (["$FILE", "$FILE", "--secret", f"TOKEN={VALUE}"], "needs a single FILE"),
    ],
)
def test_a_wrong_option_is_refused_without_its_value(
    modelyard: Callable[..., Any], words: list[str], message: str
):
    refused = modelyard("app", "import", *words)
    assert refused.exit_code != 0
    assert message in refused.output + str(refused.exception)
    assert VALUE not in str(refused.exception)
