"""What is below an app in the admin API: what it asks for, what begins its runs, and its runs."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.fields import may, need
from modelyard.gateway.admin.app_shapes import InputForm, RunPage, TriggerShown, UploadedFile
from modelyard.gateway.admin.requests import app_of, count_of, offset_of
from modelyard.gateway.admin.runs import broken_run, run_shown, told
from modelyard.gateway.forms import file_form
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply, sse_reply
from modelyard.gateway.tenant_content import WEBHOOK, WEBHOOK_OF_DRAFT
from modelyard.storage.files import FileStore
from modelyard.tenancy.kinds import AppTrigger
from modelyard.workflow.apps import Apps, FoundApp
from modelyard.workflow.chats import Chats
from modelyard.workflow.dsl import App
from modelyard.workflow.nodes.start import form_of
from modelyard.workflow.nodes.trigger import WebhookData
from modelyard.workflow.runs import Runs
from modelyard.workflow.trigger_nodes import next_times, triggers_of

USER = "console"
"""On whose behalf an app is run where the caller is nobody's user."""
_FIELDS = {"number": "number", "boolean": "checkbox", "object": "json_object", "file": "file"}
"""A webhook's type → the field in which it is filled in by hand."""


@dataclass(frozen=True, slots=True)
class AppRuns:
    """Runs of an app by hand, and those that there were."""

    apps: Apps
    chats: Chats
    runs: Runs
    files: FileStore

    async def form(self, request: Request) -> Reply:
        """What a run is asked for. Raises NotFoundError, WorkflowError."""
        found = app_of(request, self.apps)
        app = await self._at(found, is_draft=request.query("draft") == "true")
        return json_reply({"data": _form(app, request.query("root") or ""), "is_chat": app.is_chat})

    async def page(self, request: Request) -> Reply:
        """Newest first. Raises NotFoundError, InvokeBadRequestError."""
        found = app_of(request, self.apps)
        rows, total = await self.runs.journal.list(
            found.tenant, found.id, status=request.query("status") or "", most=count_of(request, "limit", 50),
            skip=offset_of(request),
        )  # fmt: skip
        return json_reply(RunPage(data=[run_shown(row) for row in rows], total=total))

    async def begin(self, request: Request) -> StreamReply:
        """A run's events as they come; with `draft`, of what is not published yet. Raises NotFoundError,
        InvokeBadRequestError, WorkflowError."""
        found = app_of(request, self.apps)
        body = await request.json()
        is_draft = may(body, "draft", bool) is True
        app = await self._at(found, is_draft=is_draft)
        digest = (found.stored.draft or found.stored.digest) if is_draft else found.stored.digest
        at = self.apps.at(found, digest)
        inputs, user = may(body, "inputs", dict) or {}, request.caller.user or USER
        if app.is_chat:
            run, conversation = await self.chats.send(
                at, app, query=need(body, "query", str), inputs=inputs, user=user,
                conversation_id=may(body, "conversation", str) or "", created_from="console",
            )  # fmt: skip
            headers = {"x-modelyard-run": run.id, "x-modelyard-conversation": conversation.id}
        else:
            run = await self.chats.run(
                at, app, inputs=inputs, user=user, root=may(body, "root", str) or "", created_from="console"
            )
            headers = {"x-modelyard-run": run.id}
        return sse_reply(told(self.runs, run), broken_run, headers)

    async def upload(self, request: Request) -> Reply:
        """A file for its runs. Raises NotFoundError, InvokeBadRequestError."""
        found = app_of(request, self.apps)
        file, _ = file_form(request.header(b"content-type") or "", await request.body())
        user = request.caller.user or USER
        stored = await asyncio.to_thread(self.files.add, found.tenant, file.filename, file.data, owner=user)
        shown = UploadedFile(id=stored.id, name=stored.name, size=stored.size, mime_type=stored.mime_type)
        return json_reply(shown, status=201)

    async def _at(self, found: FoundApp, *, is_draft: bool) -> App:
        return await (self.apps.draft(found) if is_draft else self.apps.app(found))


@dataclass(frozen=True, slots=True)
class AppTriggers:
    """What begins runs of an app without a caller."""

    apps: Apps
    clock: Clock
    content_origin: Callable[[], str]

    async def listed(self, request: Request) -> Reply:
        """Of the draft, or of what is published where that is all. Raises NotFoundError."""
        found = app_of(request, self.apps)
        app = await self.apps.draft(found)
        return json_reply({"data": [self._trigger(found, app, trigger) for trigger in triggers_of(app)]})

    def _trigger(self, found: FoundApp, app: App, one: AppTrigger) -> TriggerShown:
        shown = TriggerShown(
            node=one.node, title=one.title, type=one.type, cron=one.cron, timezone=one.timezone,
            is_live=one in found.stored.triggers and found.stored.is_enabled, provider=one.provider, event=one.event,
            subscription=one.subscription,
        )  # fmt: skip
        if one.type == "schedule":
            return msgspec.structs.replace(shown, next=next_times(one, self.clock.time()))
        data = app.graph(one.node).nodes[one.node].data
        token = found.stored.webhooks.get(one.node)
        if not isinstance(data, WebhookData) or token is None:
            return shown
        origin = self.content_origin()
        return msgspec.structs.replace(
            shown, method=data.method.upper(), address=f"{origin}{WEBHOOK}{token}",
            draft_address=f"{origin}{WEBHOOK_OF_DRAFT}{token}",
        )  # fmt: skip


def _form(app: App, root: str) -> list[InputForm]:
    """What a run by hand is asked for: the form, or what a webhook would have to bring. Raises WorkflowError."""
    if not app.roots:
        return []
    node = app.graph(root).nodes[root or app.roots[0]]
    if isinstance(node.data, WebhookData):
        return [
            InputForm(
                variable=one.name, label=one.name, type=_FIELDS.get(one.type, "text-input"), required=one.required,
                options=[], default=None, max_length=None,
            )
            for one in [*node.data.headers, *node.data.params, *node.data.body]
        ]  # fmt: skip
    return [
        InputForm(
            variable=one.variable, label=one.label or one.variable, type=one.type, required=one.required,
            options=[str(each) for each in one.options], default=one.default, max_length=one.max_length,
        )
        for one in form_of(node) if not one.hide
    ]  # fmt: skip
