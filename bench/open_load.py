"""Send chat requests at fixed rates, whether or not earlier ones are answered.

python -m bench.open_load PORT SECONDS RATES

RATES is a JSON object: the name of each group of callers → its API key and requests per
second. Prints a JSON object: name → number of sent requests, sorted latencies in
seconds for each status of the answers, and how much later than due the requests were
sent. A latency counts from the time at which the request was due, so a slow server
cannot hide its queue; neither can a slow generator. The first fifth of the time is not
measured.
"""

import asyncio
import json
import re
import sys
import time
from collections import defaultdict, deque
from typing import Any

import uvloop

_WARM_UP = 0.2
"""Fraction of the time that is not measured."""
_CONNECTIONS = 500
"""Connections of each group; further requests wait for one of them."""
_GRACE_SECONDS = 3.0
"""Time for the last requests to be answered."""
_CONTENT_LENGTH = re.compile(rb"content-length: (\d+)")
_BODY = json.dumps(
    {
        "model": "openai/gpt-5-mini",
        "messages": [{"role": "user", "content": "Hello " * 20}],
    }
).encode()


class Group:
    """Callers with one API key, their connections and results."""

    def __init__(self, port: int, key: str, rate: float) -> None:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
            f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(_BODY)}\r\n\r\n"
        )
        self.request = head.encode() + _BODY
        self.rate = rate
        self.sent = 0
        self.open_requests = 0
        self.idle: list[Connection] = []
        self.overdue: deque[float] = deque()
        """Times of requests that wait for a connection."""
        self.measured_from = 0.0
        self.latencies: dict[int, list[float]] = defaultdict(list)
        self.lateness: list[float] = []

    def send(self, due_at: float) -> None:
        """Send the request that is due at this time, or let it wait."""
        if due_at >= self.measured_from:
            self.sent += 1
            self.lateness.append(time.perf_counter() - due_at)
        self.open_requests += 1
        if self.idle:
            self.idle.pop().start(due_at)
        else:
            self.overdue.append(due_at)

    def finish(self, connection: "Connection", due_at: float, status: int) -> None:
        """Record an answer, and use its connection again."""
        self.open_requests -= 1
        if due_at >= self.measured_from:
            self.latencies[status].append(time.perf_counter() - due_at)
        if self.overdue:
            connection.start(self.overdue.popleft())
        else:
            self.idle.append(connection)

    def result(self) -> dict[str, Any]:
        """Return the number of requests, their lateness and the latencies."""
        return {
            "sent": self.sent,
            "lateness": sorted(self.lateness),
            "latencies": {
                str(status): sorted(latencies)
                for status, latencies in self.latencies.items()
            },
        }


class Connection(asyncio.Protocol):
    """One connection of a group."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._due_at = 0.0
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        """Wait for a request."""
        self._transport = transport
        self._group.idle.append(self)

    def start(self, due_at: float) -> None:
        """Send one request."""
        self._due_at = due_at
        self._transport.write(self._group.request)

    def data_received(self, data: bytes) -> None:
        """Collect the answer until it is complete."""
        self._received += data
        head_size = self._received.find(b"\r\n\r\n") + 4
        if head_size < 4:
            return
        length = _CONTENT_LENGTH.search(self._received, 0, head_size)
        if length is None:
            raise RuntimeError(f"answer without length: {self._received[:200]!r}")
        if len(self._received) < head_size + int(length[1]):
            return
        status = int(self._received[9:12])
        self._received = b""
        self._group.finish(self, self._due_at, status)


async def _send_at_rate(group: Group, started_at: float, seconds: float) -> None:
    """Send the group's requests at equal distances."""
    total = int(group.rate * seconds)
    index = 0
    while index < total:
        due_at = started_at + index / group.rate
        wait_seconds = due_at - time.perf_counter()
        if wait_seconds > 0:
            await asyncio.sleep(wait_seconds)
            continue
        group.send(due_at)
        index += 1


async def _connect(group: Group, port: int) -> None:
    """Open the connections that the group needs if each request takes a quarter of a
    second, and some more."""
    loop = asyncio.get_running_loop()
    for _ in range(min(_CONNECTIONS, 20 + int(group.rate / 4))):
        await loop.create_connection(lambda: Connection(group), "127.0.0.1", port)


async def main(port: int, seconds: float, rates: dict[str, tuple[str, float]]) -> None:
    """Send the requests of all groups and print the results."""
    groups = {name: Group(port, key, rate) for name, (key, rate) in rates.items()}
    for group in groups.values():
        await _connect(group, port)
    started_at = time.perf_counter()
    for group in groups.values():
        group.measured_from = started_at + seconds * _WARM_UP
    await asyncio.gather(
        *(_send_at_rate(group, started_at, seconds) for group in groups.values())
    )
    until = time.perf_counter() + _GRACE_SECONDS
    while time.perf_counter() < until:
        if not any(group.open_requests for group in groups.values()):
            break
        await asyncio.sleep(0.02)
    results = {name: group.result() for name, group in groups.items()}
    print(json.dumps(results))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])))
