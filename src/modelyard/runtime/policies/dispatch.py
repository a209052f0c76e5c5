"""Policy that finds a deployment to serve the call: load balancing, retries, failover
and hedging.

One loop makes all attempts, so that each takes the earlier ones into account. Attempts
end as soon as content has reached the caller, unless the stream may be continued.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from msgspec import structs

from modelyard.base.clock import Clock
from modelyard.base.errors import (
    ContentFilterError,
    ContextTooLongError,
    InvokeError,
    ModelNotFoundError,
    NoCredentialAvailableError,
)
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.messages import AssistantPromptMessage
from modelyard.models.passthrough import PassthroughChunk, to_parsed_request
from modelyard.models.types import Chunks
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import Deployment, LBModelManager, Plan
from modelyard.runtime.pipeline import Call
from modelyard.runtime.retry_budget import RetryBudget

logger = logging.getLogger("modelyard.dispatch")

_MAX_WAIT = 10.0
_NEXT_MODEL_ERRORS = (ContextTooLongError, ContentFilterError, ModelNotFoundError)
"""Errors that another credential for the same model would not avoid; the next model is
tried at once."""
_MAX_ADAPTATIONS = 8
"""How often a call may be adapted to what a server has refused."""


def backoff(failures: int, jitter: float) -> float:
    """Return the seconds to wait after this many failures: `jitter` (0 to 1) times
    0.25, 0.5, 1, 2 … 8."""
    # The jitter covers the whole wait: calls that failed together must not come back
    # together.
    return min(8.0, 0.25 * 2 ** (min(failures, 10) - 1)) * jitter


class Quotas(Protocol):
    """Limits on what a tenant may use of a hosted credential."""

    async def reserve(
        self, invocation: Invocation, deployment: Deployment
    ) -> str | None:
        """Reserve the use of the deployment. Returns None, or the reason why there is
        no quota left."""
        ...

    def settle(
        self, invocation: Invocation, deployment: Deployment, *, is_served: bool
    ) -> None:
        """Settle a reservation: the use is kept if the attempt was served, returned if
        not."""
        ...


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The dispatch policy."""

    plan: Callable[[Invocation], Plan]
    clock: Clock
    budget: RetryBudget
    retries: int = 2
    """How many times a failed attempt may be repeated, if its error says that a repeat
    may help."""
    quotas: Quotas | None = None
    random: Callable[[], float] = random.random

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        return self.run(self.state(invocation), call_next)

    def state(self, invocation: Invocation) -> "DispatchState":
        """Return the state of a call of which nothing has been tried yet."""
        plan = self.plan(invocation)
        return DispatchState(self, plan, _with_messages_for(plan, invocation))

    async def run(self, state: "DispatchState", call_next: Call) -> Chunks:
        """Make attempts until one succeeds or none is left, from any state on."""
        plan = state.plan
        while True:
            attempt = DispatchAttempt(state, await state.next())
            try:
                with attempt:
                    # Inside the block, because a call may fail before it has a stream.
                    stream = self._start_attempt(state, attempt, call_next)
                    async with aclosing(stream) as chunks:
                        for chunk in await attempt.read_opening(chunks):
                            yield chunk
                        async for chunk in chunks:
                            if plan.continue_streams:
                                state.record_sent(chunk)
                            yield chunk
                for chunk in attempt.held_back:
                    yield chunk
                attempt.mark_served()
                return
            # Raises the error again if nothing else may be tried; otherwise the loop
            # makes the next attempt.
            except InvokeError as error:
                state.failed(error, has_begun=attempt.has_begun)

    def _start_attempt(
        self, state: "DispatchState", attempt: "DispatchAttempt", call_next: Call
    ) -> Chunks:
        """Start one attempt, or a hedged pair if the plan asks for hedging, and return
        its stream. What `call_next` raises at once is an error of the attempt."""
        deployment, delay = attempt.deployment, attempt.hedge_delay
        invocation = state.invocation_for(deployment)
        # The usual call gets its stream without a layer in between.
        if delay is None:
            return call_next(invocation)
        return self._hedged_attempt(state, deployment, invocation, call_next, delay)

    async def _hedged_attempt(
        self,
        state: "DispatchState",
        deployment: Deployment,
        attempt: Invocation,
        call_next: Call,
        delay: float,
    ) -> Chunks:
        """Start an attempt; if it has sent nothing after `delay` seconds, start a
        second one and use whichever is first."""
        race = _HedgedAttempts(state.group.health)
        try:
            race.enter(deployment, _started_late(call_next, attempt))
            winner = await race.first_within(delay)
            if (
                winner is None
                and (hedge_target := state.next_hedge_target(deployment)) is not None
            ):
                state.note(
                    "hedged", with_=hedge_target.name, after_ms=round(delay * 1000, 1)
                )
                hedge = state.invocation_for(hedge_target)
                race.enter(hedge_target, _started_late(call_next, hedge))
            if winner is None:
                winner = await race.first()
            for failed_deployment, error in race.failures_besides(winner):
                state.record_failure(failed_deployment, error)
            # The slower attempt is cancelled as soon as the other has sent its first
            # content.
            await race.keep(winner)
            state.deployment = winner.deployment
            # Raises the error of the attempt if it has failed.
            for chunk in winner.task.result():
                yield chunk
            async for chunk in winner.chunks:
                yield chunk
        finally:
            await race.close()


