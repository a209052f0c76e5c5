"""Coding agents × providers: each agent drives a session of several turns through the
gateway, against a strict stand-in for each provider's API.

The environment variable CODING_AGENTS_CELLS limits the proof to cells whose name,
such as `claude/anthropic`, matches a pattern of fnmatch.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from tests.stand_ins.chat import Chat, PlainChat
from tests.stand_ins.converse import Converse
from tests.stand_ins.gemini import Gemini
from tests.stand_ins.messages import Messages
from tests.stand_ins.responses import Responses
from tests.stand_ins.session import FILES, FINAL_TEXT, Session, start_files
from tests.stand_ins.vendor import StandIn

from modelyard.cli.agent_launches import PROGRAMS as LAUNCHES
from modelyard.cli.agent_launches import Target as LaunchTarget
from modelyard.cli.agent_launches import temporary_files
from modelyard.testing import Upstream
from tools.show.coding_agents_programs import PROGRAMS, Program, installed_programs
from tools.show.proof import (
    ROOT,
    Proof,
    free_port,
    running,
    serve_command,
    temporary_home,
    weights_folder,
)

_SECONDS = 300
_PROJECT = "coding agents"


@dataclass(frozen=True)
class Target:
    """A provider: its stand-in, its settings, and the model that agents use."""

    name: str
    label: str
    stand_in: type[StandIn]
    model: str
    context_size: int
    """Tokens of a call, as the catalogue knows the model."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    path: str = ""
    """What follows the stand-in's origin in the base URL."""
    is_learnt: bool = False
    """Whether the gateway knows nothing of the server, and learns from refusals."""


_PLAIN_MODEL = {
    "name": "qwen3-coder", "context_size": 262_144, "input_price": 0.1,
    "output_price": 0.4, "features": ["tool-call", "stream-tool-call", "vision"],
}  # fmt: skip
TARGETS = (
    Target("anthropic", "Anthropic", Messages, "anthropic/claude-sonnet-4-5", 200_000),
    Target("adaptive", "Anthropic, adaptive", Messages, "anthropic/claude-opus-4-8", 1_000_000),
    Target("chat", "OpenAI chat", Chat, "openai/gpt-5-mini", 272_000, {"wire": "openai"}, "/v1"),
    Target(
        "responses", "OpenAI Responses", Responses, "openai/gpt-5.1", 272_000,
        {"wire": "openai_responses"}, "/v1",
    ),
    Target("gemini", "Gemini", Gemini, "gemini/gemini-3.1-pro-preview", 1_048_576, {}, "/v1beta"),
    Target(
        "bedrock", "Bedrock", Converse,
        "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0", 200_000,
        {"values": {"auth_method": "api_key", "api_key": "k", "aws_region": "us-east-1"}},
    ),
    Target(
        "plain", "Chat server", PlainChat, "my-server/qwen3-coder", 262_144,
        {"models": [_PLAIN_MODEL]}, "/v1", is_learnt=True,
    ),
)  # fmt: skip


@dataclass
class Outcome:
    """What came of a session."""

    problems: list[str] = field(default_factory=list[str])
    steps: int = 0
    requests: int = 0
    learnt: int = 0
    """Refusals from which the gateway learnt what an unknown server accepts."""
    events: list[str] = field(default_factory=list[str])
    """What happened beside the steps: a cut, a summary, a subagent."""
    read_share: float = 0.0
    """Tokens read from the prompt cache as a share of all."""
    cost: str = ""

    @property
    def summary(self) -> str:
        """The outcome in a line."""
        if self.problems:
            return "; ".join(self.problems)[:1500]
        learnt = f", {self.learnt} fields learnt" if self.learnt else ""
        events = "".join(f", {event}" for event in self.events)
        return (
            f"{self.steps} steps in {self.requests} calls{events}, {self.cost}{learnt}"
        )


