"""What is below an app in the admin API: checking its file, running it, testing one node, what people said to it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from modelyard.base import computing
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.fields import may, need, whole_number
from modelyard.gateway.admin.parts import ManageParts
from modelyard.gateway.admin.requests import PREFIX, count_of, offset_of, tenant_of
from modelyard.gateway.admin.shapes import (
    AnnotationShown,
    ConversationShown,
    InputForm,
    MessageShown,
    NodeKindShown,
    NodeTest,
    RunPage,
    RunShown,
    TriggerShown,
    UploadedFile,
)
from modelyard.gateway.forms import file_form
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply, sse_reply
from modelyard.gateway.service.parts import ServiceParts
from modelyard.gateway.tenant_content import WEBHOOK, WEBHOOK_OF_DRAFT
from modelyard.models.types import JSON
from modelyard.runtime.tenancy import AppTrigger
from modelyard.workflow.apps import FoundApp
from modelyard.workflow.conversations import Message
from modelyard.workflow.dsl import App, loads
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import NodeContext, NodeError, NodePaused, RunContext
from modelyard.workflow.nodes import node_class, node_types
from modelyard.workflow.nodes.start import form_of
from modelyard.workflow.nodes.trigger import WebhookData
from modelyard.workflow.single_run import new_run_id, pool_for
from modelyard.workflow.trigger_nodes import next_times, triggers_of
from modelyard.workflow.variables import VariablePool, WorkflowError, from_object, to_object

_MOST_MESSAGES = 200
_USER = "console"
_FIELDS = {"number": "number", "boolean": "checkbox", "object": "json_object", "file": "file"}
"""A webhook's type → the field in which it is filled in by hand."""


