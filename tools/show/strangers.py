"""Unauthenticated attacks: slow headers, slow bodies, endless bodies, thousands of
connections, huge headers and wrong passwords. Meanwhile the owner signs in within a
second, a caller with a key is served, and memory stays bounded.

The attackers run in a separate process: `python -m tools.show.strangers NAME PORT
SECONDS`.
"""

import asyncio
import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.show.proof import Proof, free_port, is_healthy

_EMAIL, _PASSWORD = "owner@example.com", "correct horse battery staple"
_KEY = "key-of-the-owner"
_SECONDS = 12.0
_MAX_SIGN_IN_SECONDS = 1.0
_MAX_MEGABYTES = 50.0


# Attackers


@dataclass
class Attack:
    """One running attack: its end time and the number of connections that it opened and
    lost."""

    port: int
    until: float
    made: int = 0
    closed: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the time of the attack is over."""
        return time.monotonic() > self.until

    async def open(
        self, number: int = 0
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the server. The source address depends on `number`."""
        # Forty different source addresses, so that a limit per address alone does not
        # stop the attack.
        pair = await asyncio.open_connection(
            "127.0.0.1",
            self.port,
            local_addr=(f"127.0.0.{2 + number % 40}", 0),
            limit=1 << 16,
        )
        self.made += 1
        return pair

    async def repeat(
        self, attack_once: Callable[[int], Coroutine[Any, Any, None]], number: int
    ) -> None:
        """Repeat one client's attack until the time is over; a closed client connects
        again."""
        while not self.is_over:
            with suppress(OSError, EOFError, asyncio.IncompleteReadError):
                await attack_once(number)
            self.closed += 1
            await asyncio.sleep(0.05)

    async def run_clients(
        self, count: int, attack_once: Callable[[int], Coroutine[Any, Any, None]]
    ) -> None:
        """Run so many clients at the same time."""
        await asyncio.gather(
            *(self.repeat(attack_once, number) for number in range(count))
        )


async def _trickle(attack: Attack, number: int, head: bytes, chunk: bytes) -> None:
    """Send the head, then one chunk every half second until the server closes the
    connection."""
    reader, writer = await attack.open(number)
    try:
        writer.write(head)
        while not attack.is_over and not reader.at_eof():
            writer.write(chunk)
            await writer.drain()
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1000), 0.5)
    finally:
        writer.close()


async def slow_heads(attack: Attack) -> None:
    """Attack with headers that arrive one byte at a time."""
    await attack.run_clients(
        200,
        lambda number: _trickle(
            attack, number, b"GET /v1/models HTTP/1.1\r\nhost: x\r\na: ", b"b"
        ),
    )


async def slow_bodies(attack: Attack) -> None:
    """Attack with bodies that arrive one byte at a time."""
    paths = (
        "/console/api/session",
        "/v1/chat/completions",
        "/v1/chat-messages",
        "/v1/datasets",
    )

    async def run_client(number: int) -> None:
        """Attack one of the endpoints that read a body before they authenticate."""
        await _trickle(
            attack, number, _head(paths[number % 4], attack.port, 60_000), b" "
        )

    await attack.run_clients(200, run_client)


async def endless_bodies(attack: Attack) -> None:
    """Send 30 megabytes of body on each connection, but never its last byte."""
    paths = (
        "/console/api/session",
        "/v1/chat/completions",
        "/v1/chat-messages",
        "/backwards-invocation/transaction",
    )

    async def run_client(number: int) -> None:
        """Send the body and then wait for the server to give up."""
        reader, writer = await attack.open(number)
        try:
            writer.write(_head(paths[number % 4], attack.port, 31 << 20))
            # The declared length is larger than what is sent, so the body never
            # completes.
            for _ in range(300):
                writer.write(b" " * 100_000)
                await writer.drain()
            while not attack.is_over and await reader.read(1000):
                pass
        finally:
            writer.close()

    await attack.run_clients(40, run_client)