def _is_blank(chunk: Any) -> bool:
    """Return whether a chunk has no content yet. Many streams start with a chunk that
    has only a role."""
    if not isinstance(chunk, LLMResultChunk):
        return False
    # Nobody has looked into a complete answer that is passed through; it counts as
    # content.
    if isinstance(chunk, PassthroughChunk) and (chunk.said or chunk.is_whole):
        return False
    delta = chunk.delta
    message = delta.message
    return not (
        message.content
        or message.tool_calls
        or message.reasoning_content
        or message.refusal
        or delta.finish_reason
    )


def _with_messages_for(plan: Plan, invocation: Invocation) -> Invocation:
    """Return the invocation with a parsed request if the plan has a feature that reads
    the messages; a passthrough request is parsed for it."""
    if plan.sticky == "prompt" or plan.continue_streams:
        return structs.replace(
            invocation, request=to_parsed_request(invocation.request)
        )
    return invocation


class DispatchState:
    """The progress of one call through its plan: which deployments were tried, and what
    comes next."""

    __slots__ = (
        "_adaptations",
        "_group_index",
        "_has_waited",
        "_invocation",
        "_last",
        "_policy",
        "_repeats",
        "_sticky",
        "_tried",
        "_wait",
        "chosen",
        "clock",
        "deployment",
        "plan",
        "sent_texts",
    )

    def __init__(self, policy: Dispatch, plan: Plan, invocation: Invocation) -> None:
        self._policy = policy
        self.plan = plan
        self.clock = policy.clock
        self._invocation = invocation
        # The index of the current group in the plan; group 0 is the requested model.
        self._group_index = 0
        self._tried: set[str] = set()
        self._repeats = 0
        self._adaptations = 0
        self._has_waited = False
        self._last: InvokeError | None = None
        # Seconds to wait before the next attempt.
        self._wait = 0.0
        self._sticky = _sticky_key(plan.sticky, invocation) if plan.sticky else ""
        self.deployment: Deployment | None = None
        self.chosen: Deployment | None = None
        """The deployment of the next attempt, if it is chosen already."""
        # The text that the caller has received, if the stream may be continued.
        self.sent_texts: list[str] = []

    def next_now(self) -> Deployment | None:
        """Return the first deployment of a call; None if all are in cooldown.

        Only for plans without hosted quotas, which have to be awaited.
        """
        group = self.plan.groups[self._group_index]
        candidate = group.fetch_next(sticky=self._sticky)
        return None if candidate is None else self._choose(candidate)

    @property
    def group(self) -> LBModelManager:
        """The manager of the model that is tried now."""
        return self.plan.groups[self._group_index]

    def note(self, action: str, **details: Any) -> None:
        """Add a notable decision to the call's trace."""
        self._invocation.record.note(
            self._policy.clock.monotonic(), action, is_notable=True, **details
        )

    async def next(self) -> Deployment:
        """Return the next deployment, after a wait if needed. Raises the last error, or
        NoCredentialAvailableError."""
        if self._wait:
            await self._policy.clock.sleep(self._wait)
            self._wait = 0.0
        if self.chosen is not None:
            deployment, self.chosen = self.chosen, None
            return deployment
        while True:
            group = self.group
            candidate = group.fetch_next(excluded_ids=self._tried, sticky=self._sticky)
            if candidate is None:
                await self._wait_or_move()
                continue
            # Deployments without quota are skipped like those that have been tried.
            if (reason := await self._quota_refusal(candidate)) is not None:
                self.note("skipped", deployment=candidate.name, why=reason)
                self._tried.add(candidate.id)
                continue
            return self._choose(candidate)

    def _choose(self, deployment: Deployment) -> Deployment:
        """Record that a deployment is tried next, and return it."""
        self.deployment = deployment
        group = self.plan.groups[self._group_index]
        if self._tried or group.health.cooldowns:
            self._record_decision(group, deployment)
        else:
            self._invocation.record.note_choice(
                self.clock.monotonic(),
                deployment.name,
                group.strategy,
                len(group.deployments),
            )
        # The budget limits retries to a share of all calls, so every call is counted.
        self._policy.budget.record_call(self._invocation.tenant, deployment.provider)
        return deployment

    async def _quota_refusal(self, candidate: Deployment) -> str | None:
        """Return the reason why a hosted credential may not be used; None if it may."""
        if (
            self._policy.quotas is None
            or candidate.credential is None
            or not candidate.credential.quotas
        ):
            return None
        return await self._policy.quotas.reserve(self._invocation, candidate)

    def _record_decision(self, group: LBModelManager, deployment: Deployment) -> None:
        """Add the choice to the call's trace, with the deployments in cooldown."""
        self._invocation.record.note(
            self.clock.monotonic(),
            "chose",
            is_notable=bool(self._tried),
            deployment=deployment.name,
            by=group.strategy,
            of=len(group.deployments),
            resting=group.skipped_deployments(),
        )

    async def _wait_or_move(self) -> None:
        """Wait briefly for a cooldown to end, else move to the next model. Raises if
        there is none."""
        group = self.group
        wait = group.next_available_in()
        # Wait at most once for each model, and never beyond the call's deadline.
        if (
            0 < wait <= group.patience
            and not self._has_waited
            and not self._is_too_late(wait)
        ):
            self._has_waited = True
            self.note(
                "waited", ms=round(wait * 1000), why="all deployments are in cooldown"
            )
            await self._policy.clock.sleep(wait)
            self._tried.clear()
            return
        error = self._last or _no_credential_error(
            len(self.group.deployments), self._invocation.provider, wait
        )
        if not self._next_group(str(error)):
            raise error

    def _next_group(self, reason: str) -> bool:
        """Move to the next model of the plan; return False if there is none."""
        if self._group_index + 1 >= len(self.plan.groups):
            return False
        previous_deployments = self.group.deployments
        self._group_index += 1
        # The next model starts fresh: its deployments have not been tried and its
        # repeats not been used.
        self._tried.clear()
        self._repeats = 0
        self._has_waited = False
        source = (
            previous_deployments[0].model
            if previous_deployments
            else self._invocation.model
        )
        target = self.group.deployments[0].name if self.group.deployments else "nothing"
        self.note("failed over", to=target, why=reason)
        fields = {
            "call": self._invocation.id,
            "from": source,
            "to": target,
            "error": reason,
        }
        logger.warning("failover", extra={"fields": fields})
        return True

    def invocation_for(self, deployment: Deployment) -> Invocation:
        """Return the invocation for an attempt at a deployment.

        Text that the caller has already received is added as the start of the
        assistant's answer.
        """
        credential = deployment.credential
        attempt = self._invocation
        # The usual call to a model without a credential needs no copy.
        if (
            credential is not None
            or deployment.model != attempt.model
            or deployment.provider != attempt.provider
        ):
            attempt = structs.replace(
                attempt,
                provider=deployment.provider,
                model=deployment.model,
                credentials=credential.values if credential else {},
                credential=credential.name if credential else "",
                credential_id=credential.id if credential else "",
            )
        if self.sent_texts and (text := "".join(self.sent_texts)):
            messages = [*attempt.request.messages, AssistantPromptMessage(content=text)]
            attempt = structs.replace(
                attempt,
                request=structs.replace(attempt.request, messages=messages),
            )
        return attempt

    def served(self, seconds: float) -> None:
        """Record the seconds to the first chunk."""
        if self.deployment is not None:
            self.plan.groups[self._group_index].served(self.deployment, seconds)

    def record_sent(self, chunk: Any) -> None:
        """Record the text of a chunk that goes to the caller."""
        self.sent_texts.append(chunk.text if isinstance(chunk, LLMResultChunk) else "")

    def attempt_ended(
        self, deployment: Deployment, *, is_hedged: bool, has_failed: bool
    ) -> None:
        """Record that an attempt has ended. A hosted quota gets back what a failed
        attempt had reserved."""
        # A hedged pair counts its attempts itself.
        if not is_hedged:
            self.group.health.end(deployment)
        if (
            deployment.credential
            and deployment.credential.quotas
            and self._policy.quotas
        ):
            is_served = deployment is self.deployment and not has_failed
            self._policy.quotas.settle(
                self._invocation, deployment, is_served=is_served
            )

    def failed(self, error: InvokeError, *, has_begun: bool) -> None:
        """Update cooldowns after an error and choose the next step. Raises the error if
        nothing else may be tried.

        `has_begun`: whether content has reached the caller.
        """
        deployment = self.deployment
        if deployment is None:
            raise error
        self._last = error
        if not has_begun and self._adapt(deployment, error):
            return
        self.record_failure(deployment, error)
        if not error.failover:
            raise error
        # After content has been sent, only a stream that may be continued can go on.
        if has_begun:
            if not _can_continue(self.plan, self._invocation, self.sent_texts):
                raise error
            self.note("continued", after=deployment.name)
        # Such an error is about the request; more credentials of the same model would
        # give the same result. Another target of a route may be another model.
        if isinstance(error, _NEXT_MODEL_ERRORS):
            self._tried.update(_ids_of_model(self.group.deployments, deployment))
            if not self._is_peer_free(deployment) and not self._next_group(str(error)):
                raise error
            return
        self._plan_next(deployment, error)

    def _adapt(self, deployment: Deployment, error: InvokeError) -> bool:
        """Plan the same deployment again at once, if its provider has learnt from the
        error how to call it; return False otherwise."""
        if not error.is_adaptable or self._adaptations >= _MAX_ADAPTATIONS:
            return False
        self._adaptations += 1
        # A hosted quota has to be reserved again.
        if deployment.credential is None or not deployment.credential.quotas:
            self.chosen = deployment
        self.note("adapted", deployment=deployment.name, why=str(error)[:300])
        return True

    def record_failure(self, deployment: Deployment, error: InvokeError) -> None:
        """Put what caused the error in cooldown, and add it to the call's trace and to
        the log."""
        seconds = self.group.cooldown(deployment, error)
        self.note(
            "failed",
            deployment=deployment.name,
            error=error.code,
            why=str(error)[:300],
            rests=seconds,
        )
        if seconds:
            fields = {
                "call": self._invocation.id,
                "deployment": deployment.name,
                "seconds": seconds,
                "error": str(error),
            }
            logger.warning("credential in cooldown", extra={"fields": fields})

    def _plan_next(self, deployment: Deployment, error: InvokeError) -> None:
        """Decide between repeating after a pause, another deployment at once, and the
        next model."""
        may_repeat = self._may_repeat(deployment, error)
        is_peer_free = self._is_peer_free(deployment)
        # Prefer another deployment to a pause: it can answer at once.
        if is_peer_free and (may_repeat or error.cooldown):
            self._tried.add(deployment.id)
            self._repeats += error.retryable
            return
        if may_repeat and self._plan_repeat(error):
            return
        self._tried.add(deployment.id)
        # No deployment of this model is worth trying: move on, unless a cooldown ends
        # soon.
        self._exhausted(error)

    def _may_repeat(self, deployment: Deployment, error: InvokeError) -> bool:
        """Return whether the error allows a repeat and the retry budget has one left.
        A repeat is taken from the budget."""
        if not error.retryable or self._repeats >= self._policy.retries:
            return False
        if self._policy.budget.try_retry(self._invocation.tenant, deployment.provider):
            return True
        self.note("not repeated", why="the retry budget is used up")
        return False

    def _is_peer_free(self, deployment: Deployment) -> bool:
        """Return whether another deployment of the model is untried and not in
        cooldown."""
        health = self.group.health
        return any(
            not health.wait(peer) > 0
            for peer in self.group.deployments
            if peer.id != deployment.id and peer.id not in self._tried
        )

    def _plan_repeat(self, error: InvokeError) -> bool:
        """Plan a repeat after a pause; return False if the pause would be too long."""
        self._repeats += 1
        # A time that the provider asks for takes precedence over our backoff. If it is
        # long, the caller gets the error.
        wait = error.retry_after
        if wait is None:
            wait = backoff(self._repeats, self._policy.random())
        if wait > _MAX_WAIT or self._is_too_late(wait):
            return False
        self._tried.clear()
        self._wait = wait
        return True

    def _exhausted(self, error: InvokeError) -> None:
        """Move to the next model or raise, unless a cooldown ends soon enough for
        `next` to wait for it."""
        wait = self.group.next_available_in()
        if error.cooldown and 0 < wait <= self.group.patience and not self._has_waited:
            return
        if not self._next_group(str(error)):
            raise error

    def _is_too_late(self, wait: float) -> bool:
        """Return whether waiting would exceed the call's deadline."""
        deadline = self._invocation.deadline
        return (
            deadline is not None and self._policy.clock.monotonic() + wait >= deadline
        )

    # hedging

    def hedge_delay(self) -> float | None:
        """Return the seconds after which a second attempt starts; None if hedging is
        off or not possible yet."""
        percent = self.plan.hedge_after
        if percent is None or len(self.group.deployments) < 2:
            return None
        return self.group.percentile(percent)

    def next_hedge_target(self, deployment: Deployment) -> Deployment | None:
        """Return another deployment for a hedged attempt; None if there is none or the
        retry budget is used up."""
        target = self.group.fetch_next(excluded_ids={*self._tried, deployment.id})
        if target is None or (target.credential and target.credential.quotas):
            # A hosted quota is shared, so it is not spent on hedging.
            return None
        # A hedge is load beyond the calls themselves, just as a retry is.
        return (
            target
            if self._policy.budget.try_retry(self._invocation.tenant, target.provider)
            else None
        )


