"""/admin/v1/apps: apps imported, looked at, published, put back, shown on a page; and the keys of their callers."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from modelyard.base import computing
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import may, need
from modelyard.gateway.admin.requests import PREFIX, tenant_of
from modelyard.gateway.admin.shapes import FileCheck, FileProblem, ScheduleTimes
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply, read_json
from modelyard.models.types import JSON
from modelyard.workflow.apps import Apps, DraftChangedError, FoundApp
from modelyard.workflow.dsl import App, AppMapping, DslError, Problem, loads
from modelyard.workflow.pipelines import Pipelines
from modelyard.workflow.trigger_nodes import next_times, triggers_of


@dataclass(frozen=True, slots=True)
class AppsRoute:
    apps: Apps
    pipelines: Pipelines
    origin: Callable[[], str]
    below: Callable[[Request, FoundApp, Sequence[str]], Awaitable[Reply | StreamReply]]
    """What else there is of an app: its runs, what people said to it."""

    async def __call__(self, request: Request) -> Reply | StreamReply:
        tenant = tenant_of(request)
        rest = request.path.rstrip("/").removeprefix(f"{PREFIX}apps").strip("/")
        name, *more = rest.split("/") if rest else [""]
        if (request.method, rest) == ("POST", "check"):
            body = await request.json()
            text = need(body, "file", str)
            return json_reply(await computing.apart(_checked, text, may(body, "name", str) or ""))
        match request.method, bool(name), *more:
            case "GET", False:
                return json_reply({"data": [self._shown(one) for one in self.apps.all(tenant)], "has_more": False})
            case "POST", False:
                return await self._import(request, tenant)
            case "GET", True:
                return json_reply(self._shown(self.apps.find(tenant, name), is_whole=True))
            case "PATCH", True:
                return await self._change(request, self.apps.find(tenant, name))
            case "DELETE", True:
                await self.apps.remove(self.apps.find(tenant, name))
                return json_reply({"id": name, "deleted": True})
            case _:
                return await self._of_one(request, self.apps.find(tenant, name), more)

    async def _of_one(self, request: Request, found: FoundApp, rest: Sequence[str]) -> Reply | StreamReply:
        match request.method, *rest:
            case "GET", "file":
                wanted = request.query("version")
                at = self.apps.at(found, self.apps.version(found, wanted).digest) if wanted else None
                text = await self.apps.export(at or found, is_draft=at is None)
                return Reply(text.encode(), content_type=b"application/yaml")
            case "PUT", "file":
                return await self._save(request, found)
            case "POST", "publish":
                body = await _body(request)
                told = await self.apps.publish(
                    found, name=may(body, "name", str) or "", note=may(body, "note", str) or ""
                )
                return json_reply(self._shown(told, is_whole=True))
            case "POST", "restore":
                told = await self.apps.restore(found, need(await request.json(), "version", str))
                return json_reply(self._shown(told, is_whole=True))
            case "GET", "keys":
                keys = self.apps.keys(found)
                return json_reply({"data": [{"id": one.id, "hint": key.hint} for one, key in keys], "has_more": False})
            case "POST", "keys":
                row, key = await self.apps.make_key(found)
                return json_reply({"id": row, "key": key}, status=201)
            case "DELETE", "keys", row:
                await self.apps.revoke_key(found, row)
                return json_reply({"id": row, "deleted": True})
            case _:
                return await self.below(request, found, rest)

    async def _import(self, request: Request, tenant: str) -> Reply:
        body = await request.json()
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

    async def _save(self, request: Request, found: FoundApp) -> Reply:
        """Keep a draft. Where `base` names what its author began with, a draft that is another is not overwritten."""
        body = await request.json()
        base, now = may(body, "base", str), found.stored.draft or found.stored.digest
        if base is not None and base != now:
            raise DraftChangedError(f"the draft of {found.name!r} is another by now: {now[:12]}, not {base[:12]}")
        saved, app, _ = await self.apps.add(found.tenant, need(body, "file", str), name=found.name, publishes=False)
        return json_reply({**self._shown(saved, is_whole=True), **_report(app)})

    async def _change(self, request: Request, found: FoundApp) -> Reply:
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
