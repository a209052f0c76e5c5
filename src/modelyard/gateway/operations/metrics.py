"""GET /metrics, for Prometheus: of all the server's processes together."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import Reply, Request
from modelyard.runtime.metrics import Metrics
from modelyard.tenancy.caller import DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class Route:
    metrics: Metrics
    others: Callable[[], Iterable[Mapping[str, Any]]]
    """What the server's other processes counted."""

    async def __call__(self, request: Request) -> Reply:
        """The server's numbers are the operator's: they add up all tenants'."""
        if request.tenant != DEFAULT_TENANT:
            raise NotFoundError("there is nothing at '/metrics' for this tenant", code="unknown_url")
        others = await asyncio.to_thread(lambda: list(self.others()))
        text = self.metrics.text(others)
        return Reply(text.encode(), content_type=b"text/plain; version=0.0.4; charset=utf-8")
