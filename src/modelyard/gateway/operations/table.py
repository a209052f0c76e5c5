"""Route table for operators: health and metrics, and the greeting at /."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelyard.gateway.errors import OPENAI
from modelyard.gateway.operations import health, metrics
from modelyard.gateway.table import (
    NO_AUTH,
    SAME_SITE,
    VIEWER,
    Api,
    Content,
    Row,
    Schema,
)
from modelyard.runtime.metrics import Metrics


def api(
    sandbox: Callable[[], str],
    problem: Callable[[], health.Problem | None],
    server_metrics: Metrics,
    read_peer_metrics: Callable[[], Iterable[Mapping[str, Any]]],
) -> Api:
    """Return the operations API.

    `sandbox` returns the sandbox level, `problem` why the server is not ready, and the
    last argument the metrics of the server's other processes.
    """
    alive = health.Route(sandbox)
    rows = (
        Row(
            method="GET",
            path="/",
            auth=SAME_SITE,
            summary="Return a greeting; browsers are redirected to the console.",
            handler=health.Welcome(),
            answer=Content("text/plain"),
            other_statuses=(303,),
        ),
        Row(
            method="GET",
            path="/health",
            auth=NO_AUTH,
            summary="Check that the server is alive.",
            handler=alive,
            answer=Schema(health.ALIVE),
        ),
        Row(
            method="GET",
            path="/health/live",
            auth=NO_AUTH,
            summary="Check that the server is alive.",
            handler=alive,
            answer=Schema(health.ALIVE),
        ),
        Row(
            method="GET",
            path="/health/ready",
            auth=NO_AUTH,
            handler=health.Ready(problem),
            summary="Check that the server is ready for calls.",
            answer=Schema(health.READY),
            other_statuses=(503,),
        ),
        Row(
            method="GET",
            path="/metrics",
            auth=VIEWER,
            summary="Get metrics in the Prometheus text format.",
            handler=metrics.Route(server_metrics, read_peer_metrics),
            answer=Content("text/plain"),
        ),
    )
    return Api(
        name="operations",
        title="Operations",
        about="Health and metrics.",
        prefixes=("/health", "/metrics"),
        errors=OPENAI,
        rows=rows,
    )
