"""What callbacks learn of a call, and what their own errors do."""

import asyncio
import logging
from contextlib import aclosing
from typing import Any

import pytest

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.models.llm import LLMRequest, LLMUsage
from modelyard.models.messages import UserPromptMessage
from modelyard.models.rerank import RerankResult
from modelyard.models.tts import TTSResultChunk
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.callbacks import Callback, CallResult
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call
from modelyard.runtime.policies.observe import Observe
from modelyard.testing import FakeClock, chunk, last_chunk

ASK = Invocation(
    tenant="t",
    provider="p",
    model="big",
    model_type=ModelType.LLM,
    request=LLMRequest(messages=[UserPromptMessage(content="hello")]),
)


class Watcher(Callback):
    """Stores everything that it is told."""

    def __init__(self, *, wants_result: bool = False, sees: bool = True) -> None:
        self.wants_result = wants_result
        self.sees = sees
        self.events: list[tuple[Any, ...]] = []

    def sees_chunks(self) -> bool:
        return self.sees

    def on_before_invoke(self, invocation: Invocation) -> None:
        self.events.append(("before", invocation))

    def on_new_chunk(self, invocation: Invocation, chunk: Any) -> None:
        self.events.append(("chunk", invocation, chunk))

    def on_after_invoke(self, invocation: Invocation, outcome: CallResult) -> None:
        self.events.append(("after", invocation, outcome))

    def on_invoke_error(
        self, invocation: Invocation, error: BaseException, outcome: CallResult
    ) -> None:
        self.events.append(("error", invocation, type(error).__name__, outcome))

    @property
    def outcome(self) -> CallResult:
        return self.events[-1][-1]


def timed(clock: FakeClock, *steps: Any) -> Call:
    """A model that takes two seconds for each of its chunks."""

    async def call(invocation: Invocation) -> Chunks:
        for step in steps:
            clock.advance(2)
            if isinstance(step, BaseException):
                raise step
            yield step

    return call


def observed(*steps: Any, callbacks: tuple[Callback, ...]) -> list[Any]:
    clock = FakeClock()

    async def work() -> list[Any]:
        policy = Observe(clock, callbacks)
        async with aclosing(policy(ASK, timed(clock, *steps))) as chunks:
            return [received async for received in chunks]

    return asyncio.run(work())


def test_a_callback_learns_everything_about_a_call():
    watcher = Watcher(wants_result=True)
    steps = [chunk("he"), last_chunk(3, 2), chunk("llo")]
    assert observed(*steps, callbacks=(watcher,)) == steps
    assert watcher.events[:-1] == [
        ("before", ASK),
        *(("chunk", ASK, step) for step in steps),
    ]
    assert watcher.events[-1][:2] == ("after", ASK)
    outcome = watcher.outcome
    assert (outcome.status, outcome.chunks) == ("ok", 3)
    assert (outcome.latency, outcome.first_chunk) == (6.0, 2.0)
    assert outcome.usage == LLMUsage.of(3, 2)
    assert outcome.result.text == "hello"


@pytest.mark.parametrize(
    ("steps", "result"),
    [
        ([], None),
        ([RerankResult(docs=[])], RerankResult(docs=[])),
        (
            [TTSResultChunk(audio=b"a"), TTSResultChunk(audio=b"b")],
            [TTSResultChunk(audio=b"a"), TTSResultChunk(audio=b"b")],
        ),
    ],
)
def test_results_of_other_types_are_their_chunks(steps: list[Any], result: Any):
    watcher = Watcher(wants_result=True)
    observed(*steps, callbacks=(watcher,))
    assert watcher.outcome.result == result
    assert watcher.outcome.first_chunk == (2.0 if steps else None)


def test_a_result_is_collected_only_for_those_who_want_it():
    watcher = Watcher()
    observed(chunk("x"), callbacks=(watcher,))
    assert watcher.outcome.result is None
    collector = Watcher(wants_result=True)
    observed(chunk("x"), callbacks=(watcher, collector))
    assert watcher.outcome.result.text == collector.outcome.result.text == "x"


def test_a_callback_that_sees_no_chunks_gets_none():
    watcher = Watcher(sees=False)
    observed(chunk("x"), chunk("y"), callbacks=(watcher,))
    assert watcher.outcome.usage is None
    assert [event[0] for event in watcher.events] == ["before", "after"]
    assert watcher.outcome.chunks == 2


def test_a_failed_call_is_reported_with_its_code():
    watcher = Watcher(wants_result=True)
    with pytest.raises(InvokeServerUnavailableError):
        observed(
            last_chunk(3, 2),
            InvokeServerUnavailableError("busy"),
            callbacks=(watcher,),
        )
    kind, invocation, error, outcome = watcher.events[-1]
    assert (kind, invocation, error) == ("error", ASK, "InvokeServerUnavailableError")
    assert (outcome.status, outcome.chunks) == ("upstream_unavailable", 1)
    assert (outcome.latency, outcome.first_chunk) == (4.0, 2.0)
    assert outcome.usage == LLMUsage.of(3, 2)
    assert outcome.result is None


def test_a_cancelled_call_is_reported_as_cancelled():
    watcher = Watcher()
    with pytest.raises(asyncio.CancelledError):
        observed(chunk("x"), asyncio.CancelledError(), callbacks=(watcher,))
    assert watcher.events[-1][2] == "CancelledError"
    assert (watcher.outcome.status, watcher.outcome.latency) == ("cancelled", 4.0)


