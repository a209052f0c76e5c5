"""Strangers at the door: slow heads, slow bodies, bodies that never end, very many connections, huge heads and wrong
passwords. Meanwhile the owner signs in within a second, a caller with a key is answered, and memory stays what it was.

The attackers are a process of their own: `python -m tools.show.strangers NAME PORT SECONDS`.
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

from tools.show.proof import Proof, answers, free_port

_EMAIL, _PASSWORD = "owner@example.com", "correct horse battery staple"
_KEY = "key-of-the-owner"
_SECONDS = 12.0
_MOST_SIGN_IN = 1.0
_MOST_MEGABYTES = 50.0


# ------------------------------------------------------------------------------------------------ attackers


@dataclass
class Attack:
    port: int
    until: float
    made: int = 0
    closed: int = 0

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.until

    async def open(self, number: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        pair = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(f"127.0.0.{2 + number % 40}", 0), limit=1 << 16
        )
        self.made += 1
        return pair

    async def again(self, one: Callable[[int], Coroutine[Any, Any, None]], number: int) -> None:
        """Until it is over; who is closed comes back."""
        while not self.is_over:
            with suppress(OSError, EOFError, asyncio.IncompleteReadError):
                await one(number)
            self.closed += 1
            await asyncio.sleep(0.05)

    async def many(self, count: int, one: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        await asyncio.gather(*(self.again(one, number) for number in range(count)))


async def _trickle(attack: Attack, number: int, head: bytes, piece: bytes) -> None:
    reader, writer = await attack.open(number)
    try:
        writer.write(head)
        while not attack.is_over and not reader.at_eof():
            writer.write(piece)
            await writer.drain()
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1000), 0.5)
    finally:
        writer.close()


async def slow_heads(attack: Attack) -> None:
    await attack.many(200, lambda number: _trickle(attack, number, b"GET /v1/models HTTP/1.1\r\nhost: x\r\na: ", b"b"))


async def slow_bodies(attack: Attack) -> None:
    paths = ("/console/api/session", "/v1/chat/completions", "/v1/chat-messages", "/v1/datasets")

    async def one(number: int) -> None:
        await _trickle(attack, number, _head(paths[number % 4], attack.port, 60_000), b" ")

    await attack.many(200, one)


async def endless_bodies(attack: Attack) -> None:
    """Thirty megabytes each, and never the last byte."""
    paths = ("/console/api/session", "/v1/chat/completions", "/v1/chat-messages", "/backwards-invocation/transaction")

    async def one(number: int) -> None:
        reader, writer = await attack.open(number)
        try:
            writer.write(_head(paths[number % 4], attack.port, 31 << 20))
            for _ in range(300):
                writer.write(b" " * 100_000)
                await writer.drain()
            while not attack.is_over and await reader.read(1000):
                pass
        finally:
            writer.close()

    await attack.many(40, one)


async def huge_heads(attack: Attack) -> None:
    """Forty-five megabytes each."""

    async def one(number: int) -> None:
        _, writer = await attack.open(number)
        try:
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n")
            for _ in range(450):
                writer.write(b"a: " + b"b" * 100_000 + b"\r\n")
                await writer.drain()
        finally:
            writer.close()

    await attack.many(10, one)


async def idle(attack: Attack) -> None:
    await _idle(attack, 10_000)


async def _idle(attack: Attack, count: int) -> None:
    gate = asyncio.Semaphore(200)

    async def one(number: int) -> None:
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

    await attack.many(count, one)


async def wrong_passwords(attack: Attack) -> None:
    body = json.dumps({"email": _EMAIL, "password": "wrong"}).encode()

    async def one(number: int) -> None:
        reader, writer = await attack.open(number)
        try:
            writer.write(_head("/console/api/session", attack.port, len(body)) + body)
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 30)
        finally:
            writer.close()

    await asyncio.gather(*(one(number) for number in range(1000)), return_exceptions=True)


def _head(path: str, port: int, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\norigin: http://127.0.0.1:{port}\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


_ATTACKS = {one.__name__: one for one in (slow_heads, slow_bodies, endless_bodies, huge_heads, idle, wrong_passwords)}


# ------------------------------------------------------------------------------------------------ owners


@dataclass
class Watch:
    """What the owner and a caller saw, and what the server took."""

    port: int
    pid: int
    sign_ins: list[float] = field(default_factory=list[float])
    calls: list[float] = field(default_factory=list[float])
    failures: list[str] = field(default_factory=list[str])
    megabytes: float = 0.0

    def look(self) -> None:
        """Both, each on a connection of its own, as somebody does who comes now."""
        self._timed(self.sign_ins, self.sign_in)
        self._timed(self.calls, self._call)
        self.megabytes = max(self.megabytes, memory(self.pid))

    def _timed(self, into: list[float], act: Callable[[], int]) -> None:
        begun = time.monotonic()
        try:
            status = act()
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        else:
            if status != 200:
                self.failures.append(f"status {status}")
        into.append(time.monotonic() - begun)

    def sign_in(self) -> int:
        return self._ask("POST", "/console/api/session", {"email": _EMAIL, "password": _PASSWORD})

    def _call(self) -> int:
        return self._ask("GET", "/v1/models", None)

    def _ask(self, method: str, path: str, body: Any) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"content-type": "application/json", "authorization": f"Bearer {_KEY}"}
        if path.startswith("/console"):
            headers = {"content-type": "application/json", "origin": f"http://127.0.0.1:{self.port}"}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def set_up(self) -> int:
        return self._ask("POST", "/console/api/setup", {"email": _EMAIL, "name": "Owner", "password": _PASSWORD})


def memory(pid: int) -> float:
    """Megabytes that are this process's own share."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