async def huge_heads(attack: Attack) -> None:
    """Send 45 megabytes of headers on each connection."""

    async def run_client(number: int) -> None:
        """Send header after header without an end."""
        _, writer = await attack.open(number)
        try:
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n")
            for _ in range(450):
                writer.write(b"a: " + b"b" * 100_000 + b"\r\n")
                await writer.drain()
        finally:
            writer.close()

    await attack.run_clients(10, run_client)


async def idle(attack: Attack) -> None:
    """Hold 10,000 connections open without sending anything."""
    await _idle(attack, 10_000)


async def _idle(attack: Attack, count: int) -> None:
    """Hold so many idle connections open."""
    # Connect at most 200 at a time: more would overflow the listen backlog.
    gate = asyncio.Semaphore(200)

    async def run_client(number: int) -> None:
        """Open a connection and wait until the server closes it or the time is over."""
        async with gate:
            if attack.is_over:
                return
            reader, writer = await attack.open(number)
        try:
            left = max(0.1, attack.until - time.monotonic())
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), left)
        finally:
            writer.close()

    await attack.run_clients(count, run_client)


async def wrong_passwords(attack: Attack) -> None:
    """Send a thousand sign-ins with a wrong password at once."""
    body = json.dumps({"email": _EMAIL, "password": "wrong"}).encode()

    async def run_client(number: int) -> None:
        """Send one sign-in and wait for the response."""
        reader, writer = await attack.open(number)
        try:
            writer.write(_head("/console/api/session", attack.port, len(body)) + body)
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 30)
        finally:
            writer.close()

    await asyncio.gather(
        *(run_client(number) for number in range(1000)), return_exceptions=True
    )


