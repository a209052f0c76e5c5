"""Sending of traces to the destinations of apps, in the background.

A run hands over its id and goes on: a destination that is slow or away delays nothing and
fails nothing. Each has a queue and a sender of its own, so one does not hold up another's.
What does not fit into a queue, or is refused, is dropped and counted. Traces that wait
when a process ends are lost.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.transport.egress import EgressClient, EgressError, EgressRefusedError
from modelyard.workflow.engine import Status
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.journal import DatabaseJournal
from modelyard.workflow.run_record import RunRecord
from modelyard.workflow.run_spans import RunSpan, probe_span, spans_of
from modelyard.workflow.secret_mask import SecretMask
from modelyard.workflow.trace_destinations import ActiveDestination, TraceDestinations
from modelyard.workflow.variables import VariablePool

logger = logging.getLogger("modelyard.workflow")

_MAX_WAITING = 200
"""Traces that wait for one destination."""
_RETRY_SECONDS = (1.0, 5.0, 25.0)
_SEND_SECONDS = 15.0
_PROTOBUF = ("content-type", "application/x-protobuf")
# OTLP over HTTP names these as worth another try, except for 408, which is HTTP's own
# timeout.
_TEMPORARY = frozenset({408, 429, 502, 503, 504})
# Only the status of a response is used.
_MAX_RESPONSE_BYTES = 1 << 16
# The record of a run is written just after its last event.
_SETTLE_SECONDS = 0.1
_MAX_SETTLE_TRIES = 50
_EVENTS_AT_ONCE = 1_000
_CLOSE_SECONDS = 2.0

Sleep = Callable[[float], Awaitable[None]]


class DestinationState(msgspec.Struct, kw_only=True):
    """What this process knows of a destination since it started."""

    sent: int = 0
    dropped: int = 0
    """Traces that did not fit into the queue, or could not be delivered."""
    error: str = ""
    """Of the last trace; empty if it was delivered."""


@dataclass(frozen=True, slots=True)
class _EndedRun:
    """A run that has ended, and the mask of its secrets."""

    run: RunRecord
    mask: SecretMask


@dataclass(slots=True)
class _Sender:
    """The queue of one destination and the task that empties it."""

    destination: str
    """The id of the destination."""
    waiting: asyncio.Queue[_EndedRun] = field(
        default_factory=lambda: asyncio.Queue(_MAX_WAITING)
    )
    state: DestinationState = field(default_factory=DestinationState)
    task: "asyncio.Task[None] | None" = None


class TraceExport:
    """Sends the traces of runs to the destinations of their apps."""

    def __init__(
        self,
        destinations: TraceDestinations,
        journal: DatabaseJournal,
        egress: EgressClient,
        name_of: Callable[[RunRecord], str],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`name_of` returns the name of a run's app."""
        self._destinations = destinations
        self._journal = journal
        self._egress = egress
        self._name_of = name_of
        self._sleep = sleep
        self._senders: dict[str, _Sender] = {}

    def state(self, destination: str) -> DestinationState:
        """Return what became of the traces for a destination."""
        # Without a trace since the start there is no sender.
        sender = self._senders.get(destination)
        return sender.state if sender is not None else DestinationState()

    async def run_ended(
        self,
        run: RunRecord,
        pool: VariablePool,
        response_text: str,
        events: Sequence[AnyEvent],
    ) -> None:
        """Queue the trace of a run that has ended. Never waits and never fails."""
        # The stored events are complete; these are those of one process.
        del response_text, events
        if run.status is Status.PAUSED or not run.app:
            return
        rows = [
            row
            for row, _, destination in self._destinations.of_app(run.tenant, run.app)
            if destination.is_enabled
        ]
        if rows:
            # A model may repeat a secret, and records keep what it says.
            mask = SecretMask.of(pool)
            for row in rows:
                self._enqueue(row, _EndedRun(run, mask))

    async def send_test(self, tenant: str, app: str, name: str, now: float) -> str:
        """Send a trace of one span to a destination, once; return why it was not
        accepted, or an empty text. `now` is the Unix time of the span.

        Neither queued nor counted. Raises NotFoundError, InvokeBadRequestError for a
        destination that is disabled, SecretError, and ConfigError if OpenTelemetry is
        not installed.
        """
        destination = self._destinations.active_by_name(tenant, app, name)
        span = probe_span(destination.id, now)
        body = await asyncio.to_thread(_encoded, [span], destination)
        error, _ = await self._try(destination, body)
        return error

    def _enqueue(self, destination: str, ended: "_EndedRun") -> None:
        """Queue a trace for one destination, and start its sender if it is idle."""
        sender = self._senders.setdefault(destination, _Sender(destination))
        try:
            sender.waiting.put_nowait(ended)
        # Waiting for room would hold up the run.
        except asyncio.QueueFull:
            sender.state.dropped += 1
            return
        if sender.task is None or sender.task.done():
            sender.task = asyncio.create_task(self._empty(sender))

    async def _empty(self, sender: _Sender) -> None:
        """Send everything that waits for one destination, in order."""
        while not sender.waiting.empty():
            ended = sender.waiting.get_nowait()
            try:
                error = await self._export(ended, sender.destination)
            except ModelyardError as failure:
                error = str(failure)
            # A fault with one trace must not keep the others from being sent.
            except Exception as failure:
                logger.exception("trace cannot be exported")
                error = type(failure).__name__
            sender.state.error = error
            sender.state.sent += not error
            sender.state.dropped += bool(error)

    async def _export(self, ended_run: "_EndedRun", destination_id: str) -> str:
        """Send the trace of a run; return why it was dropped, or an empty text."""
        run = ended_run.run
        # Read only now: the credentials may have been changed while it waited.
        destination = next(
            (
                active
                for active in self._destinations.active(run.tenant, run.app)
                if active.id == destination_id
            ),
            None,
        )
        # Removed or disabled in the meantime: nothing was lost that is still wanted.
        if destination is None:
            return ""
        ended = await self._ended(run)
        events = await self._events(run)
        spans = await asyncio.to_thread(
            spans_of,
            ended,
            self._name_of(run),
            events,
            has_content=destination.content,
            mask=ended_run.mask.text,
        )
        body = await asyncio.to_thread(_encoded, spans, destination)
        return await self._send(destination, body)

    async def _ended(self, run: RunRecord) -> RunRecord:
        """Return the stored record of a run, which is written just after its end."""
        for _ in range(_MAX_SETTLE_TRIES):
            stored = await self._journal.find(run.tenant, run.id)
            if stored is not None and stored.status.is_over:
                return stored
            await self._sleep(_SETTLE_SECONDS)
        return run

    async def _events(self, run: RunRecord) -> list[AnyEvent]:
        """Return all stored events of a run."""
        events: list[AnyEvent] = []
        last_number = 0
        while True:
            page = await self._journal.events(run.id, last_number, _EVENTS_AT_ONCE)
            events += [event for _, event in page]
            # A short page is the last one.
            if len(page) < _EVENTS_AT_ONCE:
                return events
            last_number = page[-1][0]

    async def _send(self, destination: ActiveDestination, body: bytes) -> str:
        """Send a trace, with retries if the destination is away or busy; return why it
        was dropped, or an empty text."""
        error, is_temporary = await self._try(destination, body)
        for pause in _RETRY_SECONDS:
            if not (error and is_temporary):
                break
            await self._sleep(pause)
            error, is_temporary = await self._try(destination, body)
        if error:
            logger.warning("trace dropped", extra={"fields": {"error": error}})
        return error

    async def _try(
        self, destination: ActiveDestination, body: bytes
    ) -> tuple[str, bool]:
        """Send a trace once. Return why it was not accepted, or an empty text; and
        whether another try may work."""
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                # No redirects: another origin must not receive what runs contain.
                response = await self._egress.fetch_once(
                    "POST",
                    destination.url,
                    headers=[*destination.headers.items(), _PROTOBUF],
                    body=body,
                    max_bytes=_MAX_RESPONSE_BYTES,
                )
        except TimeoutError:
            return "The destination did not answer in time", True
        except EgressError as failure:
            # An address that must not be reached stays one.
            return str(failure), not isinstance(failure, EgressRefusedError)
        if 200 <= response.status < 300:
            return "", False
        error = f"The destination answered with status {response.status}"
        return error, response.status in _TEMPORARY

    async def aclose(self) -> None:
        """Send what can be sent within two seconds, then stop."""
        tasks = [sender.task for sender in self._senders.values() if sender.task]
        if not tasks:
            return
        # Senders that hang are not waited for: a stop has its own time limit.
        await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _encoded(spans: Sequence[RunSpan], destination: ActiveDestination) -> bytes:
    """Return the request body for spans. Raises ConfigError if OpenTelemetry is not
    installed."""
    # Imported here because the package is optional and slow to load.
    from modelyard.transport.otlp_spans import encode_spans

    # Phoenix sorts spans into projects by this attribute of their source.
    name = "openinference.project.name"
    resource = {name: destination.project} if destination.project else {}
    return encode_spans(spans, resource)
