"""`/v1/apps/annotations` and `/v1/apps/annotation-reply`: what an app answers without a model."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.base.ids import new_uuid
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import Call, Handler, ServiceError
from modelyard.models.types import JSON
from modelyard.workflow.annotations import Annotation, ReplySettings
from modelyard.workflow.apps import Apps
from modelyard.workflow.features import Features

_MOST_JOBS = 1000


class AnnotationCalls:
    def __init__(self, features: Features, apps: Apps) -> None:
        self._features = features
        self._annotations = features.annotations
        self._apps = apps
        self._jobs: dict[str, tuple[str, str, str]] = {}
        """Job → (tenant, app, what went wrong): turning on makes vectors, and says so afterwards."""
        self.routes: Mapping[str, Mapping[str, Handler]] = {
            "/v1/apps/annotations": {"GET": self.list, "POST": self.add},
            "/v1/apps/annotations/": {"PUT": self.change, "DELETE": self.remove},
            "/v1/apps/annotation-reply/": {"POST": self.configure, "GET": self.status},
        }

    async def list(self, call: Call) -> Reply:
        page, limit = call.number("page", 1, 100_000), call.number("limit", 20)
        keyword = call.request.query("keyword") or ""
        tenant, app = call.tenant, call.found.id
        found = await self._annotations.page(tenant, app, keyword=keyword, most=limit, skip=(page - 1) * limit)
        total = await self._annotations.count(tenant, app, keyword)
        return json_reply({
            "data": [_shown(one) for one in found], "has_more": page * limit < total, "limit": limit, "total": total,
            "page": page,
        })  # fmt: skip

    async def add(self, call: Call) -> Reply:
        body = call.body
        made = await self._annotations.add(call.tenant, call.found.id, _given(body, "question"), _given(body, "answer"))
        return json_reply(_shown(made), status=201)

    async def change(self, call: Call) -> Reply:
        body = call.body
        question, answer = _given(body, "question"), _given(body, "answer")
        return json_reply(_shown(
            await self._annotations.change(call.tenant, call.found.id, call.rest, question, answer)
        ))  # fmt: skip

    async def remove(self, call: Call) -> Reply:
        await self._annotations.remove(call.tenant, call.found.id, call.rest)
        return Reply(b"", status=204)

    async def configure(self, call: Call) -> Reply:
        action = call.rest
        if action not in ("enable", "disable"):
            raise ServiceError(400, "invalid_param", f"action must be enable or disable, not {action[:40]!r}")
        before = await self._features.reply_settings(call.found, call.app)
        settings = ReplySettings(
            enabled=action == "enable",
            score_threshold=_threshold(call.body.get("score_threshold", before.score_threshold)),
            embedding_provider_name=str(call.body.get("embedding_provider_name") or before.embedding_provider_name),
            embedding_model_name=str(call.body.get("embedding_model_name") or before.embedding_model_name),
        )  # fmt: skip
        trouble = ""
        if settings.enabled:
            try:
                await self._annotations.prepare(call.tenant, call.found.id, settings)
            except ModelyardError as error:
                trouble = str(error)
        if not trouble:
            await self._annotations.set(call.tenant, call.found.id, settings)
        job = new_uuid()
        if len(self._jobs) >= _MOST_JOBS:
            self._jobs.pop(next(iter(self._jobs)))
        self._jobs[job] = (call.tenant, call.found.id, trouble)
        return json_reply({"job_id": job, "job_status": "waiting"})

    async def status(self, call: Call) -> Reply:
        action, _, rest = call.rest.partition("/")
        word, _, job = rest.partition("/")
        known = self._jobs.get(job)
        if action not in ("enable", "disable") or word != "status":
            raise ServiceError(404, "not_found", f"there is nothing at {call.request.path!r}")
        if known is None or known[:2] != (call.tenant, call.found.id):
            raise ServiceError(400, "invalid_param", "The job does not exist.")
        trouble = known[2]
        return json_reply({"job_id": job, "job_status": "error" if trouble else "completed", "error_msg": trouble})


def _shown(one: Annotation) -> JSON:
    return {
        "id": one.id, "question": one.question, "answer": one.answer, "hit_count": one.hits,
        "created_at": int(one.created_at),
    }  # fmt: skip


def _given(body: JSON, name: str) -> str:
    value: Any = body.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ServiceError(400, "invalid_param", f"{name} is required")
    return value


def _threshold(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ServiceError(400, "invalid_param", f"score_threshold must lie between 0 and 1, not {str(value)[:20]!r}")
    return float(value)
