"""Kill the local model's process with SIGKILL in the middle of a stream."""

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
        stream = client.chat.completions.create(
            model=_SMALL,
            messages=[{"role": "user", "content": "Write a very long story."}],
            stream=True,
            max_tokens=900,
        )
        # Read some chunks first, so that the kill hits a running generation.
        fragments = [
            chunk.choices[0].delta.content or ""
            for _, chunk in zip(range(6), stream, strict=False)
        ]
        (model,) = workers(server.pid)
        os.kill(model, signal.SIGKILL)
        started_at = time.monotonic()
        try:
            fragments += [
                chunk.choices[0].delta.content or ""
                for chunk in stream
                if chunk.choices
            ]
            # A truncated stream must not look like a complete answer.
            proof.line(
                "the stream that was running",
                "it ended as if nothing had happened",
                ok=False,
            )
        except openai.APIError as error:
            seconds = time.monotonic() - started_at
            proof.line(
                "the stream that was running",
                f"after {len(fragments)} chunks: {error.message}",
                "signal 9" in error.message,
            )
            proof.line("the error came", f"after {seconds:.2f} s", seconds < 5)
            proof.figures["seconds_to_error"] = round(seconds, 3)
        # The next call must start a new worker by itself.
        started_at = time.monotonic()
        answer = client.chat.completions.create(
            model=_SMALL,
            messages=[{"role": "user", "content": "Say hello."}],
            max_tokens=20,
        )
        seconds = time.monotonic() - started_at
        text = answer.choices[0].message.content
        proof.line(
            "the next call",
            f"{text!r} after {seconds:.1f} s, the model loaded anew",
            bool(text),
        )
        proof.figures["seconds_to_next_answer"] = round(seconds, 2)
        (new_worker,) = workers(server.pid)
        proof.line(
            "the server",
            "the same process; one new model process",
            server.poll() is None and new_worker != model,
        )
        # Kill the idle worker, so that its crash is noticed only by the next call.
        os.kill(new_worker, signal.SIGKILL)
        answer = client.chat.completions.create(
            model=_SMALL,
            messages=[{"role": "user", "content": "Say hello."}],
            max_tokens=20,
        )
        proof.line(
            "killed between calls",
            f"{answer.choices[0].message.content!r}",
            bool(answer.choices[0].message.content),
        )
        rows = client.get("/models", cast_to=object)
        proof.line("everything else", "answers", rows is not None)
    # Give the workers time to exit with the server.
    time.sleep(0.2)
    proof.line(
        "after the server's end",
        f"{len(alive([model, new_worker]))} model processes are left",
        not alive([model, new_worker]),
    )
    return proof


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
