"""/admin/v1/runs: a run, its events, and how it is stopped, paused and resumed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.fields import whole_number
from modelyard.gateway.admin.app_shapes import RunShown
from modelyard.gateway.admin.requests import tenant_of
from modelyard.gateway.admin.shapes import Done
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply, sse_reply
from modelyard.models.types import JSON
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.runs import Runs


@dataclass(frozen=True, slots=True)
class RunCalls:
    """Runs of any of a tenant's apps."""

    runs: Runs

    async def one(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        return json_reply(run_shown(await self._found(request)))

    async def events(self, request: Request) -> StreamReply:
        """From its beginning, or from what follows `after`, and on as they come. Raises NotFoundError."""
        run = await self._found(request)
        after = whole_number(request.query("after") or "0") or 0
        return sse_reply(told(self.runs, run, after), broken_run)

    async def stop(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        run = await self._found(request)
        return json_reply(Done(done=await self.runs.stop(run.tenant, run.id)))

    async def pause(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        run = await self._found(request)
        return json_reply(Done(done=await self.runs.pause(run.tenant, run.id)))

    async def resume(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        run = await self._found(request)
        return json_reply(Done(done=await self.runs.resume(run.tenant, run.id)))

    async def _found(self, request: Request) -> RunRecord:
        return await self.runs.find(tenant_of(request), request.names["id"])


def run_shown(one: RunRecord) -> RunShown:
    return RunShown(
        id=one.id, app=one.app, status=one.status.value, inputs=one.inputs, outputs=one.outputs, error=one.error,
        created_at=one.created_at, finished_at=one.finished_at, elapsed=one.elapsed, total_tokens=one.total_tokens,
        total_steps=one.total_steps, created_from=one.created_from, user=one.user,
    )  # fmt: skip


def broken_run(error: ModelyardError) -> bytes:
    return b"data: " + encode({"event": "error", "message": str(error)}) + b"\n\n"


async def told(runs: Runs, run: RunRecord, after: int = 0) -> AsyncGenerator[bytes, None]:
    """A run's events, each with its number, so that whoever lost the line goes on from there."""
    first: JSON = {"event": "run", "run": msgspec.to_builtins(run_shown(run))}
    yield b"data: " + encode(first) + b"\n\n"
    async with aclosing(runs.watch(run.tenant, run.id, after=after)) as events:
        async for number, event in events:
            yield b"id: %d\ndata: " % number + encode(event) + b"\n\n"
    ended = await runs.find(run.tenant, run.id)
    yield b"data: " + encode({"event": "end", "run": msgspec.to_builtins(run_shown(ended))}) + b"\n\n"
