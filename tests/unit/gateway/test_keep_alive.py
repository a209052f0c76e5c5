"""Keep-alives of a streamed response: when they are sent, and when not."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from modelyard.base.errors import InvokeServerUnavailableError, ModelyardError
from modelyard.gateway.http import ClientDisconnected, Shutdown, StreamReply
from modelyard.gateway.keep_alive import SilenceTimer
from modelyard.testing import FakeClock
from tests.unit.virtual_time import START, run_virtually

SECONDS = 10.0
FAILURE = InvokeServerUnavailableError("gone")
Sent = tuple[float, str]


def run(work: Callable[[FakeClock], Coroutine[Any, Any, None]]) -> None:
    clock = FakeClock(START)
    run_virtually(work(clock), clock)


class Exchange:
    """A streamed response, its client, and what was sent when, in seconds.

    `steps`: the chunks of the stream as texts, pauses in seconds, and an error.
    """

    def __init__(
        self,
        clock: FakeClock,
        *steps: str | float | ModelyardError,
        keep_alive: str = ".",
    ) -> None:
        self.clock = clock
        self.sent: list[Sent] = []
        self.is_closed = False
        self.ending = Shutdown()
        self.send_seconds: dict[str, float] = {}
        """Message → the time that sending it takes."""
        self.send_error: OSError | None = None
        self._has_left = asyncio.Event()
        self._steps = steps
        self._reply = StreamReply(
            self._chunks(),
            lambda error: f"error: {error}".encode(),
            [],
            keep_alive=keep_alive.encode(),
        )

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            for step in self._steps:
                match step:
                    case str():
                        yield step.encode()
                    case ModelyardError():
                        raise step
                    case _:
                        await asyncio.sleep(step)
        finally:
            self.is_closed = True

    async def serve(self, seconds: float = SECONDS) -> None:
        await self._reply.send(
            self._send, b"req_1", self._receive, self.ending, seconds
        )

    async def _send(self, message: Any) -> None:
        text = str(message.get("status") or message.get("body").decode() or "end")
        # As with a full write buffer: the message is written when the client has read.
        if text in self.send_seconds:
            await asyncio.sleep(self.send_seconds[text])
        if self.send_error is not None:
            raise self.send_error
        self.sent.append((self.clock.now - START, text))

    async def _receive(self) -> Any:
        await self._has_left.wait()
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        """Let the client disconnect."""
        self._has_left.set()


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # Before the first chunk: the head comes with the first keep-alive.
        ((9.0, "a"), [(9, "200"), (9, "a"), (9, "end")]),
        (
            (25.0, "a"),
            [(10, "200"), (10, "."), (20, "."), (25, "a"), (25, "end")],
        ),
        # In mid-stream: the silence begins with the last chunk.
        (
            (4.0, "a", 9.0, "b", 9.0, "c"),
            [(4, "200"), (4, "a"), (13, "b"), (22, "c"), (22, "end")],
        ),
        (
            ("a", 6.0, "b", 21.0, "c"),
            [(0, "200"), (0, "a"), (6, "b"), (16, "."), (26, "."), (27, "c"), (27, "end")],
        ),
        # After a keep-alive, a chunk begins another silence.
        (
            (12.0, "a", 9.5, "b"),
            [(10, "200"), (10, "."), (12, "a"), (21.5, "b"), (21.5, "end")],
        ),
        # A stream without chunks.
        ((), [(0, "200"), (0, "end")]),
        ((15.0,), [(10, "200"), (10, "."), (15, "end")]),
        # After the head, an error is the last chunk.
        (
            (15.0, FAILURE),
            [(10, "200"), (10, "."), (15, "error: gone"), (15, "end")],
        ),
        (
            ("a", 15.0, FAILURE),
            [(0, "200"), (0, "a"), (10, "."), (15, "error: gone"), (15, "end")],
        ),
    ],
)  # fmt: skip
def test_a_keep_alive_is_sent_after_each_period_of_silence(
    steps: tuple[Any, ...], expected: list[Sent]
):
    async def work(clock: FakeClock) -> None:
        exchange = Exchange(clock, *steps)
        await exchange.serve()
        assert exchange.sent == expected
        # None comes after the end.
        await asyncio.sleep(60)
        assert exchange.sent == expected

    run(work)


@pytest.mark.parametrize(
    ("keep_alive", "seconds"), [(".", 0.0), ("", SECONDS), (".", -1.0)]
)
def test_nothing_is_sent_if_it_is_switched_off_or_the_format_has_none(
    keep_alive: str, seconds: float
):
    async def work(clock: FakeClock) -> None:
        exchange = Exchange(clock, 25.0, "a", 25.0, "b", keep_alive=keep_alive)
        await exchange.serve(seconds)
        assert exchange.sent == [(25, "200"), (25, "a"), (50, "b"), (50, "end")]

    run(work)


def test_an_error_before_the_first_keep_alive_is_raised():
    async def work(clock: FakeClock) -> None:
        exchange = Exchange(clock, 9.0, FAILURE)
        with pytest.raises(InvokeServerUnavailableError, match="gone"):
            await exchange.serve()
        await asyncio.sleep(60)
        assert exchange.sent == []

    run(work)


@pytest.mark.parametrize("seconds", [5.0, 15.0])
def test_a_client_that_leaves_during_silence_ends_the_stream(seconds: float):
    async def work(clock: FakeClock) -> None:
        exchange = Exchange(clock, 1000.0, "a")
        asyncio.get_running_loop().call_later(seconds, exchange.leave)
        with pytest.raises(ClientDisconnected):
            await exchange.serve()
        assert (clock.now - START, exchange.is_closed) == (seconds, True)
        sent = list(exchange.sent)
        await asyncio.sleep(60)
        assert exchange.sent == sent == [(10, "200"), (10, ".")][: 2 * (seconds > 10)]

    run(work)


async def cancelled_at(
    exchange: Exchange, seconds: float, *, is_shutdown: bool
) -> None:
    """Cancel a response; raises what it raises."""
    task = asyncio.create_task(exchange.serve())
    await asyncio.sleep(seconds)
    exchange.ending.is_over = is_shutdown
    task.cancel()
    await task


def test_the_shutdown_is_the_last_chunk_of_a_stream_that_has_sent_a_keep_alive():
    async def work(clock: FakeClock) -> None:
        exchange = Exchange(clock, 1000.0, "a")
        await cancelled_at(exchange, 15.0, is_shutdown=True)
        assert exchange.is_closed
        error = "error: The server is shutting down; try again in a moment"
        expected = [(10, "200"), (10, "."), (15, error), (15, "end")]
        assert exchange.sent == expected
        await asyncio.sleep(60)
        assert exchange.sent == expected

    run(work)


@pytest.mark.parametrize(
    ("seconds", "is_shutdown", "expected"),
    [
        # The server answers for a stream that has not sent anything.
        (5.0, True, []),
        (5.0, False, []),
        (15.0, False, [(10, "200"), (10, ".")]),
    ],
)
def test_other_cancellations_are_passed_on(
    seconds: float, is_shutdown: bool, expected: list[Sent]
):
    async def work(clock: FakeClock) -> None:
        exchange = Exchange(clock, 1000.0, "a")
        with pytest.raises(asyncio.CancelledError):
            await cancelled_at(exchange, seconds, is_shutdown=is_shutdown)
        await asyncio.sleep(60)
        assert (exchange.sent, exchange.is_closed) == (expected, True)

    run(work)


def test_none_is_sent_while_the_client_does_not_read():
    async def work(clock: FakeClock) -> None:
        exchange = Exchange(clock, "a", 11.0, "b")
        exchange.send_seconds = {"a": 35.0}
        await exchange.serve()
        expected = [(0, "200"), (35, "a"), (45, "."), (46, "b"), (46, "end")]
        assert exchange.sent == expected

    run(work)


@pytest.mark.parametrize(
    ("last_step", "last_sent"), [("b", "b"), (FAILURE, "error: gone")]
)
def test_what_comes_while_a_keep_alive_is_being_sent_waits_for_it(
    last_step: Any, last_sent: str
):
    async def work(clock: FakeClock) -> None:
        exchange = Exchange(clock, "a", 15.0, last_step)
        exchange.send_seconds = {".": 25.0}
        await exchange.serve()
        expected = [(0, "200"), (0, "a"), (35, "."), (35, last_sent), (35, "end")]
        assert exchange.sent == expected

    run(work)


@pytest.mark.parametrize("slow_message", ["200", "."])
@pytest.mark.parametrize("seconds", [12.0, 17.0])
def test_a_keep_alive_that_is_being_sent_ends_with_its_stream(
    slow_message: str, seconds: float
):
    """The client leaves while the stream waits for a chunk, or has one to send."""

    async def work(clock: FakeClock) -> None:
        exchange = Exchange(clock, 15.0, "a")
        exchange.send_seconds = {slow_message: 100.0}
        asyncio.get_running_loop().call_later(seconds, exchange.leave)
        with pytest.raises(ClientDisconnected):
            await exchange.serve()
        assert clock.now - START == seconds
        # No task is left that sends anything.
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.sleep(200)
        assert exchange.sent == [(10, "200")][: slow_message == "."]

    run(work)


def test_a_keep_alive_that_cannot_be_sent_fails_the_stream():
    async def work(clock: FakeClock) -> None:
        exchange = Exchange(clock, 55.0, "a")
        exchange.send_error = OSError("broken pipe")
        with pytest.raises(OSError, match="broken pipe"):
            await exchange.serve()
        assert (exchange.sent, exchange.is_closed) == ([], True)

    run(work)


def test_a_timer_is_set_once_for_many_chunks():
    async def work(clock: FakeClock) -> None:
        silences: list[float] = []
        timer = SilenceTimer(SECONDS, lambda: silences.append(clock.now - START))
        timer_seconds: list[float] = []
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def counted(seconds: float, *arguments: Any, **options: Any) -> Any:
            timer_seconds.append(seconds)
            return call_later(seconds, *arguments, **options)

        loop.call_later = counted  # type: ignore[method-assign]
        for _ in range(100):
            await asyncio.sleep(0.25)
            timer.waiting_since = loop.time()
        # The others are the pauses between the chunks.
        assert len([seconds for seconds in timer_seconds if seconds > 1]) == 2
        assert silences == []
        await asyncio.sleep(11)
        assert silences == [35]
        timer.stop()
        await asyncio.sleep(60)
        assert silences == [35]

    run(work)
