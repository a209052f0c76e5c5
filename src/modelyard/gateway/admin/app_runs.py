"""Admin routes below an app: its input form, its triggers and its runs."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.admin.app_shapes import (
    InputForm,
    RunPage,
    TriggerView,
    UploadedFile,
)
from modelyard.gateway.admin.requests import app_of, page_offset, page_size
from modelyard.gateway.admin.runs import broken_run, run_events, run_view
from modelyard.gateway.forms import file_form
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply, sse_reply
from modelyard.gateway.tenant_content import WEBHOOK, WEBHOOK_OF_DRAFT
from modelyard.storage.files import FileStore
from modelyard.tenancy.resource_types import AppTrigger
from modelyard.workflow.apps import AppRecord, Apps
from modelyard.workflow.chats import Chats
from modelyard.workflow.dsl import App
from modelyard.workflow.nodes.start import form_of
from modelyard.workflow.nodes.trigger import WebhookData
from modelyard.workflow.runs import Runs
from modelyard.workflow.trigger_nodes import next_times, triggers_of

USER = "console"
"""User of a run that is started in the console by a caller without a user."""
_FIELDS = {
    "number": "number",
    "boolean": "checkbox",
    "object": "json_object",
    "file": "file",
}
"""Type of a webhook parameter → type of the form field in which it is entered by hand.
"""


@dataclass(frozen=True, slots=True)
class AppRuns:
    """Routes for an app's runs: start one by hand, and list past ones."""

    apps: Apps
    chats: Chats
    runs: Runs
    files: FileStore

    async def form(self, request: Request) -> Reply:
        """Return the form fields that a run needs.

        With `draft=true` those of the draft. Raises NotFoundError, WorkflowError.
        """
        app_record = app_of(request, self.apps)
        app = await self._load_app(
            app_record, is_draft=request.query("draft") == "true"
        )
        return json_reply(
            {"data": _form(app, request.query("root") or ""), "is_chat": app.is_chat}
        )

    async def list_runs(self, request: Request) -> Reply:
        """List the runs of an app, newest first.

        Raises NotFoundError, InvokeBadRequestError.
        """
        app_record = app_of(request, self.apps)
        rows, total = await self.runs.journal.list(
            app_record.tenant,
            app_record.id,
            status=request.query("status") or "",
            limit=page_size(request, "limit", 50),
            skip=page_offset(request),
        )
        return json_reply(RunPage(data=[run_view(row) for row in rows], total=total))

    async def start_run(self, request: Request) -> StreamReply:
        """Start a run and stream its events. With `draft`, runs the version that is not
        published yet.

        Raises NotFoundError, InvokeBadRequestError, WorkflowError.
        """
        app_record = app_of(request, self.apps)
        body = await request.json()
        is_draft = optional_field(body, "draft", bool) is True
        app = await self._load_app(app_record, is_draft=is_draft)
        # An app that was never changed since its publication has no draft.
        digest = (
            (app_record.stored.draft or app_record.stored.digest)
            if is_draft
            else app_record.stored.digest
        )
        app_version = self.apps.get_version(app_record, digest)
        # The user owns the conversation and the files of the run; operators have none.
        inputs, user = (
            optional_field(body, "inputs", dict) or {},
            request.caller.user or USER,
        )
        if app.is_chat:
            run, conversation = await self.chats.send(
                app_version,
                app,
                query=required_field(body, "query", str),
                inputs=inputs,
                user=user,
                conversation_id=optional_field(body, "conversation", str) or "",
                created_from="console",
            )
            # Headers carry the ids, because the stream itself has only the run's
            # events.
            headers = {
                "x-modelyard-run": run.id,
                "x-modelyard-conversation": conversation.id,
            }
        else:
            run = await self.chats.run(
                app_version,
                app,
                inputs=inputs,
                user=user,
                root=optional_field(body, "root", str) or "",
                created_from="console",
            )
            headers = {"x-modelyard-run": run.id}
        return sse_reply(run_events(self.runs, run), broken_run, headers)

    async def upload(self, request: Request) -> Reply:
        """Store a file for the app's runs.

        Raises NotFoundError, InvokeBadRequestError.
        """
        app_record = app_of(request, self.apps)
        file, _ = file_form(request.header(b"content-type") or "", await request.body())
        user = request.caller.user or USER
        stored_file = await self.files.add(
            app_record.tenant, file.filename, file.data, owner=user
        )
        uploaded_file = UploadedFile(
            id=stored_file.id,
            name=stored_file.name,
            size=stored_file.size,
            mime_type=stored_file.mime_type,
        )
        return json_reply(uploaded_file, status=201)

    async def _load_app(self, app_record: AppRecord, *, is_draft: bool) -> App:
        """Return the draft or the published version of an app."""
        return await (
            self.apps.draft(app_record)
            if is_draft
            else self.apps.published_app(app_record)
        )


