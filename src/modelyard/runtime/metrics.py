"""Counters and histograms for Prometheus, made for the path of a call: an observation is a look-up and an addition.

Names follow Prometheus' rules; labels are those with few values alone: never a user, a key or a prompt.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelyard.models.types import ModelUsage
from modelyard.runtime.callbacks import Callback, Outcome
from modelyard.runtime.invocation import Invocation

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_MOST_SERIES = 2000
_OTHER = "other"

Labels = tuple[str, ...]


class Series:
    """One metric: a value, or a histogram, for each combination of labels."""

    def __init__(self, name: str, help: str, kind: str, labels: Labels) -> None:  # noqa: A002  Prometheus' word
        self.name = name
        self.help = help
        self.kind = kind
        self.labels = labels
        self.values: dict[Labels, float] = {}
        self.buckets: dict[Labels, list[float]] = {}

    def add(self, labels: Labels, amount: float = 1.0) -> None:
        values = self.values
        if labels in values:
            values[labels] += amount
        else:
            labels = self._bounded(labels, values)
            values[labels] = values.get(labels, 0.0) + amount

    def observe(self, labels: Labels, seconds: float) -> None:
        found = self.buckets.get(labels)
        if found is None:
            labels = self._bounded(labels, self.buckets)
            found = self.buckets.setdefault(labels, [0.0] * (len(_SECONDS) + 2))
        found[bisect_left(_SECONDS, seconds)] += 1
        found[-1] += seconds

    @staticmethod
    def _bounded(labels: Labels, known: Mapping[Labels, Any]) -> Labels:
        """Names that anybody may invent must not fill the memory."""
        return labels if len(known) < _MOST_SERIES else tuple(_OTHER for _ in labels)

    def lines(self) -> Iterable[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in sorted(self.values.items()):
            yield f"{self.name}{self._text(labels)} {value:.12g}"
        for labels, found in sorted(self.buckets.items()):
            count = 0.0
            for limit, amount in zip((*(f"{one:g}" for one in _SECONDS), "+Inf"), found[:-1], strict=True):
                count += amount
                yield f"{self.name}_bucket{self._text(labels, limit)} {count:.12g}"
            yield f"{self.name}_sum{self._text(labels)} {found[-1]:.12g}"
            yield f"{self.name}_count{self._text(labels)} {count:.12g}"

    def _text(self, labels: Labels, limit: str = "") -> str:
        pairs = [f'{name}="{_escaped(value)}"' for name, value in zip(self.labels, labels, strict=True)]
        pairs += [f'le="{limit}"'] if limit else []
        return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Metrics(Callback):
    """What the calls of this process come to."""

    def __init__(self) -> None:
        model = ("provider", "model", "type")
        self.requests = Series("modelyard_requests_total", "Calls that ended, by how.", "counter", (*model, "status"))
        self.latency = Series("modelyard_request_seconds", "Seconds of a call.", "histogram", model)
        self.first = Series("modelyard_first_chunk_seconds", "Seconds to the first chunk.", "histogram", model)
        self.tokens = Series("modelyard_tokens_total", "Tokens, as counted.", "counter", (*model, "direction"))
        self.cost = Series("modelyard_cost_total", "What calls cost.", "counter", ("provider", "model", "currency"))
        self.cached = Series("modelyard_cache_hits_total", "Answers given again.", "counter", model)
        self.decisions = Series(
            "modelyard_decisions_total", "What happened on the way: failed, hedged, failed over.", "counter", ("what",)
        )
        self.in_flight = Series("modelyard_in_flight", "Calls under way.", "gauge", ())
        self.in_flight.values[()] = 0.0
        self._gauges: list[tuple[Series, Callable[[], Mapping[Labels, float]]]] = []

    def gauge(
        self,
        name: str,
        help: str,  # noqa: A002  Prometheus' word
        labels: Labels,
        read: Callable[[], Mapping[Labels, float]],
    ) -> None:
        """A value that is asked for when somebody looks."""
        self._gauges.append((Series(name, help, "gauge", labels), read))

    def on_before_invoke(self, invocation: Invocation) -> None:
        self.in_flight.values[()] += 1

    def on_after_invoke(self, invocation: Invocation, outcome: Outcome) -> None:
        self._ended(invocation, outcome)

    def on_invoke_error(self, invocation: Invocation, error: BaseException, outcome: Outcome) -> None:
        self._ended(invocation, outcome)

    def _ended(self, invocation: Invocation, outcome: Outcome) -> None:
        self.in_flight.values[()] -= 1
        provider, model = invocation.provider, invocation.model
        labels = (provider, model, invocation.model_type.value)
        self.requests.add((*labels, outcome.status))
        self.latency.observe(labels, outcome.latency)
        if outcome.first_chunk is not None:
            self.first.observe(labels, outcome.first_chunk)
        record = invocation.record
        if record.is_notable:
            for note in record.notes:
                self.decisions.add((note.what,))
            if any(note.what == "cached" for note in record.notes):
                self.cached.add(labels)
        if outcome.usage is not None:
            self._used(labels, outcome.usage)

    def _used(self, labels: Labels, usage: ModelUsage) -> None:
        counted: Any = usage
        if prompt := getattr(counted, "prompt_tokens", 0) or getattr(counted, "tokens", 0):
            self.tokens.add((*labels, "in"), prompt)
        if completion := getattr(counted, "completion_tokens", 0):
            self.tokens.add((*labels, "out"), completion)
        if usage.total_price:
            self.cost.add((*labels[:2], usage.currency), float(usage.total_price))

    def series(self) -> Iterable[Series]:
        for series, read in self._gauges:
            series.values = dict(read())
        return (
            self.requests, self.latency, self.first, self.tokens, self.cost, self.cached, self.decisions,
            self.in_flight, *(series for series, _ in self._gauges),
        )  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        """For another process to add to its own."""
        return {
            one.name: [
                [[list(labels), value] for labels, value in one.values.items()],
                [[list(labels), found] for labels, found in one.buckets.items()],
            ]
            for one in self.series()
        }

    def text(self, others: Iterable[Mapping[str, Any]] = ()) -> str:
        """In Prometheus' format, other processes' snapshots added."""
        lines: list[str] = []
        snapshots = list(others)
        for one in self.series():
            whole = Series(one.name, one.help, one.kind, one.labels)
            whole.values = dict(one.values)
            whole.buckets = {labels: list(found) for labels, found in one.buckets.items()}
            for snapshot in snapshots:
                _add(whole, snapshot.get(one.name, ((), ())))
            lines += whole.lines()
        return "\n".join(lines) + "\n"


def _add(series: Series, snapshot: Any) -> None:
    values, buckets = snapshot
    for labels, value in values:
        series.values[tuple(labels)] = series.values.get(tuple(labels), 0.0) + value
    for labels, found in buckets:
        here = series.buckets.setdefault(tuple(labels), [0.0] * len(found))
        for place, amount in enumerate(found):
            here[place] += amount