def _ids_of_model(
    deployments: Sequence[Deployment], deployment: Deployment
) -> set[str]:
    """Return the ids of all deployments of the same model."""
    return {
        peer.id
        for peer in deployments
        if (peer.provider, peer.model) == (deployment.provider, deployment.model)
    }


def _can_continue(
    plan: Plan, invocation: Invocation, sent_texts: Sequence[str]
) -> bool:
    """Return whether another model can continue the answer: it is plain text so far.
    Tool calls cannot be continued."""
    request = invocation.request
    return (
        plan.continue_streams
        and isinstance(request, LLMRequest)
        and not request.tools
        and bool("".join(sent_texts))
    )


class DispatchAttempt:
    """One attempt, or a hedged pair. As a context manager, it is counted as in flight
    until the block is left, whatever happens."""

    __slots__ = (
        "_is_hedged",
        "_started_at",
        "_state",
        "deployment",
        "has_begun",
        "hedge_delay",
        "held_back",
    )

    def __init__(self, state: DispatchState, deployment: Deployment) -> None:
        self._state = state
        self._started_at = state.clock.monotonic()
        self.deployment = deployment
        self.hedge_delay = (
            None if state.plan.hedge_after is None else state.hedge_delay()
        )
        self._is_hedged = self.hedge_delay is not None
        self.has_begun = False
        # Chunks without content that were not sent yet, in case of a failover.
        self.held_back: list[Any] = []

    def __enter__(self) -> None:
        # A hedged pair counts its attempts itself.
        if not self._is_hedged:
            self._state.group.health.begin(self.deployment)

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state.attempt_ended(
            self.deployment,
            is_hedged=self._is_hedged,
            has_failed=isinstance(error, InvokeError),
        )

    async def read_opening(self, chunks: Chunks) -> Sequence[Any]:
        """Read up to the first chunk with content and return what the caller gets: that
        chunk and those before it.

        Empty if the stream ends without content; `held_back` has its chunks then.
        """
        async for chunk in chunks:
            if opening := self.open_with(chunk):
                return opening
        return ()

    def open_with(self, chunk: Any) -> Sequence[Any]:
        """Return what the caller gets once this chunk has come: nothing as long as no
        chunk had content."""
        if not _is_blank(chunk):
            return self._begin(chunk)
        # The chunk has no visible content, so another deployment may still serve the
        # call.
        self.held_back.append(chunk)
        return ()

    def _begin(self, first_chunk: Any) -> Sequence[Any]:
        """Record that content reaches the caller: from now on, another deployment can
        no longer start over without the caller noticing."""
        self.mark_served()
        state = self._state
        opening = [first_chunk]
        if self.held_back:
            # A continued stream has sent its opening chunks already.
            if not state.sent_texts:
                opening = [*self.held_back, first_chunk]
            self.held_back.clear()
        if state.plan.continue_streams:
            state.record_sent(first_chunk)
        return opening

    def mark_served(self) -> None:
        """Record the seconds to the first chunk, once."""
        if self.has_begun:
            return
        self.has_begun = True
        self._state.served(self._state.clock.monotonic() - self._started_at)


