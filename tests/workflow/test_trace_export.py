"""Sending of traces: retries, full queues, several destinations, the end of a process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from modelyard.tenancy.resource_types import TraceDestination
from modelyard.transport.egress import (
    EgressError,
    EgressRefusedError,
    FetchedResponse,
)
from modelyard.workflow.engine import Status
from modelyard.workflow.run_record import RunRecord
from modelyard.workflow.trace_destinations import ActiveDestination
from modelyard.workflow.trace_export import TraceExport
from modelyard.workflow.variables import VariablePool

RUN = RunRecord(tenant="t", id="run_1", app="a", status=Status.SUCCEEDED, created_at=1.0, finished_at=2.0)  # fmt: skip
Outcome = int | Exception | Callable[[], Awaitable[int]]


class World:
    """Destinations that answer with the given outcomes, then with 200."""

    def __init__(self, **outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        self.requests: list[str] = []
        self.slept: list[float] = []
        self.export = TraceExport(self, self, self, lambda run: "app", self.sleep)  # type: ignore[arg-type]

    def of_app(self, tenant: str, app: str) -> list[tuple[str, str, TraceDestination]]:
        assert (tenant, app) == ("t", "a")
        return [(name, name, TraceDestination(app=app, service="otlp", url=name)) for name in self.outcomes]  # fmt: skip

    def active(self, tenant: str, app: str) -> list[ActiveDestination]:
        return [
            ActiveDestination(id=name, url=name, project="", content=True, service="otlp", headers={"x": "y"})
            for name in self.outcomes
        ]  # fmt: skip

    async def find(self, tenant: str, run: str) -> RunRecord:
        return RUN

    async def events(self, run: str, last: int, limit: int) -> list[Any]:
        return []

    async def fetch_once(self, method: str, url: str, **options: Any) -> FetchedResponse:  # fmt: skip
        self.requests.append(url)
        outcome = self.outcomes[url].pop(0) if self.outcomes[url] else 200
        if isinstance(outcome, Exception):
            raise outcome
        status = outcome if isinstance(outcome, int) else await outcome()
        return FetchedResponse(status=status, headers={}, body=b"", url=url)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)

    async def end_run(self, **changes: Any) -> None:
        run = msgspec.structs.replace(RUN, **changes)
        await self.export.run_ended(run, VariablePool(), "", [])


@pytest.mark.parametrize(
    ("outcomes", "state", "slept"),
    [
        ([], (1, 0, ""), []),
        ([503, EgressError("away")], (1, 0, ""), [1.0, 5.0]),
        ([429] * 4, (0, 1, "The destination answered with status 429"), [1.0, 5.0, 25.0]),
        ([400], (0, 1, "The destination answered with status 400"), []),
        ([EgressRefusedError("blocked")], (0, 1, "blocked"), []),
        ([RuntimeError("bug")], (0, 1, "RuntimeError"), []),
    ],
)  # fmt: skip
def test_only_what_may_work_later_is_sent_again(
    outcomes: list[Outcome], state: tuple[int, int, str], slept: list[float]
):
    world = World(main=outcomes)

    async def work() -> None:
        await world.end_run()
        await world.export.aclose()

    asyncio.run(work())
    result = world.export.state("main")
    assert (result.sent, result.dropped, result.error) == state
    assert world.slept == slept


def test_a_destination_that_hangs_holds_up_nobody():
    async def hang() -> int:
        await asyncio.sleep(3600)
        return 200

    world = World(slow=[hang], fast=[])

    async def work() -> None:
        for _ in range(300):
            await world.end_run()
            await asyncio.sleep(0)
        for _ in range(10_000):
            if world.export.state("fast").sent >= 200:
                break
            await asyncio.sleep(0.001)
        assert world.requests.count("slow") == 1
        # What does not fit is dropped, and counted.
        assert world.export.state("slow").dropped >= 99
        await world.export.aclose()

    asyncio.run(work())
    assert world.export.state("fast").sent >= 200


def test_a_paused_run_and_one_without_an_app_have_no_trace_yet():
    world = World(main=[])

    async def work() -> None:
        await world.end_run(status=Status.PAUSED)
        await world.end_run(app="")
        await world.export.aclose()

    asyncio.run(work())
    assert world.requests == []