def prove() -> Proof:
    """Run the session of every agent with every provider, and report each."""
    proof = Proof()
    pattern = os.environ.get("CODING_AGENTS_CELLS", "*")
    commands = installed_programs()
    held = 0
    for program in PROGRAMS:
        for target in TARGETS:
            if not fnmatchcase(f"{program.name}/{target.name}", pattern):
                continue
            outcome = _run_cell(program, target, commands)
            proof.line(
                f"{program.name} {program.version}, {target.label}",
                outcome.summary,
                not outcome.problems,
            )
            held += not outcome.problems
    proof.figures |= {"cells": len(proof.lines), "held": held}
    return proof


def _run_cell(program: Program, target: Target, commands: Path) -> Outcome:
    """Run a session through the gateway, and directly where the agent and the provider
    speak the same format; compare what the prompt cache reads."""
    is_cut = program.goes_on_after_cuts
    with _world(program, target, is_cut=is_cut) as world:
        outcome = world.run_through_gateway(commands)
    is_same = program.wire == target.name
    if is_same and not outcome.problems:
        # Not all go on after a cut that the gateway has not reported in their format.
        with _world(program, target, is_cut=False) as world:
            direct = world.run_directly(commands)
        if direct.problems:
            outcome.problems += [f"directly: {each}" for each in direct.problems]
        elif direct.read_share:
            ratio = outcome.read_share / direct.read_share
            outcome.cost += f", cache reads {ratio:.3f} of a direct session"
            if ratio < 0.99:
                outcome.problems.append(outcome.summary)
    return outcome


@contextmanager
def _world(program: Program, target: Target, *, is_cut: bool) -> Generator["World"]:
    """Yield a world with a stand-in that is running."""
    # Gemini CLI reads no settings from folders in which others may write, as in /tmp.
    # The path is part of prompts, so its length is the same for all sessions.
    folder = weights_folder().parent / f"coding-agents-{os.getpid():08d}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "work").mkdir(parents=True)
    (folder / "home").mkdir()
    start_files(lambda name, content: _put(folder / "work" / name, content))
    program.prepare(folder / "home")
    session = Session(
        str(folder / "work"),
        is_interrupted=is_cut,
        context_tokens=int(program.full_share * target.context_size),
    )
    stand_in = target.stand_in(session)
    with Upstream(stand_in.handle) as upstream:
        yield World(program, target, folder, session, stand_in, upstream)
    shutil.rmtree(folder, ignore_errors=True)


def _usage_rows(port: int, calls: int) -> list[Any]:
    """Return the usage by session and project, once so many calls are booked, or after
    a time: calls are booked shortly after they end."""
    address = f"http://127.0.0.1:{port}/admin/v1/usage?by=session,project"
    rows: list[Any] = []
    for _ in range(50):
        with urllib.request.urlopen(address, timeout=10) as reply:
            rows = json.load(reply)["data"]
        if sum(row["calls"] for row in rows) >= calls:
            break
        time.sleep(0.1)
    return rows


def _put(path: Path, content: bytes) -> None:
    """Write a file."""
    path.write_bytes(content)