def _sticky_key(affinity: str, invocation: Invocation) -> str:
    """Return the session affinity key: the user, or the start of the conversation."""
    if affinity == "user":
        return invocation.user or invocation.api_key
    request = invocation.request
    if not isinstance(request, LLMRequest):
        return ""
    # The first two messages identify a conversation and stay the same over its turns,
    # which helps the provider's prompt cache.
    return "\n".join(message.text[:2000] for message in request.messages[:2])


@dataclass(slots=True, eq=False)
class _Runner:
    """One attempt of a hedged pair."""

    deployment: Deployment
    chunks: AsyncGenerator[Any, None]
    task: "asyncio.Task[Sequence[Any]]"
    """Reads the chunks up to the first one with content."""

    @property
    def error(self) -> BaseException | None:
        """The error with which the task has ended; None if it has not failed."""
        return self.task.exception() if self.task.done() else None


@dataclass(slots=True)
class _HedgedAttempts:
    """Two concurrent attempts. The slower one is cancelled; its cost is recorded by the
    inner policies."""

    health: Any
    runners: list[_Runner] = field(default_factory=list[_Runner])

    def enter(self, deployment: Deployment, chunks: AsyncGenerator[Any, None]) -> None:
        """Start an attempt and wait for its first content in a task."""
        self.health.begin(deployment)
        task = asyncio.ensure_future(_read_opening(chunks))
        self.runners.append(_Runner(deployment, chunks, task))

    async def first_within(self, seconds: float) -> _Runner | None:
        """Return the same as `first`; None if there is no such attempt within
        `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.first()
        return self._winner()

    async def first(self) -> _Runner:
        """Return the first attempt that has sent content or ended without an error.

        If all have failed, the result is the one that was started first: the other is
        only its substitute.
        """
        while (runner := self._winner()) is None:
            unfinished = [
                runner.task for runner in self.runners if not runner.task.done()
            ]
            await asyncio.wait(unfinished, return_when=asyncio.FIRST_COMPLETED)
        return runner

    def _winner(self) -> _Runner | None:
        """Return the result of `first`; None if it is not decided yet."""
        finished = [runner for runner in self.runners if runner.task.done()]
        for runner in finished:
            if runner.error is None:
                return runner
        return self.runners[0] if len(finished) == len(self.runners) else None

    def failures_besides(
        self, winner: _Runner
    ) -> Iterator[tuple[Deployment, InvokeError]]:
        """Yield the deployments of the other attempts that have failed, with their
        errors."""
        for runner in self.runners:
            error = runner.error
            if runner is not winner and isinstance(error, InvokeError):
                yield runner.deployment, error

    async def keep(self, winner: _Runner) -> None:
        """Cancel all attempts except the winner."""
        for loser in [runner for runner in self.runners if runner is not winner]:
            self.runners.remove(loser)
            await self._end(loser)

    async def close(self) -> None:
        """Cancel all attempts that are left. Each is counted as finished, even if this
        is cancelled while it waits for one of them."""
        # The stack runs every callback, also after one that was cancelled.
        async with AsyncExitStack() as endings:
            for runner in self.runners:
                endings.push_async_callback(self._end, runner)
            self.runners.clear()

    async def _end(self, runner: _Runner) -> None:
        """Cancel an attempt, wait until it has ended, and count it as finished."""
        try:
            if not runner.task.done():
                runner.task.cancel()
                await asyncio.wait({runner.task})
            elif not runner.task.cancelled():
                # Reading the exception marks it as retrieved, so asyncio does not log
                # it.
                runner.task.exception()
            await runner.chunks.aclose()
        finally:
            self.health.end(runner.deployment)


async def _started_late(call_next: Call, invocation: Invocation) -> Chunks:
    """Make the call with the first chunk that is asked for: an error that the call
    raises at once is then one of this attempt, and the other one goes on."""
    async with aclosing(call_next(invocation)) as chunks:
        async for chunk in chunks:
            yield chunk


async def _read_opening(chunks: AsyncGenerator[Any, None]) -> Sequence[Any]:
    """Return the chunks up to the first one with content; all of them if the stream
    ends without content."""
    opening: list[Any] = []
    async for chunk in chunks:
        opening.append(chunk)
        if not _is_blank(chunk):
            break
    return opening


def _no_credential_error(
    count: int, provider: str, wait: float
) -> NoCredentialAvailableError:
    """Return the error for a model of which none of `count` deployments can be used for
    `wait` seconds."""
    if not count:
        return NoCredentialAvailableError(
            f"No credential is configured; add one with `modelyard providers add {provider}`",
            provider=provider,
        )
    wait = min(wait, 3600.0)
    subject = "The only credential is" if count == 1 else f"All {count} credentials are"
    return NoCredentialAvailableError(
        f"{subject} in cooldown; retry in {wait:.0f} s",
        provider=provider,
        retry_after=wait,
    )