def _head(path: str, port: int, length: int) -> bytes:
    """Return the head of a POST request with the right origin, so that only
    authentication can refuse it."""
    return (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\norigin: http://127.0.0.1:{port}\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


_ATTACKS = {
    attack.__name__: attack
    for attack in (
        slow_heads,
        slow_bodies,
        endless_bodies,
        huge_heads,
        idle,
        wrong_passwords,
    )
}


# The owner


@dataclass
class Watch:
    """What the owner and a caller experience, and how much memory the server takes."""

    port: int
    pid: int
    sign_ins: list[float] = field(default_factory=list[float])
    calls: list[float] = field(default_factory=list[float])
    failures: list[str] = field(default_factory=list[str])
    megabytes: float = 0.0

    def probe(self) -> None:
        """Sign in and send one call, each on a new connection as a new client would,
        and record the memory."""
        self._timed(self.sign_ins, self.sign_in)
        self._timed(self.calls, self._call)
        self.megabytes = max(self.megabytes, memory(self.pid))

    def _timed(self, into: list[float], act: Callable[[], int]) -> None:
        """Record the duration of an action, and its failure if it has one."""
        started_at = time.monotonic()
        try:
            status = act()
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        else:
            if status != 200:
                self.failures.append(f"status {status}")
        into.append(time.monotonic() - started_at)

    def sign_in(self) -> int:
        """Sign in as the owner and return the status."""
        return self._ask(
            "POST", "/console/api/session", {"email": _EMAIL, "password": _PASSWORD}
        )

    def _call(self) -> int:
        return self._ask("GET", "/v1/models", None)

    def _ask(self, method: str, path: str, body: Any) -> int:
        """Send one request on a new connection and return its status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {
            "content-type": "application/json",
            "authorization": f"Bearer {_KEY}",
        }
        # The console uses cookies and checks the origin; it gets no bearer token.
        if path.startswith("/console"):
            headers = {
                "content-type": "application/json",
                "origin": f"http://127.0.0.1:{self.port}",
            }
        try:
            connection.request(
                method, path, json.dumps(body) if body is not None else None, headers
            )
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def set_up(self) -> int:
        """Create the owner's account and return the status."""
        return self._ask(
            "POST",
            "/console/api/setup",
            {"email": _EMAIL, "name": "Owner", "password": _PASSWORD},
        )


def memory(pid: int) -> float:
    """Return the proportional memory of a process in megabytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return (
        sum(
            int(line.split()[1])
            for line in text.splitlines()
            if line.startswith("Pss:")
        )
        / 1024
    )


@contextmanager
def server(files: int | None) -> Generator[Watch]:
    """Run a server with at most `files` open files; yields a watch of it."""

    def limit_open_files() -> None:
        """Lower the limit of open files; runs in the child process before the server
        starts."""
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as home:
        port = free_port()
        (Path(home) / "modelyard.yaml").write_text(
            f"api_keys: [{_KEY}]\nlog_level: error\ngrace_seconds: 1\nlocal: {{enabled: false}}\n"
            "plugins: {debug_port: 0}\n"
        )
        environ = {**os.environ, "MODELYARD_HOME": home, "MODELYARD_PORT": str(port)}
        command = [sys.executable, "-m", "modelyard", "serve"]
        process = subprocess.Popen(
            command,
            env=environ,
            preexec_fn=limit_open_files,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + 60
            while not is_healthy(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the server did not start")
                time.sleep(0.05)
            watch = Watch(port, process.pid)
            if watch.set_up() != 201:
                raise RuntimeError("no owner could be set up")
            # Warm up: memory that every server takes once must not count for the
            # attack.
            for _ in range(5):  # what every server takes once
                watch.probe()
            yield Watch(port, process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _watch_attack(name: str, watch: Watch) -> dict[str, Any]:
    """Run an attack and watch the server until it is over; return the attackers'
    report, empty if they hang."""
    command = [
        sys.executable,
        "-m",
        "tools.show.strangers",
        name,
        str(watch.port),
        str(_SECONDS),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attackers:
        until = time.monotonic() + _SECONDS
        # Give the attackers time to connect before measuring.
        time.sleep(1.0)
        while time.monotonic() < until and attackers.poll() is None:
            watch.probe()
            time.sleep(0.3)
        try:
            report, _ = attackers.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            attackers.kill()
            report = ""
    return json.loads(report) if report else {}


def prove() -> Proof:
    """Measure without attackers first, then run every attack, some with a low limit of
    open files."""
    proof = Proof()
    with server(None) as watch:
        for _ in range(10):
            watch.probe()
        summary = f"sign-in at worst {max(watch.sign_ins):.2f} s, call {max(watch.calls):.2f} s"
        proof.line("without the other user, as this machine is now", summary)
    for files, names in (
        (None, tuple(_ATTACKS)),
        (1024, ("idle", "slow_heads", "slow_bodies")),
    ):
        for name in names:
            _measure(proof, name, files)
    return proof


def _measure(proof: Proof, name: str, files: int | None) -> None:
    """Run one attack against a fresh server and report the owner's times and the memory
    growth."""
    with server(files) as watch:
        memory_before = memory(watch.pid)
        report = _watch_attack(name, watch)
        grown = watch.megabytes - memory_before
        worst_sign_in = max(watch.sign_ins)
        ok = (
            not watch.failures
            and worst_sign_in < _MAX_SIGN_IN_SECONDS
            and grown < _MAX_MEGABYTES
        )
        label = f"{name.replace('_', ' ')}{f', {files} files' if files else ''}"
        summary = (
            f"sign-in at worst {worst_sign_in:.2f} s, call {max(watch.calls):.2f} s, of {len(watch.sign_ins)} each; "
            f"{grown:+.0f} MB; {report.get('made', 0)} connections"
        )
        if watch.failures:
            summary += f"; {len(watch.failures)} failed: {watch.failures[0]}"
        proof.line(label, summary, ok)
        proof.figures[label] = {
            "sign_in_s": round(worst_sign_in, 2),
            "mb": round(grown, 1),
            "failed": len(watch.failures),
        }


def _attack(name: str, port: int, seconds: float) -> None:
    """Run one attack in this process and print its report as JSON."""
    # One process holds all attacking connections, so raise its limit of open files.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 20_000)), hard))
    attack = Attack(port, time.monotonic() + seconds)

    async def run_attack() -> None:
        """Run the attack with a deadline shortly after its end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds + 5):
                await _ATTACKS[name](attack)

    asyncio.run(run_attack())
    print(json.dumps({"made": attack.made, "closed": attack.closed}))


if __name__ == "__main__":
    _attack(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