@dataclass
class World:
    """A session that is about to run: the agent's folders and the provider."""

    program: Program
    target: Target
    folder: Path
    session: Session
    stand_in: StandIn
    upstream: Upstream

    def run_through_gateway(self, commands: Path) -> Outcome:
        """Run the agent by `modelyard run` with a server, and check what was booked."""
        port = free_port()
        with (
            temporary_home(modelyard=yaml.safe_dump(self._settings())) as environ,
            running(serve_command(), port, environ=environ),
        ):
            command = [
                sys.executable, "-m", "modelyard", "run",
                "--server", f"http://127.0.0.1:{port}",
                "--model", self.program.model or self.target.model,
                "--session", "session-of-the-proof", "--project", _PROJECT, "--",
                self.program.name, *self.program.arguments,
            ]  # fmt: skip
            agent_environ = {
                **self._environ(commands),
                "PYTHONPATH": f"{ROOT}/src",
                "MODELYARD_HOME": str(self.folder / "modelyard"),
            }
            outcome = self._outcome(command, agent_environ)
            self._check_usage(outcome, port)
        return outcome

    def run_directly(self, commands: Path) -> Outcome:
        """Run the agent with the stand-in itself as its server."""
        origin = self.upstream.url.removesuffix("/v1")
        model = self.program.model or self.target.model.partition("/")[2]
        launch = LAUNCHES[self.program.name](LaunchTarget(origin, model=model))
        command = [
            str(commands / self.program.name),
            *launch.arguments,
            *self.program.arguments,
        ]
        with temporary_files(launch.files, self.folder) as paths:
            environ = {**self._environ(commands), **launch.environ, **paths}
            return self._outcome(command, environ)

    def _settings(self) -> dict[str, Any]:
        """Return the settings of the server."""
        target = self.target
        settings = {k: v for k, v in target.settings.items() if k != "values"}
        origin = self.upstream.url.removesuffix("/v1")
        values = target.settings.get("values", {"api_key": "k"})
        provider = {
            "name": target.model.partition("/")[0],
            "base_url": origin + target.path,
            "credentials": [{"values": values}],
            **settings,
        }
        document = {"providers": [provider], "local": {"enabled": False}}
        if self.program.model:
            route = {"targets": [{"model": target.model}]}
            document["routes"] = {self.program.model: route}
        return document

    def _environ(self, commands: Path) -> dict[str, str]:
        """Return an environment without any setting of this user."""
        home = str(self.folder / "home")
        path = f"{commands}:{os.environ['PATH']}"
        base = {"PATH": path, "HOME": home, "TERM": "dumb", "LANG": "C.UTF-8"}
        return {**base, **self.program.environ}

    def _outcome(self, command: list[str], environ: dict[str, str]) -> Outcome:
        """Run a command and check the session."""
        outcome = Outcome()
        try:
            done = subprocess.run(
                command,
                cwd=self.folder / "work",
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            outcome.problems.append(f"not finished: {(error.stdout or b'')[-300:]!r}")
        else:
            if done.returncode:
                text = (done.stdout + done.stderr)[-600:]
                outcome.problems.append(f"exit code {done.returncode}: {text}")
            elif not self.program.text_of(done.stdout).strip().endswith(FINAL_TEXT):
                outcome.problems.append(f"text {done.stdout[-300:]!r}")
        self._check_session(outcome)
        return outcome

    def _check_session(self, outcome: Outcome) -> None:
        """Add what is wrong with the session and its files."""
        refusals = self.stand_in.refusals
        if self.target.is_learnt:
            # Each refusal of an unknown server may teach the gateway something once.
            outcome.learnt = len(refusals)
            refusals = [each for each in {*refusals} if refusals.count(each) > 1]
        outcome.problems += [f"refused: {each}" for each in refusals[:3]]
        outcome.problems += self.session.unexpected_results[:3]
        if not self.session.is_complete:
            outcome.problems.append("the session is not complete")
        for name, content in FILES.items():
            path = self.folder / "work" / name
            text = path.read_text("utf-8") if path.is_file() else None
            if text != content:
                outcome.problems.append(f"{name} contains {text!r}")
        self._check_events(outcome)
        outcome.steps = len(self.session.played)
        outcome.requests = self.stand_in.requests
        use = self.stand_in.cache_use
        outcome.read_share = use.read / use.total if use.total else 0.0

    def _check_events(self, outcome: Outcome) -> None:
        """Add what should have happened beside the steps and did not."""
        session = self.session
        happened = {
            "a cut stream": (session.cuts, session.is_interrupted),
            "a summary": (session.summaries, session.context_tokens),
            "a subagent": (session.subtasks, "delegate" in session.played),
        }
        for event, (count, is_expected) in happened.items():
            if count:
                outcome.events.append(event)
            if bool(count) != bool(is_expected):
                outcome.problems.append(f"{event} happened {count} times")

    def _check_usage(self, outcome: Outcome, port: int) -> None:
        """Add what is wrong with the usage that was booked to session and project."""
        rows = _usage_rows(port, self.stand_in.requests)
        calls = {(row["session"], row["project"]): row for row in rows}
        row = calls.get(("session-of-the-proof", _PROJECT))
        if len(rows) != 1 or row is None:
            outcome.problems.append(f"usage is booked to {list(calls)}")
            return
        outcome.cost = f"{float(row['cost']):.4f} {row['currency']}"
        if float(row["cost"]) <= 0 or row["calls"] < self.stand_in.requests:
            outcome.problems.append(f"the usage is {row}")
