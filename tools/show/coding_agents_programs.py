"""The coding agents of the proof: pinned packages, how each is started, and how it is
kept on this machine."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROMPT = "Do the steps"


@dataclass(frozen=True)
class Program:
    """A coding agent: its package, its arguments for a session without questions, and
    variables that switch off what goes elsewhere than to the model."""

    name: str
    package: str
    version: str
    wire: str
    """The target that speaks its format, for a direct session to compare with. Empty
    for agents that send OpenAI's current models a field that these refuse."""
    arguments: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    model: str = ""
    """A name by which it knows what a model can do; a route has this name. If empty,
    it gets the provider's own name."""
    goes_on_after_cuts: bool = True
    """Whether it goes on after a stream that breaks in the middle of an answer."""
    full_share: float = 0.97
    """The share of the context that the provider reports as used, upon which the agent
    summarizes its conversation; 0 if it does not within a single prompt."""
    prepare: Callable[[Path], None] = lambda home: None
    """Writes the files that it needs in its home folder."""
    text_of: Callable[[str], str] = lambda output: output
    """Returns the final text of what it wrote."""


def _write(path: Path, text: str) -> None:
    """Write a file and the folders around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _prepare_codex(home: Path) -> None:
    settings = 'approval_policy = "never"\nsandbox_mode = "danger-full-access"\n'
    settings += "check_for_update_on_startup = false\n[analytics]\nenabled = false\n"
    _write(home / ".codex/config.toml", settings)


def _prepare_gemini(home: Path) -> None:
    settings = {
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"disableAutoUpdate": True, "enableAutoUpdate": False},
    }
    _write(home / ".gemini/settings.json", json.dumps(settings))


def _prepare_qwen(home: Path) -> None:
    settings = {
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"disableAutoUpdate": True, "enableAutoUpdate": False},
    }
    _write(home / ".qwen/settings.json", json.dumps(settings))


def _events(output: str) -> list[Any]:
    """Return the JSON lines of an output."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines]


def _codex_text(output: str) -> str:
    """Return the last message of Codex's events."""
    items = [event.get("item") or {} for event in _events(output)]
    texts = [i["text"] for i in items if i.get("type") == "agent_message"]
    return texts[-1] if texts else output


PROGRAMS = (
    Program(
        "claude", "@anthropic-ai/claude-code", "2.1.197", "anthropic",
        ("-p", PROMPT, "--permission-mode", "bypassPermissions"),
        {
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1", "IS_SANDBOX": "1",
        },
        # With the provider itself too: it leaves another try to a person.
        goes_on_after_cuts=False,
    ),
    Program(
        "codex", "@openai/codex", "0.171.0", "responses",
        ("exec", "--skip-git-repo-check", "--json", PROMPT),
        model="gpt-5.5",  # other names get no freeform tool
        prepare=_prepare_codex, text_of=_codex_text,
    ),
    Program(
        "gemini", "@google/gemini-cli", "0.61.0", "gemini",
        ("-p", PROMPT, "--yolo"),
        {"GEMINI_CLI_NO_RELAUNCH": "true", "GEMINI_CLI_TRUST_WORKSPACE": "true"},
        # It divides its history only where a person has asked something.
        full_share=0,
        prepare=_prepare_gemini,
    ),
    Program(
        "opencode", "opencode-ai", "1.18.33", "", ("run", PROMPT),
        {
            "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_SHARE": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            "OPENCODE_PERMISSION": '{"*":"allow"}',
        },
    ),
    Program(
        "qwen", "@qwen-code/qwen-code", "0.24.4", "", ("-p", PROMPT, "--yolo"),
        {"QWEN_CODE_NO_RELAUNCH": "true"}, full_share=0.76, prepare=_prepare_qwen,
    ),
)  # fmt: skip


def installed_programs() -> Path:
    """Install the packages at their versions, and return the folder of the commands.

    They are kept beside the model weights of this machine, and are no part of this
    repository. Raises CalledProcessError if npm fails.
    """
    default = Path(os.environ.get("MODELYARD_HOME", "~/.modelyard")) / "coding-agents"
    folder = Path(os.environ.get("CODING_AGENTS_FOLDER", default)).expanduser()
    missing = [p for p in PROGRAMS if _installed_version(folder, p) != p.version]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"{program.package}@{program.version}" for program in missing]
        command = ["npm", "install", "--prefix", str(folder), "--no-audit", *names]
        subprocess.run(command, check=True, capture_output=True)
    return folder / "node_modules" / ".bin"


def _installed_version(folder: Path, program: Program) -> str:
    """Return the installed version of a package, or an empty text."""
    file = folder / "node_modules" / program.package / "package.json"
    return json.loads(file.read_text())["version"] if file.is_file() else ""
