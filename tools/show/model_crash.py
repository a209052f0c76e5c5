"""Kill -9 the model's process in the middle of a stream."""

import os
import signal
import time
from pathlib import Path

import openai

from tools.show.proof import Proof, free_port, own_home, running, serve_command

_SMALL = "local/qwen2.5-coder-0.5b"


def prove() -> Proof:
    proof = Proof()
    port = free_port()
    with own_home() as environ, running(serve_command(), port, environ=environ) as (server, _):
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
        stream = client.chat.completions.create(
            model=_SMALL,
            messages=[{"role": "user", "content": "Write a very long story."}],
            stream=True,
            max_tokens=900,
        )
        got = [chunk.choices[0].delta.content or "" for _, chunk in zip(range(6), stream, strict=False)]
        (model,) = workers(server.pid)
        os.kill(model, signal.SIGKILL)
        begun = time.monotonic()
        try:
            got += [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
            proof.line("the stream that was running", "it ended as if nothing had happened", ok=False)
        except openai.APIError as error:
            seconds = time.monotonic() - begun
            proof.line(
                "the stream that was running", f"after {len(got)} chunks: {error.message}", "signal 9" in error.message
            )
            proof.line("the error came", f"after {seconds:.2f} s", seconds < 5)
            proof.figures["seconds_to_error"] = round(seconds, 3)
        begun = time.monotonic()
        answer = client.chat.completions.create(
            model=_SMALL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=20
        )
        seconds = time.monotonic() - begun
        text = answer.choices[0].message.content
        proof.line("the next call", f"{text!r} after {seconds:.1f} s, the model loaded anew", bool(text))
        proof.figures["seconds_to_next_answer"] = round(seconds, 2)
        (again,) = workers(server.pid)
        proof.line("the server", "the same process; one new model process", server.poll() is None and again != model)
        os.kill(again, signal.SIGKILL)
        answer = client.chat.completions.create(
            model=_SMALL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=20
        )
        proof.line(
            "killed between calls", f"{answer.choices[0].message.content!r}", bool(answer.choices[0].message.content)
        )
        rows = client.get("/models", cast_to=object)
        proof.line("everything else", "answers", rows is not None)
    time.sleep(0.2)
    proof.line(
        "after the server's end", f"{len(alive([model, again]))} model processes are left", not alive([model, again])
    )
    return proof


def workers(server: int) -> list[int]:
    """The server's model processes."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    found = [int(child) for child in children]
    return [pid for pid in found if b"local.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
