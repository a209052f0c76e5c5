"""docs/how-to/write-a-plugin.md, executed.

Its files are written, its commands are run, and the output is compared.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.show.proof import free_port, running, serve_command

from tests.plugins.conftest import EXAMPLES

pytestmark = pytest.mark.proof("plugin-kinds")

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-plugin.md"
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Reader:
    """Follows the page in a folder of its own, with a server of its own."""

    def __init__(
        self, folder: Path, home: Path, port: int, environ: dict[str, str]
    ) -> None:
        self._folder = folder
        self._home = home
        self._port = port
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name, arguments in (("modelyard", "-m modelyard"), ("python", "")):
            script = bin_folder / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
            script.chmod(0o755)
        self._environ = {
            **os.environ,
            **environ,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
        }
        self._background: list[subprocess.Popen[bytes]] = []

    def follow(self, text: str) -> int:
        """Follow the blocks of a text; return their number."""
        blocks = _BLOCK.findall(text)
        for language, name, body in blocks:
            body = body.replace("127.0.0.1:8790", f"127.0.0.1:{self._port}")
            if name:
                path = self._folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(body, "utf-8")
            elif language == "console":
                self._run_all(body)
        return len(blocks)

    def _run_all(self, body: str) -> None:
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, *expected = part.strip().splitlines()
            if command.endswith("&"):
                self._begin(command[:-1])
                continue
            if command.startswith("modelyard plugin package"):
                self._stop()  # stop it before the next step
            printed = self._run(command)
            for line in expected:
                for fragment in re.split(r"\s{2,}", line):
                    assert fragment in printed, (
                        f"{command!r} printed\n{printed}\nand not {fragment!r}"
                    )

    def _run(self, command: str) -> str:
        """Run a command and return its output.

        Commands that need a server or plugin that has just started are retried.
        """
        until = time.monotonic() + 20
        while True:
            result = subprocess.run(
                command,
                shell=True,
                cwd=self._folder,
                env=self._environ,
                capture_output=True,
                text=True,
                check=False,
            )
            is_ready = "mock-gpt-v1" in result.stdout or not command.startswith("curl")
            if (result.returncode == 0 and is_ready) or time.monotonic() > until:
                break
            if not command.startswith(("curl", "python chat.py")):
                break
            time.sleep(0.2)
        assert result.returncode == 0, (
            f"{command!r} ended with {result.returncode}\n{result.stdout}\n{result.stderr}"
        )
        return result.stdout

    def _begin(self, command: str) -> None:
        self._background.append(
            subprocess.Popen(
                f"exec {command}",
                shell=True,
                cwd=self._folder,
                env=self._environ,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def _stop(self) -> None:
        for process in self._background:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._background.clear()

    def close(self) -> None:
        self._stop()


@pytest.fixture
def reader(tmp_path: Path, environments: Path) -> Iterator[Reader]:
    home, folder = tmp_path / "home", tmp_path / "work"
    (home / "plugins").mkdir(parents=True)
    folder.mkdir()
    (home / "plugins" / "environments").symlink_to(environments)
    (home / "modelyard.yaml").write_text(
        f"plugins: {{debug_port: {free_port()}}}\nlocal: {{enabled: false}}\n"
    )
    port = free_port()
    environ: dict[str, Any] = {"MODELYARD_HOME": str(home), "MODELYARD_PORT": str(port)}
    with running(serve_command(), port, environ=environ):
        page_reader = Reader(folder, home, port, environ)
        yield page_reader
        page_reader.close()


def test_the_page_works_as_written(reader: Reader):
    assert reader.follow(PAGE.read_text("utf-8")) >= 12


def test_the_page_shows_the_example_of_the_repository():
    shown_files = {
        name: body for _, name, body in _BLOCK.findall(PAGE.read_text("utf-8")) if name
    }
    for name in (
        "models/llm/mock-gpt-v1.yaml",
        "models/llm/llm.py",
        "provider/mockgpt.py",
    ):
        assert shown_files[f"mockgpt/{name}"] == (
            EXAMPLES / "mockgpt" / name
        ).read_text("utf-8")
