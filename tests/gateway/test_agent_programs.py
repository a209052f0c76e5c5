"""Tests for `modelyard run`: agents are started with what they need to reach a server."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tools.show.proof import free_port

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.cli import root
from modelyard.cli.agent_launches import PROGRAMS, Target
from tests.gateway.conftest import Running

Start = Callable[..., Running]
TARGET = Target(
    "http://127.0.0.1:8790", "k-1", "openai/gpt-5-mini", {"x-modelyard-session": "s"}
)
FAKE = """#!{python}
import json, os, sys, urllib.request
origin = os.environ.get("ANTHROPIC_BASE_URL")
status = urllib.request.urlopen(origin + "/health").status if origin else None
with open(os.environ["FAKE_OUTPUT"], "w") as file:
    json.dump([sys.argv[1:], dict(os.environ), status], file)
sys.exit(7)
"""


class FakeAgent:
    """A program named `claude` on the PATH that records how it was started."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._output = folder / "started.json"
        self.folder = folder / "bin"
        program = self.folder / "claude"
        program.parent.mkdir()
        program.write_text(FAKE.format(python=sys.executable))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))
        monkeypatch.setenv("FAKE_OUTPUT", str(self._output))
        monkeypatch.setenv("MODELYARD_HOME", str(folder / "home"))
        monkeypatch.delenv("MODELYARD_API_KEY", raising=False)

    @property
    def has_run(self) -> bool:
        """Whether it was started."""
        return self._output.exists()

    def started(self) -> tuple[list[str], Mapping[str, str], int]:
        """Return its arguments, its environment and the status of the server."""
        arguments, environ, status = json.loads(self._output.read_text())
        return arguments, environ, status


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeAgent:
    return FakeAgent(tmp_path, monkeypatch)


def run(*arguments: str) -> Result:
    """Run `modelyard run` and return its result."""
    return CliRunner().invoke(root, ["run", *arguments], standalone_mode=False)


def test_an_agent_gets_the_server_and_its_own_arguments(
    agent: FakeAgent, start_gateway: Start
):
    origin = start_gateway().origin
    options = ("--server", f"{origin}/v1", "--model", "echo/echo", "--project", "p")
    result = run(*options, "--session", "s-1", "--", "claude", "-p", "a b", "--model")
    assert result.return_value == 7, result.output
    arguments, environ, status = agent.started()
    assert (arguments, status) == (["-p", "a b", "--model"], 200)
    assert environ["ANTHROPIC_BASE_URL"] == origin
    assert environ["ANTHROPIC_MODEL"] == "echo/echo"
    assert environ["ANTHROPIC_CUSTOM_HEADERS"].splitlines() == [
        "x-modelyard-session: s-1",
        "x-modelyard-project: p",
    ]


def test_a_server_with_keys_needs_one(agent: FakeAgent, start_gateway: Start):
    origin = start_gateway(api_keys=["good"]).origin
    for options, reason in (([], "requires an API key"), (["--key", "bad"], "accept")):
        result = run("--server", origin, *options, "claude")
        assert reason in str(result.exception)
        assert not agent.has_run
    assert run("--server", origin, "--key", "good", "claude").return_value == 7
    assert agent.started()[1]["ANTHROPIC_AUTH_TOKEN"] == "good"


def test_the_local_server_is_started_for_the_agent(
    agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
):
    port = free_port()
    monkeypatch.setenv("MODELYARD_PORT", str(port))
    monkeypatch.setenv("MODELYARD_LOCAL__ENABLED", "false")
    assert run("claude").return_value == 7
    _, environ, status = agent.started()
    assert (environ["ANTHROPIC_BASE_URL"], status) == (f"http://127.0.0.1:{port}", 200)
    assert "ANTHROPIC_MODEL" not in environ
    assert run("--server", f"http://127.0.0.1:{port + 1}", "claude").exception


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["claud"], "Unknown program 'claud'; did you mean 'claude'?"),
        (["codex"], "Program 'codex' is not installed or not on the PATH"),
        (["--server", "ftp://x", "claude"], "Invalid URL 'ftp://x'"),
        (["--server", "http://127.0.0.1:1", "claude"], "No server answers"),
    ],
)
def test_mistakes_are_named(agent: FakeAgent, arguments: list[str], reason: str):
    assert reason in str(run(*arguments).exception)
    assert not agent.has_run


def test_the_launch_is_printed(agent: FakeAgent):
    result = run("--print", "--model", "m", "--session", "s", "claude", "-p", "it's")
    assert "export ANTHROPIC_MODEL=m\n" in result.output
    assert result.output.splitlines()[-1] == """claude -p 'it'"'"'s'"""
    assert not agent.has_run


def values(document: Any) -> Iterator[Any]:
    """Yield all texts in a document, JSON texts parsed."""
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        for each in document:
            yield from values(each)
    elif isinstance(document, str):
        yield document
        if document.startswith("{"):
            yield from values(json.loads(document))


SIZED = {
    "name": "coder",
    "context_size": 65_536,
    "max_output": 4096,
    "input_price": 0.0,
    "output_price": 0.0,
}
PROVIDER = ProviderSettings(
    name="own",
    base_url="http://127.0.0.1:1/v1",
    credentials=[CredentialSettings(values={"api_key": "k"})],
    models=[SIZED, {"name": "small", "context_size": 8192}],
)


def test_an_agent_is_told_the_sizes_of_its_model(
    agent: FakeAgent, start_gateway: Start
):
    routes = {"both": {"targets": ["own/coder", "own/small"]}}
    origin = start_gateway(providers=[PROVIDER], routes=routes).origin
    (agent.folder / "claude").rename(agent.folder / "codex")
    for model, size in (("own/coder", 65_536), ("both", 8192)):
        run("--server", origin, "--model", model, "codex")
        assert f"model_context_window={size}" in agent.started()[0]
    run("--server", origin, "--model", "own/none", "codex")
    assert "model_context_window" not in str(agent.started()[0])


def test_sizes_are_what_each_agent_calls_them():
    target = Target(
        "http://127.0.0.1:1", model="m", context_size=40_000, max_output=900
    )
    settings = PROGRAMS["opencode"](target).environ["OPENCODE_CONFIG_CONTENT"]
    model = json.loads(settings)["provider"]["modelyard"]["models"]["m"]
    assert model["limit"] == {"context": 40_000, "output": 900}
    unknown_output = replace(target, max_output=0)
    settings = PROGRAMS["opencode"](unknown_output).environ["OPENCODE_CONFIG_CONTENT"]
    model = json.loads(settings)["provider"]["modelyard"]["models"]["m"]
    assert model["limit"] == {"context": 40_000, "output": 10_000}
    (file,) = PROGRAMS["qwen"](target).files.values()
    generation = json.loads(file)["model"]["generationConfig"]
    assert generation["contextWindowSize"] == 40_000


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_agent_is_given_the_address_the_key_and_the_model(program: str):
    launch = PROGRAMS[program](TARGET)
    texts = "\n".join(values([dict(launch.environ), list(launch.arguments)]))
    assert TARGET.origin in texts
    assert TARGET.key in texts
    assert TARGET.model in texts
    without = PROGRAMS[program](Target(TARGET.origin))
    assert TARGET.model not in json.dumps([dict(without.environ), without.arguments])
