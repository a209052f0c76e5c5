"""Find a deployment that serves the call: balance, retry, fail over, hedge; all until something has reached the caller.

One loop tries, so that every try knows of the others; what to try next is decided by the parts that it is given.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import structs

from modelyard.base.clock import Clock
from modelyard.base.errors import (
    ContentFilterError,
    ContextTooLongError,
    InvokeError,
    InvokeServerUnavailableError,
    NoCredentialAvailableError,
)
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.messages import AssistantPromptMessage
from modelyard.models.types import Chunks
from modelyard.models.verbatim import VerbatimChunk, plain
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import Deployment, LBModelManager, Plan
from modelyard.runtime.pipeline import Call
from modelyard.runtime.retry_budget import RetryBudget

logger = logging.getLogger("modelyard.dispatch")

_LONGEST_WAIT = 10.0
_OTHER_MODEL = (ContextTooLongError, ContentFilterError)
"""What another credential for the same model would not change."""


def backoff(failures: int, share: float) -> float:
    """Seconds to wait after so many failures: up to 0.25, 0.5, 1, 2 … 8; `share` of it, so that callers spread out."""
    return min(8.0, 0.25 * 2 ** (min(failures, 10) - 1)) * share


class Quotas(Protocol):
    """What a tenant may use of a hosted credential."""

    async def reserve(self, invocation: Invocation, deployment: Deployment) -> str | None:
        """None where there is room, else why there is none."""
        ...

    def settle(self, invocation: Invocation, deployment: Deployment, *, is_served: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Dispatch:
    plan: Callable[[Invocation], Plan]
    clock: Clock
    budget: RetryBudget
    retries: int = 2
    """Repeats after the first try, where the error says that they may help."""
    quotas: Quotas | None = None
    random: Callable[[], float] = random.random

    async def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        plan = self.plan(invocation)
        if plan.sticky == "prompt" or plan.continue_streams:
            invocation = structs.replace(invocation, request=plain(invocation.request))
        course = _Course(self, plan, invocation)
        said: list[str] = []
        held: list[Any] = []
        while True:
            deployment = await course.next()
            has_begun = has_failed = False
            begun = self.clock.monotonic()
            delay = course.hedge_delay() if plan.hedge_after is not None else None
            tries = self._tried(course, deployment, course.this(deployment, said), call_next, delay)
            try:
                try:
                    async with aclosing(tries) as chunks:
                        async for chunk in chunks:
                            if not has_begun:
                                if _is_blank(chunk):
                                    held.append(chunk)  # nothing that the caller could see: the next may still serve
                                    continue
                                has_begun = True
                                course.served(self.clock.monotonic() - begun)
                                for one in held if not said else ():
                                    yield one
                                held.clear()
                            if plan.continue_streams:
                                said.append(chunk.text if isinstance(chunk, LLMResultChunk) else "")
                            yield chunk
                except InvokeError:
                    has_failed = True
                    raise
                finally:
                    course.left(deployment, is_hedged=delay is not None, has_failed=has_failed)
                for one in held:
                    yield one
                if not has_begun:
                    course.served(self.clock.monotonic() - begun)
                return
            except InvokeError as error:
                held.clear()
                may_go_on = plan.continue_streams and _is_text(invocation, said)
                course.failed(error, has_begun=has_begun, may_go_on=may_go_on)

    def _tried(
        self, course: "_Course", deployment: Deployment, this: Invocation, call_next: Call, delay: float | None
    ) -> Chunks:
        """One try, or two at once where the first takes long."""
        if delay is not None:
            return self._hedged(course, deployment, this, call_next, delay)
        course.group.health.begin(deployment)
        return call_next(this)

    async def _hedged(
        self, course: "_Course", deployment: Deployment, this: Invocation, call_next: Call, delay: float
    ) -> Chunks:
        race = _Race(course.group.health)
        try:
            race.enter(deployment, call_next(this))
            winner, chunk = await race.first(delay)
            if winner is None and (other := course.other(deployment)) is not None:
                course.note("hedged", with_=other.name, after_ms=round(delay * 1000, 1))
                race.enter(other, call_next(course.this(other, [])))
            if winner is None:
                winner, chunk = await race.first(None)
            await race.keep(winner)
            course.deployment = winner.deployment
            if winner.is_over:
                return
            yield chunk
            async for rest in winner.chunks:
                yield rest
        finally:
            await race.close()


def _is_blank(chunk: Any) -> bool:
    """Whether it says nothing yet: many streams begin with a role alone."""
    if not isinstance(chunk, LLMResultChunk):
        return False
    if isinstance(chunk, VerbatimChunk) and (chunk.said or not chunk.data.startswith(b"data:")):
        return False
    delta = chunk.delta
    message = delta.message
    return not (
        message.content or message.tool_calls or message.reasoning_content or message.refusal or delta.finish_reason
    )


def _is_text(invocation: Invocation, said: Sequence[str]) -> bool:
    request = invocation.request
    return isinstance(request, LLMRequest) and not request.tools and bool("".join(said))


class _Course:
    """One call's way through its plan."""

    __slots__ = (
        "_has_waited",
        "_invocation",
        "_last",
        "_place",
        "_plan",
        "_policy",
        "_repeats",
        "_sticky",
        "_tried",
        "_wait",
        "deployment",
    )

    def __init__(self, policy: Dispatch, plan: Plan, invocation: Invocation) -> None:
        self._policy = policy
        self._plan = plan
        self._invocation = invocation
        self._place = 0
        self._tried: set[str] = set()
        self._repeats = 0
        self._has_waited = False
        self._last: InvokeError | None = None
        self._wait = 0.0
        self._sticky = _sticky_key(plan.sticky, invocation) if plan.sticky else ""
        self.deployment: Deployment | None = None

    @property
    def group(self) -> LBModelManager:
        return self._plan.groups[self._place]

    def note(self, what: str, **details: Any) -> None:
        self._invocation.record.note(self._policy.clock.monotonic(), what, is_notable=True, **details)

    async def next(self) -> Deployment:
        """The next deployment, perhaps after a wait. Raises the last error, or that all are resting."""
        if self._wait:
            await self._sleep(self._wait)
            self._wait = 0.0
        while True:
            group = self.group
            chosen = group.fetch_next(without=self._tried, sticky=self._sticky)
            if chosen is None:
                await self._wait_or_move()
                continue
            if (why := await self._no_room(chosen)) is not None:
                self.note("skipped", deployment=chosen.name, why=why)
                self._tried.add(chosen.id)
                continue
            self.deployment = chosen
            self._say(group, chosen)
            self._policy.budget.called(self._invocation.tenant, chosen.provider)
            return chosen

    async def _no_room(self, chosen: Deployment) -> str | None:
        """Why a hosted credential may not be used any more; None where it may."""
        if self._policy.quotas is None or chosen.credential is None or not chosen.credential.quotas:
            return None
        return await self._policy.quotas.reserve(self._invocation, chosen)

    def _say(self, group: LBModelManager, chosen: Deployment) -> None:
        record = self._invocation.record
        details: dict[str, Any] = {"deployment": chosen.name, "by": group.strategy, "of": len(group.deployments)}
        if self._tried or group.health.is_anything_resting:
            details["resting"] = group.skipped()
        record.note(self._policy.clock.monotonic(), "chose", is_notable=bool(self._tried), **details)

    async def _wait_or_move(self) -> None:
        """Wait a little for one to be rested, else go on with the next model. Raises where there is none."""
        group = self.group
        wait = group.soonest()
        if 0 < wait <= group.patience and not self._has_waited and not self._is_too_late(wait):
            self._has_waited = True
            self.note("waited", ms=round(wait * 1000), why="all are resting")
            await self._sleep(wait)
            self._tried.clear()
            return
        error = self._last or self._none_left(wait)
        if not error.failover or not self._move(str(error)):
            raise error

    def _move(self, why: str) -> bool:
        """Go on with the next model; whether there is one."""
        if self._place + 1 >= len(self._plan.groups):
            return False
        before = self.group.deployments
        self._place += 1
        self._tried.clear()
        self._repeats = 0
        self._has_waited = False
        source = before[0].model if before else self._invocation.model
        target = self.group.deployments[0].name if self.group.deployments else "nothing"
        self.note("failed over", to=target, why=why)
        fields = {"call": self._invocation.id, "from": source, "to": target, "error": why}
        logger.warning("failing over", extra={"fields": fields})
        return True

    def this(self, deployment: Deployment, said: Sequence[str]) -> Invocation:
        """The call as this deployment is asked."""
        credential = deployment.credential
        this = self._invocation
        if credential is not None or deployment.model != this.model or deployment.provider != this.provider:
            this = structs.replace(
                this,
                provider=deployment.provider,
                model=deployment.model,
                credentials=credential.values if credential else {},
                credential=credential.name if credential else "",
                credential_id=credential.id if credential else "",
            )
        if text := "".join(said):
            messages = [*this.request.messages, AssistantPromptMessage(content=text)]
            this = structs.replace(this, request=structs.replace(this.request, messages=messages))
        return this

    def served(self, seconds: float) -> None:
        """The first chunk is here."""
        if self.deployment is not None:
            self.group.served(self.deployment, seconds)

    def left(self, deployment: Deployment, *, is_hedged: bool, has_failed: bool) -> None:
        """A try is over, however it went. A hosted quota gets back what a failed one had reserved."""
        if not is_hedged:
            self.group.health.end(deployment)
        if deployment.credential and deployment.credential.quotas and self._policy.quotas:
            is_served = deployment is self.deployment and not has_failed
            self._policy.quotas.settle(self._invocation, deployment, is_served=is_served)

    def failed(self, error: InvokeError, *, has_begun: bool, may_go_on: bool) -> None:
        """Learn from an error. Raises it where nothing else may be tried."""
        deployment = self.deployment
        if deployment is None:
            raise error
        self._last = error
        seconds = self.group.cooldown(deployment, error)
        self.note("failed", deployment=deployment.name, error=error.code, why=str(error)[:300], rests=seconds)
        if seconds:
            fields = {
                "call": self._invocation.id,
                "deployment": deployment.name,
                "seconds": seconds,
                "error": str(error),
            }
            logger.warning("a credential rests", extra={"fields": fields})
        if has_begun:
            if not may_go_on or not (error.retryable or error.failover):
                raise error
            self.note("continued", after=deployment.name)
        if not error.failover:
            raise error
        if isinstance(error, _OTHER_MODEL):
            if not self._move(str(error)):
                raise error
            return
        self._plan_next(deployment, error, seconds)

    def _plan_next(self, deployment: Deployment, error: InvokeError, rests: float) -> None:
        """The same again after a pause, or another one at once."""
        may_repeat = error.retryable and self._repeats < self._policy.retries
        if may_repeat and not self._policy.budget.may_repeat(self._invocation.tenant, deployment.provider):
            self.note("not repeated", why="the retry budget is used up")
            may_repeat = False
        others = [one for one in self.group.deployments if one.id != deployment.id and one.id not in self._tried]
        is_other_free = any(not self.group.health.wait(one) > 0 for one in others)
        if is_other_free and (may_repeat or error.cooldown):
            self._tried.add(deployment.id)
            self._repeats += error.retryable
            return
        if may_repeat and not is_other_free:
            self._repeats += 1
            # What the provider asks for goes before our own guess; if it asks for long, the caller hears of it.
            asked = error.retry_after
            wait = asked if asked is not None else backoff(self._repeats, self._policy.random())
            if wait <= _LONGEST_WAIT and not self._is_too_late(wait):
                self._tried.clear()
                self._wait = wait
                return
        self._tried.add(deployment.id)
        if not error.cooldown or self.group.soonest() == 0.0 or len(self._tried) >= len(self.group.deployments):
            self._exhausted(error)

    def _exhausted(self, error: InvokeError) -> None:
        """Nothing is left to try of this model. Where one may rest only for a moment, `next` waits for it."""
        wait = self.group.soonest()
        if error.cooldown and 0 < wait <= self.group.patience and not self._has_waited:
            return
        if not self._move(str(error)):
            raise error

    async def _sleep(self, seconds: float) -> None:
        await self._policy.clock.sleep(seconds)

    def _is_too_late(self, wait: float) -> bool:
        deadline = self._invocation.deadline
        return deadline is not None and self._policy.clock.monotonic() + wait >= deadline

    def _none_left(self, wait: float) -> NoCredentialAvailableError:
        count = len(self.group.deployments)
        provider = self._invocation.provider
        if not count:
            return NoCredentialAvailableError(
                f"no credential is set up; add one with `modelyard providers add {provider}`", provider=provider
            )
        wait = min(wait, 3600.0)
        return NoCredentialAvailableError(
            f"all {count} credentials are resting; the first is back in {wait:.0f} s",
            provider=provider,
            retry_after=wait,
        )

    # hedging

    def hedge_delay(self) -> float | None:
        share = self._plan.hedge_after
        if share is None or len(self.group.deployments) < 2:
            return None
        return self.group.percentile(share)

    def other(self, deployment: Deployment) -> Deployment | None:
        """Another one to ask as well, within the retry budget."""
        chosen = self.group.fetch_next(without={*self._tried, deployment.id})
        if chosen is None or (chosen.credential and chosen.credential.quotas):
            return None  # what all share is for calls that have nothing else
        return chosen if self._policy.budget.may_repeat(self._invocation.tenant, chosen.provider) else None


