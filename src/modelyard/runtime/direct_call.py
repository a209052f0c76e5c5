"""A governed model call that is driven by callbacks, without a task, a future or a
generator.

It goes through the same steps as the policies around a `ModelInstance`, with their own
objects, as long as nothing has to be awaited. What it cannot do it leaves to them: it
declines a call before it has changed anything, or hands over a call whose first attempt
cannot be made at once or has failed. Rationale: docs/design/0019-data-path.md.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from msgspec import structs

from modelyard.base.call_headers import NO_HEADERS
from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeError, ModelyardError
from modelyard.models.exchange import Exchange, PreparedExchange
from modelyard.models.passthrough import PassthroughRequest
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import Deployment, Plan
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.pipeline import Call
from modelyard.runtime.policies.deadline import Deadline
from modelyard.runtime.policies.dispatch import (
    Dispatch,
    DispatchAttempt,
    DispatchState,
)
from modelyard.runtime.policies.limit import AdmissionPlan, Admitted, Limits
from modelyard.runtime.policies.meter import Meter, MeteredAttempt, MeterPlan
from modelyard.runtime.policies.observe import Observation, Observe

logger = logging.getLogger("modelyard.calls")

_NEVER = float("inf")
# Callers choose models and parameters, so the number of different calls has
# no bound of its own.
_MAX_PREPARED = 500
_SWEEP_SECONDS = 0.05
"""How often the deadlines of the running calls are looked at. One timer for all costs
less than one for each chunk."""


class Receiver(Protocol):
    """The caller's side of a direct call. None of its methods may raise."""

    def take_chunk(self, chunk: Any) -> None:
        """Take the next chunk."""
        ...

    def keep_alive(self) -> None:
        """Show the caller that the call is alive, although nothing has come."""
        ...

    def flush(self) -> None:
        """Send what was taken: no more chunks have arrived for now."""
        ...

    def finish(self) -> None:
        """The call has succeeded; there are no more chunks."""
        ...

    def fail(self, error: BaseException) -> None:
        """The call has failed, perhaps after some chunks."""
        ...

    def take_over(self, chunks: Chunks) -> None:
        """The call goes on as an asynchronous generator, which must be read to its end
        or closed. No chunk has been taken before."""
        ...


@dataclass(slots=True, eq=False)
class DirectCalls:
    """Makes direct calls with the policies of the pipeline, and watches their time."""

    observe: Observe
    limits: Limits
    dispatch: Dispatch
    meter: Meter
    deadline: Deadline
    attempt: Call
    """Makes one attempt in the usual way, with the policies below dispatch."""
    model_of: Callable[[Invocation], Any]
    """Returns the provider's model that makes an attempt."""
    is_cached: Callable[[Invocation], bool]
    """Tells whether the answers of a caller to a model go through the cache."""
    is_structured: Callable[[Invocation], bool]
    """Tells whether the answer of a call has to have a given form."""
    source: "ConfigurationSource"
    clock: Clock
    running: "set[DirectCall]" = field(default_factory=set["DirectCall"])
    """The calls whose request has been sent."""
    sent: int = 0
    """How many requests have been sent so far."""
    _timer: asyncio.TimerHandle | None = None

    @property
    def is_possible(self) -> bool:
        """Whether calls can be admitted at once: their counters are in this process."""
        return self.limits.has_counters_here

    def start(
        self,
        instance: ModelInstance,
        request: Any,
        receiver: Receiver,
        *,
        id: str = "",
        silence_seconds: float = _NEVER,
    ) -> "DirectCall | None":
        """Start a call, or return None if it has to be made in the usual way; nothing
        has changed then. Raises what a usual call raises for an invalid request.

        `id` is that of the call; a new one without it. After `silence_seconds` without a
        chunk the receiver keeps its caller waiting.
        """
        if instance.model_type is not ModelType.LLM:
            return None
        invocation = instance.invocation_of(request, id=id)
        if self.is_structured(invocation):
            return None
        plan = instance.call_plans.get("")
        # A plan from before a change may have old prices, limits or credentials.
        if plan is None or plan.changes != self.source.changes:
            plan = instance.call_plans[""] = self._plan_for(invocation)
        if not plan.is_direct or plan.admission is None:
            return None
        admission = plan.admission
        # The limits of users other than the caller's own are looked up for each call.
        if invocation.user != invocation.caller.user:
            admission = self.limits.plan_for(invocation)
        admitted = None if admission is None else admission.admit(invocation)
        if admitted is None:
            return None
        call = DirectCall(self, plan, invocation, admitted, receiver, silence_seconds)
        try:
            call.begin()
        except Exception as error:  # noqa: BLE001  what it holds must be released
            call.crash(error)
        return call

    def _plan_for(self, invocation: Invocation) -> "CallPlan":
        """Look up what calls like this one need: those of its caller to its model."""
        routing = self.dispatch.plan(invocation)
        own = structs.replace(invocation, user=invocation.caller.user)
        return CallPlan(
            changes=self.source.changes,
            is_direct=routing.is_plain and not self.is_cached(invocation),
            admission=self.limits.plan_for(own),
            routing=routing,
        )

    def target_for(
        self, plan: "CallPlan", deployment: Deployment, invocation: Invocation
    ) -> "Target":
        """Look up what calls need at a deployment. `invocation` is that of an attempt
        there."""
        target = Target(
            model=self.model_of(invocation), meter=self.meter.plan_for(invocation)
        )
        plan.targets[deployment] = target
        return target

    def remaining(self, call: "DirectCall") -> Chunks:
        """Return the rest of a call, from its state on."""

        async def attempts(invocation: Invocation) -> Chunks:
            """Yield the chunks of the remaining attempts; release what the call holds."""
            del invocation
            try:
                run = self.dispatch.run(call.state, self.attempt)
                async with aclosing(run) as chunks:
                    async for chunk in chunks:
                        call.admitted.is_served = True
                        yield chunk
            finally:
                call.admitted.release()

        return call.observation.watch(attempts, call.invocation)

    def add(self, call: "DirectCall") -> None:
        """Count a call and watch its time."""
        self.sent += 1
        self.running.add(call)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """End the calls whose time is over. The timer stops with the last call."""
        self._timer = None
        current_time = self.clock.monotonic()
        # A copy, since calls that expire leave the set.
        for call in list(self.running):
            if call.due <= current_time:
                call.expire(current_time)
            else:
                call.break_silence(current_time)
        if self.running:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_SWEEP_SECONDS, self._sweep)


