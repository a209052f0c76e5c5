"""Send 500 streams through one plugin, then kill the plugin in the middle of a stream."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tools.show.plugged import EXAMPLES, PluginServer, eventually, server_with_plugins
from tools.show.proof import Proof, modelyard

STREAMS, AT_ONCE = 500, 16
_BODY = {
    "model": "mockgpt/mock-gpt-v1",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
}
_ANSWER = "感谢你的提问，希望这个回答对你有所帮助。"
_SETTINGS = """plugins: {debug_port: 0}
routes:
  safe: {targets: [{model: mockgpt/mock-gpt-v1}], failover: [other/mock-gpt-v1]}
"""


def _text(lines: list[str]) -> str:
    """Return the text of a stream from its event lines."""
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return "".join(
        chunk["choices"][0]["delta"].get("content") or ""
        for chunk in chunks
        if chunk.get("choices")
    )


def _stream(client: httpx.Client, model: str = "mockgpt/mock-gpt-v1") -> list[str]:
    """Send a streaming request and return the non-empty lines of the response."""
    with client.stream(
        "POST", "/chat/completions", json={**_BODY, "model": model}
    ) as response:
        return [line for line in response.iter_lines() if line]


def _run_streams(served: PluginServer) -> tuple[int, float]:
    """Run all streams; return (number of correct streams, seconds)."""
    started_at = time.monotonic()
    with served.client() as client, ThreadPoolExecutor(AT_ONCE) as pool:
        streams = list(pool.map(lambda _: _stream(client), range(STREAMS)))
    # A correct stream has the full text and ends with the end marker.
    correct_count = sum(
        _text(lines) == _ANSWER and lines[-1] == "data: [DONE]" for lines in streams
    )
    return correct_count, time.monotonic() - started_at


def _stream_with_kill(
    served: PluginServer, delay_seconds: float
) -> tuple[list[str], float]:
    """Kill the plugin so many seconds after the stream started; return the stream's
    lines and how long the caller waited after the kill."""
    # A list, because the thread has to store the time where this function can read it.
    died = [0.0]

    def kill() -> None:
        """Wait, then kill every process of the plugin."""
        time.sleep(delay_seconds)
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
    """Check the streams, the error after a kill, the ledger and the failover."""
    proof = Proof()
    with server_with_plugins(EXAMPLES / "mockgpt", settings=_SETTINGS) as served:
        correct_count, seconds = _run_streams(served)
        proof.line(
            f"correct streams of {STREAMS}, {AT_ONCE} at once",
            correct_count,
            correct_count == STREAMS,
        )
        proof.line("their duration", f"{seconds:.1f} s")
        lines, waited = _stream_with_kill(served, 0.1)
        error = json.loads(lines[-1][6:]).get("error", {})
        is_unavailable = error.get(
            "code"
        ) == "upstream_unavailable" and "SIGKILL" in error.get("message", "")
        proof.line(
            "the last event of a stream whose plugin was killed",
            error.get("code"),
            is_unavailable,
        )
        proof.line("it was sent after", f"{waited * 1000:.0f} ms", waited < 2)
        # The host has to start the plugin again for the next call.
        with served.client() as client:
            is_next_correct = _text(_stream(client)) == _ANSWER
        proof.line(
            "the next call", "right" if is_next_correct else "wrong", is_next_correct
        )
        environ = {"MODELYARD_HOME": str(served.home)}
        expected_rows = STREAMS + 2
        # Ledger rows are written in batches, so wait for the last of them.
        wait_seconds = eventually(lambda: len(_rows(environ)) >= expected_rows, 5)
        rows = _rows(environ)
        interrupted_rows = [
            row for row in rows if row["status"] == "upstream_unavailable"
        ]
        proof.line(
            "rows in the ledger",
            len(rows),
            wait_seconds is not None and len(rows) == expected_rows,
        )
        # A stream that was cut still costs what it delivered; its row has the tokens
        # counted so far.
        proof.line(
            "ledger row of the interrupted call",
            [row["completion_tokens"] for row in interrupted_rows],
            len(interrupted_rows) == 1,
        )
    moved = _failover_result()
    proof.line(
        "with failover, a plugin that cannot serve",
        moved,
        moved == "another model answered",
    )
    proof.figures |= {
        "right": correct_count,
        "seconds": round(seconds, 2),
        "waited_ms": round(waited * 1000),
    }
    return proof


def _rows(environ: dict[str, str]) -> list[dict[str, object]]:
    """Return the rows of the usage ledger."""
    return json.loads(modelyard("usage", "--rows", "1000", "--json", environ=environ))


def _failover_result() -> str:
    """Call a route whose first model's plugin crashes at every start; return what the
    caller got."""
    from pathlib import Path

    from tools.show.odd_plugins import odd_plugin

    settings = """plugins: {debug_port: 0}
routes:
  safe: {targets: [{model: crash/odd}], failover: [mockgpt/mock-gpt-v1]}
"""

    def make(folder: Path) -> list[Path]:
        """Write the crashing model plugin."""
        return [odd_plugin(folder, "crash", extension_type="models")]

    with (
        server_with_plugins(
            EXAMPLES / "mockgpt", settings=settings, make=make
        ) as served,
        served.client() as client,
    ):
        lines = _stream(client, "safe")
    return "another model answered" if _text(lines) == _ANSWER else f"{lines[-1][:200]}"
