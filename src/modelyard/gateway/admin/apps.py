"""/admin/v1/apps: import, inspect, publish, restore and share apps, and manage their
API keys."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from modelyard.base import cpu_work
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.admin.app_shapes import (
    AppKeyView,
    CreatedAppKey,
    FileCheck,
    FileProblem,
    ScheduleTimes,
)
from modelyard.gateway.admin.requests import app_of, tenant_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply, read_json
from modelyard.models.types import JSON
from modelyard.tenancy.caller import ForbiddenError, Role
from modelyard.tenancy.directory import CachedResource
from modelyard.workflow.app_appearance import AppearanceChange
from modelyard.workflow.app_library import AppLibrary
from modelyard.workflow.apps import AppKey, AppRecord, Apps, DraftChangedError
from modelyard.workflow.dsl import App, AppMapping, DslError, Problem, loads
from modelyard.workflow.pipelines import Pipelines
from modelyard.workflow.trigger_nodes import next_times, triggers_of


@dataclass(frozen=True, slots=True)
class ImportedApps:
    """Routes for a tenant's apps, their versions and their API keys."""

    apps: Apps
    library: AppLibrary
    pipelines: Pipelines
    origin: Callable[[], str]
    mail_problem: Callable[[], str]
    """Returns why the server cannot send mail; empty if it can."""

    async def list_apps(self, request: Request) -> Reply:
        """List the apps of a tenant, or those that have any of the tags in `tags`.

        Raises NotFoundError for a tenant that the caller may not access, and for an
        unknown tag.
        """
        tags = [
            tag.strip()
            for tag in (request.query("tags") or "").split(",")
            if tag.strip()
        ]
        apps = self.library.list_tagged(tenant_of(request), tags)
        return json_reply(
            {"data": [self._view(app) for app in apps], "has_more": False}
        )

    async def import_app(self, request: Request) -> Reply:
        """Import an app's file. It replaces an app of the same name.

        Raises InvokeBadRequestError, DslError.
        """
        tenant, body = tenant_of(request), await request.json()
        mapping_body = optional_field(body, "mapping", dict)
        try:
            mapping = (
                msgspec.convert(mapping_body, AppMapping)
                if mapping_body is not None
                else None
            )
        except msgspec.ValidationError as error:
            raise InvokeBadRequestError(
                f"'mapping': {error}", param="mapping"
            ) from error
        # An import publishes the app unless `publish` is explicitly false.
        publishes = optional_field(body, "publish", bool)
        app_record, app, was_replaced = await self.apps.add(
            tenant,
            required_field(body, "file", str),
            mapping=mapping,
            name=optional_field(body, "name", str) or "",
            publishes=publishes is not False,
            note=optional_field(body, "note", str) or "",
            secrets=_secrets(body),
        )
        return await self.imported_reply(app_record, app, was_replaced=was_replaced)

    async def imported_reply(
        self, app_record: AppRecord, app: App, *, was_replaced: bool
    ) -> Reply:
        """Return the reply about an app that was created or replaced by a file."""
        # A knowledge pipeline writes into a dataset, which is created with it.
        dataset = (
            await self.pipelines.dataset_for(app_record, app)
            if app.kind == "rag_pipeline"
            else None
        )
        return json_reply(
            {
                **self._view(app_record, with_versions=True),
                **_report(app, self.mail_problem()),
                "replaced": was_replaced,
                **({"dataset": dataset.id} if dataset is not None else {}),
            },
            status=201,
        )

    async def check(self, request: Request) -> Reply:
        """Return the problems, warnings and requirements of an app's file without
        importing it.

        Raises InvokeBadRequestError, NotFoundError.
        """
        # Called for its permission check only.
        tenant_of(request)
        body = await request.json()
        text = required_field(body, "file", str)
        # Parsing a large file takes long, so it runs outside the event loop.
        return json_reply(
            await cpu_work.run_in_thread(
                _check_file,
                text,
                optional_field(body, "name", str) or "",
                self.mail_problem(),
            )
        )

    async def get_app(self, request: Request) -> Reply:
        """Return one app with its versions.

        Raises NotFoundError.
        """
        return json_reply(self._view(app_of(request, self.apps), with_versions=True))

    async def change(self, request: Request) -> Reply:
        """Enable or disable an app, change its public page, its tags, or its name,
        description and icon, or set its secrets.

        Raises NotFoundError, InvokeBadRequestError.
        """
        app_record = app_of(request, self.apps)
        body = await request.json()
        change = _appearance_change(body)
        if change != AppearanceChange():
            app_record = await self.library.change_appearance(app_record, change)
        if (tags := optional_field(body, "tags", list)) is not None:
            app_record = await self.library.set_tags(
                app_record, [str(tag) for tag in tags]
            )
        if (is_on := optional_field(body, "is_enabled", bool)) is not None:
            app_record = await self.apps.enable(app_record, is_on=is_on)
        if (page := optional_field(body, "page", dict)) is not None:
            origins = optional_field(page, "origins", list, "page.")
            is_on = optional_field(page, "is_on", bool, "page.")
            app_record = await self.apps.set_page(
                # Fields that the request leaves out keep their value.
                app_record,
                is_on=app_record.stored.page.is_on if is_on is None else is_on,
                origins=(
                    None if origins is None else [str(origin) for origin in origins]
                ),
            )
        if values := _secrets(body):
            app_record = await self.apps.set_secrets(app_record, values)
        return json_reply(self._view(app_record, with_versions=True))

    async def remove(self, request: Request) -> Reply:
        """Delete an app.

        Raises NotFoundError.
        """
        await self.apps.remove(app_of(request, self.apps))
        return json_reply(Removed(id=request.names["id"], deleted=True))

    async def file(self, request: Request) -> Reply:
        """Return an app's file: the draft, or the version named by `version`.

        Raises NotFoundError.
        """
        app_record = app_of(request, self.apps)
        version_digest = request.query("version")
        app_version = (
            self.apps.get_version(
                app_record, self.apps.version(app_record, version_digest).digest
            )
            if version_digest
            else None
        )
        text = await self.apps.export(
            app_version or app_record, is_draft=app_version is None
        )
        return Reply(text.encode(), content_type=b"application/yaml")

    async def save(self, request: Request) -> Reply:
        """Store a draft. With `base`, the digest that its author started from, a newer
        draft is not overwritten.

        Raises NotFoundError, DraftChangedError, DslError.
        """
        app_record = app_of(request, self.apps)
        body = await request.json()
        # Without a draft, the author started from the published version.
        base, current_digest = (
            optional_field(body, "base", str),
            app_record.stored.draft or app_record.stored.digest,
        )
        if base is not None and base != current_digest:
            raise DraftChangedError(
                f"The draft of {app_record.name!r} was changed in the meantime: its"
                f" digest is {current_digest[:12]}, not {base[:12]}"
            )
        saved, app, _ = await self.apps.add(
            app_record.tenant,
            required_field(body, "file", str),
            name=app_record.name,
            publishes=False,
            keeps_appearance=True,
        )
        return json_reply(
            {
                **self._view(saved, with_versions=True),
                **_report(app, self.mail_problem()),
            }
        )

    async def publish(self, request: Request) -> Reply:
        """Publish the draft.

        Raises NotFoundError, InvokeBadRequestError.
        """
        app_record = app_of(request, self.apps)
        body = await optional_body(request)
        name, note = (
            optional_field(body, "name", str) or "",
            optional_field(body, "note", str) or "",
        )
        return json_reply(
            self._view(
                await self.apps.publish(app_record, name=name, note=note),
                with_versions=True,
            )
        )

    async def restore(self, request: Request) -> Reply:
        """Make an old version the draft.

        Raises NotFoundError, InvokeBadRequestError.
        """
        app_record = app_of(request, self.apps)
        version = required_field(await request.json(), "version", str)
        return json_reply(
            self._view(await self.apps.restore(app_record, version), with_versions=True)
        )

    async def keys(self, request: Request) -> Reply:
        """List an app's API keys, without their secrets.

        Raises NotFoundError.
        """
        keys = self.apps.keys(app_of(request, self.apps))
        key_views = [_key_view(key_record, key) for key_record, key in keys]
        return json_reply({"data": key_views, "has_more": False})

    async def make_key(self, request: Request) -> Reply:
        """Create an API key. This response is the only one that contains it.

        Raises NotFoundError; ForbiddenError if a caller who is no administrator asks
        for the right to speak for users: it reads every document.
        """
        app_record = app_of(request, self.apps)
        data = await request.body()
        body = read_json(data) if data.strip() else {}
        speaks = optional_field(body, "speaks_for_users", bool) or False
        if speaks and not request.caller.role.covers(Role.ADMIN):
            raise ForbiddenError(
                "Only administrators create keys with 'speaks_for_users'"
            )
        row, key = await self.apps.make_key(app_record, speaks_for_users=speaks)
        return json_reply(CreatedAppKey(id=row, key=key), status=201)

    async def revoke_key(self, request: Request) -> Reply:
        """Revoke an API key.

        Raises NotFoundError.
        """
        row = request.names["key"]
        await self.apps.revoke_key(app_of(request, self.apps), row)
        return json_reply(Removed(id=row, deleted=True))

    def _view(self, record: AppRecord, *, with_versions: bool = False) -> JSON:
        """Return the view of an app; with `with_versions`, including its versions and
        its mapping."""
        stored_app = record.stored
        view: JSON = {
            "id": record.id,
            "name": record.name,
            "mode": stored_app.mode,
            "description": stored_app.description,
            "icon": stored_app.icon,
            "icon_type": stored_app.icon_type,
            "icon_background": stored_app.icon_background,
            "tags": [
                {"id": tag_id, "name": name}
                for tag_id, name in self.library.tags_of(record)
            ],
            "is_enabled": stored_app.is_enabled,
            "is_published": bool(stored_app.digest),
            "has_draft": bool(stored_app.draft),
            "digest": stored_app.draft or stored_app.digest,
            "page": {
                "is_on": stored_app.page.is_on,
                "origins": stored_app.page.origins,
                # The page token stays valid while the page is off, but its URL is not
                # shown.
                "url": (
                    f"{self.origin()}/chat/{stored_app.page.token}"
                    if stored_app.page.is_on
                    else None
                ),
            },
        }
        if with_versions:
            view["versions"] = [
                {
                    "digest": version.digest,
                    "name": version.name,
                    "note": version.note,
                    "published_at": version.at,
                }
                # Newest first.
                for version in reversed(stored_app.versions)
            ]
            view["mapping"] = stored_app.mapping
        return view