@dataclass(frozen=True, slots=True)
class AppTriggers:
    """Routes for the triggers that start runs of an app without a caller."""

    apps: Apps
    clock: Clock
    content_origin: Callable[[], str]

    async def list_triggers(self, request: Request) -> Reply:
        """List the triggers of the draft, or of the published version if there is no
        draft.

        Raises NotFoundError.
        """
        app_record = app_of(request, self.apps)
        app = await self.apps.draft(app_record)
        return json_reply(
            {
                "data": [
                    self._trigger(app_record, app, trigger)
                    for trigger in triggers_of(app)
                ]
            }
        )

    def _trigger(
        self, app_record: AppRecord, app: App, trigger: AppTrigger
    ) -> TriggerView:
        """Return the view of one trigger, with the next times of a schedule or the URLs
        of a webhook."""
        view = TriggerView(
            node=trigger.node,
            title=trigger.title,
            type=trigger.type,
            cron=trigger.cron,
            timezone=trigger.timezone,
            # A trigger is live only if the published version has the same one and the
            # app is enabled.
            is_live=trigger in app_record.stored.triggers
            and app_record.stored.is_enabled,
            provider=trigger.provider,
            event=trigger.event,
            subscription=trigger.subscription,
        )
        if trigger.type == "schedule":
            return msgspec.structs.replace(
                view, next=next_times(trigger, self.clock.time())
            )
        data = app.graph(trigger.node).nodes[trigger.node].data
        token = app_record.stored.webhooks.get(trigger.node)
        # Plugin triggers have no URL of their own: their subscription receives the
        # events.
        if not isinstance(data, WebhookData) or token is None:
            return view
        origin = self.content_origin()
        return msgspec.structs.replace(
            view,
            method=data.method.upper(),
            address=f"{origin}{WEBHOOK}{token}",
            draft_address=f"{origin}{WEBHOOK_OF_DRAFT}{token}",
        )


def _form(app: App, root: str) -> list[InputForm]:
    """Return the fields to enter for a run by hand: the start form, or the parameters
    of a webhook.

    Raises WorkflowError if `root` is no start node.
    """
    # An app without a start node cannot be run, and has no form.
    if not app.roots:
        return []
    node = app.graph(root).nodes[root or app.roots[0]]
    if isinstance(node.data, WebhookData):
        return [
            InputForm(
                variable=parameter.name,
                label=parameter.name,
                type=_FIELDS.get(parameter.type, "text-input"),
                required=parameter.required,
                options=[],
                default=None,
                max_length=None,
            )
            # A webhook's headers, query parameters and body fields become one flat
            # form.
            for parameter in [*node.data.headers, *node.data.params, *node.data.body]
        ]
    return [
        InputForm(
            variable=input_field.variable,
            label=input_field.label or input_field.variable,
            type=input_field.type,
            required=input_field.required,
            options=[str(option) for option in input_field.options],
            default=input_field.default,
            max_length=input_field.max_length,
        )
        for input_field in form_of(node)
        if not input_field.hide
    ]
