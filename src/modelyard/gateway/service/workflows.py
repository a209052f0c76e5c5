"""Workflow apps: run, looked at, stopped, watched again."""

import json
from dataclasses import dataclass
from datetime import datetime

from modelyard.base.fields import whole_number
from modelyard.gateway.http import Reply, StreamReply, json_reply
from modelyard.gateway.service.agui import AgUiRuns
from modelyard.gateway.service.calls import (
    Call,
    ServiceError,
    end_user_id,
    list_of,
    made_id,
    mapping_of,
    seconds,
)
from modelyard.gateway.service.runs import AppRuns, Watching
from modelyard.gateway.service.shapes import EndUserSummary, LogShown, RunShown, RunSummary
from modelyard.gateway.service.versions import Versions
from modelyard.workflow.chats import Chats
from modelyard.workflow.journal import DatabaseJournal, RunRecord

_STATUSES = ("succeeded", "failed", "stopped", "partial-succeeded", "running", "paused")
_LATEST = 1e15
"""Later than any run: seconds since 1970."""


@dataclass(frozen=True, slots=True)
class WorkflowCalls:
    """Begins runs of workflow apps, and shows those of workflows and chatflows."""

    chats: Chats
    runs: AppRuns
    versions: Versions
    agui: AgUiRuns
    journal: DatabaseJournal

    async def run(self, call: Call) -> Reply | StreamReply:
        """POST /v1/workflows/run."""
        call.must_be("workflow")
        return await self._run(call)

    async def run_version(self, call: Call) -> Reply | StreamReply:
        """POST /v1/workflows/ID/run: a version by its id; the app's own id is the one that is published."""
        call.must_be("workflow")
        name = call.names["workflow_id"]
        if name != call.found.id:
            call = await self.versions.at(call, name)
        return await self._run(call)

    async def _run(self, call: Call) -> Reply | StreamReply:
        # What is wrong with the call is said before a run begins.
        user, is_streaming = call.user, call.is_streaming
        run = await self.chats.run(
            call.found, call.app, inputs=mapping_of(call.body, "inputs"), user=user, files=list_of(call.body, "files")
        )
        return await self.runs.answer(run, call, is_streaming=is_streaming)

    async def stop(self, call: Call) -> Reply:
        """POST /v1/workflows/tasks/ID/stop."""
        call.must_be("workflow")
        return await self.runs.stop(call)

    async def detail(self, call: Call) -> Reply:
        """GET /v1/workflows/run/ID."""
        call.must_be("workflow", "advanced-chat")
        run = await self.runs.find(call, call.names["workflow_run_id"])
        return json_reply(RunShown(
            id=run.id, workflow_id=run.system.get("workflow_id"), status=run.status.value,
            inputs=json.dumps(run.inputs, ensure_ascii=False), outputs=run.outputs, error=run.error or None,
            total_steps=run.total_steps, total_tokens=run.total_tokens, created_at=int(run.created_at),
            finished_at=seconds(run.finished_at), elapsed_time=round(run.elapsed, 6),
        ))  # fmt: skip

    async def logs(self, call: Call) -> Reply:
        """GET /v1/workflows/logs."""
        page, limit = call.number("page", 1, 10_000), call.number("limit", 20)
        status = call.request.query("status") or ""
        if status and status not in _STATUSES:
            raise ServiceError(400, "invalid_param", f"status {status[:40]!r} is none; succeeded, failed, stopped are")
        runs, total = await self.journal.list(
            call.tenant, call.found.id, status=status, before=_moment(call, "created_at__before", _LATEST),
            since=_moment(call, "created_at__after", 0.0), most=limit, skip=(page - 1) * limit,
        )  # fmt: skip
        session = call.request.query("created_by_end_user_session_id")
        shown = [_log(run) for run in runs if session in (None, run.user)]
        has_more = page * limit < total
        return json_reply({"page": page, "limit": limit, "total": total, "has_more": has_more, "data": shown})

    async def watch(self, call: Call) -> StreamReply:
        """GET /v1/workflow/ID/events: a run's events from the beginning, or after a number: what a caller that lost
        its connection asks for."""
        is_agui = call.request.query("format") == "ag-ui"
        if not is_agui:
            call.must_be("workflow", "advanced-chat")
        run = await self.runs.of_user(call, call.names["workflow_run_id"])
        if is_agui:
            return self.agui.stream(run)
        last = call.request.header(b"last-event-id") or call.request.query("after") or "0"
        goes_on = (call.request.query("continue_on_pause") or "").lower() == "true"
        watching = Watching(after=whole_number(last) or 0, goes_on=goes_on, is_numbered=True)
        return self.runs.events(run, call, watching)


def _log(run: RunRecord) -> LogShown:
    user = end_user_id(run.tenant, run.app, run.user)
    summary = RunSummary(
        id=run.id, version=run.digest, status=run.status.value, error=run.error or None,
        elapsed_time=round(run.elapsed, 6), total_tokens=run.total_tokens, total_steps=run.total_steps,
        created_at=int(run.created_at), finished_at=seconds(run.finished_at), exceptions_count=run.exceptions_count,
    )  # fmt: skip
    return LogShown(
        id=made_id(run.id), workflow_run=summary, created_from=run.created_from, created_by_role="end_user",
        created_by_account=None, created_at=int(run.created_at), details=None,
        created_by_end_user=EndUserSummary(id=user, type="service_api", is_anonymous=False, session_id=run.user),
    )  # fmt: skip


def _moment(call: Call, name: str, default: float) -> float:
    """A date of the address's query. Raises ServiceError for what is none."""
    text = call.request.query(name)
    if not text:
        return default
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ServiceError(400, "invalid_param", f"{name} must be an ISO 8601 date, not {text[:40]!r}") from None
