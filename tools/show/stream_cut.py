"""Callers that disconnect in the middle of a stream, at any byte: each call has one
ledger row, and the upstream request is cancelled at once."""

import json
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.show.proof import Proof, free_port
from tools.show.truth_log import (
    ServedRequest,
    TruthfulUpstream,
    home_with,
    kill,
    rows_of,
    server_forker,
    wait_until_healthy,
)

_STREAMS = 1000
_AT_ONCE = 8
_EVENTS = 20_000
"""So many that no stream ends by itself, however slow the callers are."""
_MAX_SECONDS_TO_CLOSE = 1.0
_PATIENCE_SECONDS = 60
"""How long the proof waits for the last connection to close."""
_TOKEN_TEXT = b'" the"'


def _read_and_disconnect(port: int, name: str, max_bytes: int) -> tuple[float, int]:
    """Read at most `max_bytes` of a stream and disconnect. Return the (monotonic) time
    of it, and how many tokens had been received by then."""
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
        received = b""
        while len(received) < max_bytes and (
            data := client.recv(min(256, max_bytes - len(received)))
        ):
            received += data
        # One token for each event. A boundary between two HTTP chunks may hide one,
        # so this is a lower bound.
        return time.monotonic(), received.count(_TOKEN_TEXT)


def _wait_until_closed(upstream: TruthfulUpstream, seconds: float) -> None:
    """Wait until the server has closed its side of every stream, or the time is over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if all(request.closed_at or request.is_complete for request in upstream.served):
            return
        time.sleep(0.05)


def prove() -> Proof:
    """Cut many streams at random positions and compare the ledger with what the
    upstream recorded."""
    proof, port = Proof(), free_port()
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder,
        TruthfulUpstream(events=_EVENTS) as upstream,
    ):
        home = Path(folder) / "home"
        with server_forker(home_with(home, upstream.url)) as servers:
            server = servers.start("serve", "--port", str(port))
            wait_until_healthy(port)
            cuts = _cut_streams(port)
            # Let the server notice the last disconnects before it is stopped: its end
            # closes every connection.
            _wait_until_closed(upstream, seconds=_PATIENCE_SECONDS)
            kill(server, 15)
        rows = rows_of(str(home / "modelyard.db"))
        served = {request.user: request for request in upstream.served}
    proof.line("streams cut", len(cuts), len(cuts) == _STREAMS)
    counts = Counter(row["user"] for row in rows)
    proof.line("rows", len(rows), len(rows) == _STREAMS and set(counts.values()) == {1})
    settled_count = sum(row["status"] in ("cancelled", "ok") for row in rows)
    proof.line("rows with their final status", settled_count, settled_count == _STREAMS)
    _report_closing(proof, cuts, served)
    _report_tokens(proof, cuts, served, rows)
    proof.figures |= {"cut": len(cuts), "rows": len(rows)}
    return proof


@dataclass(frozen=True, slots=True)
class _Cut:
    """One stream that its caller cut."""

    moment: float
    """When the caller disconnected."""
    received: int
    """Tokens that the caller received."""


def _cut_streams(port: int) -> dict[str, _Cut]:
    """Cut all streams, several at once; return the cuts by their user."""
    rng = random.Random(3)
    cuts: dict[str, _Cut] = {}
    lock = threading.Lock()

    def cut_stream(number: int) -> None:
        """Cut one stream and record when."""
        user = f"cut-{number}"
        cut = _Cut(*_read_and_disconnect(port, user, rng.randint(1, 8000)))
        with lock:
            cuts[user] = cut

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(cut_stream, range(_STREAMS)))
    return cuts


def _report_closing(
    proof: Proof, cuts: dict[str, _Cut], served: dict[str, ServedRequest]
) -> None:
    """Report how long after the caller's disconnect the upstream's connection was
    closed. No caller reads to the end, so no stream may reach it."""
    waits = [
        request.closed_at - cuts[user].moment
        for user, request in served.items()
        if request.closed_at is not None
    ]
    left_open = [user for user, request in served.items() if request.closed_at is None]
    proof.line(
        "upstream connection closed, at the latest after",
        f"{max(waits):.2f} s",
        max(waits) < _MAX_SECONDS_TO_CLOSE and not left_open,
    )
    proof.figures |= {"closed_s": round(max(waits), 3), "left_open": len(left_open)}


def _report_tokens(
    proof: Proof,
    cuts: dict[str, _Cut],
    served: dict[str, ServedRequest],
    rows: Sequence[Any],
) -> None:
    """Report whether the ledger has the tokens of each cancelled stream.

    Tokens may be in transit while the caller disconnects, so the number is exact only
    within these bounds: what the caller received, and what the upstream sent.
    """
    booked = {
        row["user"]: row["completion_tokens"]
        for row in rows
        if row["status"] == "cancelled"
    }
    within_bounds = sum(
        cuts[user].received <= tokens <= served[user].sent
        for user, tokens in booked.items()
    )
    sent = sum(served[user].sent for user in booked)
    proof.line(
        "recorded tokens between those received and those sent",
        f"{within_bounds} of {len(booked)}; {sum(booked.values())} of {sent} tokens",
        within_bounds == len(booked) and any(cut.received for cut in cuts.values()),
    )
