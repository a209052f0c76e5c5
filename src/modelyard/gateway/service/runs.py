"""Runs of an app: find, stop, and stream or return their results. An app's callers
reach that app's runs only."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.gateway.http import (
    Reply,
    Request,
    StreamReply,
    encode,
    json_reply,
    sse_reply,
)
from modelyard.gateway.service.calls import (
    Call,
    ServiceError,
    error_document,
    status_and_code,
)
from modelyard.gateway.service.dependencies import EventTranslator, translate_events
from modelyard.gateway.service.events import ServiceEvents, status_and_code_of_run
from modelyard.gateway.service.shapes import Result
from modelyard.models.types import JSON
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.runs import Runs
from modelyard.workflow.variables import WorkflowError

logger = logging.getLogger("modelyard.gateway")

# Proxies close connections that are idle for long; a ping or a blank keeps them open.
PING_SECONDS = 10.0
PING = b"event: ping\n\n"
_PAUSE_POLL_SECONDS = 0.5
"""Seconds between two checks of a paused run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """Options for following a run's events."""

    after: int = 0
    """Number of the last event that the client has. Only later ones are sent."""
    goes_on: bool = False
    """Whether to keep the stream open while the run is paused."""
    is_numbered: bool = False
    """Whether events carry their number as an SSE `id`. Off by default: widely used
    clients only parse `data:` lines."""


@dataclass(frozen=True, slots=True)
class AppRuns:
    """Finds, stops and streams the runs of the called app."""

    runs: Runs

    async def find(self, call: Call, run_id: str) -> RunRecord:
        """Return a run of the called app. Raises NotFoundError."""
        run = await self.runs.find(call.tenant, run_id)
        if run.app != call.found.id:
            raise _missing(run_id)
        return run

    async def of_user(self, call: Call, run_id: str) -> RunRecord:
        """Return a run of the called app that was started for this user. Raises
        NotFoundError or ServiceError."""
        user = call.user
        run = await self.find(call, run_id)
        if run.user != user:
            raise _missing(run_id)
        return run

    async def stop(self, call: Call) -> Reply:
        """Stop the run in the path. Always succeeds, so that callers cannot probe for
        run ids. Raises ServiceError if no user is stated."""
        task = call.names["task_id"]
        with suppress(NotFoundError):
            await self.of_user(call, task)
            await self.runs.stop(call.tenant, task)
        return json_reply(Result())

    async def answer(
        self, run: RunRecord, call: Call, *, is_streaming: bool
    ) -> Reply | StreamReply:
        """Return the reply for a run that was just started: a stream of events or the
        complete answer."""
        call.request.is_recorded = True
        if is_streaming:
            return self.events(run, call, WatchOptions())
        return await _reply_after_first_chunk(
            self._complete_chunks(run, call), call.request
        )

    # Streaming.

    def events(self, run: RunRecord, call: Call, watching: WatchOptions) -> StreamReply:
        """Stream the run's events in the service API's format."""
        telling = ServiceEvents(run, end_user=call.end_user())

        def error_event(error: ModelyardError) -> JSON:
            """Return the API's error event for an error that ends the stream."""
            status, code = status_and_code(error)
            return telling.error_event(status, code, error.public_text)

        return self.stream(run, telling, error_event, watching)

    def stream(
        self,
        run: RunRecord,
        telling: EventTranslator,
        error_event: Callable[[ModelyardError], JSON],
        watching: WatchOptions,
    ) -> StreamReply:
        """Stream the run's events through a translator. `error_event` makes the last
        event if the stream breaks off."""
        chunks = self._event_chunks(run, telling, watching)
        return sse_reply(
            chunks, lambda error: b"data: " + encode(error_event(error)) + b"\n\n"
        )

    async def _event_chunks(
        self, run: RunRecord, telling: EventTranslator, watching: WatchOptions
    ) -> AsyncGenerator[bytes, None]:
        """Yield events as server-sent events, and a ping after 10 s without any."""
        # A bounded queue separates reading from sending: a slow client slows the reader
        # down instead of filling memory.
        queue: asyncio.Queue[tuple[int, Any] | ModelyardError | None] = asyncio.Queue(
            maxsize=1000
        )
        # Cancelling an async generator in mid-read would break it, so the timeout
        # applies to the queue instead.
        task = asyncio.ensure_future(self._watch(run, watching, queue))
        try:
            while True:
                try:
                    async with asyncio.timeout(PING_SECONDS):
                        received = await queue.get()
                except TimeoutError:
                    yield PING
                    continue
                if received is None:
                    return
                if isinstance(received, ModelyardError):
                    raise received
                number, event = received
                for document in telling.feed(event):
                    # `id` lets a client resume with `Last-Event-ID`.
                    ending = (
                        b"\nid: %d\n\n" % number if watching.is_numbered else b"\n\n"
                    )
                    yield b"data: " + encode(document) + ending
        finally:
            # Runs on disconnect too: without it the watching task would outlive the
            # response.
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(
        self,
        run: RunRecord,
        watching: WatchOptions,
        queue: "asyncio.Queue[tuple[int, Any] | ModelyardError | None]",
    ) -> None:
        """Put the run's numbered events into the queue, then None, or the error that
        ended the stream."""
        number = watching.after
        try:
            # The watch ends at every pause; with `goes_on` it is restarted after the
            # last event that was delivered.
            while True:
                async with aclosing(
                    self.runs.watch(run.tenant, run.id, after=number)
                ) as events:
                    async for numbered in events:
                        number = numbered[0]
                        await queue.put(numbered)
                record = await self.runs.find(run.tenant, run.id)
                if not watching.goes_on or record.status.is_over:
                    break
                await asyncio.sleep(_PAUSE_POLL_SECONDS)
            await queue.put(None)
        except ModelyardError as error:
            await queue.put(error)
        # Without an error in the queue the client would be sent pings for ever.
        except Exception as error:
            logger.exception("run watch failed", extra={"fields": {"run": run.id}})
            await queue.put(WorkflowError(f"The run's events cannot be read: {error}"))

    # Complete answers.

    async def _complete_chunks(
        self, run: RunRecord, call: Call
    ) -> AsyncGenerator[bytes, None]:
        """Yield the complete answer, preceded by blanks while it is not ready. JSON
        allows leading white space."""
        work = asyncio.ensure_future(self._follow_to_end(run, call))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=PING_SECONDS)
                if not work.done():
                    yield b" "
            yield encode(_complete_answer(run, work.result()))
        # Stops watching if the client disconnects; the run itself continues.
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _follow_to_end(self, run: RunRecord, call: Call) -> ServiceEvents:
        """Follow a run to its end and return the translator with the collected answer.
        Raises ServiceError if the answer failed."""
        telling = ServiceEvents(run, end_user=call.end_user())
        async with aclosing(translate_events(self.runs, run, telling)) as documents:
            async for _ in documents:
                pass
        if telling.finished is None:
            raise WorkflowError("Run ended without a final event")
        # Workflow apps report a failure inside a successful response, chat and
        # completion apps as an error.
        if telling.says_messages and telling.finished["status"] == Status.FAILED.value:
            raise ServiceError(
                *status_and_code_of_run(telling.error_type), telling.error
            )
        return telling


