"""What those who run the server watch it by: health and metrics; and a word of welcome."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelyard.gateway.errors import OPENAI
from modelyard.gateway.operations import health, metrics
from modelyard.gateway.table import NOBODY_IN_PARTICULAR, SAME_SITE, VIEWER, Api, Content, Row, Schema
from modelyard.runtime.metrics import Metrics


def api(
    jail: Callable[[], str],
    problem: Callable[[], str | None],
    counted: Metrics,
    others: Callable[[], Iterable[Mapping[str, Any]]],
) -> Api:
    """`jail`: how programs are held; `problem`: why calls should not be sent here; `others`: what the server's other
    processes counted."""
    alive = health.Route(jail)
    rows = (
        Row(method="GET", path="/", auth=SAME_SITE, summary="Say hello; a browser is led to the console.",
            handler=health.Welcome(), answer=Content("text/plain"), other_statuses=(303,)),
        Row(method="GET", path="/health", auth=NOBODY_IN_PARTICULAR, summary="Say that the server is there.",
            handler=alive, answer=Schema(health.ALIVE)),
        Row(method="GET", path="/health/live", auth=NOBODY_IN_PARTICULAR, summary="Say that the server is there.",
            handler=alive, answer=Schema(health.ALIVE)),
        Row(method="GET", path="/health/ready", auth=NOBODY_IN_PARTICULAR, handler=health.Ready(problem),
            summary="Say whether calls should be sent here.", answer=Schema(health.READY), other_statuses=(503,)),
        Row(method="GET", path="/metrics", auth=VIEWER, summary="Say what was counted, for Prometheus.",
            handler=metrics.Route(counted, others), answer=Content("text/plain")),
    )  # fmt: skip
    return Api(
        name="operations", title="Operations", about="Health and metrics.",
        prefixes=("/health", "/metrics"), errors=OPENAI, rows=rows,
    )  # fmt: skip
