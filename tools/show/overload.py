"""Two and five times the load that one server process can serve, from two loud tenants
and a quiet one. The server must refuse early what is too much, and serve the rest as
before."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bench.processes import start_process

from tools.show.noisy_tenant import add_tenant, give_credentials
from tools.show.proof import ROOT, Proof, free_port
from tools.show.truth_log import home_with, kill, server_forker, wait_until_healthy

_SECONDS = 8.0
"""Duration of each measurement."""
_UPSTREAM_MS = 50
_FIRST_RATE, _GROWTH = 300.0, 1.25
"""Requests per second with which the search for the best rate starts, and by which
factor it increases."""
_QUIET_PART = 0.05
"""Requests of the quiet tenant as part of the best rate. Its fair share is a third."""
_MULTIPLES = (2, 5)
_MIN_GOODPUT = 0.9
_MAX_REFUSAL_SECONDS = 0.05
_MAX_SLOWDOWN = 3.0
_MAX_QUIET_REFUSED = 0.0
"""Fraction of the quiet tenant's calls that may be refused."""
_LOUD = ("loud-1", "loud-2")
_QUIET = "quiet"


@dataclass(frozen=True, slots=True)
class _Measurement:
    """The answers to one load. Latencies are sorted, in seconds."""

    served: list[float]
    refused: list[float]
    quiet_served: list[float]
    quiet_refused: int
    other_statuses: int
    unanswered: int
    lateness: list[float]
    """How much later than due the requests were sent: on a machine that does other
    work, the latencies contain it."""

    @property
    def goodput(self) -> float:
        """Served calls per second."""
        return len(self.served) / (_SECONDS * 0.8)

    def text(self) -> str:
        """Return the figures as one line."""
        return (
            f"{self.goodput:.0f} served a second, p50 {_ms(self.served, 0.5)}, p99"
            f" {_ms(self.served, 0.99)}; {len(self.refused)} refused, p50"
            f" {_ms(self.refused, 0.5)}, p99 {_ms(self.refused, 0.99)}; quiet tenant p99"
            f" {_ms(self.quiet_served, 0.99)}, {self.quiet_refused} refused; requests"
            f" were sent up to {_ms(self.lateness, 0.99)} late (p99)"
        )

    def figures(self) -> dict[str, float]:
        """Return the figures for the last line of the output."""
        return {
            "goodput": round(self.goodput, 1),
            "served_p99": round(_quantile(self.served, 0.99), 4),
            "refused": len(self.refused),
            "refused_p99": round(_quantile(self.refused, 0.99), 4),
            "quiet_p99": round(_quantile(self.quiet_served, 0.99), 4),
            "quiet_refused": self.quiet_refused,
            "lateness_p99": round(_quantile(self.lateness, 0.99), 4),
        }


def _quantile(sorted_latencies: list[float], fraction: float) -> float:
    """Return a quantile, or 0 if there are no values."""
    if not sorted_latencies:
        return 0.0
    return sorted_latencies[int((len(sorted_latencies) - 1) * fraction)]


def _ms(sorted_latencies: list[float], fraction: float) -> str:
    """Return a quantile as text."""
    return f"{_quantile(sorted_latencies, fraction) * 1000:.0f} ms"


class _Loads:
    """Generates load against one server."""

    def __init__(self, port: int, keys: dict[str, str]) -> None:
        self._port = port
        self._keys = keys

    def measure(self, rate: float, quiet_rate: float) -> _Measurement:
        """Send this many requests per second in total, and return what was answered."""
        loud_rate = (rate - quiet_rate) / len(_LOUD)
        rates = {name: (self._keys[name], loud_rate) for name in _LOUD}
        rates[_QUIET] = (self._keys[_QUIET], quiet_rate)
        command = [sys.executable, "-m", "bench.open_load"]
        completed = subprocess.run(
            [*command, str(self._port), str(_SECONDS), json.dumps(rates)],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            timeout=10 * _SECONDS + 60,
            preexec_fn=_use_other_cores,
        )
        return _measurement(json.loads(completed.stdout))

    def best(self) -> _Measurement:
        """Raise the rate until the server does not keep up, and return the measurement
        with the highest goodput."""
        rate, best = _FIRST_RATE, self.measure(_FIRST_RATE, _FIRST_RATE * _QUIET_PART)
        while best.goodput > 0.8 * rate:
            rate *= _GROWTH
            measurement = self.measure(rate, rate * _QUIET_PART)
            if measurement.goodput <= best.goodput:
                break
            best = measurement
        return best