def _appearance_change(body: JSON) -> AppearanceChange:
    """Return the change of an app's appearance that a request names. Raises
    InvokeBadRequestError."""
    fields = {
        name: optional_field(body, name, str)
        for name in AppearanceChange.__struct_fields__
    }
    return AppearanceChange(**fields)


def _check_file(text: str, name: str, mail_problem: str) -> FileCheck:
    """Check an app's file: return either its problems, or its warnings, requirements
    and schedules."""
    try:
        app = loads(text, name=name)
    except DslError as error:
        return FileCheck(
            problems=[_problem(problem) for problem in error.problems],
            warnings=[],
            needs=[],
            schedules=[],
        )
    # The next times let an author see whether a cron expression means what it should.
    times = [
        ScheduleTimes(
            node=trigger.node,
            cron=trigger.cron,
            timezone=trigger.timezone,
            next=next_times(trigger, time.time()),
        )
        for trigger in triggers_of(app)
        if trigger.type == "schedule"
    ]
    return FileCheck(
        problems=[],
        warnings=[_problem(warning) for warning in app.warnings_with(mail_problem)],
        needs=[
            f"{requirement.kind} {requirement.name}" for requirement in app.requirements
        ],
        schedules=times,
    )


def _problem(problem: Problem) -> FileProblem:
    """Return the view of a problem."""
    return FileProblem(
        message=problem.message,
        line=problem.line,
        node=problem.node,
        field=problem.field,
    )


