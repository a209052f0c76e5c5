"""64 callers on two server processes race for one budget: the overspend is at most the
estimate of one call."""

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from modelyard.transport.http import HttpClient
from tools.show.proof import Proof, free_port
from tools.show.servers import Postgres, Valkey, ValkeyCluster
from tools.show.truth_log import (
    EVENTS,
    PROMPT,
    TruthfulUpstream,
    home_with,
    kill,
    rows_of,
    server_forker,
    wait_until_healthy,
)

_CALLERS = 64
_CALLS = 400
"""Number of calls that the budget pays for."""
_PRICE_IN, _PRICE_OUT = 1.0, 2.0
_COST = (PROMPT * _PRICE_IN + EVENTS * _PRICE_OUT) / 1e6
_MAX_TOKENS = 60
"""`max_tokens` of each call; more than the answer needs, as usual in practice."""
# The server reserves this amount before a call: about 20 prompt tokens and all
# `max_tokens`.
_ESTIMATE = (20 * _PRICE_IN + _MAX_TOKENS * _PRICE_OUT) / 1e6


@dataclass
class _Race:
    """The callers' results: calls served and refused on all ports."""

    ports: list[int]
    served: int = 0
    refused: list[float] = field(default_factory=list[float])
    other: list[str] = field(default_factory=list[str])
    has_retry_after: bool = True

    async def run(self) -> None:
        """Run all callers until the budget is spent, then measure single refusals."""
        client = HttpClient(keep_idle=_CALLERS)
        await asyncio.gather(
            *(self._caller(client, number) for number in range(_CALLERS))
        )
        # Measured without competing callers, so that it is the cost of the refusal
        # itself.
        # All is spent: how quickly is a call refused that comes alone?
        alone = _Race(self.ports)
        for number in range(40):
            await alone._ask(client, f"late-{number}", self.ports[number % 2])
        self.alone = sorted(alone.refused)
        await client.aclose()

    async def _caller(self, client: HttpClient, number: int) -> None:
        """Call until three requests have been refused."""
        attempt = refusals = 0
        while refusals < 3:
            attempt += 1
            was_served = await self._ask(
                client, f"r{number}-{attempt}", self.ports[number % 2]
            )
            # The first refusals may be due to reservations that are settled a moment
            # later.
            if not was_served:
                refusals += 1
                await asyncio.sleep(0.05)

    async def _ask(self, client: HttpClient, user: str, port: int) -> bool:
        """Make one call and record its result; return whether it was served."""
        body = {
            "model": "nimbus/large",
            "user": user,
            "max_tokens": _MAX_TOKENS,
            "messages": [{"role": "user", "content": "Say forty words."}],
        }
        started_at = time.monotonic()
        response = await client.send(
            "POST",
            f"http://127.0.0.1:{port}/v1/chat/completions",
            headers={"content-type": "application/json"},
            body=[msgspec.json.encode(body)],
        )
        response_body = await response.read(max_bytes=1 << 20)
        if response.status == 200:
            self.served += 1
            return True
        if response.status == 429:
            self.refused.append(time.monotonic() - started_at)
            # Every refusal has to tell the caller when to try again.
            self.has_retry_after &= "retry-after" in response.headers
        else:
            self.other.append(response_body.decode()[:200])
        return False


def run_race(folder: Path, **settings: Any) -> tuple[_Race, float]:
    """Run the race and return it with the sum that the ledger recorded, in USD."""
    with TruthfulUpstream(latency=0.01) as upstream:
        budget = {"unit": "cost", "amount": _CALLS * _COST, "window": "day"}
        model = {
            "name": "large",
            "context_size": 100_000,
            "input_price": _PRICE_IN,
            "output_price": _PRICE_OUT,
        }
        provider = {
            "name": "nimbus",
            "base_url": upstream.url,
            "models": [model],
            "credentials": [{"values": {"api_key": "sk-race"}}],
        }
        environ = home_with(folder, upstream.url, limits={"budget": budget}, **settings)
        text = (folder / "modelyard.yaml").read_text()
        # Replace the provider by one with known prices, so that the expected cost is
        # exact.
        document = msgspec.yaml.decode(text.encode(), type=dict[str, Any])
        (folder / "modelyard.yaml").write_bytes(
            msgspec.yaml.encode({**document, "providers": [provider]})
        )
        # Both servers share one budget; each has its own port.
        with server_forker(environ) as servers:
            ports = [free_port(), free_port()]
            running = [servers.start("serve", "--port", str(port)) for port in ports]
            if not all(wait_until_healthy(port) for port in ports):
                raise RuntimeError("a server did not start")
            race_run = _Race(ports)
            asyncio.run(race_run.run())
            # SIGTERM lets the servers write their last ledger rows before they are
            # read.
            for pid in running:
                kill(pid, 15)
        rows = rows_of(settings.get("database") or str(folder / "modelyard.db"))
        return race_run, sum(row["nanos"] or 0 for row in rows) / 1e9


def prove() -> Proof:
    """Run the race on each shared store and compare the ledger with the budget."""
    proof = Proof()
    budget = _CALLS * _COST
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        folder = Path(name)
        with (
            Postgres(folder / "pg") as postgres,
            Valkey(folder / "valkey") as valkey,
            ValkeyCluster(folder / "cluster") as cluster,
        ):
            for shared, settings in (
                ("SQLite", {"shared": "database"}),
                ("PostgreSQL", {"database": postgres.url}),
                (
                    "Valkey",
                    {"database": str(folder / "shared.db"), "shared": valkey.url},
                ),
                (
                    "Valkey cluster",
                    {"database": str(folder / "cluster.db"), "shared": cluster.url},
                ),
            ):
                race_run, spent = run_race(folder / shared, **settings)
                overspend = spent - budget
                p99 = (
                    race_run.alone[int(len(race_run.alone) * 0.99) - 1]
                    if race_run.alone
                    else 9.9
                )
                proof.line(
                    f"{shared}: budget, spent",
                    f"{budget:.6f}, {spent:.6f} USD in {race_run.served} calls; one estimate is {_ESTIMATE:.6f}",
                    # Too little spent is wrong as well: reservations must be released.
                    overspend <= _ESTIMATE and spent >= budget - _ESTIMATE * 2,
                )
                proof.line(
                    f"{shared}: statuses other than 200 and 429",
                    race_run.other[:1] or "none",
                    not race_run.other,
                )
                proof.line(
                    f"{shared}: refusals with Retry-After",
                    len(race_run.refused),
                    race_run.has_retry_after,
                )
                proof.line(
                    f"{shared}: time of a refusal, p99",
                    f"{p99 * 1000:.1f} ms",
                    p99 < 0.05,
                )
                proof.figures[shared] = {
                    "over": round(overspend, 7),
                    "served": race_run.served,
                    "refusal_p99_ms": round(p99 * 1000, 2),
                }
    return proof
