"""/admin/v1/runs: a run and its events; stop, pause and resume."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.fields import whole_number
from modelyard.gateway.admin.app_shapes import FormMailView, RunDetails, RunView
from modelyard.gateway.admin.requests import tenant_of
from modelyard.gateway.admin.shapes import ActionResult
from modelyard.gateway.http import (
    Reply,
    Request,
    StreamReply,
    encode,
    json_reply,
    sse_reply,
)
from modelyard.models.types import JSON
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.runs import Runs


@dataclass(frozen=True, slots=True)
class RunCalls:
    """Routes for the runs of all apps of a tenant."""

    runs: Runs

    async def get_run(self, request: Request) -> Reply:
        """Return one run.

        Raises NotFoundError.
        """
        run = await self._requested_run(request)
        mails = await self.runs.journal.forms.mails.of_run(run.tenant, run.id)
        view = msgspec.structs.asdict(run_view(run))
        return json_reply(
            RunDetails(**view, mails=msgspec.convert(mails, list[FormMailView]))
        )

    async def events(self, request: Request) -> StreamReply:
        """Stream the events of a run, from the start or after the event number `after`,
        and new ones as they happen.

        Raises NotFoundError.
        """
        run = await self._requested_run(request)
        # A value that is no number means the start: repeated events do less harm than
        # missing ones.
        after_event = whole_number(request.query("after") or "0") or 0
        return sse_reply(run_events(self.runs, run, after_event), broken_run)

    async def stop(self, request: Request) -> Reply:
        """Stop a run.

        Raises NotFoundError.
        """
        run = await self._requested_run(request)
        return json_reply(ActionResult(done=await self.runs.stop(run.tenant, run.id)))

    async def pause(self, request: Request) -> Reply:
        """Pause a run.

        Raises NotFoundError.
        """
        run = await self._requested_run(request)
        return json_reply(ActionResult(done=await self.runs.pause(run.tenant, run.id)))

    async def resume(self, request: Request) -> Reply:
        """Resume a paused run.

        Raises NotFoundError.
        """
        run = await self._requested_run(request)
        return json_reply(ActionResult(done=await self.runs.resume(run.tenant, run.id)))

    async def _requested_run(self, request: Request) -> RunRecord:
        """Return the run of the request's path.

        Raises NotFoundError.
        """
        return await self.runs.find(tenant_of(request), request.names["id"])


def run_view(run: RunRecord) -> RunView:
    """Return the view of a run."""
    return RunView(
        id=run.id,
        app=run.app,
        status=run.status.value,
        inputs=run.inputs,
        outputs=run.outputs,
        error=run.error,
        created_at=run.created_at,
        finished_at=run.finished_at,
        elapsed=run.elapsed,
        total_tokens=run.total_tokens,
        total_steps=run.total_steps,
        created_from=run.created_from,
        user=run.user,
    )


def broken_run(error: ModelyardError) -> bytes:
    """Return the last event of a run's stream that failed."""
    return (
        b"data: " + encode({"event": "error", "message": error.public_text}) + b"\n\n"
    )


async def run_events(
    runs: Runs, run: RunRecord, after_event: int = 0
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a run as SSE. Each has its number as its id, so that a client
    can resume after a lost connection."""
    # The first event is the run itself: it tells the client the id to resume with.
    first: JSON = {"event": "run", "run": msgspec.to_builtins(run_view(run))}
    yield b"data: " + encode(first) + b"\n\n"
    # Closed at once if the client disconnects, and not when garbage is collected.
    async with aclosing(runs.watch(run.tenant, run.id, after=after_event)) as events:
        async for number, event in events:
            yield b"id: %d\ndata: " % number + encode(event) + b"\n\n"
    # Read the run again, because its outputs and its status are final only now.
    ended = await runs.find(run.tenant, run.id)
    yield (
        b"data: "
        + encode({"event": "end", "run": msgspec.to_builtins(run_view(ended))})
        + b"\n\n"
    )
