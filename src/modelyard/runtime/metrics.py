"""Counters and histograms for Prometheus. Recording one is a dictionary look-up and an
addition, cheap enough for every call.

Names follow the Prometheus conventions. Labels have few values only: never a user, a
key or a prompt.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelyard.models.llm import LLMUsage
from modelyard.models.types import ModelType, ModelUsage
from modelyard.runtime.callbacks import Callback, CallResult
from modelyard.runtime.invocation import Invocation

# The upper bounds of the histogram buckets.
# Model calls take from milliseconds (a cache) to minutes (a long answer).
_BUCKET_BOUNDS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
)
# Labels hold names from requests. Prometheus keeps every series in memory, and a scrape
# transfers all of them.
_MAX_SERIES = 2000
_OTHER = "other"
_TYPE_NAMES = {model_type: model_type.value for model_type in ModelType}
"""The labels of the types. An enum computes its value each time."""

Labels = tuple[str, ...]


class Series:
    """One metric: a number, or a histogram, for each combination of label values."""

    def __init__(self, name: str, help: str, metric_type: str, labels: Labels) -> None:
        self.name = name
        self.help = help
        self.kind = metric_type
        self.labels = labels
        self.values: dict[Labels, float] = {}
        # For each label combination: a count for each bucket, one for +Inf, and the sum
        # as the last element.
        self.buckets: dict[Labels, list[float]] = {}

    def add(self, labels: Labels, amount: float = 1.0) -> None:
        """Add to the value of a label combination."""
        values = self.values
        if labels in values:
            values[labels] += amount
        else:
            labels = self._bounded(labels, values)
            values[labels] = values.get(labels, 0.0) + amount

    def observe(self, labels: Labels, seconds: float) -> None:
        """Record a duration in the histogram of a label combination."""
        if labels in self.buckets:
            bucket_counts = self.buckets[labels]
        else:
            labels = self._bounded(labels, self.buckets)
            bucket_counts = self.buckets.setdefault(
                labels, [0.0] * (len(_BUCKET_BOUNDS) + 2)
            )
        bucket_counts[bisect_left(_BUCKET_BOUNDS, seconds)] += 1
        bucket_counts[-1] += seconds

    @staticmethod
    def _bounded(labels: Labels, existing_series: Mapping[Labels, Any]) -> Labels:
        """Return the labels, or `other` for each if the metric has too many
        combinations.

        Clients can invent model names, so the number of combinations has to be bounded.
        """
        return (
            labels
            if len(existing_series) < _MAX_SERIES
            else tuple(_OTHER for _ in labels)
        )

    def lines(self) -> Iterable[str]:
        """Yield the lines of this metric in the Prometheus text format."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in sorted(self.values.items()):
            # Twelve digits hide the rounding errors of amounts that were added up.
            yield f"{self.name}{self._label_set(labels)} {value:.12g}"
        for labels, bucket_counts in sorted(self.buckets.items()):
            count = 0.0
            # Buckets are cumulative in the text format, but stored separately.
            for limit, amount in zip(
                (*(f"{bound:g}" for bound in _BUCKET_BOUNDS), "+Inf"),
                bucket_counts[:-1],
                strict=True,
            ):
                count += amount
                yield f"{self.name}_bucket{self._label_set(labels, limit)} {count:.12g}"
            yield f"{self.name}_sum{self._label_set(labels)} {bucket_counts[-1]:.12g}"
            yield f"{self.name}_count{self._label_set(labels)} {count:.12g}"

    def _label_set(self, labels: Labels, limit: str = "") -> str:
        """Return the label set in braces; with `limit`, it includes the bucket's upper
        bound as `le`."""
        pairs = [
            f'{name}="{_escaped(value)}"'
            for name, value in zip(self.labels, labels, strict=True)
        ]
        pairs += [f'le="{limit}"'] if limit else []
        return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(text: str) -> str:
    """Escape a label value as the Prometheus text format requires."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Metrics(Callback):
    """The metrics of the calls that this process makes."""

    def __init__(self) -> None:
        model = ("provider", "model", "type")
        self.requests = Series(
            "modelyard_requests_total",
            "Finished calls by status.",
            "counter",
            (*model, "status"),
        )
        self.latency = Series(
            "modelyard_request_seconds",
            "Duration of a call in seconds.",
            "histogram",
            model,
        )
        self.first = Series(
            "modelyard_first_chunk_seconds",
            "Time to the first chunk in seconds.",
            "histogram",
            model,
        )
        self.tokens = Series(
            "modelyard_tokens_total",
            "Tokens by direction.",
            "counter",
            (*model, "direction"),
        )
        self.cost = Series(
            "modelyard_cost_total",
            "Cost of calls by currency.",
            "counter",
            ("provider", "model", "currency"),
        )
        self.cached = Series(
            "modelyard_cache_hits_total",
            "Responses served from the cache.",
            "counter",
            model,
        )
        self.decisions = Series(
            "modelyard_decisions_total",
            "Routing decisions: failed, hedged, failed over.",
            "counter",
            ("what",),
        )
        self.loop_lag = Series(
            "modelyard_loop_lag_seconds",
            "Wait for a turn of the event loop in seconds.",
            "histogram",
            (),
        )
        self.in_flight = Series(
            "modelyard_in_flight", "Calls in progress.", "gauge", ()
        )
        # The gauge must be present before the first call.
        self.in_flight.values[()] = 0.0
        self._gauges: list[tuple[Series, Callable[[], Mapping[Labels, float]]]] = []

    def gauge(
        self,
        name: str,
        help: str,
        labels: Labels,
        read: Callable[[], Mapping[Labels, float]],
    ) -> None:
        """Register a gauge whose value is read at each scrape."""
        self._gauges.append((Series(name, help, "gauge", labels), read))

    def counter(
        self,
        name: str,
        help: str,
        labels: Labels,
        read: Callable[[], Mapping[Labels, float]],
    ) -> None:
        """Register a counter that is kept elsewhere and read at each scrape."""
        self._gauges.append((Series(name, help, "counter", labels), read))

    def on_before_invoke(self, invocation: Invocation) -> None:
        """Count the call as in flight."""
        self.in_flight.values[()] += 1

    def on_invoke_error(
        self, invocation: Invocation, error: BaseException, outcome: CallResult
    ) -> None:
        """Record a call that failed."""
        self.on_after_invoke(invocation, outcome)

    def on_after_invoke(self, invocation: Invocation, outcome: CallResult) -> None:
        """Record the duration, status, decisions and usage of a finished call."""
        self.in_flight.values[()] -= 1
        provider, model = invocation.provider, invocation.model
        labels = (provider, model, _TYPE_NAMES[invocation.model_type])
        self.requests.add((*labels, outcome.status))
        self.latency.observe(labels, outcome.latency)
        if outcome.first_chunk is not None:
            self.first.observe(labels, outcome.first_chunk)
        record = invocation.record
        # Most calls have no notable decision, so their notes are not read at all.
        if record.is_notable:
            for note in record.notes:
                self.decisions.add((note.action,))
            if any(note.action == "cached" for note in record.notes):
                self.cached.add(labels)
        if outcome.usage is not None:
            self._record_usage(labels, outcome.usage)

    def _record_usage(self, labels: Labels, usage: ModelUsage) -> None:
        """Record tokens and cost. Result types differ in their token fields, so absent
        ones count as 0."""
        if isinstance(usage, LLMUsage):
            prompt, completion = usage.prompt_tokens, usage.completion_tokens
        else:
            usage_fields: Any = usage
            prompt = getattr(usage_fields, "prompt_tokens", 0) or getattr(
                usage_fields, "tokens", 0
            )
            completion = getattr(usage_fields, "completion_tokens", 0)
        if prompt:
            self.tokens.add((*labels, "in"), prompt)
        if completion:
            self.tokens.add((*labels, "out"), completion)
        if usage.total_price:
            self.cost.add((*labels[:2], usage.currency), float(usage.total_price))

    def series(self) -> Iterable[Series]:
        """Return all metrics, after reading the gauges."""
        for series, read in self._gauges:
            series.values = dict(read())
        return (
            self.requests,
            self.latency,
            self.first,
            self.tokens,
            self.cost,
            self.cached,
            self.decisions,
            self.in_flight,
            self.loop_lag,
            *(series for series, _ in self._gauges),
        )

    def snapshot(self) -> dict[str, Any]:
        """Return all metrics as JSON values, for another worker process to add to its
        own."""
        return {
            metric.name: [
                [[list(labels), value] for labels, value in metric.values.items()],
                [
                    [list(labels), bucket_counts]
                    for labels, bucket_counts in metric.buckets.items()
                ],
            ]
            for metric in self.series()
        }

    def text(self, peer_snapshots: Iterable[Mapping[str, Any]] = ()) -> str:
        """Return all metrics in the Prometheus text format, with the snapshots of other
        workers added."""
        lines: list[str] = []
        # An iterator can be read once only, but every metric needs all snapshots.
        snapshots = list(peer_snapshots)
        for metric in self.series():
            # Merge into a copy; the live values must not include the other workers'.
            merged = Series(metric.name, metric.help, metric.kind, metric.labels)
            merged.values = dict(metric.values)
            merged.buckets = {
                labels: list(bucket_counts)
                for labels, bucket_counts in metric.buckets.items()
            }
            for snapshot in snapshots:
                _add(merged, snapshot.get(metric.name, ((), ())))
            lines += merged.lines()
        return "\n".join(lines) + "\n"


def _add(series: Series, snapshot: Any) -> None:
    """Add one metric of another worker's snapshot to a metric."""
    # JSON has no tuples, so the labels come as lists.
    values, buckets = snapshot
    for labels, value in values:
        series.values[tuple(labels)] = series.values.get(tuple(labels), 0.0) + value
    for labels, bucket_counts in buckets:
        merged_counts = series.buckets.setdefault(
            tuple(labels), [0.0] * len(bucket_counts)
        )
        for index, amount in enumerate(bucket_counts):
            merged_counts[index] += amount
