"""What a proof gathers: lines with what was seen and whether it was as promised, and figures."""

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
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    lines: list[tuple[str, str, bool | None]] = field(default_factory=list[tuple[str, str, bool | None]])

    def line(self, what: str, seen: object, ok: bool | None = None) -> None:
        """`ok` None is a line for information."""
        self.lines.append((what, str(seen), ok))

    @property
    def ok(self) -> bool:
        return bool(self.lines) and all(ok is not False for _, _, ok in self.lines)

    def table(self) -> Iterator[str]:
        width = max((len(what) for what, _, _ in self.lines), default=0)
        for what, seen, ok in self.lines:
            mark = {True: "ok  ", False: "FAIL", None: "    "}[ok]
            yield f"{mark} {what:<{width}}  {seen}"


def tests(*paths: str) -> tuple[str, bool]:
    """The last line of a test run, and whether all passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        print(done.stdout[-4000:])
    return (lines[-1] if lines else done.stderr[-200:]), done.returncode == 0


def free_port() -> int:
    """A port that a server may be told to listen on. It lies below those that kernels give to outgoing connections, or
    one of these could have it by then; chance, which no seed decides, keeps those who ask at the same time apart."""
    chance = random.SystemRandom()
    while True:
        port = chance.randint(10_000, 32_000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


def weights_folder() -> Path:
    return Path(os.environ.get("MODELYARD_HOME", "~/.modelyard")).expanduser() / "models"


def ready_home(home: Path) -> Path:
    """A home folder that shares plugins' environments with the one of this machine: they never change."""
    shared = weights_folder().parent / "plugins" / "environments"
    shared.mkdir(parents=True, exist_ok=True)
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "environments").symlink_to(shared)
    return home


@contextmanager
def clean_checkout() -> Generator[Path]:
    """The committed state of this repository, cloned beside nothing else."""
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
        target = Path(folder) / "modelyard"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(target)], check=True)
        yield target


@contextmanager
def running(
    command: list[str], port: int, *, cwd: Path = ROOT, environ: Mapping[str, str] | None = None, seconds: float = 900
) -> Generator[tuple[subprocess.Popen[bytes], float]]:
    """(process, seconds until it answered) of a server, which is stopped afterwards."""
    log = tempfile.TemporaryFile()
    process = subprocess.Popen(
        command, cwd=cwd, stdout=log, stderr=log, env={**os.environ, "MODELYARD_PORT": str(port), **(environ or {})},
        start_new_session=True,  # as a service has one: kernels share processors out by sessions
    )  # fmt: skip
    begun = time.monotonic()
    try:
        while not answers(port):
            if process.poll() is not None or time.monotonic() - begun > seconds:
                log.seek(0)
                raise RuntimeError(f"the server did not start: {log.read()[-2000:].decode(errors='replace')}")
            time.sleep(0.05)
        yield process, time.monotonic() - begun
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


def modelyard(*arguments: str, environ: Mapping[str, str]) -> str:
    """What a command prints. Raises where it fails."""
    command = [sys.executable, "-m", "modelyard", *arguments]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=True).stdout


def spent(*by: str, environ: Mapping[str, str]) -> dict[tuple[str, ...], tuple[Decimal, str]]:
    """Values of these groupings → amount and currency, as `modelyard usage` adds up. Compare amounts and not their
    spelling, which may change. Raises where the command fails."""
    sums = json.loads(modelyard("usage", "--by", ",".join(by), "--json", environ=environ))
    return {tuple(line[name] for name in by): (Decimal(line["cost"]), line["currency"]) for line in sums}


def serve_command() -> list[str]:
    return [sys.executable, "-m", "modelyard", "serve"]


@contextmanager
def own_home(**files: str) -> Generator[dict[str, str]]:
    """Variables for a home folder of its own that uses the weights which are here already."""
    folder = tempfile.mkdtemp(prefix="modelyard-home-")
    try:
        for name, text in files.items():
            (Path(folder) / f"{name}.yaml").write_text(text, "utf-8")
        yield {"MODELYARD_HOME": folder, "MODELYARD_LOCAL__WEIGHTS": str(weights_folder())}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