def _missing(run_id: str) -> NotFoundError:
    """Return the error for a run that does not exist or belongs to another app or user."""
    return NotFoundError(f"Run {run_id[:80]!r} does not exist")


def _complete_answer(run: RunRecord, telling: ServiceEvents) -> JSON:
    """Return a ChatAnswer, a CompletionAnswer or a WorkflowAnswer, depending on the
    app."""
    if not telling.says_messages:
        return {"task_id": run.id, "workflow_run_id": run.id, "data": telling.finished}
    message = run.message or run.id
    answer: JSON = {
        "event": "message",
        "task_id": run.id,
        "id": message,
        "message_id": message,
        "mode": run.mode,
        "answer": "".join(telling.answer),
        "metadata": telling.metadata(),
        "created_at": int(run.created_at),
    }
    # Only chat apps have conversations.
    return (
        {**answer, "conversation_id": run.conversation} if run.conversation else answer
    )


async def _reply_after_first_chunk(
    chunks: AsyncGenerator[bytes, None], request: Request
) -> Reply | StreamReply:
    """Return the reply for an answer that may take long.

    Waits for the first chunk, so that an early result or error gets a plain reply with
    its own status.
    """

    async def first() -> bytes | None:
        """Read the first chunk; None if the generator is exhausted."""
        return await anext(chunks, None)

    try:
        first_chunk = await request.cancel_on_disconnect(first())
    # BaseException: cancellation must close the generator too.
    except BaseException:
        await chunks.aclose()
        raise
    # A chunk that is not blank is the complete answer.
    if first_chunk is not None and first_chunk.strip():
        await chunks.aclose()
        return Reply(first_chunk)
    return StreamReply(
        _with_first_chunk(first_chunk or b" ", chunks),
        lambda error: encode(error_document(error)),
        [(b"content-type", b"application/json")],
    )


async def _with_first_chunk(
    first: bytes, chunks: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """Yield the first chunk, which was read already, and then the remaining ones."""
    async with aclosing(chunks):
        yield first
        async for chunk in chunks:
            yield chunk
