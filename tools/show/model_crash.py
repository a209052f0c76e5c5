"""Kill the local model's process with SIGKILL in the middle of a stream."""

import itertools
import os
import signal
import time
from pathlib import Path

import openai

from tools.show.proof import Proof, free_port, running, serve_command, temporary_home

_SMALL = "local/qwen2.5-coder-0.5b"


def prove() -> Proof:
    """Check that the stream fails with a clear error, and that the server restarts the
    model and keeps serving."""
    proof = Proof()
    port = free_port()
    with (
        temporary_home() as environ,
        running(serve_command(), port, environ=environ) as (server, _),
    ):
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1",
            api_key="none",
            max_retries=0,
            timeout=60,
        )
        model = _kill_during_stream(proof, client, server.pid)
        _check_next_call(proof, client)
        (new_model,) = workers(server.pid)
        proof.line(
            "the server",
            "the same process; one new model process",
            server.poll() is None and new_model != model,
        )
        # Kill the idle worker, so that its crash is noticed only by the next call.
        os.kill(new_model, signal.SIGKILL)
        text = _hello(client)
        proof.line("killed between calls", f"{text!r}", bool(text))
        rows = client.get("/models", cast_to=object)
        proof.line("other routes", "respond", rows is not None)
    # Give the workers time to exit with the server.
    time.sleep(0.2)
    left = alive([model, new_model])
    proof.line(
        "after the server's end", f"{len(left)} model processes remain", not left
    )
    return proof


def _kill_during_stream(proof: Proof, client: openai.OpenAI, server_pid: int) -> int:
    """Kill the model's process during a stream, which has to end with an error. Returns
    the process id."""
    stream = client.chat.completions.create(
        model=_SMALL,
        messages=[{"role": "user", "content": "Write a very long story."}],
        stream=True,
        max_tokens=900,
    )
    # Read some chunks first, so that the kill hits a running generation.
    chunk_count = sum(1 for _ in itertools.islice(stream, 6))
    (model,) = workers(server_pid)
    os.kill(model, signal.SIGKILL)
    started_at = time.monotonic()
    try:
        for chunk in stream:
            chunk_count += bool(chunk.choices)
    except openai.APIError as error:
        seconds = time.monotonic() - started_at
        proof.line(
            "the running stream",
            f"after {chunk_count} chunks: {error.message}",
            "signal 9" in error.message,
        )
        proof.line("the error was sent", f"after {seconds:.2f} s", seconds < 5)
        proof.figures["seconds_to_error"] = round(seconds, 3)
    else:
        # A truncated stream must not look like a complete answer.
        proof.line("the running stream", "ended without an error", ok=False)
    return model


def _check_next_call(proof: Proof, client: openai.OpenAI) -> None:
    """Make the next call, which has to start a new worker automatically."""
    started_at = time.monotonic()
    text = _hello(client)
    seconds = time.monotonic() - started_at
    proof.line(
        "the next call",
        f"{text!r} after {seconds:.1f} s, with the model loaded again",
        bool(text),
    )
    proof.figures["seconds_to_next_answer"] = round(seconds, 2)


def _hello(client: openai.OpenAI) -> str | None:
    """Return the model's answer to a short prompt."""
    answer = client.chat.completions.create(
        model=_SMALL,
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=20,
    )
    return answer.choices[0].message.content


def workers(server: int) -> list[int]:
    """Return the process ids of the server's model workers."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    child_pids = [int(child) for child in children]
    return [
        pid
        for pid in child_pids
        if b"local.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def alive(pids: list[int]) -> list[int]:
    """Return the processes that still exist."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
