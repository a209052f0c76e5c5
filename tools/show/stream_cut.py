"""Callers that disconnect in the middle of a stream, at any byte: each call has one
ledger row, and the upstream request is cancelled at once."""

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
from tools.show.truth_log import (
    TruthfulUpstream,
    home_with,
    kill,
    rows_of,
    server_forker,
    wait_until_healthy,
)

_STREAMS = 1000
_AT_ONCE = 8


def _read_and_disconnect(port: int, name: str, max_bytes: int) -> float:
    """Read at most `max_bytes` of a stream, disconnect, and return the (monotonic) time
    of it."""
    body = json.dumps(
        {
            "model": "openai/gpt-5-mini",
            "stream": True,
            "user": name,
            "messages": [{"role": "user", "content": "hi"}],
        }
    ).encode()
    # A raw socket, because a client library would read ahead and close the connection
    # later.
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        received_bytes = 0
        while received_bytes < max_bytes and (
            data := client.recv(min(256, max_bytes - received_bytes))
        ):
            received_bytes += len(data)
        return time.monotonic()


def prove() -> Proof:
    """Cut many streams at random positions and compare the ledger with what the
    upstream recorded."""
    proof, rng, port = Proof(), random.Random(3), free_port()
    cuts: dict[str, float] = {}
    lock = threading.Lock()
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder,
        TruthfulUpstream(events=400) as upstream,
    ):
        home = Path(folder) / "home"
        with server_forker(home_with(home, upstream.url)) as servers:
            server = servers.start("serve", "--port", str(port))
            wait_until_healthy(port)

            def cut_stream(number: int) -> None:
                """Cut one stream and record when."""
                moment = _read_and_disconnect(
                    port, f"cut-{number}", rng.randint(1, 8000)
                )
                with lock:
                    cuts[f"cut-{number}"] = moment

            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(cut_stream, range(_STREAMS)))
            # Let the server notice the last disconnects and write their rows before it
            # ends.
            time.sleep(1.5)
            kill(server, 15)
        rows = rows_of(str(home / "modelyard.db"))
        served = {request.user: request for request in upstream.served}
    counts = Counter(row["user"] for row in rows)
    # The upstream recorded when its connection was closed; compare that with the
    # caller's disconnect.
    waits = [
        request.closed_at - cuts[user]
        for user, request in served.items()
        if request.closed_at is not None
    ]
    left_open = [
        user
        for user, request in served.items()
        if request.closed_at is None and not request.is_complete
    ]
    settled_count = sum(1 for row in rows if row["status"] in ("cancelled", "ok"))
    booked = sum(
        row["completion_tokens"] for row in rows if row["status"] == "cancelled"
    )
    sent = sum(served[row["user"]].sent for row in rows if row["status"] == "cancelled")
    proof.line("streams cut", len(cuts), len(cuts) == _STREAMS)
    proof.line("rows", len(rows), len(rows) == _STREAMS and set(counts.values()) == {1})
    proof.line("rows that say how it ended", settled_count, settled_count == _STREAMS)
    proof.line(
        "provider let go, at the latest after",
        f"{max(waits):.2f} s",
        max(waits) < 1.0 and not left_open,
    )
    # Tokens may be in transit while the caller disconnects, so the sums may differ a
    # little.
    off = abs(booked - sent) / sent
    proof.line(
        "tokens booked of those sent", f"{booked} of {sent}: {off:.2%} off", off <= 0.05
    )
    proof.figures |= {
        "cut": len(cuts),
        "rows": len(rows),
        "closed_s": round(max(waits), 3),
        "left_open": len(left_open),
    }
    return proof