@dataclass(frozen=True, slots=True)
class AppRuns:
    service: ServiceParts
    parts: ManageParts

    async def of_app(self, request: Request, found: FoundApp, rest: Sequence[str]) -> Reply | StreamReply:
        """Below `apps/ID/`."""
        match request.method, *rest:
            case "GET", "form":
                app = await self._at(found, is_draft=request.query("draft") == "true")
                return json_reply({"data": _form(app, request.query("root") or ""), "is_chat": app.is_chat})
            case "GET", "triggers":
                return json_reply({"data": await self._triggers(found)})
            case "GET", "runs":
                return json_reply(await self._page(request, found))
            case "POST", "runs":
                return await self._run(request, found)
            case "POST", "files":
                return json_reply(await self._uploaded(request, found), status=201)
            case "POST", "test-node":
                return json_reply(await request.while_here(self._tested(request, found)))
            case "GET", "conversations":
                return json_reply({"data": await self._conversations(found)})
            case "GET", "conversations", name:
                return json_reply({"data": await self._messages(found, name)})
            case "GET", "feedback":
                rated = await self.service.conversations.rated(found.tenant, found.id, most=_MOST_MESSAGES, skip=0)
                return json_reply({"data": [_message(one) for one in rated]})
            case _, "annotations", *below:
                return await self._annotations(request, found, below)
            case _:
                raise request.not_offered()

    async def _at(self, found: FoundApp, *, is_draft: bool) -> App:
        return await (self.service.apps.draft(found) if is_draft else self.service.apps.app(found))

    # runs

    async def _page(self, request: Request, found: FoundApp) -> RunPage:
        rows, total = await self.service.runs.journal.list(
            found.tenant, found.id, status=request.query("status") or "", most=count_of(request, "limit", 50),
            skip=offset_of(request),
        )  # fmt: skip
        return RunPage(data=[run_shown(one) for one in rows], total=total)

    async def _run(self, request: Request, found: FoundApp) -> Reply | StreamReply:
        """Its events as they come; with `draft`, of what is not published yet."""
        body = await request.json()
        is_draft = may(body, "draft", bool) is True
        app = await self._at(found, is_draft=is_draft)
        digest = (found.stored.draft or found.stored.digest) if is_draft else found.stored.digest
        at = self.service.apps.at(found, digest)
        inputs, user = may(body, "inputs", dict) or {}, request.caller.user or _USER
        if app.is_chat:
            run, conversation = await self.service.chats.send(
                at, app, query=need(body, "query", str), inputs=inputs, user=user,
                conversation_id=may(body, "conversation", str) or "", created_from="console",
            )  # fmt: skip
            headers = {"x-modelyard-run": run.id, "x-modelyard-conversation": conversation.id}
        else:
            run = await self.service.chats.run(
                at, app, inputs=inputs, user=user, root=may(body, "root", str) or "", created_from="console"
            )
            headers = {"x-modelyard-run": run.id}
        return sse_reply(_told(self.service, run), _broken, headers)

    async def _uploaded(self, request: Request, found: FoundApp) -> UploadedFile:
        file, _ = file_form(request.header(b"content-type") or "", await request.body())
        user = request.caller.user or _USER
        stored = await asyncio.to_thread(self.service.files.add, found.tenant, file.filename, file.data, owner=user)
        return UploadedFile(id=stored.id, name=stored.name, size=stored.size, mime_type=stored.mime_type)

    async def _triggers(self, found: FoundApp) -> list[TriggerShown]:
        """Of the draft, or of what is published where that is all."""
        app = await self.service.apps.draft(found)
        return [self._trigger(found, app, one) for one in triggers_of(app)]

    def _trigger(self, found: FoundApp, app: App, one: AppTrigger) -> TriggerShown:
        shown = TriggerShown(
            node=one.node, title=one.title, type=one.type, cron=one.cron, timezone=one.timezone,
            is_live=one in found.stored.triggers and found.stored.is_enabled, provider=one.provider, event=one.event,
            subscription=one.subscription,
        )  # fmt: skip
        if one.type == "schedule":
            return msgspec.structs.replace(shown, next=next_times(one, self.parts.clock.time()))
        data = app.graph(one.node).nodes[one.node].data
        token = found.stored.webhooks.get(one.node)
        if not isinstance(data, WebhookData) or token is None:
            return shown
        origin = self.service.content_origin()
        return msgspec.structs.replace(
            shown, method=data.method.upper(), address=f"{origin}{WEBHOOK}{token}",
            draft_address=f"{origin}{WEBHOOK_OF_DRAFT}{token}",
        )  # fmt: skip

    # one node

    async def _tested(self, request: Request, found: FoundApp) -> NodeTest:
        """Run `node` of `file` alone; `inputs` are what it reads, as `start.query` → value."""
        body = await request.json()
        app = await computing.apart(loads, need(body, "file", str), name=found.name)
        name, given = need(body, "node", str), may(body, "inputs", dict) or {}
        node = next((one for one in app.nodes if one.id == name), None)
        if node is None:
            raise NotFoundError(f"the file has no node {name!r}", code="node_not_found")
        record = RunRecord(tenant=found.tenant, id=new_run_id(), app=found.id, user=request.caller.user or _USER)
        pool = _pool(app, given)
        run = RunContext(
            run_id=record.id, services=self.parts.services(app, record), tenant=found.tenant, user=record.user,
            app=found.id, now=self.parts.clock.time,
        )  # fmt: skip
        context = NodeContext(
            run=run, pool=pool, key=name, execution_id=record.id, idempotency_key=record.id, emit=lambda event: None,
            stream=lambda name, text, is_last: None, reason=lambda text, is_last: None,
        )  # fmt: skip
        began = self.parts.clock.monotonic()

        def came_to(status: str, error: str = "", **more: Any) -> NodeTest:
            values = {key: _plain(value) for key, value in more.items()}
            ms = round((self.parts.clock.monotonic() - began) * 1000, 1)
            return NodeTest(
                status=status, error=error, ms=ms, inputs=values.get("inputs") or {},
                outputs=values.get("outputs") or {}, process_data=values.get("process_data") or {},
            )  # fmt: skip

        try:
            result = await node.run(context)
        except NodeError as error:
            return came_to("failed", str(error), inputs=error.inputs, process_data=error.process_data)
        except NodePaused:
            return came_to("paused", "it waits for somebody: run the whole workflow to answer it")
        except WorkflowError as error:
            return came_to("failed", str(error))
        return came_to("succeeded", inputs=result.inputs, outputs=result.outputs, process_data=result.process_data)

    # what people said

    async def _conversations(self, found: FoundApp) -> list[ConversationShown]:
        rows = await self.service.conversations.of_app(found.tenant, found.id, most=_MOST_MESSAGES)
        return [
            ConversationShown(
                id=one.id, name=one.name, user=one.user, created_at=one.created_at, updated_at=one.updated_at
            )
            for one in rows
        ]

    async def _messages(self, found: FoundApp, name: str) -> list[MessageShown]:
        rows = await self.service.conversations.thread(found.tenant, name, most=_MOST_MESSAGES)
        return [_message(one) for one in rows if one.app == found.id]

    async def _annotations(self, request: Request, found: FoundApp, rest: Sequence[str]) -> Reply:
        kept = self.parts.annotations
        match request.method, *rest:
            case ("GET",):
                rows = await kept.page(found.tenant, found.id, most=count_of(request, "limit", 100), skip=0)
                return json_reply({
                    "data": [
                        AnnotationShown(id=one.id, question=one.question, answer=one.answer, hits=one.hits)
                        for one in rows
                    ]
                })  # fmt: skip
            case ("POST",):
                body = await request.json()
                made = await kept.add(found.tenant, found.id, need(body, "question", str), need(body, "answer", str))
                return json_reply(
                    AnnotationShown(id=made.id, question=made.question, answer=made.answer, hits=0), status=201
                )
            case "DELETE", name:
                await kept.remove(found.tenant, found.id, name)
                return json_reply({"id": name, "deleted": True})
            case _:
                raise request.not_offered()