def _report(app: App, mail_problem: str) -> JSON:
    """Return the warnings and requirements of an imported app."""
    return {
        "warnings": [str(warning) for warning in app.warnings_with(mail_problem)],
        "needs": _needs(app),
        "missing_secrets": app.missing_secrets,
    }


def _key_view(key_record: CachedResource, key: AppKey) -> AppKeyView:
    """Return a key without its secret."""
    return AppKeyView(
        id=key_record.id, hint=key.hint, speaks_for_users=key.speaks_for_users
    )


def _needs(app: App) -> list[str]:
    """Return what must be set up before an app can run, as texts."""
    requirements = [f"{needed.kind} {needed.name}" for needed in app.requirements]
    return requirements + [f"secret {name}" for name in app.missing_secrets]


def _secrets(body: JSON) -> dict[str, str]:
    """Return the values of secret variables in a request. Raises InvokeBadRequestError,
    without a value in the message."""
    values = optional_field(body, "secrets", dict) or {}
    if not all(isinstance(value, str) for value in values.values()):
        raise InvokeBadRequestError(
            "'secrets' must map names of variables to texts", param="secrets"
        )
    return {str(name): value for name, value in values.items()}


async def optional_body(request: Request) -> JSON:
    """Return the JSON body of a request, or an empty object if it has no body."""
    data = await request.body()
    return read_json(data) if data.strip() else {}
