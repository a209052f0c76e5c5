"""Two and five times the load that one server process can serve, from two loud tenants
and a quiet one. The server must refuse early what is too much, and serve the rest as
before."""

import asyncio
import json
import os
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from bench.gateway import upstream
from bench.native import compiled

from tools.show.noisy_tenant import add_tenant, give_credentials
from tools.show.proof import Proof, free_port
from tools.show.truth_log import home_with, kill, server_forker, wait_until_healthy

_SECONDS = 8.0
"""Duration of each measurement."""
_WARM_UP = 0.2
"""Fraction of it that is not measured."""
_MAX_CONNECTIONS = 1200
"""Connections of each tenant; further requests wait for one of them. With fewer, the
generator and not the server would be what a request waits for."""
_BODY = {
    "model": "openai/gpt-5-mini",
    "messages": [{"role": "user", "content": "Hello " * 20}],
}
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
class _Answers:
    """The answers to one tenant."""

    latencies: defaultdict[int, list[float]]
    """Seconds of the answers with each status."""
    unanswered: int
    late_p99: float


@dataclass(frozen=True, slots=True)
class _Measurement:
    """The answers to one load. Latencies are sorted, in seconds."""

    served: list[float]
    refused: list[float]
    quiet_served: list[float]
    quiet_refused: int
    other_statuses: int
    unanswered: int
    late_p99: float
    """How long after a request was due the generator came to it, in seconds: on a
    machine that does other work, the latencies contain it."""

    @property
    def goodput(self) -> float:
        """Served calls per second."""
        return len(self.served) / (_SECONDS * (1 - _WARM_UP))

    def text(self) -> str:
        """Return the figures as one line."""
        return (
            f"{self.goodput:.0f} served a second, p50 {_ms(self.served, 0.5)}, p99"
            f" {_ms(self.served, 0.99)}; {len(self.refused)} refused, p50"
            f" {_ms(self.refused, 0.5)}, p99 {_ms(self.refused, 0.99)}; quiet tenant p99"
            f" {_ms(self.quiet_served, 0.99)}, {self.quiet_refused} refused; the"
            f" generator was {self.late_p99 * 1000:.0f} ms late (p99)"
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
            "late_p99": round(self.late_p99, 4),
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

    def __init__(self, port: int, keys: dict[str, str], folder: Path) -> None:
        self._keys = keys
        self._folder = folder
        self._body_file = folder / "body.json"
        self._body_file.write_text(json.dumps(_BODY))
        self._command = (
            *(compiled("load"), "-p", str(port), "-P", "/v1/chat/completions"),
            *("-b", str(self._body_file), "-d", str(_SECONDS)),
            *("-w", str(_SECONDS * _WARM_UP)),
        )

    def measure(self, rate: float, quiet_rate: float) -> _Measurement:
        """Send this many requests per second in total, and return what was answered."""
        loud_rate = (rate - quiet_rate) / len(_LOUD)
        rates = dict.fromkeys(_LOUD, loud_rate) | {_QUIET: quiet_rate}
        generators = {name: self._start(name, rates[name]) for name in rates}
        return _measurement(
            {name: self._answers(name, generators[name]) for name in generators}
        )

    def _start(self, name: str, rate: float) -> subprocess.Popen[str]:
        """Start the requests of one tenant."""
        # Enough if each request takes a quarter of a second, and some more.
        connections = min(_MAX_CONNECTIONS, 20 + int(rate / 4))
        return subprocess.Popen(
            [
                *self._command,
                *("-H", f"Authorization: Bearer {self._keys[name]}"),
                *("-c", str(connections), "-r", str(rate)),
                *("-o", str(self._folder / name)),
            ],
            text=True,
            stdout=subprocess.PIPE,
            preexec_fn=_use_other_cores,
        )

    def _answers(self, name: str, generator: subprocess.Popen[str]) -> _Answers:
        """Wait for the end of a tenant's requests, and return what was answered."""
        output, _ = generator.communicate(timeout=10 * _SECONDS + 60)
        if generator.returncode:
            raise RuntimeError(f"The load generator for {name} has failed")
        figures = json.loads(output)
        latencies = defaultdict[int, list[float]](list)
        for line in (self._folder / name).read_text().splitlines():
            status, microseconds = line.split()
            latencies[int(status)].append(int(microseconds) / 1e6)
        return _Answers(
            latencies=latencies,
            unanswered=figures["unanswered"] + figures["connection_errors"],
            late_p99=figures["late_p99_us"] / 1e6,
        )

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


def _measurement(answers: dict[str, _Answers]) -> _Measurement:
    """Return the measurement for the answers to all tenants."""
    groups = [group.latencies for group in answers.values()]
    served = sorted(chain.from_iterable(group[200] for group in groups))
    refused = sorted(chain.from_iterable(group[503] for group in groups))
    answered = sum(len(values) for group in groups for values in group.values())
    return _Measurement(
        served=served,
        refused=refused,
        quiet_served=sorted(answers[_QUIET].latencies[200]),
        quiet_refused=len(answers[_QUIET].latencies[503]),
        other_statuses=answered - len(served) - len(refused),
        unanswered=sum(group.unanswered for group in answers.values()),
        late_p99=max(group.late_p99 for group in answers.values()),
    )


def _use_server_core(pid: int) -> None:
    """Give the server a core of its own, if there are several."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pid, cores[:1])


def _other_cores() -> list[int]:
    """Return the cores that are left to the load and the upstream: all but the first
    one, which the server has to itself."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[1:] or cores


def _use_other_cores() -> None:
    """Leave the first core to the server, if there are several."""
    os.sched_setaffinity(0, _other_cores())


def prove() -> Proof:
    """Measure the unloaded server, its best rate, and multiples of that."""
    proof, port = Proof(), free_port()
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder,
        upstream(_other_cores(), milliseconds=_UPSTREAM_MS) as upstream_port,
    ):
        url = f"http://127.0.0.1:{upstream_port}/v1"
        environ = home_with(Path(folder), url, queue={"target_ms": 10})
        keys = {name: add_tenant(name, environ) for name in (*_LOUD, _QUIET)}
        with server_forker(environ) as servers:
            server = servers.start("serve", "--port", str(port))
            wait_until_healthy(port)
            asyncio.run(give_credentials(port, keys, url))
            _use_server_core(server)
            _measure_loads(proof, _Loads(port, keys, Path(folder)))
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
