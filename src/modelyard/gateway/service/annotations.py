"""`/v1/apps/annotations` and `/v1/apps/annotation-reply`: what an app answers without a model."""

from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.base.ids import new_uuid
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import Call, ServiceError
from modelyard.gateway.service.shapes import AnnotationShown, Job, JobStatus
from modelyard.gateway.table import NoSuchPathError
from modelyard.models.types import JSON
from modelyard.workflow.annotations import Annotation, ReplySettings
from modelyard.workflow.features import Features

_MOST_JOBS = 1000
_ACTIONS = ("enable", "disable")


class AnnotationCalls:
    """Annotations of one app each, and whether they answer at all."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._annotations = features.annotations
        self._jobs: dict[str, tuple[str, str, str]] = {}
        """Job → (tenant, app, what went wrong): turning on makes vectors, and says so afterwards."""

    async def list(self, call: Call) -> Reply:
        """GET /v1/apps/annotations."""
        page, limit = call.number("page", 1, 100_000), call.number("limit", 20)
        keyword = call.request.query("keyword") or ""
        tenant, app = call.tenant, call.found.id
        kept = await self._annotations.page(tenant, app, keyword=keyword, most=limit, skip=(page - 1) * limit)
        total = await self._annotations.count(tenant, app, keyword)
        shown, has_more = [_shown(annotation) for annotation in kept], page * limit < total
        return json_reply({"data": shown, "has_more": has_more, "limit": limit, "total": total, "page": page})

    async def add(self, call: Call) -> Reply:
        """POST /v1/apps/annotations."""
        question, answer = _text(call.body, "question"), _text(call.body, "answer")
        made = await self._annotations.add(call.tenant, call.found.id, question, answer)
        return json_reply(_shown(made), status=201)

    async def change(self, call: Call) -> Reply:
        """PUT /v1/apps/annotations/ID."""
        question, answer = _text(call.body, "question"), _text(call.body, "answer")
        wanted = call.names["annotation_id"]
        changed = await self._annotations.change(call.tenant, call.found.id, wanted, question, answer)
        return json_reply(_shown(changed))

    async def remove(self, call: Call) -> Reply:
        """DELETE /v1/apps/annotations/ID."""
        await self._annotations.remove(call.tenant, call.found.id, call.names["annotation_id"])
        return Reply(b"", status=204)

    async def configure(self, call: Call) -> Reply:
        """POST /v1/apps/annotation-reply/ACTION: turn them on or off. What became of it, the job says."""
        action = call.names["action"]
        if action not in _ACTIONS:
            raise ServiceError(400, "invalid_param", f"action must be enable or disable, not {action[:40]!r}")
        settings = await self._settings(call, is_on=action == "enable")
        problem = await self._problem_with(call, settings)
        if not problem:
            await self._annotations.set(call.tenant, call.found.id, settings)
        job = self._kept_job(call, problem)
        return json_reply(Job(job_id=job, job_status="waiting"))

    async def _settings(self, call: Call, *, is_on: bool) -> ReplySettings:
        """As they are, with what the call changes. Raises ServiceError."""
        before = await self._features.reply_settings(call.found, call.app)
        body = call.body
        return ReplySettings(
            enabled=is_on,
            score_threshold=_threshold(body.get("score_threshold", before.score_threshold)),
            embedding_provider_name=str(body.get("embedding_provider_name") or before.embedding_provider_name),
            embedding_model_name=str(body.get("embedding_model_name") or before.embedding_model_name),
        )

    async def _problem_with(self, call: Call, settings: ReplySettings) -> str:
        """Why they cannot be turned on; empty where they can."""
        if not settings.enabled:
            return ""
        try:
            await self._annotations.prepare(call.tenant, call.found.id, settings)
        except ModelyardError as error:
            return str(error)
        return ""

    def _kept_job(self, call: Call, problem: str) -> str:
        """The id of a job that is over; the oldest is forgotten where there are many."""
        if len(self._jobs) >= _MOST_JOBS:
            self._jobs.pop(next(iter(self._jobs)))
        job = new_uuid()
        self._jobs[job] = (call.tenant, call.found.id, problem)
        return job

    async def status(self, call: Call) -> Reply:
        """GET /v1/apps/annotation-reply/ACTION/status/JOB."""
        if call.names["action"] not in _ACTIONS:
            raise NoSuchPathError(call.request.path, None)
        job = call.names["job_id"]
        tenant, app, problem = self._jobs.get(job, ("", "", ""))
        if (tenant, app) != (call.tenant, call.found.id):
            raise ServiceError(400, "invalid_param", "The job does not exist.")
        return json_reply(JobStatus(job_id=job, job_status="error" if problem else "completed", error_msg=problem))


def _shown(annotation: Annotation) -> AnnotationShown:
    return AnnotationShown(
        id=annotation.id, question=annotation.question, answer=annotation.answer, hit_count=annotation.hits,
        created_at=int(annotation.created_at),
    )  # fmt: skip


def _text(body: JSON, name: str) -> str:
    """Raises ServiceError where it is missing, or blank."""
    value: Any = body.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ServiceError(400, "invalid_param", f"{name} is required")
    return value


def _threshold(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ServiceError(400, "invalid_param", f"score_threshold must lie between 0 and 1, not {str(value)[:20]!r}")
    return float(value)
