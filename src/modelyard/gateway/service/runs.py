"""Runs of an app: each found, stopped and told by this app's callers alone."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply, sse_reply
from modelyard.gateway.service.calls import Call, ServiceError, error_document, problem_of
from modelyard.gateway.service.events import ServiceEvents, problem_of_run
from modelyard.gateway.service.parts import Telling, fed
from modelyard.gateway.service.shapes import Result
from modelyard.models.types import JSON
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.runs import Runs
from modelyard.workflow.variables import WorkflowError

PING_SECONDS = 10.0
PING = b"event: ping\n\n"
_PAUSE_SECONDS = 0.5
"""Between two looks at a run that waits for somebody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """How a run's events are followed."""

    after: int = 0
    """The number of the last event that is known already."""
    goes_on: bool = False
    """Whether a pause is waited out."""
    is_numbered: bool = False
    """Whether each event says its number. Widely used clients read `data:` lines alone and trip over others."""


@dataclass(frozen=True, slots=True)
class AppRuns:
    """Finds, stops and tells runs."""

    runs: Runs

    async def find(self, call: Call, run_id: str) -> RunRecord:
        """A run of the called app. Raises NotFoundError."""
        run = await self.runs.find(call.tenant, run_id)
        if run.app != call.found.id:
            raise _missing(run_id)
        return run

    async def of_user(self, call: Call, run_id: str) -> RunRecord:
        """A run of the called app that was begun for this user. Raises NotFoundError, ServiceError."""
        user = call.user
        run = await self.find(call, run_id)
        if run.user != user:
            raise _missing(run_id)
        return run

    async def stop(self, call: Call) -> Reply:
        """End the run that the address names. Whether it was there is told to nobody. Raises ServiceError."""
        task = call.names["task_id"]
        with suppress(NotFoundError):
            await self.of_user(call, task)
            await self.runs.stop(call.tenant, task)
        return json_reply(Result())

    async def answer(self, run: RunRecord, call: Call, *, is_streaming: bool) -> Reply | StreamReply:
        """What comes of a run that was just begun: its events, or its whole answer."""
        if is_streaming:
            return self.events(run, call, Watching())
        return await _begun(self._whole(run, call), call.request)

    # events

    def events(self, run: RunRecord, call: Call, watching: Watching) -> StreamReply:
        """The run's events as they come, in the service API's words."""
        telling = ServiceEvents(run, end_user=call.end_user())

        def error_event(error: ModelyardError) -> JSON:
            status, code = problem_of(error)
            return telling.error_event(status, code, str(error))

        return self.stream(run, telling, error_event, watching)

    def stream(
        self, run: RunRecord, telling: Telling, error_event: Callable[[ModelyardError], JSON], watching: Watching
    ) -> StreamReply:
        """The run's events as they come. `error_event`: the last of them, where they break off."""
        pieces = self._pieces(run, telling, watching)
        return sse_reply(pieces, lambda error: b"data: " + encode(error_event(error)) + b"\n\n")

    async def _pieces(self, run: RunRecord, telling: Telling, watching: Watching) -> AsyncGenerator[bytes, None]:
        """The run's events as they come, and a ping where nothing does."""
        queue: asyncio.Queue[tuple[int, Any] | ModelyardError | None] = asyncio.Queue(maxsize=1000)
        task = asyncio.ensure_future(self._watch(run, watching, queue))
        try:
            while True:
                try:
                    async with asyncio.timeout(PING_SECONDS):
                        came = await queue.get()
                except TimeoutError:
                    yield PING
                    continue
                if came is None:
                    return
                if isinstance(came, ModelyardError):
                    raise came
                number, event = came
                for document in telling.feed(event):
                    ending = b"\nid: %d\n\n" % number if watching.is_numbered else b"\n\n"
                    yield b"data: " + encode(document) + ending
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(
        self, run: RunRecord, watching: Watching, queue: "asyncio.Queue[tuple[int, Any] | ModelyardError | None]"
    ) -> None:
        """Put the run's numbered events into the queue; at the end None, or the error that ended it."""
        number = watching.after
        try:
            while True:
                async with aclosing(self.runs.watch(run.tenant, run.id, after=number)) as events:
                    async for numbered in events:
                        number = numbered[0]
                        await queue.put(numbered)
                record = await self.runs.find(run.tenant, run.id)
                if not watching.goes_on or record.status.is_over:
                    break
                await asyncio.sleep(_PAUSE_SECONDS)
            await queue.put(None)
        except ModelyardError as error:
            await queue.put(error)

    # whole answers

    async def _whole(self, run: RunRecord, call: Call) -> AsyncGenerator[bytes, None]:
        """The answer once there is one. Blanks keep the connection open while it is not."""
        work = asyncio.ensure_future(self._to_its_end(run, call))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=PING_SECONDS)
                if not work.done():
                    yield b" "
            yield encode(_whole_answer(run, work.result()))
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _to_its_end(self, run: RunRecord, call: Call) -> ServiceEvents:
        """All that is told of a run, at its end. Raises ServiceError where an answer failed."""
        telling = ServiceEvents(run, end_user=call.end_user())
        async with aclosing(fed(self.runs, run, telling)) as pieces:
            async for _ in pieces:
                pass
        if telling.finished is None:
            raise WorkflowError("the run ended without a word")
        if telling.says_messages and telling.finished["status"] == Status.FAILED.value:
            raise ServiceError(*problem_of_run(telling.error_type), telling.error)
        return telling


def _missing(run_id: str) -> NotFoundError:
    return NotFoundError(f"run {run_id[:80]!r} does not exist")


def _whole_answer(run: RunRecord, telling: ServiceEvents) -> JSON:
    """A ChatAnswer, a CompletionAnswer or a WorkflowAnswer, by what ran."""
    if not telling.says_messages:
        return {"task_id": run.id, "workflow_run_id": run.id, "data": telling.finished}
    message = run.message or run.id
    answer: JSON = {
        "event": "message", "task_id": run.id, "id": message, "message_id": message, "mode": run.mode,
        "answer": "".join(telling.answer), "metadata": telling.metadata(), "created_at": int(run.created_at),
    }  # fmt: skip
    return {**answer, "conversation_id": run.conversation} if run.conversation else answer


async def _begun(pieces: AsyncGenerator[bytes, None], request: Request) -> Reply | StreamReply:
    """A whole answer that may take long. Its first piece is waited for: an early end, an error too, is an answer with
    a status of its own."""

    async def first() -> bytes | None:
        return await anext(pieces, None)

    try:
        piece = await request.while_here(first())
    except BaseException:
        await pieces.aclose()
        raise
    if piece is not None and piece.strip():
        await pieces.aclose()
        return Reply(piece)
    return StreamReply(
        _continued(piece or b" ", pieces),
        lambda error: encode(error_document(error)),
        [(b"content-type", b"application/json")],
    )


async def _continued(first: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        yield first
        async for piece in pieces:
            yield piece
