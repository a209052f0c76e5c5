"""/admin/v1/apps: apps imported, looked at, published, put back, shown on a page; and the keys of their callers."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from modelyard.base import computing
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import may, need
from modelyard.gateway.admin.app_shapes import AppKeyMade, AppKeyShown, FileCheck, FileProblem, ScheduleTimes
from modelyard.gateway.admin.requests import app_of, tenant_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply, read_json
from modelyard.models.types import JSON
from modelyard.workflow.apps import Apps, DraftChangedError, FoundApp
from modelyard.workflow.dsl import App, AppMapping, DslError, Problem, loads
from modelyard.workflow.pipelines import Pipelines
from modelyard.workflow.trigger_nodes import next_times, triggers_of


@dataclass(frozen=True, slots=True)
class ImportedApps:
    """A tenant's apps, their versions, and the keys of their callers."""

    apps: Apps
    pipelines: Pipelines
    origin: Callable[[], str]

    async def listed(self, request: Request) -> Reply:
        """Raises NotFoundError for a tenant that is not the caller's."""
        return json_reply({"data": [self._shown(app) for app in self.apps.all(tenant_of(request))], "has_more": False})

    async def add(self, request: Request) -> Reply:
        """Import a file; one of the same name takes the place of the old. Raises InvokeBadRequestError, DslError."""
        tenant, body = tenant_of(request), await request.json()
        given = may(body, "mapping", dict)
        try:
            mapping = msgspec.convert(given, AppMapping) if given is not None else None
        except msgspec.ValidationError as error:
            raise InvokeBadRequestError(f"mapping: {error}", param="mapping") from error
        publishes = may(body, "publish", bool)
        found, app, was_there = await self.apps.add(
            tenant, need(body, "file", str), mapping=mapping, name=may(body, "name", str) or "",
            publishes=publishes is not False, note=may(body, "note", str) or "",
        )  # fmt: skip
        dataset = await self.pipelines.dataset_for(found, app) if app.kind == "rag_pipeline" else None
        return json_reply(
            {**self._shown(found, is_whole=True), **_report(app), "replaced": was_there,
             **({"dataset": dataset.id} if dataset is not None else {})},
            status=201,
        )  # fmt: skip

    async def check(self, request: Request) -> Reply:
        """What is wrong with a file, and what it needs. Raises InvokeBadRequestError, NotFoundError."""
        tenant_of(request)
        body = await request.json()
        text = need(body, "file", str)
        return json_reply(await computing.apart(_checked, text, may(body, "name", str) or ""))

    async def one(self, request: Request) -> Reply:
        """With its versions. Raises NotFoundError."""
        return json_reply(self._shown(app_of(request, self.apps), is_whole=True))

    async def change(self, request: Request) -> Reply:
        """Switch it or its page on or off. Raises NotFoundError, InvokeBadRequestError."""
        found = app_of(request, self.apps)
        body = await request.json()
        if (is_on := may(body, "is_enabled", bool)) is not None:
            found = await self.apps.enable(found, is_on=is_on)
        if (page := may(body, "page", dict)) is not None:
            origins = may(page, "origins", list, "page.")
            is_on = may(page, "is_on", bool, "page.")
            found = await self.apps.set_page(
                found, is_on=found.stored.page.is_on if is_on is None else is_on,
                origins=None if origins is None else [str(one) for one in origins],
            )  # fmt: skip
        return json_reply(self._shown(found, is_whole=True))

    async def remove(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        await self.apps.remove(app_of(request, self.apps))
        return json_reply(Removed(id=request.names["id"], deleted=True))

    async def file(self, request: Request) -> Reply:
        """Of its draft, or of a `version`. Raises NotFoundError."""
        found = app_of(request, self.apps)
        wanted = request.query("version")
        at = self.apps.at(found, self.apps.version(found, wanted).digest) if wanted else None
        text = await self.apps.export(at or found, is_draft=at is None)
        return Reply(text.encode(), content_type=b"application/yaml")

    async def save(self, request: Request) -> Reply:
        """Keep a draft. Where `base` names what its author began with, a draft that is another is not overwritten.

        Raises NotFoundError, DraftChangedError, DslError.
        """
        found = app_of(request, self.apps)
        body = await request.json()
        base, now = may(body, "base", str), found.stored.draft or found.stored.digest
        if base is not None and base != now:
            raise DraftChangedError(f"the draft of {found.name!r} is another by now: {now[:12]}, not {base[:12]}")
        saved, app, _ = await self.apps.add(found.tenant, need(body, "file", str), name=found.name, publishes=False)
        return json_reply({**self._shown(saved, is_whole=True), **_report(app)})

    async def publish(self, request: Request) -> Reply:
        """Raises NotFoundError, InvokeBadRequestError."""
        found = app_of(request, self.apps)
        body = await _body(request)
        name, note = may(body, "name", str) or "", may(body, "note", str) or ""
        return json_reply(self._shown(await self.apps.publish(found, name=name, note=note), is_whole=True))

    async def restore(self, request: Request) -> Reply:
        """Make an old version the draft. Raises NotFoundError, InvokeBadRequestError."""
        found = app_of(request, self.apps)
        version = need(await request.json(), "version", str)
        return json_reply(self._shown(await self.apps.restore(found, version), is_whole=True))

    async def keys(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        keys = self.apps.keys(app_of(request, self.apps))
        shown = [AppKeyShown(id=known.id, hint=key.hint) for known, key in keys]
        return json_reply({"data": shown, "has_more": False})

    async def make_key(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        row, key = await self.apps.make_key(app_of(request, self.apps))
        return json_reply(AppKeyMade(id=row, key=key), status=201)

    async def revoke_key(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        row = request.names["key"]
        await self.apps.revoke_key(app_of(request, self.apps), row)
        return json_reply(Removed(id=row, deleted=True))

    def _shown(self, one: FoundApp, *, is_whole: bool = False) -> JSON:
        stored = one.stored
        shown: JSON = {
            "id": one.id, "name": one.name, "mode": stored.mode, "description": stored.description,
            "icon": stored.icon, "is_enabled": stored.is_enabled, "is_published": bool(stored.digest),
            "has_draft": bool(stored.draft), "digest": stored.draft or stored.digest,
            "page": {
                "is_on": stored.page.is_on, "origins": stored.page.origins,
                "url": f"{self.origin()}/chat/{stored.page.token}" if stored.page.is_on else None,
            },
        }  # fmt: skip
        if is_whole:
            shown["versions"] = [
                {"digest": each.digest, "name": each.name, "note": each.note, "published_at": each.at}
                for each in reversed(stored.versions)
            ]
            shown["mapping"] = stored.mapping
        return shown


def _checked(text: str, name: str) -> FileCheck:
    """What is wrong with an app's file, and what it needs."""
    try:
        app = loads(text, name=name)
    except DslError as error:
        return FileCheck(problems=[_problem(one) for one in error.problems], warnings=[], needs=[], schedules=[])
    times = [
        ScheduleTimes(node=one.node, cron=one.cron, timezone=one.timezone, next=next_times(one, time.time()))
        for one in triggers_of(app) if one.type == "schedule"
    ]  # fmt: skip
    return FileCheck(
        problems=[], warnings=[_problem(one) for one in app.warnings],
        needs=[f"{one.kind} {one.name}" for one in app.needs], schedules=times,
    )  # fmt: skip


def _problem(one: Problem) -> FileProblem:
    return FileProblem(message=one.message, line=one.line, node=one.node, field=one.field)


def _report(app: App) -> JSON:
    return {
        "warnings": [str(one) for one in app.warnings], "needs": [f"{one.kind} {one.name}" for one in app.needs],
    }  # fmt: skip


async def _body(request: Request) -> JSON:
    """What was sent, where anything was."""
    data = await request.body()
    return read_json(data) if data.strip() else {}
