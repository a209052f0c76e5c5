"""Someone who types what a page says: in a folder and a home of their own, with played
models, and with a server where the page calls one."""

import contextlib
import io
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

from tools.show.proof import free_port, running, serve_command

from modelyard.cli import run
from modelyard.testing import Upstream
from tests.docs.commands import Command
from tests.docs.pages import ROOT
from tests.docs.played import played

ORDERS_PORT = "8795"
"""The port of the example's order service on the pages and in its workflow."""
_LOCAL_CHAT = "local/qwen2.5-coder-0.5b"
_SECONDS = 60
_CURL = "curl -sS --fail-with-body --retry 3 --retry-delay 1 --retry-all-errors "
"""Reports a refusal, which curl does only on request, and tries again: what a command
changed takes effect on a running server within a second."""
_SETTINGS = """
plugins: {{debug_port: 0}}
defaults: {{llm: played/chat, text-embedding: played/embed, rerank: played/rank}}
providers:
- name: played
  base_url: {url}
  credentials: [{{values: {{api_key: none}}}}]
  models:
  - {{name: chat, context_size: 8192}}
  - {{name: embed, model_type: text-embedding}}
  - {{name: rank, model_type: rerank}}
"""


class Reader:
    """Runs the commands of one page. Everything that it starts ends with `close`."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder = folder / "work"
        self.printed = ""
        """All output so far, in which later commands find ids and keys."""
        self._orders_port = str(free_port())
        self._port = free_port()
        self._has_server = False
        self._resources = ExitStack()
        self._environ = self._prepare(folder, weights)

    def _prepare(self, folder: Path, weights: Path) -> dict[str, str]:
        """Create the folders and return the variables for commands."""
        home, programs = folder / "home", folder / "bin"
        programs.mkdir()
        for name, arguments in (("modelyard", "-m modelyard"), ("python", "")):
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
            script.chmod(0o755)
        shutil.copytree(ROOT / "examples", self.folder / "examples")
        for file in (self.folder / "examples" / "workflows").iterdir():
            text = file.read_text("utf-8")
            # The usual port may be taken by the tests of another page.
            file.write_text(text.replace(ORDERS_PORT, self._orders_port), "utf-8")
        (home / ".modelyard").mkdir(parents=True)
        models = self._resources.enter_context(Upstream(played))
        settings = home / ".modelyard" / "modelyard.yaml"
        settings.write_text(_SETTINGS.format(url=models.url), "utf-8")
        return {
            **os.environ,
            "HOME": str(home),
            "MODELYARD_HOME": str(home / ".modelyard"),
            "MODELYARD_PORT": str(self._port),
            "MODELYARD_LOCAL__WEIGHTS": str(weights),
            "MODELYARD_LOCAL__HUB": "",
            "PATH": f"{programs}:{os.environ['PATH']}",
        }

    def serve(self) -> None:
        """Start the page's server, unless it runs already."""
        if not self._has_server:
            command = serve_command()
            environ = self._environ
            self._resources.enter_context(
                running(command, self._port, environ=environ, seconds=60)
            )
            self._has_server = True

    def run(
        self,
        command: Command,
        *,
        answer: str = "",
        exit_code: int = 0,
        values: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command and return what it prints.

        `answer` is typed at its prompt; `values` stand in for placeholders, each a
        regular expression that is searched in the earlier output. Raises AssertionError
        if the command ends with another exit code.
        """
        line = self._filled_in(command.line, values or {})
        if line.startswith("export "):
            name, _, value = command.arguments[1].partition("=")
            self._environ[name] = value.replace(ORDERS_PORT, self._orders_port)
            return ""
        if command.arguments[-1] == "&":
            self._start(line.partition("&")[0])
            return ""
        code, output = self._run_line(line, answer)
        self.printed += output
        ended = f"{command.block.where}: {line!r} ended with {code}"
        assert code == exit_code, f"{ended}:\n{output}"
        return output

    def _filled_in(self, line: str, values: Mapping[str, str]) -> str:
        for placeholder, pattern in values.items():
            matches = re.findall(pattern, self.printed)
            assert matches, f"nothing printed fits {pattern!r}:\n{self.printed}"
            line = line.replace(placeholder, matches[-1])
        line = line.replace(_LOCAL_CHAT, "default")
        return line.replace("127.0.0.1:8790", f"127.0.0.1:{self._port}")

    def _run_line(self, line: str, answer: str) -> tuple[int, str]:
        """Return the exit code and the output of a line."""
        if answer:
            return self._answer_prompt(line, answer)
        if line.startswith("modelyard ") and not line.startswith("modelyard mcp"):
            return self._run_here(shlex.split(line, comments=True)[1:])
        line = re.sub(r"^curl ", _CURL, line)
        completed = subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            env=self._environ,
            input="",
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        return completed.returncode, completed.stdout + completed.stderr

    def _run_here(self, arguments: list[str]) -> tuple[int, str]:
        """Run the command line in this process, which spares the start of another."""
        output = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        with self._at_the_prompt(output):
            code = run(arguments)
        output.seek(0)
        return code, output.read()

    @contextmanager
    def _at_the_prompt(self, output: io.TextIOWrapper) -> Iterator[None]:
        """Give this process the folder, the variables and the streams of a command."""
        with (
            patch.dict(os.environ, self._environ),
            contextlib.chdir(self.folder),
            Path(os.devnull).open() as nothing,
            patch.object(sys, "stdin", nothing),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            yield

    def _answer_prompt(self, line: str, answer: str) -> tuple[int, str]:
        """Run a line and type an answer once it prompts, at a terminal as people do."""
        keyboard, terminal = pty.openpty()
        with subprocess.Popen(
            f"exec {line}",
            shell=True,
            cwd=self.folder,
            env=self._environ,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            assert process.stdout
            output = b""
            # What is typed before the prompt is discarded, as with every password.
            while not output.endswith(b": "):
                character = process.stdout.read(1)
                if not character:
                    break
                output += character
            os.write(keyboard, f"{answer}\n".encode())
            output += process.stdout.read()
        os.close(keyboard)
        os.close(terminal)
        return process.returncode, output.decode()

    def _start(self, line: str) -> None:
        """Start a program in the background."""
        process = subprocess.Popen(
            f"exec {line}",
            shell=True,
            cwd=self.folder,
            env=self._environ,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._resources.callback(_end, process)

    def close(self) -> None:
        """End the server and all programs in the background."""
        self._resources.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
