"""Callers that hang up in the middle of a stream, at any byte: one row each, and the provider is let go at once."""

import json
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.show.proof import Proof, free_port
from tools.show.truth_log import TruthfulUpstream, home_with, kill, ready, rows_of, zygote

_STREAMS = 1000
_AT_ONCE = 8


def _cut(port: int, name: str, after: int) -> float:
    """Read so many bytes of a stream and hang up; when that was."""
    body = json.dumps({
        "model": "openai/gpt-5-mini", "stream": True, "user": name, "messages": [{"role": "user", "content": "hi"}],
    }).encode()  # fmt: skip
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        seen = 0
        while seen < after and (data := client.recv(min(256, after - seen))):
            seen += len(data)
        return time.monotonic()


def prove() -> Proof:
    proof, rng, port = Proof(), random.Random(3), free_port()
    cuts: dict[str, float] = {}
    lock = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder, TruthfulUpstream(events=400) as upstream:
        home = Path(folder) / "home"
        with zygote(home_with(home, upstream.url)) as servers:
            server = servers.start("serve", "--port", str(port))
            ready(port)

            def one(number: int) -> None:
                moment = _cut(port, f"cut-{number}", rng.randint(1, 8000))
                with lock:
                    cuts[f"cut-{number}"] = moment

            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(one, range(_STREAMS)))
            time.sleep(1.5)
            kill(server, 15)
        rows = rows_of(str(home / "modelyard.db"))
        served = {one.user: one for one in upstream.served}
    counts = Counter(row["user"] for row in rows)
    waits = [one.closed_at - cuts[user] for user, one in served.items() if one.closed_at is not None]
    left_open = [user for user, one in served.items() if one.closed_at is None and not one.is_complete]
    right = sum(1 for row in rows if row["status"] in ("cancelled", "ok"))
    booked = sum(row["completion_tokens"] for row in rows if row["status"] == "cancelled")
    sent = sum(served[row["user"]].sent for row in rows if row["status"] == "cancelled")
    proof.line("streams cut", len(cuts), len(cuts) == _STREAMS)
    proof.line("rows", len(rows), len(rows) == _STREAMS and set(counts.values()) == {1})
    proof.line("rows that say how it ended", right, right == _STREAMS)
    proof.line("provider let go, at the latest after", f"{max(waits):.2f} s", max(waits) < 1.0 and not left_open)
    off = abs(booked - sent) / sent
    proof.line("tokens booked of those sent", f"{booked} of {sent}: {off:.2%} off", off <= 0.05)
    proof.figures |= {
        "cut": len(cuts),
        "rows": len(rows),
        "closed_s": round(max(waits), 3),
        "left_open": len(left_open),
    }
    return proof
