"""The result of a proof, and the helpers that proofs share: free ports, running
servers, home folders and commands."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass
class Proof:
    """The result of one proof: lines of (label, observed value, pass or fail) and named
    figures."""

    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    lines: list[tuple[str, str, bool | None]] = field(
        default_factory=list[tuple[str, str, bool | None]]
    )

    def line(self, label: str, observed: object, ok: bool | None = None) -> None:
        """Add a line. `ok` is None if the line is only for information."""
        self.lines.append((label, str(observed), ok))

    @property
    def ok(self) -> bool:
        """Whether the proof has at least one line and no line failed."""
        return bool(self.lines) and all(ok is not False for _, _, ok in self.lines)

    def table(self) -> Iterator[str]:
        """Yield the lines as aligned text for the terminal."""
        width = max((len(label) for label, _, _ in self.lines), default=0)
        for label, observed, ok in self.lines:
            mark = {True: "ok  ", False: "FAIL", None: "    "}[ok]
            yield f"{mark} {label:<{width}}  {observed}"


def tests(*paths: str) -> tuple[str, bool]:
    """Run pytest on these paths; return (last line of its output, whether all tests
    passed)."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    completed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = completed.stdout.strip().splitlines()
    if completed.returncode:
        print(completed.stdout[-4000:])
    return (lines[-1] if lines else completed.stderr[-200:]), completed.returncode == 0


def free_port() -> int:
    """Return a port on which a server can listen.

    It is below the range that kernels use for outgoing connections, so that no
    connection takes it before the server starts. The choice ignores any random seed, so
    that processes that choose at the same time get different ports.
    """
    chance = random.SystemRandom()
    while True:
        port = chance.randint(10_000, 32_000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


def weights_folder() -> Path:
    """Return the folder of this machine in which model weights are stored."""
    return (
        Path(os.environ.get("MODELYARD_HOME", "~/.modelyard")).expanduser() / "models"
    )


def ready_home(home: Path) -> Path:
    """Prepare a home folder that shares the plugin environments of this machine, which
    never change once they are built."""
    shared = weights_folder().parent / "plugins" / "environments"
    shared.mkdir(parents=True, exist_ok=True)
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "environments").symlink_to(shared)
    return home


@contextmanager
def clean_checkout() -> Generator[Path]:
    """Clone the committed state of this repository into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
        target = Path(folder) / "modelyard"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(target)], check=True)
        yield target


@contextmanager
def running(
    command: list[str],
    port: int,
    *,
    cwd: Path = ROOT,
    environ: Mapping[str, str] | None = None,
    seconds: float = 900,
) -> Generator[tuple[subprocess.Popen[bytes], float]]:
    """Run a server until the block ends. Yields (process, seconds until its health
    check answered).

    Raises RuntimeError with the end of its log if it does not start within `seconds`.
    """
    log = tempfile.TemporaryFile()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        stdout=log,
        stderr=log,
        env={**os.environ, "MODELYARD_PORT": str(port), **(environ or {})},
        start_new_session=True,  # as a service has one: kernels share processors out by sessions
    )
    started_at = time.monotonic()
    try:
        while not is_healthy(port):
            if process.poll() is not None or time.monotonic() - started_at > seconds:
                log.seek(0)
                raise RuntimeError(
                    f"the server did not start: {log.read()[-2000:].decode(errors='replace')}"
                )
            time.sleep(0.05)
        yield process, time.monotonic() - started_at
    finally:
        # Give the server time for a graceful shutdown before it is killed.
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


def is_healthy(port: int) -> bool:
    """Return whether a server on this port answers its health check."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/health", timeout=1
        ) as answer:
            return answer.status == 200
    except OSError:
        return False


def modelyard(*arguments: str, environ: Mapping[str, str]) -> str:
    """Return the output of a `modelyard` command. Raises CalledProcessError if it
    fails."""
    command = [sys.executable, "-m", "modelyard", *arguments]
    full_environ = {**os.environ, **environ}
    completed = subprocess.run(
        command, env=full_environ, capture_output=True, text=True, check=True
    )
    return completed.stdout


def cost_by_group(
    *by: str, environ: Mapping[str, str]
) -> dict[tuple[str, ...], tuple[Decimal, str]]:
    """Return the cost per group from `modelyard usage`: group values to (amount,
    currency).

    Compare the amounts as numbers: their spelling may change. Raises CalledProcessError
    if the command fails.
    """
    sums = json.loads(
        modelyard("usage", "--by", ",".join(by), "--json", environ=environ)
    )
    return {
        tuple(line[name] for name in by): (Decimal(line["cost"]), line["currency"])
        for line in sums
    }


def serve_command() -> list[str]:
    """Return the command line that starts a server with the interpreter of this
    process."""
    return [sys.executable, "-m", "modelyard", "serve"]


@contextmanager
def temporary_home(**files: str) -> Generator[dict[str, str]]:
    """Create a temporary home folder with these YAML files; yields the environment
    variables for it.

    The server in it uses the model weights that this machine already has.
    """
    folder = tempfile.mkdtemp(prefix="modelyard-home-")
    try:
        for name, text in files.items():
            (Path(folder) / f"{name}.yaml").write_text(text, "utf-8")
        yield {
            "MODELYARD_HOME": folder,
            "MODELYARD_LOCAL__WEIGHTS": str(weights_folder()),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
