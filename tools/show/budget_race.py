"""64 callers on two server processes race for one budget: what is spent is at most one call's estimate too much."""

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from modelyard.transport.http import HttpClient
from tools.show.proof import Proof, free_port
from tools.show.servers import Postgres, Valkey
from tools.show.truth_log import EVENTS, PROMPT, TruthfulUpstream, home_with, kill, ready, rows_of, zygote

_CALLERS = 64
_CALLS = 400
"""So many calls the budget pays for."""
_PRICE_IN, _PRICE_OUT = 1.0, 2.0
_COST = (PROMPT * _PRICE_IN + EVENTS * _PRICE_OUT) / 1e6
_MOST = 60
"""`max_tokens` of each call: more than comes, as callers do."""
_ESTIMATE = (20 * _PRICE_IN + _MOST * _PRICE_OUT) / 1e6


@dataclass
class _Race:
    ports: list[int]
    served: int = 0
    refused: list[float] = field(default_factory=list[float])
    other: list[str] = field(default_factory=list[str])
    has_retry_after: bool = True

    async def run(self) -> None:
        client = HttpClient(keep_idle=_CALLERS)
        await asyncio.gather(*(self._caller(client, number) for number in range(_CALLERS)))
        # All is spent: how quickly is a call refused that comes alone?
        alone = _Race(self.ports)
        for number in range(40):
            await alone._ask(client, f"late-{number}", self.ports[number % 2])
        self.alone = sorted(alone.refused)
        await client.aclose()

    async def _caller(self, client: HttpClient, number: int) -> None:
        turn = refusals = 0
        while refusals < 3:
            turn += 1
            was_served = await self._ask(client, f"r{number}-{turn}", self.ports[number % 2])
            if not was_served:
                refusals += 1
                await asyncio.sleep(0.05)

    async def _ask(self, client: HttpClient, user: str, port: int) -> bool:
        body = {
            "model": "nimbus/large", "user": user, "max_tokens": _MOST,
            "messages": [{"role": "user", "content": "Say forty words."}],
        }  # fmt: skip
        begun = time.monotonic()
        response = await client.send(
            "POST", f"http://127.0.0.1:{port}/v1/chat/completions", headers={"content-type": "application/json"},
            body=[msgspec.json.encode(body)],
        )  # fmt: skip
        said = await response.read(most=1 << 20)
        if response.status == 200:
            self.served += 1
            return True
        if response.status == 429:
            self.refused.append(time.monotonic() - begun)
            self.has_retry_after &= "retry-after" in response.headers
        else:
            self.other.append(said.decode()[:200])
        return False


def race(folder: Path, **settings: Any) -> tuple[_Race, float]:
    """The race, and what the ledger says was spent."""
    with TruthfulUpstream(latency=0.01) as upstream:
        budget = {"unit": "cost", "amount": _CALLS * _COST, "window": "day"}
        model = {"name": "large", "context_size": 100_000, "input_price": _PRICE_IN, "output_price": _PRICE_OUT}
        provider = {
            "name": "nimbus", "base_url": upstream.url, "models": [model],
            "credentials": [{"values": {"api_key": "sk-race"}}],
        }  # fmt: skip
        environ = home_with(folder, upstream.url, limits={"budget": budget}, **settings)
        text = (folder / "modelyard.yaml").read_text()
        document = msgspec.yaml.decode(text.encode(), type=dict[str, Any])
        (folder / "modelyard.yaml").write_bytes(msgspec.yaml.encode({**document, "providers": [provider]}))
        with zygote(environ) as servers:
            ports = [free_port(), free_port()]
            running = [servers.start("serve", "--port", str(port)) for port in ports]
            if not all(ready(port) for port in ports):
                raise RuntimeError("a server did not start")
            found = _Race(ports)
            asyncio.run(found.run())
            for one in running:
                kill(one, 15)
        rows = rows_of(settings.get("database") or str(folder / "modelyard.db"))
        return found, sum(row["nanos"] or 0 for row in rows) / 1e9


def prove() -> Proof:
    proof = Proof()
    budget = _CALLS * _COST
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        folder = Path(name)
        with Postgres(folder / "pg") as postgres, Valkey(folder / "valkey") as valkey:
            for shared, settings in (
                ("SQLite", {"shared": "database"}),
                ("PostgreSQL", {"database": postgres.url}),
                ("Valkey", {"database": str(folder / "shared.db"), "shared": valkey.url}),
            ):
                found, spent = race(folder / shared, **settings)
                over = spent - budget
                p99 = found.alone[int(len(found.alone) * 0.99) - 1] if found.alone else 9.9
                proof.line(
                    f"{shared}: budget, spent",
                    f"{budget:.6f}, {spent:.6f} USD in {found.served} calls; one estimate is {_ESTIMATE:.6f}",
                    over <= _ESTIMATE and spent >= budget - _ESTIMATE * 2,
                )
                proof.line(f"{shared}: anything but 200 and 429", found.other[:1] or "none", not found.other)
                proof.line(f"{shared}: refusals with Retry-After", len(found.refused), found.has_retry_after)
                proof.line(f"{shared}: a refusal takes, p99", f"{p99 * 1000:.1f} ms", p99 < 0.05)
                proof.figures[shared] = {
                    "over": round(over, 7),
                    "served": found.served,
                    "refusal_p99_ms": round(p99 * 1000, 2),
                }
    return proof
