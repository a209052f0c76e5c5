"""Handlers for workflow apps: run, stop, inspect, list and re-watch runs."""

import json
from dataclasses import dataclass
from datetime import datetime

from modelyard.base.fields import whole_number
from modelyard.gateway.http import Reply, StreamReply, json_reply
from modelyard.gateway.service.agui import AgUiRuns
from modelyard.gateway.service.calls import (
    Call,
    ServiceError,
    derived_id,
    end_user_id,
    list_of,
    mapping_of,
    seconds,
)
from modelyard.gateway.service.runs import AppRuns, WatchOptions
from modelyard.gateway.service.shapes import (
    EndUserSummary,
    LogShown,
    RunShown,
    RunSummary,
)
from modelyard.gateway.service.versions import Versions
from modelyard.workflow.chats import Chats
from modelyard.workflow.journal import DatabaseJournal, RunRecord

_STATUSES = ("succeeded", "failed", "stopped", "partial-succeeded", "running", "paused")
_LATEST = 1e15
"""A timestamp (seconds since 1970) later than any run."""


@dataclass(frozen=True, slots=True)
class WorkflowHandlers:
    """Handlers that start runs of workflow apps and show runs of workflows and
    chatflows."""

    chats: Chats
    runs: AppRuns
    versions: Versions
    agui: AgUiRuns
    journal: DatabaseJournal

    async def run(self, call: Call) -> Reply | StreamReply:
        """POST /v1/workflows/run."""
        call.require_mode("workflow")
        return await self._run(call)

    async def run_version(self, call: Call) -> Reply | StreamReply:
        """POST /v1/workflows/ID/run: run a version by its id. The app's own id runs the
        published version."""
        call.require_mode("workflow")
        name = call.names["workflow_id"]
        if name != call.found.id:
            call = await self.versions.at_version(call, name)
        return await self._run(call)

    async def _run(self, call: Call) -> Reply | StreamReply:
        """Start a run and return its reply."""
        # Validate the request before a run starts.
        user, is_streaming = call.user, call.is_streaming
        run = await self.chats.run(
            call.found,
            call.app,
            inputs=mapping_of(call.body, "inputs"),
            user=user,
            files=list_of(call.body, "files"),
        )
        return await self.runs.answer(run, call, is_streaming=is_streaming)

    async def stop(self, call: Call) -> Reply:
        """POST /v1/workflows/tasks/ID/stop."""
        call.require_mode("workflow")
        return await self.runs.stop(call)

    async def detail(self, call: Call) -> Reply:
        """GET /v1/workflows/run/ID."""
        call.require_mode("workflow", "advanced-chat")
        run = await self.runs.find(call, call.names["workflow_run_id"])
        return json_reply(
            RunShown(
                id=run.id,
                workflow_id=run.system.get("workflow_id"),
                status=run.status.value,
                # Clients expect the inputs as JSON text, unlike the outputs.
                inputs=json.dumps(run.inputs, ensure_ascii=False),
                outputs=run.outputs,
                error=run.error or None,
                total_steps=run.total_steps,
                total_tokens=run.total_tokens,
                created_at=int(run.created_at),
                finished_at=seconds(run.finished_at),
                elapsed_time=round(run.elapsed, 6),
            )
        )

    async def logs(self, call: Call) -> Reply:
        """GET /v1/workflows/logs."""
        page, limit = (
            call.positive_int("page", 1, 10_000),
            call.positive_int("limit", 20),
        )
        status = call.request.query("status") or ""
        if status and status not in _STATUSES:
            raise ServiceError(
                400,
                "invalid_param",
                f"Status {status[:40]!r} is unknown; expected succeeded, failed, stopped",
            )
        runs, total = await self.journal.list(
            call.tenant,
            call.found.id,
            status=status,
            created_before=_timestamp_param(call, "created_at__before", _LATEST),
            since=_timestamp_param(call, "created_at__after", 0.0),
            limit=limit,
            skip=(page - 1) * limit,
        )
        session = call.request.query("created_by_end_user_session_id")
        # The user filter applies to the page after it was read, so a page may be
        # shorter than its limit.
        log_entries = [_log(run) for run in runs if session in (None, run.user)]
        has_more = page * limit < total
        return json_reply(
            {
                "page": page,
                "limit": limit,
                "total": total,
                "has_more": has_more,
                "data": log_entries,
            }
        )

    async def watch(self, call: Call) -> StreamReply:
        """GET /v1/workflow/ID/events: stream a run's events from the start or after a
        number, for clients that lost the connection."""
        is_agui = call.request.query("format") == "ag-ui"
        # AG-UI streams work for every kind of app, the service API's only for those
        # that show nodes, or whose agents may have asked a person.
        if not is_agui:
            call.require_mode("workflow", "advanced-chat", "agent", "agent-chat")
        run = await self.runs.of_user(call, call.names["workflow_run_id"])
        if is_agui:
            return self.agui.stream(run)
        # `Last-Event-ID` is what browsers send by themselves when they reconnect.
        last = (
            call.request.header(b"last-event-id") or call.request.query("after") or "0"
        )
        goes_on = (call.request.query("continue_on_pause") or "").lower() == "true"
        watching = WatchOptions(
            after=whole_number(last) or 0, goes_on=goes_on, is_numbered=True
        )
        return self.runs.events(run, call, watching)


def _log(run: RunRecord) -> LogShown:
    """Return a run as an entry of the log."""
    user = end_user_id(run.tenant, run.app, run.user)
    summary = RunSummary(
        id=run.id,
        version=run.digest,
        status=run.status.value,
        error=run.error or None,
        elapsed_time=round(run.elapsed, 6),
        total_tokens=run.total_tokens,
        total_steps=run.total_steps,
        created_at=int(run.created_at),
        finished_at=seconds(run.finished_at),
        exceptions_count=run.exceptions_count,
    )
    return LogShown(
        id=derived_id(run.id),
        workflow_run=summary,
        created_from=run.created_from,
        created_by_role="end_user",
        created_by_account=None,
        created_at=int(run.created_at),
        details=None,
        created_by_end_user=EndUserSummary(
            id=user, type="service_api", is_anonymous=False, session_id=run.user
        ),
    )


def _timestamp_param(call: Call, name: str, default: float) -> float:
    """Return a timestamp from the query string, or the default. Raises ServiceError if
    it is not an ISO 8601 date."""
    text = call.request.query(name)
    if not text:
        return default
    try:
        # A date without a time zone is read in the server's zone.
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ServiceError(
            400,
            "invalid_param",
            f"{name!r} must be an ISO 8601 date, not {text[:40]!r}",
        ) from None
