"""Tests for the command line as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tools.show.proof import free_port, is_healthy

from modelyard.testing import Upstream, json_answer
from tests.e2e.conftest import Served


def modelyard(
    *arguments: str, environ: dict[str, str], stdin_text: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelyard", *arguments],
        env=environ, capture_output=True, text=True, timeout=120, check=False,
        input=stdin_text, **({} if stdin_text is not None else {"stdin": subprocess.DEVNULL}),
    )  # fmt: skip


@pytest.fixture
def environ(served: Served, tmp_path: Path) -> dict[str, str]:
    """The environment of a new home with the local weights."""
    base_environ = {
        name: value
        for name, value in served.environ.items()
        if not name.startswith(("OPENAI", "OLLAMA"))
    }
    return {**base_environ, "MODELYARD_HOME": str(tmp_path)}


def test_help_names_every_command(environ: dict[str, str]):
    result = modelyard("--help", environ=environ)
    assert result.returncode == 0
    for name in (
        "serve",
        "chat",
        "embed",
        "rerank",
        "transcribe",
        "speak",
        "moderate",
        "models",
        "providers",
        "prices",
        "usage",
        "doctor",
    ):
        assert f"\n  {name} " in result.stdout
        assert modelyard(name, "--help", environ=environ).returncode == 0


def test_chat_answers_streams_reads_pipes_and_prints_json(environ: dict[str, str]):
    plain = modelyard(
        "chat", "-t", "0", "--max-tokens", "20", "Say hello", environ=environ
    )
    assert "hello" in plain.stdout.lower()
    assert plain.stderr == ""
    piped = modelyard(
        "chat", "--json", "--max-tokens", "5", environ=environ, stdin_text="Say hello"
    )
    assert json.loads(piped.stdout)["usage"]["completion_tokens"] <= 5
    assert modelyard("chat", environ=environ, stdin_text="").returncode == 2


def test_prices_are_shown_and_compared(environ: dict[str, str]):
    prices = json.loads(
        modelyard("prices", "show", "gpt-4o", "--json", environ=environ).stdout
    )
    assert {"openai"} <= {row["provider"] for row in prices}
    assert modelyard("prices", "show", "gpt-4oo", environ=environ).returncode == 1
    checked = json.loads(modelyard("prices", "check", "--json", environ=environ).stdout)
    assert checked["checked"] > 500
    assert checked["disagree"] < checked["checked"] / 4
    assert all(row["what"] for row in checked["rows"])


def test_the_other_calls(environ: dict[str, str], tmp_path: Path):
    vectors = json.loads(
        modelyard("embed", "--json", "a", "b", environ=environ).stdout
    )["embeddings"]
    assert [len(vector) for vector in vectors] == [512, 512]
    ranked = json.loads(
        modelyard(
            "rerank",
            "--json",
            "capital of Australia",
            environ=environ,
            stdin_text="Sydney is big.\nCanberra is the capital.\n",
        ).stdout
    )
    assert ranked["docs"][0]["index"] == 1
    file = tmp_path / "said.mp3"
    assert (
        modelyard(
            "speak", "Good", "morning", "everyone", "-o", str(file), environ=environ
        ).returncode
        == 0
    )
    assert (
        "morning" in modelyard("transcribe", str(file), environ=environ).stdout.lower()
    )
    assert (
        json.loads(
            modelyard("moderate", "--json", "I will kill you", environ=environ).stdout
        )["flagged"]
        is True
    )
    rows = json.loads(
        modelyard("usage", "--rows", "10", "--json", environ=environ).stdout
    )
    assert {row["model_type"] for row in rows} == {
        "text-embedding",
        "rerank",
        "tts",
        "speech2text",
        "moderation",
    }
    summed = json.loads(
        modelyard("usage", "--by", "model_type", "--json", environ=environ).stdout
    )
    assert sum(row["calls"] for row in summed) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["chta"], 2, "did you mean 'chat'"),
        (["chat", "-m", "gpt-9", "hi"], 1, "is not available"),
        (["chat", "-i", "/no/such.png", "hi"], 1, "cannot be read"),
        (["transcribe", "/no/such.wav"], 1, "cannot be read"),
        (["speak", "hi", "-o", "/no/such/folder/a.wav"], 1, "cannot be written"),
        (
            ["speak", "hi", "-o", "a.wav", "--voice", "bob"],
            1,
            "Unknown voice 'bob'",
        ),
        (["models", "pull", "smal"], 1, "did you mean 'small'"),
        (["models", "card", "gpt"], 1, "Unknown local model 'gpt'"),
        (["providers", "show", "opnai"], 1, "did you mean 'openai'"),
        (["providers", "add", "opnai"], 1, "is not in the catalogue"),
        (["providers", "add", "openai"], 1, "'api_key' (API key) is required"),
        (
            ["providers", "add", "openai", "--set", "colour=red", "--api-key", "x"],
            1,
            "has no credential field colour",
        ),
        (["providers", "check", "openai"], 1, "has no credential"),
        (["providers", "check", "ollama"], 1, "cannot be reached"),
        (["usage", "--since", "soon"], 2, "for example 24h"),
        (["usage", "--by", "colour"], 2, "unknown field colour"),
        (
            ["serve", "--host", "0.0.0.0"],
            1,
            "Refusing to listen on 0.0.0.0 without an API key",
        ),
        (["--config", "/no/such.yaml", "models"], 1, "does not exist"),
        (["embed"], 2, "No text."),
    ],
)
def test_each_error_is_one_clear_line(
    environ: dict[str, str], arguments: list[str], code: int, part: str
):
    environ = {**environ, "OLLAMA_BASE_URL": "http://127.0.0.1:1/v1"}
    result = modelyard(*arguments, environ=environ)
    assert (result.returncode, part in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_errors_are_json_with_the_json_option(environ: dict[str, str]):
    result = modelyard("chat", "--json", "-m", "gpt-9", "hi", environ=environ)
    assert (result.returncode, json.loads(result.stdout)["error"]["code"]) == (
        1,
        "model_not_found",
    )


def test_a_provider_is_added_checked_and_used(environ: dict[str, str], tmp_path: Path):
    with Upstream(lambda request: json_answer({"data": [{"id": "m1"}]})) as upstream:
        added = modelyard(
            "providers",
            "add",
            "mine",
            "--base-url",
            upstream.url,
            "--api-key",
            "sk-canary-1",
            "--as",
            "main",
            environ=environ,
        )
        assert added.returncode == 0, added.stderr
        assert (tmp_path / "providers.yaml").stat().st_mode & 0o777 == 0o600
        assert json.loads(
            modelyard("providers", "check", "mine", "--json", environ=environ).stdout
        ) == {"main": ["m1"]}
        assert upstream.requests[0].key == "sk-canary-1"
        assert (
            modelyard(
                "providers",
                "add",
                "mine",
                "--base-url",
                upstream.url,
                "--api-key",
                "sk-canary-2",
                environ=environ,
            ).returncode
            == 0
        )
        listed = json.loads(
            modelyard("providers", "list", "--json", environ=environ).stdout
        )
        assert next(provider for provider in listed if provider["provider"] == "mine")[
            "credentials"
        ] == ["main", "credential-2"]
        assert "canary" not in json.dumps(listed)


def test_models_and_doctor_show_what_is_ready(environ: dict[str, str]):
    listed = json.loads(modelyard("models", "list", "--json", environ=environ).stdout)
    assert {model["type"] for model in listed} == {
        "llm",
        "text-embedding",
        "rerank",
        "speech2text",
        "tts",
        "moderation",
    }
    everything = json.loads(
        modelyard("models", "list", "--json", "--all", environ=environ).stdout
    )
    assert len(everything) > len(listed)
    findings = json.loads(modelyard("doctor", "--json", environ=environ).stdout)
    assert all(finding["remedy"] for finding in findings if not finding["ok"])
    assert next(
        finding["detail"] for finding in findings if "sandbox" in finding["what"]
    ).startswith("landlock")
    nothing = {
        **environ,
        "MODELYARD_LOCAL__WEIGHTS": "",
        "MODELYARD_WORKFLOWS__CODE": "false",
    }
    result = modelyard("doctor", environ=nothing)
    assert result.returncode == 1
    assert "set workflows.code to true" in result.stdout
    assert "modelyard models pull qwen2.5-coder-0.5b" in result.stdout
    assert "pull small" in modelyard("chat", "hi", environ=nothing).stderr


def test_an_occupied_port_is_named(environ: dict[str, str], served: Served):
    result = modelyard("serve", "--port", str(served.port), environ=environ)
    assert result.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{served.port}" in result.stderr


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_server_stops_on_a_signal_and_leaves_nothing(
    environ: dict[str, str], stop: signal.Signals
):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "modelyard", "serve", "--port", str(port)],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while not is_healthy(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, stop)
    output, _ = process.communicate(timeout=20)
    assert "Modelyard is ready at" in output
    assert "Traceback" not in output
    assert not is_healthy(port)


def test_shell_completion_works(environ: dict[str, str]):
    result = subprocess.run(
        [str(Path(sys.executable).with_name("modelyard"))],
        env={**environ, "_MODELYARD_COMPLETE": "bash_source"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "complete -o" in result.stdout


def test_mcp_over_stdio_reads_files_and_ends_with_them(
    environ: dict[str, str], tmp_path: Path
):
    # With the null device as standard input there is nothing to answer.
    result = modelyard("mcp", "serve", environ=environ)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    file = tmp_path / "requests.jsonl"
    file.write_text('{"jsonrpc": "2.0", "id": 7, "method": "ping"}\n')
    with file.open() as requests:
        result = subprocess.run(
            [sys.executable, "-m", "modelyard", "mcp", "serve"],
            env=environ,
            stdin=requests,
            capture_output=True,
            timeout=120,
            check=True,
        )
    assert json.loads(result.stdout)["id"] == 7