def test_a_caller_who_leaves_cancels_the_call():
    watcher, clock = Watcher(), FakeClock()

    async def work() -> None:
        call = timed(clock, chunk("x"), chunk("y"))
        async with aclosing(Observe(clock, (watcher,))(ASK, call)) as chunks:
            await anext(chunks)
            clock.advance(1)

    asyncio.run(work())
    assert watcher.events[-1][2] == "GeneratorExit"
    assert (watcher.outcome.status, watcher.outcome.latency) == ("cancelled", 3.0)


def test_a_defect_is_not_reported_as_a_result():
    watcher = Watcher()
    with pytest.raises(ZeroDivisionError):
        observed(chunk("x"), ZeroDivisionError(), callbacks=(watcher,))
    assert [event[0] for event in watcher.events] == ["before", "chunk"]


# Callbacks that are silent for a while.


class Quiet(Watcher):
    """Is silent while a call starts, unless it is told otherwise."""

    def __init__(self, *, is_quiet: bool) -> None:
        super().__init__()
        self.is_quiet = is_quiet

    def is_silent(self) -> bool:
        return self.is_quiet


def kinds(watcher: Watcher) -> list[str]:
    return [event[0] for event in watcher.events]


def test_a_silent_callback_learns_only_of_failures():
    quiet, watcher = Quiet(is_quiet=True), Watcher()
    observed(chunk("x"), callbacks=(quiet, watcher))
    assert kinds(quiet) == []
    assert kinds(watcher) == ["before", "chunk", "after"]
    with pytest.raises(InvokeServerUnavailableError):
        observed(InvokeServerUnavailableError("busy"), callbacks=(quiet, watcher))
    assert kinds(quiet) == ["error"]
    assert quiet.outcome.status == "upstream_unavailable"


def test_one_callback_that_is_not_silent_makes_all_learn_of_the_call():
    """Which of them are silent is not told apart: that would cost each call more."""
    for callbacks in (
        (Quiet(is_quiet=True), Quiet(is_quiet=False)),
        (Quiet(is_quiet=False), Quiet(is_quiet=True)),
    ):
        observed(chunk("x"), callbacks=callbacks)
        assert (
            kinds(callbacks[0]) == kinds(callbacks[1]) == ["before", "chunk", "after"]
        )


def test_silence_is_asked_for_at_each_call():
    quiet = Quiet(is_quiet=False)
    policy, clock = Observe(FakeClock(), (quiet,)), FakeClock()

    async def call() -> None:
        async with aclosing(policy(ASK, timed(clock, chunk("x")))) as chunks:
            assert [received.text async for received in chunks] == ["x"]

    for is_quiet in (False, True, False):
        quiet.is_quiet = is_quiet
        asyncio.run(call())
    assert kinds(quiet) == ["before", "chunk", "after"] * 2


def test_the_start_of_a_call_is_reported_once():
    """A call that is handed over has started before."""
    watcher, clock = Watcher(), FakeClock()
    observation = Observe(clock, (watcher,)).observe(ASK)
    observation.start()

    async def work() -> None:
        call = timed(clock, chunk("x"))
        async with aclosing(observation.watch(call, ASK)) as chunks:
            async for _ in chunks:
                pass

    asyncio.run(work())
    assert kinds(watcher) == ["before", "chunk", "after"]


# Errors of callbacks.


class Broken(Callback):
    """Fails in one of its hooks."""

    def __init__(self, hook: str, *, raises: bool) -> None:
        self.hook = hook
        self.raise_error = raises

    def _fail(self, hook: str) -> None:
        if hook == self.hook:
            raise RuntimeError(f"in {hook}")

    def on_before_invoke(self, invocation: Invocation) -> None:
        self._fail("before")

    def on_new_chunk(self, invocation: Invocation, chunk: Any) -> None:
        self._fail("chunk")

    def on_after_invoke(self, invocation: Invocation, outcome: CallResult) -> None:
        self._fail("after")

    def on_invoke_error(
        self, invocation: Invocation, error: BaseException, outcome: CallResult
    ) -> None:
        self._fail("error")


@pytest.mark.parametrize("hook", ["before", "chunk", "after", "error"])
def test_the_error_of_a_callback_is_logged(hook: str, caplog: pytest.LogCaptureFixture):
    steps: list[Any] = [chunk("x")]
    if hook == "error":
        steps.append(InvokeServerUnavailableError("busy"))
    watcher = Watcher()
    callbacks = (Broken(hook, raises=False), watcher)
    with caplog.at_level(logging.ERROR, "modelyard.callbacks"):
        if hook == "error":
            with pytest.raises(InvokeServerUnavailableError):
                observed(*steps, callbacks=callbacks)
        else:
            observed(*steps, callbacks=callbacks)
    (record,) = caplog.records
    assert record.getMessage() == "callback failed"
    assert record.__dict__["fields"] == {"callback": "Broken"}
    assert record.exc_info is not None
    # The other callback still hears the end.
    assert watcher.events[-1][0] == ("error" if hook == "error" else "after")


@pytest.mark.parametrize("hook", ["before", "chunk", "after", "error"])
def test_the_error_of_a_strict_callback_fails_the_call(hook: str):
    steps: list[Any] = [chunk("x")]
    if hook == "error":
        steps.append(InvokeServerUnavailableError("busy"))
    with pytest.raises(RuntimeError, match=f"in {hook}"):
        observed(*steps, callbacks=(Broken(hook, raises=True),))


class Silent(Callback):
    """Implements no hook, and must not be asked anything."""

    def sees_chunks(self) -> bool:
        raise AssertionError("a callback without the hook was asked")


def test_a_callback_without_hooks_costs_nothing():
    assert len(observed(chunk("x"), callbacks=(Silent(),))) == 1


def test_a_call_without_callbacks_is_passed_on():
    steps = [chunk("x"), chunk("y")]
    assert observed(*steps, callbacks=()) == steps