@contextmanager
def server(files: int | None) -> Generator[Watch]:
    def few() -> None:
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
            command, env=environ, preexec_fn=few, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            until = time.monotonic() + 60
            while not answers(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the server did not start")
                time.sleep(0.05)
            watch = Watch(port, process.pid)
            if watch.set_up() != 201:
                raise RuntimeError("no owner could be set up")
            for _ in range(5):  # what every server takes once
                watch.look()
            yield Watch(port, process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _under(name: str, watch: Watch) -> dict[str, Any]:
    """Have the attackers come, and look on until they are gone."""
    command = [sys.executable, "-m", "tools.show.strangers", name, str(watch.port), str(_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attackers:
        until = time.monotonic() + _SECONDS
        time.sleep(1.0)
        while time.monotonic() < until and attackers.poll() is None:
            watch.look()
            time.sleep(0.3)
        try:
            told, _ = attackers.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            attackers.kill()
            told = ""
    return json.loads(told) if told else {}


def prove() -> Proof:
    proof = Proof()
    with server(None) as watch:
        for _ in range(10):
            watch.look()
        seen = f"sign-in at worst {max(watch.sign_ins):.2f} s, call {max(watch.calls):.2f} s"
        proof.line("nobody else there, as this machine is now", seen)
    for files, names in ((None, tuple(_ATTACKS)), (1024, ("idle", "slow_heads", "slow_bodies"))):
        for name in names:
            _measure(proof, name, files)
    return proof


def _measure(proof: Proof, name: str, files: int | None) -> None:
    with server(files) as watch:
        before = memory(watch.pid)
        told = _under(name, watch)
        grown = watch.megabytes - before
        worst = max(watch.sign_ins)
        ok = not watch.failures and worst < _MOST_SIGN_IN and grown < _MOST_MEGABYTES
        label = f"{name.replace('_', ' ')}{f', {files} files' if files else ''}"
        seen = (
            f"sign-in at worst {worst:.2f} s, call {max(watch.calls):.2f} s, of {len(watch.sign_ins)} each; "
            f"{grown:+.0f} MB; {told.get('made', 0)} connections"
        )
        if watch.failures:
            seen += f"; {len(watch.failures)} failed: {watch.failures[0]}"
        proof.line(label, seen, ok)
        proof.figures[label] = {"sign_in_s": round(worst, 2), "mb": round(grown, 1), "failed": len(watch.failures)}


def _attack(name: str, port: int, seconds: float) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 20_000)), hard))
    attack = Attack(port, time.monotonic() + seconds)

    async def whole() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds + 5):
                await _ATTACKS[name](attack)

    asyncio.run(whole())
    print(json.dumps({"made": attack.made, "closed": attack.closed}))


if __name__ == "__main__":
    _attack(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
