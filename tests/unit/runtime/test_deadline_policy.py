"""Deadlines of calls: in total, until the first chunk, and between two chunks."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest
from msgspec.structs import replace

from modelyard.base.errors import InvokeServerUnavailableError, InvokeTimeoutError
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call
from modelyard.runtime.policies.deadline import Deadline
from modelyard.testing import FakeClock, chunk
from tests.unit.virtual_time import START, run_virtually

STREAM = Invocation(
    tenant="t",
    provider="p",
    model="big",
    model_type=ModelType.LLM,
    request=LLMRequest(messages=[UserPromptMessage(content="hello")], stream=True),
)
COMPLETE = replace(STREAM, request=replace(STREAM.request, stream=False))
LATE = "'p/big' did not finish before the call's deadline"


def run(work: Callable[[FakeClock], Coroutine[Any, Any, None]]) -> None:
    clock = FakeClock(START)
    run_virtually(work(clock), clock)


def paced(*pauses: float) -> Call:
    """A model that sends one chunk after each of the pauses, in seconds."""

    async def call(invocation: Invocation) -> Chunks:
        for number, pause in enumerate(pauses):
            if pause:
                await asyncio.sleep(pause)
            yield chunk(str(number))

    return call


class Reader:
    """Reads a stream and notes what came when."""

    def __init__(self, clock: FakeClock, chunks: Chunks) -> None:
        self.clock = clock
        self.chunks = chunks
        self.texts: list[str] = []
        self.error: InvokeTimeoutError | None = None

    async def read(self, *, pause: float = 0.0) -> "Reader":
        try:
            async with aclosing(self.chunks) as chunks:
                async for received in chunks:
                    self.texts.append(received.text)
                    if pause:
                        await asyncio.sleep(pause)
        except InvokeTimeoutError as error:
            self.error = error
        return self

    @property
    def outcome(self) -> tuple[int, str, float]:
        """How many chunks came, the message of the error, the seconds that passed."""
        message = "" if self.error is None else str(self.error)
        return len(self.texts), message, self.clock.now - START


@pytest.mark.parametrize(
    ("policy", "invocation", "pauses", "expected"),
    [
        # In total.
        ({}, COMPLETE, (4.0, 4.0), (2, "", 8.0)),
        ({}, replace(COMPLETE, deadline=START + 8.5), (4.0, 4.0), (2, "", 8.0)),
        ({}, replace(COMPLETE, deadline=START + 6.5), (4.0, 4.0), (1, LATE, 6.5)),
        ({}, replace(STREAM, deadline=START + 6.5), (4.0, 4.0), (1, LATE, 6.5)),
        # Until the first chunk.
        (
            {"first_token": 3.0},
            STREAM,
            (4.0,),
            (0, "'p/big' sent nothing within 3 s", 3.0),
        ),
        ({"first_token": 3.0}, STREAM, (2.5, 50.0, 50.0), (3, "", 102.5)),
        ({"first_token": 3.0}, COMPLETE, (4.0,), (1, "", 4.0)),
        (
            {"first_token": 3.0},
            replace(STREAM, deadline=START + 2.5),
            (4.0,),
            (0, LATE, 2.5),
        ),
        # Between two chunks.
        (
            {"first_token": 3.0, "between_tokens": 1.5},
            STREAM,
            (2.0, 1.0, 1.0, 2.0),
            (
                3,
                "'p/big' stopped streaming and sent nothing more within 1.5 s",
                5.5,
            ),
        ),
        (
            {"first_token": 1.0, "between_tokens": 5.0},
            STREAM,
            (0.5, 4.5, 4.5),
            (3, "", 9.5),
        ),
        (
            {"first_token": 2.0, "between_tokens": 9.0},
            replace(STREAM, deadline=START + 4.0),
            (1.0, 9.0),
            (1, LATE, 4.0),
        ),
        # The timeouts between chunks belong to streams that have one for the first.
        ({"between_tokens": 1.0}, STREAM, (2.0, 2.0), (2, "", 4.0)),
        (
            {"between_tokens": 1.0},
            replace(STREAM, deadline=START + 9.0),
            (2.0, 2.0),
            (2, "", 4.0),
        ),
        # At once.
        ({"first_token": 3.0, "between_tokens": 1.0}, STREAM, (0, 0, 0), (3, "", 0.0)),
        ({"first_token": 3.0}, STREAM, (), (0, "", 0.0)),
    ],
)
def test_a_call_ends_at_the_second(
    policy: dict[str, float],
    invocation: Invocation,
    pauses: tuple[float, ...],
    expected: tuple[int, str, float],
):
    async def work(clock: FakeClock) -> None:
        chunks = Deadline(clock, **policy)(invocation, paced(*pauses))
        reader = await Reader(clock, chunks).read()
        assert reader.outcome == pytest.approx(expected)

    run(work)


def test_a_call_without_any_deadline_is_passed_on_as_it_is():
    call = paced(1.0)

    def call_next(invocation: Invocation) -> Any:
        return invocation, call

    for policy, invocation in (
        (Deadline(FakeClock()), STREAM),
        (Deadline(FakeClock(), between_tokens=1.0), STREAM),
        (Deadline(FakeClock(), first_token=1.0), COMPLETE),
    ):
        assert policy(invocation, call_next) == (invocation, call)


def test_the_time_of_the_caller_does_not_count_between_chunks():
    async def work(clock: FakeClock) -> None:
        policy = Deadline(clock, first_token=2.0, between_tokens=1.0)
        reader = Reader(clock, policy(STREAM, paced(0.5, 0.5, 0.5)))
        await reader.read(pause=7.0)
        assert reader.outcome == pytest.approx((3, "", 22.5))

    run(work)


def test_the_deadline_passes_during_the_time_of_the_caller():
    async def work(clock: FakeClock) -> None:
        invocation = replace(STREAM, deadline=START + 3.0)
        reader = Reader(clock, Deadline(clock)(invocation, paced(1.0, 1.0)))
        await reader.read(pause=5.0)
        # Noticed as soon as the caller wants the next chunk.
        assert reader.outcome == pytest.approx((1, LATE, 6.0))

    run(work)


def test_a_gap_is_measured_from_the_chunk_before_it():
    async def work(clock: FakeClock) -> None:
        policy = Deadline(clock, first_token=9.0, between_tokens=2.0)
        reader = await Reader(clock, policy(STREAM, paced(1, 1.75, 1.75, 2.25))).read()
        assert reader.outcome[::2] == pytest.approx((3, 6.5))
        assert reader.error is not None
        assert "stopped streaming" in str(reader.error)

    run(work)


def test_a_timeout_closes_the_call_below():
    async def work(clock: FakeClock) -> None:
        closed_at: list[float] = []

        async def call(invocation: Invocation) -> Chunks:
            try:
                await asyncio.sleep(60)
                yield chunk("never")
            finally:
                closed_at.append(clock.now)

        policy = Deadline(clock, first_token=2.0)
        reader = await Reader(clock, policy(STREAM, call)).read()
        assert reader.outcome[0] == 0
        assert closed_at == [START + 2.0]

    run(work)


def test_an_error_of_the_model_is_not_a_timeout():
    async def work(clock: FakeClock) -> None:
        async def call(invocation: Invocation) -> Chunks:
            yield chunk("x")
            raise InvokeServerUnavailableError("busy")

        chunks = Deadline(clock, first_token=2.0)(STREAM, call)
        with pytest.raises(InvokeServerUnavailableError, match="busy"):
            await Reader(clock, chunks).read()

    run(work)


def test_no_timer_is_left_when_the_call_is_over():
    """A timer that was left would cancel whatever the task does next."""

    async def work(clock: FakeClock) -> None:
        policy = Deadline(clock, first_token=2.0, between_tokens=2.0)
        reader = await Reader(clock, policy(STREAM, paced(1.0, 1.0))).read()
        assert reader.outcome == (2, "", 2.0)
        loop: Any = asyncio.get_running_loop()
        timers = [timer for timer in loop._scheduled if not timer.cancelled()]
        assert timers == []
        await asyncio.sleep(60)

    run(work)


def test_a_cancelled_caller_stays_cancelled():
    async def work(clock: FakeClock) -> None:
        chunks = Deadline(clock, first_token=9.0)(STREAM, paced(5.0))
        task = asyncio.create_task(Reader(clock, chunks).read())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clock.now == START + 1

    run(work)


def test_a_caller_who_is_cancelled_with_the_timeout_stays_cancelled():
    async def work(clock: FakeClock) -> None:
        chunks = Deadline(clock, first_token=1.0)(STREAM, paced(5.0))
        task = asyncio.create_task(Reader(clock, chunks).read())
        await asyncio.sleep(0)
        # Both come in the same step of the loop, the timeout first.
        asyncio.get_running_loop().call_later(1.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clock.now == START + 1

    run(work)


def test_a_task_goes_on_after_a_timeout():
    async def work(clock: FakeClock) -> None:
        policy = Deadline(clock, first_token=1.0)
        for _ in range(3):
            reader = await Reader(clock, policy(STREAM, paced(5.0))).read()
            assert reader.error is not None
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await asyncio.sleep(1)
        assert clock.now == START + 6

    run(work)
