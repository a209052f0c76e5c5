"""`/v1/apps/annotations` and `/v1/apps/annotation-reply`: prepared answers that an app
gives without calling a model."""

from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import Call, ServiceError, is_uuid
from modelyard.gateway.service.shapes import AnnotationShown, Job, JobStatus
from modelyard.gateway.table import NoSuchPathError
from modelyard.models.types import JSON
from modelyard.workflow.annotations import Annotation, ReplySettings
from modelyard.workflow.features import Features

_ACTIONS = ("enable", "disable")


class AnnotationHandlers:
    """Handlers for one app's annotations and for enabling its annotation reply."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._annotations = features.annotations

    async def list(self, call: Call) -> Reply:
        """GET /v1/apps/annotations."""
        page, limit = (
            call.positive_int("page", 1, 100_000),
            call.positive_int("limit", 20),
        )
        keyword = call.request.query("keyword") or ""
        tenant, app = call.tenant, call.found.id
        # Pages are counted from 1.
        annotations = await self._annotations.page(
            tenant,
            app,
            keyword=keyword,
            limit=limit,
            skip=(page - 1) * limit,
        )
        total = await self._annotations.count(tenant, app, keyword)
        annotation_views, has_more = (
            [_annotation_view(annotation) for annotation in annotations],
            page * limit < total,
        )
        return json_reply(
            {
                "data": annotation_views,
                "has_more": has_more,
                "limit": limit,
                "total": total,
                "page": page,
            }
        )

    async def add(self, call: Call) -> Reply:
        """POST /v1/apps/annotations."""
        question, answer = _text(call.body, "question"), _text(call.body, "answer")
        tenant, app_id = call.tenant, call.found.id
        created = await self._annotations.add(tenant, app_id, question, answer)
        return json_reply(_annotation_view(created), status=201)

    async def change(self, call: Call) -> Reply:
        """PUT /v1/apps/annotations/ID."""
        question, answer = _text(call.body, "question"), _text(call.body, "answer")
        annotation_id = call.names["annotation_id"]
        changed = await self._annotations.update(
            call.tenant,
            call.found.id,
            annotation_id,
            question,
            answer,
        )
        return json_reply(_annotation_view(changed))

    async def remove(self, call: Call) -> Reply:
        """DELETE /v1/apps/annotations/ID."""
        await self._annotations.delete(
            call.tenant,
            call.found.id,
            call.names["annotation_id"],
        )
        return Reply(b"", status=204)

    async def configure(self, call: Call) -> Reply:
        """POST /v1/apps/annotation-reply/ACTION: enable or disable annotation replies.
        The job's status has the result."""
        action = call.names["action"]
        if action not in _ACTIONS:
            raise ServiceError(
                400,
                "invalid_param",
                f"'action' must be enable or disable, not {action[:40]!r}",
            )
        settings = await self._settings(call, is_on=action == "enable")
        # The work is done before the answer; the job exists because clients expect to
        # poll one.
        problem = await self._problem_with(call, settings)
        if not problem:
            await self._annotations.save_settings(call.tenant, call.found.id, settings)
        job = await self._annotations.record_job(call.tenant, call.found.id, problem)
        return json_reply(Job(job_id=job, job_status="waiting"))

    async def _settings(self, call: Call, *, is_on: bool) -> ReplySettings:
        """Return the current settings with the call's changes. Raises ServiceError for
        an invalid threshold."""
        current_settings = await self._features.reply_settings(call.found, call.app)
        body = call.body
        return ReplySettings(
            enabled=is_on,
            score_threshold=_threshold(
                body.get("score_threshold", current_settings.score_threshold)
            ),
            embedding_provider_name=str(
                body.get("embedding_provider_name")
                or current_settings.embedding_provider_name
            ),
            embedding_model_name=str(
                body.get("embedding_model_name")
                or current_settings.embedding_model_name
            ),
        )

    async def _problem_with(self, call: Call, settings: ReplySettings) -> str:
        """Return why annotation replies cannot be enabled, or an empty string if they
        can. Creates the embeddings."""
        if not settings.enabled:
            return ""
        try:
            await self._annotations.prepare(call.tenant, call.found.id, settings)
        except ModelyardError as error:
            return str(error)
        return ""

    async def status(self, call: Call) -> Reply:
        """GET /v1/apps/annotation-reply/ACTION/status/JOB."""
        if call.names["action"] not in _ACTIONS:
            raise NoSuchPathError(call.request.path, None)
        job = call.names["job_id"]
        problem = (
            await self._annotations.job_problem(call.tenant, call.found.id, job)
            if is_uuid(job)
            else None
        )
        # Another app's job is treated like one that does not exist.
        if problem is None:
            raise ServiceError(400, "invalid_param", "The job does not exist.")
        return json_reply(
            JobStatus(
                job_id=job,
                job_status="error" if problem else "completed",
                error_msg=problem,
            )
        )


def _annotation_view(annotation: Annotation) -> AnnotationShown:
    """Return an annotation as the API's clients read it."""
    return AnnotationShown(
        id=annotation.id,
        question=annotation.question,
        answer=annotation.answer,
        hit_count=annotation.hits,
        created_at=int(annotation.created_at),
    )


def _text(body: JSON, name: str) -> str:
    """Return a required text field. Raises ServiceError if it is missing or blank."""
    value: Any = body.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ServiceError(400, "invalid_param", f"{name!r} is required")
    return value


def _threshold(value: Any) -> float:
    """Return a score threshold. Raises ServiceError unless it is a number from 0 to 1."""
    # bool is a subclass of int and would pass as 0 or 1.
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= 1
    ):
        raise ServiceError(
            400,
            "invalid_param",
            f"score_threshold must lie between 0 and 1, not {str(value)[:20]!r}",
        )
    return float(value)