def _measurement(results: dict[str, dict[str, Any]]) -> _Measurement:
    """Return the measurement for the output of the load generator."""
    latencies: dict[str, dict[str, list[float]]] = {
        name: result["latencies"] for name, result in results.items()
    }
    groups = latencies.values()
    served = sorted(chain.from_iterable(group.get("200", []) for group in groups))
    refused = sorted(chain.from_iterable(group.get("503", []) for group in groups))
    answered = sum(
        len(values) for group in latencies.values() for values in group.values()
    )
    sent = sum(result["sent"] for result in results.values())
    return _Measurement(
        served=served,
        refused=refused,
        quiet_served=latencies[_QUIET].get("200", []),
        quiet_refused=len(latencies[_QUIET].get("503", [])),
        other_statuses=answered - len(served) - len(refused),
        unanswered=sent - answered,
        lateness=sorted(
            chain.from_iterable(result["lateness"] for result in results.values())
        ),
    )


def _use_server_core(pid: int) -> None:
    """Give the server a core of its own, if there are several."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pid, cores[:1])


def _use_other_cores() -> None:
    """Leave the first core to the server, if there are several."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[1:])


def prove() -> Proof:
    """Measure the unloaded server, its best rate, and multiples of that."""
    proof, port = Proof(), free_port()
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder,
        start_process("bench.upstream", str(_UPSTREAM_MS)) as (upstream, upstream_port),
    ):
        url = f"http://127.0.0.1:{upstream_port}/v1"
        environ = home_with(Path(folder), url, queue={"target_ms": 10})
        keys = {name: add_tenant(name, environ) for name in (*_LOUD, _QUIET)}
        with server_forker(environ) as servers:
            server = servers.start("serve", "--port", str(port))
            wait_until_healthy(port)
            asyncio.run(give_credentials(port, keys, url))
            _use_server_core(server)
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(upstream, cores[1:] or cores)
            _measure_loads(proof, _Loads(port, keys))
            kill(server, 15)
    return proof


def _measure_loads(proof: Proof, loads: _Loads) -> None:
    """Measure and judge all loads."""
    loads.measure(_FIRST_RATE, _FIRST_RATE * _QUIET_PART)  # a warm-up
    unloaded = loads.measure(60, 20)
    proof.line("unloaded", unloaded.text())
    best = loads.best()
    proof.line("the best rate", best.text())
    proof.figures |= {"unloaded": unloaded.figures(), "best": best.figures()}
    for multiple in _MULTIPLES:
        rate = multiple * best.goodput
        overload = loads.measure(rate, best.goodput * _QUIET_PART)
        proof.line(f"{multiple} times the best rate", overload.text())
        proof.figures[f"overload_{multiple}"] = overload.figures()
        _judge(proof, overload, best, unloaded)


def _judge(
    proof: Proof, overload: _Measurement, best: _Measurement, unloaded: _Measurement
) -> None:
    """Compare one overload with the goal."""
    goodput = overload.goodput / best.goodput
    proof.line(
        f"  goodput, at least {_MIN_GOODPUT:.0%} of the best",
        f"{goodput:.1%}",
        goodput >= _MIN_GOODPUT,
    )
    refusal_p99 = _quantile(overload.refused, 0.99)
    proof.line(
        "  p99 of refusals",
        f"{refusal_p99 * 1000:.0f} ms",
        bool(overload.refused) and refusal_p99 <= _MAX_REFUSAL_SECONDS,
    )
    slowdown = _quantile(overload.served, 0.99) / _quantile(unloaded.served, 0.99)
    proof.line(
        "  p99 of served calls, compared with the unloaded server",
        f"{slowdown:.2f} times",
        slowdown <= _MAX_SLOWDOWN,
    )
    proof.line(
        "  refused calls of the quiet tenant",
        overload.quiet_refused,
        overload.quiet_refused <= _MAX_QUIET_REFUSED * len(overload.quiet_served)
        and bool(overload.quiet_served),
    )
    failures = overload.other_statuses + overload.unanswered
    proof.line("  other failures", failures, not failures)
