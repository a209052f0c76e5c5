"""500 streams through one plugin; then a plugin that is killed in the middle of one."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tools.show.plugged import EXAMPLES, Served, eventually, plugged
from tools.show.proof import Proof, modelyard

STREAMS, AT_ONCE = 500, 16
_BODY = {"model": "mockgpt/mock-gpt-v1", "messages": [{"role": "user", "content": "hi"}], "stream": True}
_ANSWER = "感谢你的提问，希望这个回答对你有所帮助。"
_SETTINGS = """plugins: {debug_port: 0}
routes:
  safe: {targets: [{model: mockgpt/mock-gpt-v1}], failover: [other/mock-gpt-v1]}
"""


def _text(lines: list[str]) -> str:
    pieces = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in pieces if one.get("choices"))


def _stream(client: httpx.Client, model: str = "mockgpt/mock-gpt-v1") -> list[str]:
    with client.stream("POST", "/chat/completions", json={**_BODY, "model": model}) as response:
        return [line for line in response.iter_lines() if line]


def _many(served: Served) -> tuple[int, float]:
    """(streams that were right, seconds)."""
    begun = time.monotonic()
    with served.client() as client, ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda _: _stream(client), range(STREAMS)))
    right = sum(_text(lines) == _ANSWER and lines[-1] == "data: [DONE]" for lines in found)
    return right, time.monotonic() - begun


def _killed(served: Served, after: float) -> tuple[list[str], float]:
    """The lines of a stream whose plugin is killed so long after it began, and how long the caller then waited."""
    died = [0.0]

    def kill() -> None:
        time.sleep(after)
        died[0] = time.monotonic()
        for pid, name in served.plugins().items():
            if name == "mockgpt":
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    with served.client() as client:
        thread.start()
        lines = _stream(client)
    ended = time.monotonic()
    thread.join()
    return lines, ended - died[0]


def prove() -> Proof:
    proof = Proof()
    with plugged(EXAMPLES / "mockgpt", settings=_SETTINGS) as served:
        right, seconds = _many(served)
        proof.line(f"of {STREAMS} streams, {AT_ONCE} at once, were right", right, right == STREAMS)
        proof.line("they took", f"{seconds:.1f} s")
        lines, waited = _killed(served, 0.1)
        error = json.loads(lines[-1][6:]).get("error", {})
        is_unavailable = error.get("code") == "upstream_unavailable" and "SIGKILL" in error.get("message", "")
        proof.line("the last word of a stream whose plugin was killed", error.get("code"), is_unavailable)
        proof.line("it came after", f"{waited * 1000:.0f} ms", waited < 2)
        with served.client() as client:
            again = _text(_stream(client)) == _ANSWER
        proof.line("the next call", "right" if again else "wrong", again)
        environ = {"MODELYARD_HOME": str(served.home)}
        wanted = STREAMS + 2
        counted = eventually(lambda: len(_rows(environ)) >= wanted, 5)
        rows = _rows(environ)
        lost = [one for one in rows if one["status"] == "upstream_unavailable"]
        proof.line("rows in the ledger", len(rows), counted is not None and len(rows) == wanted)
        proof.line("of the call that was cut", [one["completion_tokens"] for one in lost], len(lost) == 1)
    moved = _failed_over()
    proof.line("with failover, a plugin that cannot serve", moved, moved == "another model answered")
    proof.figures |= {"right": right, "seconds": round(seconds, 2), "waited_ms": round(waited * 1000)}
    return proof


def _rows(environ: dict[str, str]) -> list[dict[str, object]]:
    return json.loads(modelyard("usage", "--rows", "1000", "--json", environ=environ))


def _failed_over() -> str:
    """The first model's plugin dies at once, every time; the route goes on to another."""
    from pathlib import Path

    from tools.show.odd_plugins import odd_plugin

    settings = """plugins: {debug_port: 0}
routes:
  safe: {targets: [{model: crash/odd}], failover: [mockgpt/mock-gpt-v1]}
"""

    def make(folder: Path) -> list[Path]:
        return [odd_plugin(folder, "crash", kind="models")]

    with plugged(EXAMPLES / "mockgpt", settings=settings, make=make) as served, served.client() as client:
        lines = _stream(client, "safe")
    return "another model answered" if _text(lines) == _ANSWER else f"{lines[-1][:200]}"