class ConfigurationSource(Protocol):
    """What call plans are derived from."""

    changes: int
    """Increases with each change; plans from before are looked up again."""


class CallPlan(msgspec.Struct, kw_only=True):
    """What the calls of one caller to one model need and does not depend on their
    requests. It is dropped when settings, keys, prices, limits or models change."""

    changes: int
    is_direct: bool
    admission: AdmissionPlan | None
    """How calls with the caller's own user are admitted; None if that takes time."""
    routing: Plan
    targets: "dict[Deployment, Target]" = {}


class Target(msgspec.Struct, kw_only=True):
    """What the calls of one caller need at one deployment."""

    model: Any
    """The provider's model, a `LargeLanguageModel`."""
    meter: MeterPlan
    _prepared: dict[tuple[str | int, ...], PreparedExchange | None] = {}
    """By the format of the request, the version of what is known of the server, and
    the names of the parameters."""

    def exchange(self, invocation: Invocation) -> Exchange | None:
        """Return the exchange of a request; None if something has to be awaited. Raises
        ModelyardError."""
        request = invocation.request
        # With headers of the caller's own, the head of the request is another one.
        if isinstance(request, PassthroughRequest) and request.headers is NO_HEADERS:
            version = self.model.knowledge_version
            key = (request.format, version, *request.model_parameters)
            if key in self._prepared:
                prepared = self._prepared[key]
            else:
                prepared = self.model.prepare(
                    invocation.model, invocation.credentials, request
                )
                # What was prepared by older knowledge is of no use any more.
                if len(self._prepared) >= _MAX_PREPARED:
                    self._prepared.clear()
                self._prepared[key] = prepared
            if prepared is not None:
                return prepared.exchange(request)
        return self.model.exchange(invocation.model, invocation.credentials, request)


