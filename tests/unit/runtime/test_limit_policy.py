"""The limit policy: what it reserves, settles and notes, and how it waits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from modelyard.base.errors import InvokeServerUnavailableError, QueueFullError
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.call_trace import CallTrace, Decision
from modelyard.runtime.fair_queue import FairQueue
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.limits import (
    ApplicableLimit,
    CounterStart,
    Estimate,
    LimitExceededError,
    Subject,
    applicable_limits,
    charge,
)
from modelyard.runtime.pipeline import Call
from modelyard.runtime.policies.limit import Limits
from modelyard.storage.counters import MemoryCounters
from modelyard.tenancy.caller import Caller
from modelyard.tenancy.resource_types import Limit
from modelyard.testing import FakeClock, chunk
from tests.unit.virtual_time import START, run_virtually, settle_tasks

ESTIMATE = Estimate(tokens=50, nanos=600)
SUBJECT = Subject("t", "k1", "alice", "p/big", "app:7")
REQUESTS = Limit(unit="requests", amount=3, window="total")
TOKENS = Limit(unit="tokens", amount=100, window="total", per="user")
CREDITS = Limit(unit="credits", amount=9, window="total", credits={"p/*": 4.0})


def new_call(**fields: Any) -> Invocation:
    return Invocation(
        tenant="t",
        provider="p",
        model="big",
        model_type=ModelType.LLM,
        request=LLMRequest(messages=[UserPromptMessage(content="hello")]),
        id="call1",
        caller=Caller(tenant="t", key="k1", app="app:7", priority=3),
        user="alice",
        record=CallTrace(),
        **fields,
    )


@dataclass
class Setup:
    """The policy with counters in memory, and what it asked for."""

    clock: FakeClock
    limits: Sequence[Limit] = ()
    queue: FairQueue = field(default_factory=lambda: FairQueue(4, 4))
    patience: float = 10.0
    subjects: list[Subject] = field(default_factory=list[Subject])
    starts: list[tuple[Subject, list[CounterStart]]] = field(
        default_factory=list[tuple[Subject, list[CounterStart]]]
    )

    def __post_init__(self) -> None:
        self.counters = MemoryCounters(self.clock)
        self.policy = Limits(
            self._applicable_limits,
            lambda invocation: ESTIMATE._replace(tokens=10 * len(invocation.id)),
            self.counters,
            self._start,
            self.queue,
            self.clock,
            self.patience,
        )

    def _applicable_limits(self, subject: Subject) -> list[ApplicableLimit]:
        self.subjects.append(subject)
        named = [(f"id{n}", f"limit {n}", limit) for n, limit in enumerate(self.limits)]
        return applicable_limits(named, subject)

    async def _start(
        self, subject: Subject, counter_starts: Sequence[CounterStart]
    ) -> None:
        self.starts.append((subject, list(counter_starts)))
        charges = [counter_start.charge for counter_start in counter_starts]
        await self.counters.seed({item.name: 1.0 for item in charges}, charges)

    async def call(self, call: Call, invocation: Invocation) -> list[str]:
        async with aclosing(self.policy(invocation, call)) as chunks:
            return [received.text async for received in chunks]

    async def levels(self) -> list[float]:
        """Return the levels of all counters, in the order of the limits."""
        applied = self._applicable_limits(SUBJECT)
        names = [charge(limit, SUBJECT, ESTIMATE, 0.0).name for limit in applied]
        levels = await self.counters.levels(names)
        return [levels[name] for name in names]


def run(work: Callable[[FakeClock], Awaitable[None]]) -> None:
    clock = FakeClock(START)

    async def awaited() -> None:
        await work(clock)

    run_virtually(awaited(), clock)


async def answers(invocation: Invocation) -> Chunks:
    """Answer with two chunks, using 7 tokens and 80 billionths."""
    yield chunk("a")
    invocation.record.spend(7, 80)
    yield chunk("b")


async def fails(invocation: Invocation) -> Chunks:
    invocation.record.spend(5, 0)
    raise InvokeServerUnavailableError("busy")
    yield


def test_a_served_call_is_settled_with_what_it_used():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [REQUESTS, TOKENS, CREDITS])
        during: list[float] = []

        async def call(invocation: Invocation) -> Chunks:
            during.extend(await setup.levels())
            async for received in answers(invocation):
                yield received

        invocation = new_call()
        assert await setup.call(call, invocation) == ["a", "b"]
        assert during == [2.0, 51.0, 5.0]
        assert await setup.levels() == [2.0, 8.0, 5.0]
        assert invocation.record.requested_model == "p/big"
        assert setup.subjects[0] == SUBJECT
        assert (setup.queue.running, setup.queue.waiting) == (0, 0)

    run(work)


def test_money_is_settled_in_billionths():
    async def work(clock: FakeClock) -> None:
        money = Limit(unit="cost", amount=1, window="total", currency="USD")
        setup = Setup(clock, [money])
        await setup.call(answers, new_call())
        assert await setup.levels() == [81.0]

    run(work)


def test_a_call_is_charged_to_its_day():
    async def work(clock: FakeClock) -> None:
        daily = Limit(unit="requests", amount=9, window="day")
        setup = Setup(clock, [daily])
        await setup.call(answers, new_call())
        clock.advance(86_400)
        await setup.call(answers, new_call())
        names = ["id0|t|t|1970-01-01", "id0|t|t|1970-01-02"]
        assert await setup.counters.levels(names) == dict.fromkeys(names, 2.0)

    run(work)


def test_a_failed_call_costs_no_credits_but_counts_as_a_request():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [REQUESTS, TOKENS, CREDITS])
        with pytest.raises(InvokeServerUnavailableError, match="busy"):
            await setup.call(fails, new_call())
        assert await setup.levels() == [2.0, 6.0, 1.0]
        assert setup.queue.running == 0

    run(work)


def test_a_caller_who_leaves_pays_for_what_came():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [TOKENS, CREDITS])
        invocation = new_call()
        async with aclosing(setup.policy(invocation, answers)) as chunks:
            await anext(chunks)
            assert setup.queue.running == 1
            invocation.record.spend(2, 0)
        assert await setup.levels() == [3.0, 5.0]
        assert setup.queue.running == 0

    run(work)


def test_a_caller_without_a_user_has_an_empty_name():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock)
        invocation = replace(new_call(), user=None, caller=Caller(tenant="t"))
        assert await setup.call(answers, invocation) == ["a", "b"]
        assert setup.subjects == [Subject("t", "", "", "p/big", "")]
        assert setup.starts == []

    run(work)


def test_counters_that_do_not_exist_are_initialised_for_the_moment_of_the_call():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [REQUESTS, TOKENS])
        first, second = applicable_limits(
            [("id0", "limit 0", REQUESTS), ("id1", "limit 1", TOKENS)], SUBJECT
        )
        await setup.counters.seed(
            {"id0|t|t|total": 1.0}, [charge(first, SUBJECT, ESTIMATE, START)]
        )
        await setup.call(answers, new_call())
        start = CounterStart(second, charge(second, SUBJECT, ESTIMATE, START), START)
        assert setup.starts == [(SUBJECT, [start])]

    run(work)


def test_a_refused_call_says_which_limit_refused_it():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [TOKENS, REQUESTS])
        for _ in range(2):
            await setup.call(answers, new_call())
        clock.advance(3)
        invocation = new_call()
        with pytest.raises(Exception, match="has used up 3 requests") as caught:
            await setup.call(answers, invocation)
        assert "(limit 'limit 1')" in str(caught.value)
        details = {"limit": "limit 1", "used": 3.0, "of": 3}
        assert invocation.record.notes == [Decision(START + 3, "refused", details)]
        assert invocation.record.is_notable
        assert await setup.levels() == [15.0, 3.0]
        assert setup.queue.running == 0

    run(work)


def test_the_wait_for_a_rate_limit_is_exact():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [Limit(unit="requests", amount=2)])
        await setup.call(answers, new_call())
        clock.advance(3)
        with pytest.raises(LimitExceededError) as caught:
            await setup.call(answers, new_call())
        # One of the two is taken again after half a minute.
        assert caught.value.retry_after == pytest.approx(27.0)

    run(work)


# Waiting.


def test_a_call_that_waited_says_how_long():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, queue=FairQueue(1, 4))
        assert setup.queue.try_enter("t")
        invocation = new_call()
        task = asyncio.create_task(setup.call(answers, invocation))
        await settle_tasks()
        clock.advance(1.25)
        setup.queue.leave("t")
        assert await task == ["a", "b"]
        note = Decision(START, "queued", {"ms": 1250.0})
        assert invocation.record.notes == [note]
        assert invocation.record.is_notable
        assert setup.queue.running == 0

    run(work)


def test_a_short_wait_is_noted_to_a_tenth_of_a_millisecond():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, queue=FairQueue(1, 4))
        assert setup.queue.try_enter("t")
        invocation = new_call()
        task = asyncio.create_task(setup.call(answers, invocation))
        await settle_tasks()
        clock.advance(0.00128)
        setup.queue.leave("t")
        await task
        assert invocation.record.notes[0].details == {"ms": 1.3}

    run(work)


@pytest.mark.parametrize(
    ("seconds_left", "patience", "waits"),
    [(None, 10.0, 10.0), (2.5, 10.0, 2.5), (20.0, 4.0, 4.0)],
)
def test_a_call_waits_until_its_deadline_at_most(
    seconds_left: float | None, patience: float, waits: float
):
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [REQUESTS], queue=FairQueue(1, 4), patience=patience)
        assert setup.queue.try_enter("t")
        deadline = None if seconds_left is None else START + seconds_left
        with pytest.raises(QueueFullError, match=f"waited {waits:g} s"):
            await setup.call(answers, new_call(deadline=deadline))
        assert clock.now == START + waits
        # It was not charged, and holds no slot.
        assert setup.starts == []
        assert (setup.queue.running, setup.queue.waiting) == (1, 0)

    run(work)


def test_the_default_patience_is_ten_seconds():
    assert Limits.__dataclass_fields__["patience"].default == 10.0


def test_calls_wait_by_the_priority_of_their_caller():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, queue=FairQueue(1, 4))
        assert setup.queue.try_enter("z")
        order: list[str] = []

        async def call(invocation: Invocation) -> Chunks:
            order.append(invocation.tenant)
            yield chunk("x")

        calls = [
            replace(new_call(), tenant=tenant, caller=Caller(tenant=tenant, priority=n))
            for n, tenant in enumerate(["low", "middle", "high"])
        ]
        tasks = [asyncio.create_task(setup.call(call, item)) for item in calls]
        await settle_tasks()
        setup.queue.leave("z")
        await asyncio.gather(*tasks)
        assert order == ["high", "middle", "low"]

    run(work)