@dataclass(frozen=True, slots=True)
class RunsRoute:
    """GET runs/ID, runs/ID/events (as they come, `after`); POST runs/ID/stop, pause, resume."""

    service: ServiceParts

    async def __call__(self, request: Request) -> Reply | StreamReply:
        tenant = tenant_of(request)
        name, _, action = request.path.removeprefix(f"{PREFIX}runs/").strip("/").partition("/")
        run = await self.service.runs.find(tenant, name)
        match request.method, action:
            case "GET", "":
                return json_reply(run_shown(run))
            case "GET", "events":
                after = request.query("after") or "0"
                return sse_reply(_told(self.service, run, whole_number(after) or 0), _broken)
            case "POST", "stop":
                return json_reply({"done": await self.service.runs.stop(tenant, name)})
            case "POST", "pause":
                return json_reply({"done": await self.service.runs.pause(tenant, name)})
            case "POST", "resume":
                return json_reply({"done": await self.service.runs.resume(tenant, name)})
            case _:
                raise request.not_offered()


@dataclass(frozen=True, slots=True)
class NodesRoute:
    """GET nodes: every node type, and a JSON schema of what it is told."""

    async def __call__(self, request: Request) -> Reply:
        del request
        return json_reply({"data": await asyncio.to_thread(_kinds)})


@lru_cache(1)
def _kinds() -> list[NodeKindShown]:
    found: list[NodeKindShown] = []
    for kind in node_types():
        made = node_class(kind)
        if made is None:
            continue
        schema = msgspec.json.schema(made.Data)
        found.append(NodeKindShown(type=kind, kind=made.kind.value, schema=schema))
    return found


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


def _pool(app: App, given: Mapping[str, Any]) -> VariablePool:
    """What a node reads: the app's own variables, and what was given for others."""
    try:
        pool = pool_for(app, "", {}, {})
    except ModelyardError:  # the start asks for what a test of one node need not have
        pool = VariablePool()
    for name, value in given.items():
        node, dot, rest = name.partition(".")
        if not dot:
            raise InvokeBadRequestError(f"{name!r} must read 'node.variable'", param="inputs")
        pool.put(node, rest, from_object(value))
    return pool


def _plain(value: Any) -> Any:
    return {key: to_object(one) for key, one in (value or {}).items()}


def run_shown(one: RunRecord) -> RunShown:
    return RunShown(
        id=one.id, app=one.app, status=one.status.value, inputs=one.inputs, outputs=one.outputs, error=one.error,
        created_at=one.created_at, finished_at=one.finished_at, elapsed=one.elapsed, total_tokens=one.total_tokens,
        total_steps=one.total_steps, created_from=one.created_from, user=one.user,
    )  # fmt: skip


def _message(one: Message) -> MessageShown:
    return MessageShown(
        id=one.id, query=one.query, answer=one.answer, status=one.status, error=one.error, run=one.run,
        rating=one.rating, created_at=one.created_at, thoughts=one.metadata.get("agent_thoughts") or [],
        usage=one.metadata.get("usage") or {},
    )  # fmt: skip


def _broken(error: ModelyardError) -> bytes:
    return b"data: " + encode({"event": "error", "message": str(error)}) + b"\n\n"


async def _told(service: ServiceParts, run: RunRecord, after: int = 0) -> AsyncGenerator[bytes, None]:
    """A run's events, each with its number, so that whoever lost the line goes on from there."""
    first: JSON = {"event": "run", "run": msgspec.to_builtins(run_shown(run))}
    yield b"data: " + encode(first) + b"\n\n"
    async with aclosing(service.runs.watch(run.tenant, run.id, after=after)) as events:
        async for number, event in events:
            yield b"id: %d\ndata: " % number + encode(event) + b"\n\n"
    ended = await service.runs.find(run.tenant, run.id)
    yield b"data: " + encode({"event": "end", "run": msgspec.to_builtins(run_shown(ended))}) + b"\n\n"