class DirectCall:
    """One call. Its public methods are callbacks: none of them raises."""

    __slots__ = (
        "_attempt",
        "_byte_due",
        "_calls",
        "_chunk_due",
        "_chunk_gap",
        "_exchange",
        "_first_gap",
        "_is_over",
        "_is_paused",
        "_metered",
        "_plan",
        "_receiver",
        "_silence_seconds",
        "_silent_since",
        "_task",
        "admitted",
        "due",
        "invocation",
        "observation",
        "state",
    )

    def __init__(
        self,
        calls: DirectCalls,
        plan: CallPlan,
        invocation: Invocation,
        admitted: Admitted,
        receiver: Receiver,
        silence_seconds: float,
    ) -> None:
        self._calls = calls
        self._plan = plan
        self._receiver = receiver
        self.invocation = invocation
        self.admitted = admitted
        self.state = DispatchState(calls.dispatch, plan.routing, invocation)
        self.observation: Observation = calls.observe.observe(invocation)
        self._attempt: DispatchAttempt | None = None
        self._metered: MeteredAttempt | None = None
        self._exchange: Exchange | None = None
        # Waits for a connection, or reads a large response outside of the event loop.
        self._task: asyncio.Task[None] | None = None
        self._is_over = False
        self._is_paused = False
        self._first_gap, self._chunk_gap = calls.deadline.gaps_of(invocation)
        self._silence_seconds = silence_seconds
        self._silent_since = calls.clock.monotonic()
        self._byte_due = self._chunk_due = _NEVER
        self.due = _NEVER
        """When `expire` is called, in the clock's monotonic seconds."""

    def begin(self) -> None:
        """Choose a deployment and send the request. What cannot be done at once is
        handed over."""
        self.observation.start()
        chosen = self.state.next_now()
        if chosen is None or not self._send(chosen):
            self._is_over = True
            self.state.chosen = chosen
            self._receiver.take_over(self._calls.remaining(self))

    def _send(self, deployment: Deployment) -> bool:
        """Send the request to a deployment; return False if it cannot be sent at once.

        Any error is left to the usual way too, which meets it again.
        """
        calls, plan = self._calls, self._plan
        invocation = self.state.invocation_for(deployment)
        exchange: Exchange | None = None
        try:
            # The first call at a deployment looks up what all later ones need.
            target = plan.targets.get(deployment) or calls.target_for(
                plan, deployment, invocation
            )
            exchange = target.exchange(invocation)
            if exchange is None:
                return False
            is_connected = exchange.connect()
            self._metered = target.meter.begin(invocation)
        except ModelyardError:
            if exchange is not None:
                exchange.close()
            return False
        self._attempt = attempt = DispatchAttempt(self.state, deployment)
        attempt.__enter__()
        self._exchange = exchange
        current_time = calls.clock.monotonic()
        self._byte_due = current_time + exchange.byte_gap
        self._chunk_due = current_time + self._first_gap
        self._set_due()
        calls.add(self)
        if is_connected:
            exchange.send(self._on_change)
        else:
            self._byte_due = _NEVER
            self._set_due()
            self._task = asyncio.ensure_future(self._open(exchange))
        return True

    async def _open(self, exchange: Exchange) -> None:
        """Wait for a connection and send the request. A slow stream that went on in the
        usual way instead would hold three times the memory until its end."""
        try:
            await exchange.open()
        except ModelyardError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  a task that nobody awaits
            self.crash(error)
        else:
            self._task = None
            self._byte_due = self._calls.clock.monotonic() + exchange.byte_gap
            self._set_due()
            exchange.send(self._on_change)

    def _set_due(self) -> None:
        """Set the earliest of the call's deadlines."""
        due, deadline = self._byte_due, self.invocation.deadline
        if self._chunk_due < due:
            due = self._chunk_due
        self.due = deadline if deadline is not None and deadline < due else due

    # while the response arrives

    def _on_change(self) -> None:
        """Take what has arrived."""
        exchange = self._exchange
        if exchange is None or self._is_over:
            return
        try:
            if (chunks := exchange.receive_whole()) is not None:
                self._take(chunks)
                self._succeed()
                return
            self._take(exchange.receive())
            if exchange.is_complete and not self._is_over:
                self._complete(exchange)
                return
            if exchange.error is not None:
                # What had arrived before it has been taken; the error comes next.
                self._take(exchange.receive())
        except ModelyardError as error:
            self._fail(error)
            return
        except Exception as error:  # noqa: BLE001  a callback has nobody to raise to
            self.crash(error)
            return
        self._receiver.flush()
        self._byte_due = self._calls.clock.monotonic() + exchange.byte_gap
        self._set_due()

    def _take(self, chunks: Iterable[Any]) -> None:
        """Forward chunks to the caller."""
        metered, attempt = self._metered, self._attempt
        if metered is None or attempt is None:
            return
        is_empty = True
        observation, receiver = self.observation, self._receiver
        for chunk in chunks:
            is_empty = False
            counted = metered.record_chunk(chunk)
            if attempt.has_begun:
                observation.on_chunk(counted)
                receiver.take_chunk(counted)
                continue
            for opening_chunk in attempt.open_with(counted):
                self._give(opening_chunk)
        if not is_empty:
            current_time = self._calls.clock.monotonic()
            self._chunk_due = current_time + self._chunk_gap
            if attempt.has_begun:
                self._silent_since = current_time

    def break_silence(self, current_time: float) -> None:
        """Let the receiver show that the call is alive, if it has been silent for long."""
        if current_time - self._silent_since >= self._silence_seconds:
            self._silent_since = current_time
            self._receiver.keep_alive()

    def _give(self, chunk: Any) -> None:
        """Give one chunk to the caller."""
        self.admitted.is_served = True
        self.observation.on_chunk(chunk)
        self._receiver.take_chunk(chunk)

    def _complete(self, exchange: Exchange) -> None:
        """Read the end of the response, and end the call."""
        body = exchange.large_body
        if body is None:
            self._take(exchange.finish())
            self._succeed()
        elif self._task is None:
            self._byte_due = self._chunk_due = _NEVER
            self._set_due()
            self._task = asyncio.ensure_future(self._read_large(exchange, body))

    async def _read_large(self, exchange: Exchange, body: bytes) -> None:
        """Read a large response outside of the event loop, and end the call."""
        try:
            self._take(await exchange.read_large(body))
            self._succeed()
        except ModelyardError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  a task that nobody awaits
            self.crash(error)

    # how it ends

    def _succeed(self) -> None:
        """End a call whose response has arrived completely."""
        metered, attempt = self._metered, self._attempt
        if metered is None or attempt is None or not self._leave():
            return
        if (usage_chunk := metered.missing_usage_chunk()) is not None:
            for chunk in (
                [usage_chunk] if attempt.has_begun else attempt.open_with(usage_chunk)
            ):
                self._give(chunk)
        metered.settle("ok")
        for chunk in attempt.held_back:
            self._give(chunk)
        if not attempt.has_begun:
            attempt.mark_served()
        attempt.__exit__(None, None, None)
        self.admitted.release()
        self.observation.finished()
        self._receiver.finish()

    def _fail(self, error: ModelyardError) -> None:
        """End a failed attempt: the call goes on in the usual way if anything is left
        to try, else it fails."""
        attempt, metered = self._attempt, self._metered
        if attempt is None or metered is None or not self._leave():
            return
        metered.settle(error.code)
        attempt.__exit__(type(error), error, None)
        try:
            if not isinstance(error, InvokeError):
                raise error
            self.state.failed(error, has_begun=attempt.has_begun)
        # Nothing else may be tried.
        except ModelyardError as final_error:
            self.admitted.release()
            self.observation.failed(final_error, final_error.code)
            self._receiver.fail(final_error)
            return
        self._receiver.take_over(self._calls.remaining(self))

    def crash(self, error: Exception) -> None:
        """End a call that fails by a fault of this server."""
        if not self._leave():
            return
        fields = {"call": self.invocation.id}
        logger.error("call crashed", extra={"fields": fields}, exc_info=error)
        self._abandon(error, "internal_error")
        self._receiver.fail(error)

    def cancel(self) -> None:
        """End the call because its caller has left, or the server stops."""
        if self._leave():
            self._abandon(asyncio.CancelledError(), "cancelled")

    def _abandon(self, error: BaseException, status: str) -> None:
        """Settle a call that nobody waits for."""
        metered, attempt = self._metered, self._attempt
        if metered is not None:
            metered.settle("cancelled")
        if attempt is not None:
            attempt.__exit__(type(error), error, None)
        self.admitted.release()
        self.observation.failed(error, status)

    def expire(self, current_time: float) -> None:
        """End the attempt, because one of its deadlines has passed."""
        exchange, attempt = self._exchange, self._attempt
        if exchange is None or attempt is None:
            return
        deadline = self.invocation.deadline or _NEVER
        # A caller that does not read is not the provider's fault.
        if self._is_paused and current_time < deadline:
            self.due = deadline
            return
        if self._byte_due <= current_time < deadline:
            self._fail(exchange.timeout_error())
            return
        is_first = self._metered is None or self._metered.first is None
        gap = self._first_gap if is_first else self._chunk_gap
        self._fail(
            self._calls.deadline.timeout_error(
                self.invocation, deadline, gap, is_first=is_first
            )
        )

    def _leave(self) -> bool:
        """End the exchange; return False if the call has ended before."""
        if self._is_over:
            return False
        self._is_over = True
        self._calls.running.discard(self)
        if self._exchange is not None:
            self._exchange.close()
        # The task that reads a large response ends the call itself.
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        return True

    # the caller's pace

    def pause(self) -> None:
        """Stop reading, because the caller does not keep up."""
        if not self._is_over and not self._is_paused and self._exchange is not None:
            self._is_paused = True
            self._exchange.pause()

    def resume(self) -> None:
        """Go on reading."""
        if self._is_over or not self._is_paused or self._exchange is None:
            return
        self._is_paused = False
        self._restart_gaps(self._exchange.byte_gap)
        self._exchange.resume()

    def _restart_gaps(self, byte_gap: float) -> None:
        """Count the time to the next byte and the next chunk from now on: the server
        could not send anything during the pause."""
        current_time = self._calls.clock.monotonic()
        self._byte_due = current_time + byte_gap
        self._chunk_due = current_time + self._chunk_gap
        self._set_due()
