"""GET /metrics in Prometheus format, summed over all processes of the server."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import Reply, Request
from modelyard.runtime.metrics import Metrics
from modelyard.tenancy.caller import DEFAULT_TENANT

_TEXT_FORMAT = b"text/plain; version=0.0.4; charset=utf-8"
"""The text format of Prometheus, which all its versions read."""


@dataclass(frozen=True, slots=True)
class Route:
    """GET /metrics: return the metrics."""

    metrics: Metrics
    read_peer_metrics: Callable[[], Iterable[Mapping[str, Any]]]
    """Reads the metrics of the server's other processes."""

    async def __call__(self, request: Request) -> Reply:
        """Return the metrics. Only for the default tenant, because they include all
        tenants.

        Raises NotFoundError for any other tenant.
        """
        if request.tenant != DEFAULT_TENANT:
            raise NotFoundError("Not found: /metrics", code="unknown_url")
        # The other processes' metrics are read from files, which blocks.
        peer_metrics = await asyncio.to_thread(lambda: list(self.read_peer_metrics()))
        text = self.metrics.text(peer_metrics)
        return Reply(text.encode(), content_type=_TEXT_FORMAT)
