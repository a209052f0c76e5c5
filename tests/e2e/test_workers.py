"""Tests for several workers on one port: failover, shared counters, clean shutdown."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tools.show.proof import free_port
from tools.show.truth_log import home_with, wait_until_healthy

from modelyard.testing import Answer, Upstream, UpstreamRequest, chat_answer


class Served:
    def __init__(
        self, port: int, process: "subprocess.Popen[bytes]", home: Path
    ) -> None:
        self.port = port
        self.home = home
        self.process = process

    def workers(self) -> list[int]:
        text = Path(
            f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        ).read_text()
        return [int(pid) for pid in text.split()]

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}{path}", timeout=5
        ) as answer:
            return answer.read()

    def chat(self, key: str = "") -> int:
        body = json.dumps(
            {
                "model": "openai/gpt-5-mini",
                "messages": [{"role": "user", "content": "hi"}],
            }
        ).encode()
        headers = {
            "content-type": "application/json",
            **({"authorization": f"Bearer {key}"} if key else {}),
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions", body, headers
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def is_answering(self) -> bool:
        """Return whether a chat is answered. A worker that has just been killed may
        still be the one that gets the connection."""
        try:
            return self.chat() == 200
        except (OSError, http.client.HTTPException):
            return False


@contextlib.contextmanager
def serving(tmp_path: Path, server: Upstream, **limits: Any) -> Iterator[Served]:
    environ = home_with(tmp_path, server.url, limits=limits)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "modelyard",
        "serve",
        "--workers",
        "2",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        command, env={**os.environ, **environ}, stdout=subprocess.DEVNULL
    )
    try:
        assert wait_until_healthy(port)
        yield Served(port, process, tmp_path)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait(30)


@pytest.fixture
def served(tmp_path: Path, upstream: Callable[..., Upstream]) -> Iterator[Served]:
    server = upstream(lambda request: chat_answer("fine"))
    with serving(tmp_path, server) as running_server:
        yield running_server


def runs(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 15.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(runs(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def eventually(condition: Callable[[], Any], seconds: float = 15.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_workers_share_limits_and_metrics_and_dead_ones_are_replaced(
    tmp_path: Path, upstream: Callable[..., Upstream]
):
    server = upstream(lambda request: chat_answer("fine"))
    with serving(
        tmp_path, server, few={"unit": "requests", "amount": 12, "window": "day"}
    ) as served:
        statuses = [served.chat() for _ in range(20)]
        assert (statuses.count(200), statuses.count(429)) == (12, 8)
        assert eventually(lambda: b'status="ok"} 12' in served.get("/metrics"))
        old_pids = served.workers()
        assert len(old_pids) == 2
        os.kill(old_pids[0], signal.SIGKILL)
        assert eventually(
            lambda: len(served.workers()) == 2 and old_pids[0] not in served.workers()
        )
        assert served.chat() == 429
        served.process.terminate()
        served.process.wait(30)
        assert gone(old_pids)


def test_a_key_revoked_elsewhere_is_refused_within_a_second(
    served: Served,
):
    environ = {**os.environ, "MODELYARD_HOME": str(served.home)}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "modelyard", *arguments]
        return subprocess.run(
            command, env=environ, capture_output=True, text=True, check=True
        ).stdout

    created_key = json.loads(run("keys", "create", "mine", "--json"))
    # There is a key now, so one is required.
    assert eventually(lambda: served.chat() == 401)
    assert eventually(
        lambda: {served.chat(created_key["key"]) for _ in range(6)} == {200}
    )
    run("keys", "revoke", created_key["id"])
    time.sleep(1.0)
    assert {served.chat(created_key["key"]) for _ in range(6)} == {401}


def test_workers_exit_when_their_supervisor_is_killed(served: Served):
    workers = served.workers()
    served.process.kill()
    served.process.wait(60)
    assert gone(workers)


def test_a_killed_workers_reservations_are_released_and_its_usage_charged(
    tmp_path: Path, upstream: Callable[..., Upstream]
):
    def answer(request: UpstreamRequest) -> Answer:
        return replace(
            chat_answer("fine"), delay=30.0 if len(server.requests) == 1 else 0.0
        )

    server = upstream(answer)
    concurrency_limit = {"unit": "concurrency", "amount": 1}
    # Fewer than are reserved for an answer.
    few_tokens = {
        "unit": "tokens",
        "amount": 1000,
        "window": "day",
    }
    with serving(tmp_path, server, slots=concurrency_limit, few=few_tokens) as served:
        with ThreadPoolExecutor(1) as pool:
            broken = pool.submit(served.chat)
            assert eventually(lambda: server.requests)
            assert served.chat() == 429
            old_pids = served.workers()
            for pid in old_pids:
                os.kill(pid, signal.SIGKILL)
            with pytest.raises((OSError, http.client.HTTPException)):
                broken.result(15)
        assert eventually(
            lambda: (
                len(served.workers()) == 2 and not set(old_pids) & set(served.workers())
            )
        )
        assert eventually(lambda: served.is_answering())
        assert served.chat() == 200