def _sticky_key(kind: str, invocation: Invocation) -> str:
    if kind == "user":
        return invocation.user or invocation.api_key
    request = invocation.request
    if not isinstance(request, LLMRequest):
        return ""
    return "\n".join(message.text[:2000] for message in request.messages[:2])


@dataclass(slots=True, eq=False)
class _Runner:
    deployment: Deployment
    chunks: AsyncGenerator[Any, None]
    task: "asyncio.Task[Any]"
    is_over: bool = False


@dataclass(slots=True)
class _Race:
    """Two tries at once; the loser is ended, and what it cost is booked by then."""

    health: Any
    runners: list[_Runner] = field(default_factory=list[_Runner])

    def enter(self, deployment: Deployment, chunks: AsyncGenerator[Any, None]) -> None:
        self.health.begin(deployment)
        task = asyncio.ensure_future(_until_said(chunks))
        self.runners.append(_Runner(deployment, chunks, task))

    async def first(self, seconds: float | None) -> tuple[Any, Any]:
        """The first that says something, with what it said; (None, None) where none does in time.

        Raises the last error where all have failed.
        """
        while True:
            waiting = {one.task for one in self.runners if not one.task.done()}
            for one in self.runners:
                if one.task.done() and one.task.exception() is None:
                    chunk = one.task.result()
                    one.is_over = chunk is None
                    return one, chunk
            if not waiting:
                raise self.runners[-1].task.exception() or InvokeServerUnavailableError("no answer came")
            done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return None, None

    async def keep(self, winner: _Runner) -> None:
        for one in [one for one in self.runners if one is not winner]:
            self.runners.remove(one)
            await self._end(one)

    async def close(self) -> None:
        for one in self.runners:
            await self._end(one)
        self.runners.clear()

    async def _end(self, one: _Runner) -> None:
        try:
            if not one.task.done():
                one.task.cancel()
                await asyncio.wait({one.task})
            elif not one.task.cancelled():
                one.task.exception()
            await one.chunks.aclose()
        finally:
            self.health.end(one.deployment)


async def _until_said(chunks: AsyncGenerator[Any, None]) -> Any:
    """The first chunk that says something; None where the stream ends before."""
    async for chunk in chunks:
        if not _is_blank(chunk):
            return chunk
    return None
