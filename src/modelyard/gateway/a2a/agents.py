"""/a2a/APP: a published app as an agent that other agents call (A2A 1.0, and 0.3 for those that know no other)."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.base.fields import whole_number
from modelyard.gateway.a2a.shapes import (
    INVALID,
    NO_METHOD,
    NO_PUSH,
    NO_TASK,
    NOT_CANCELABLE,
    PARSE,
    UNSUPPORTED,
    WRONG,
    A2AError,
    Asked,
    TaskEvents,
    as_0_3,
    read_message,
    task_of,
)
from modelyard.gateway.answers import plain_events
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply, sse_reply
from modelyard.gateway.service.calls import ServiceError, problem_of
from modelyard.gateway.service.parts import ServiceParts, fed
from modelyard.models.types import JSON
from modelyard.tenancy.caller import Caller, Role
from modelyard.workflow.apps import FoundApp
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.nodes.start import form_of

PREFIX = "/a2a/"
_METHODS = {
    "message/send": "SendMessage", "message/stream": "SendStreamingMessage", "tasks/get": "GetTask",
    "tasks/cancel": "CancelTask", "tasks/resubscribe": "SubscribeToTask",
}  # fmt: skip
"""Revision 0.3's names → those of 1.0."""
_PUSH = "PushNotificationConfig"
_USER = "a2a"
_PAGE = 50


class Agents:
    """Apps as agents: their cards, and what is asked of them."""

    def __init__(self, parts: ServiceParts) -> None:
        self._parts = parts
        self._calls: Mapping[str, Callable[[_Call], Awaitable[JSON]]] = {
            "SendMessage": self._send, "GetTask": self._get, "ListTasks": self._list, "CancelTask": self._cancel,
        }  # fmt: skip

    async def card(self, request: Request) -> Reply:
        """GET …/.well-known/agent-card.json. Raises ServiceError."""
        found = self._entered(request, is_card=True)
        return json_reply(self._card(found, await self._parts.apps.app(found)))

    async def call(self, request: Request) -> Reply | StreamReply:
        """POST: a message of JSON-RPC. Raises ServiceError."""
        return await self._rpc(request, self._entered(request, is_card=False))

    def _entered(self, request: Request, *, is_card: bool) -> FoundApp:
        """The app that is meant; the caller acts for it from now on. Raises ServiceError."""
        found = self._admitted(request, request.names["agent"], is_card=is_card)
        request.identify(Caller(tenant=found.tenant, key=f"app:{found.id}", role=Role.VIEWER))
        return found

    def _admitted(self, request: Request, name: str, *, is_card: bool) -> FoundApp:
        """The app whose key is shown; its card is for anybody where its page is. Raises ServiceError."""
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        shown = key.strip() if scheme.lower() == "bearer" else request.header(b"x-api-key") or ""
        found = self._parts.apps.by_key(shown) if shown else None
        if found is not None and name in (found.id, found.stored.page.token):
            request.payer = found.tenant
            return found
        public = self._parts.apps.by_page(name)
        if is_card and public is not None:
            return public
        raise ServiceError(401, "unauthorized", "show the app's key: Authorization: Bearer app-…")

    def _card(self, found: FoundApp, app: App) -> JSON:
        url = f"{self._parts.origin()}{PREFIX}{found.id}"
        modes = ["text/plain", "application/json"]
        inputs = ", ".join(one.variable for root in app.roots for one in form_of(app.graph(root).nodes[root]))
        about = app.description or f"The app {found.name}."
        skill = {
            "id": found.id, "name": found.name, "tags": [app.mode],
            "description": f"{about} It takes data with: {inputs}." if inputs else about,
        }  # fmt: skip
        return {
            "name": found.name, "description": about, "version": (found.stored.digest or "0")[:12],
            "supportedInterfaces": [
                {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
                {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "0.3"},
            ],
            "capabilities": {"streaming": True, "pushNotifications": False, "extendedAgentCard": False},
            "defaultInputModes": modes, "defaultOutputModes": modes, "skills": [skill],
            "securitySchemes": {"key": {"httpAuthSecurityScheme": {"scheme": "bearer"}}},
            "securityRequirements": [{"schemes": {"key": {"list": []}}}],
            # What callers of revision 0.3 look for.
            "url": url, "preferredTransport": "JSONRPC", "protocolVersion": "0.3.0",
        }  # fmt: skip

    # calls

    async def _rpc(self, request: Request, found: FoundApp) -> Reply | StreamReply:
        number: Any = None
        try:
            body = _body(await request.body())
            number = body.get("id")
            call = await self._read(request, found, body)
            if call.method in ("SendStreamingMessage", "SubscribeToTask"):
                return await self._stream(call)
            handler = self._calls.get(call.method)
            if handler is None:
                if _PUSH in call.method or "pushNotification" in str(body.get("method")):
                    raise A2AError(NO_PUSH, "push notifications are not offered")
                if call.method == "GetExtendedAgentCard":
                    raise A2AError(UNSUPPORTED, "there is no extended card")
                raise A2AError(NO_METHOD, f"there is no method {str(body.get('method'))[:60]!r}")
            result = await request.while_here(handler(call))
            return json_reply({"jsonrpc": "2.0", "id": number, "result": result})
        except A2AError as error:
            return json_reply(_failed(number, error.code, str(error)))
        except ModelyardError as error:
            return json_reply(_failed(number, *_problem(error)))

    async def _read(self, request: Request, found: FoundApp, body: JSON) -> "_Call":
        named, params = body.get("method"), body.get("params")
        if not isinstance(named, str):
            raise A2AError(INVALID, "method is required")
        if params is not None and not isinstance(params, dict):
            raise A2AError(WRONG, "params must be an object")
        app = await self._parts.apps.app(found)
        return _Call(found, app, _METHODS.get(named, named), params or {}, body.get("id"), is_old=named in _METHODS)

    async def _send(self, call: "_Call") -> JSON:
        asked = read_message(call.params)
        run = await self._started(call, asked)
        told: Any = call.params.get("configuration")
        settings: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
        if settings.get("returnImmediately") or settings.get("blocking") is False:
            return call.shown({"task": task_of(run, "")})
        events = TaskEvents(run)
        async with aclosing(fed(self._parts.runs, run, events)) as told_of_it:
            async for _ in told_of_it:
                pass
        ended = await self._parts.runs.find(run.tenant, run.id)
        return call.shown({"task": task_of(ended, "".join(events.text))})

    async def _started(self, call: "_Call", asked: Asked) -> RunRecord:
        if asked.task:
            return await self._answered(call, asked)
        user = asked.user or _USER
        tenant = call.found.tenant
        files: list[JSON] = [{"transfer_method": "remote_url", "url": url} for url, _ in asked.links]
        for name, data, kind in asked.blobs:
            stored = await asyncio.to_thread(self._parts.files.add, tenant, name, data, kind, owner=user)
            files.append({"transfer_method": "local_file", "upload_file_id": stored.id})
        chats = self._parts.chats
        if not call.app.is_chat:
            inputs = dict(asked.data)
            if asked.text and "query" not in inputs:
                inputs["query"] = asked.text
            return await chats.run(call.found, call.app, inputs=inputs, user=user, files=files, created_from="a2a")
        if not asked.text:
            raise A2AError(WRONG, "the message must hold a text")
        run, _ = await chats.send(
            call.found, call.app, query=asked.text, inputs=asked.data, user=user, files=files,
            conversation_id=await self._known(call, user, asked.context), created_from="a2a",
        )  # fmt: skip
        return run

    async def _known(self, call: "_Call", user: str, context: str) -> str:
        """The conversation that a context is. Raises A2AError for one that is not this user's."""
        if not context:
            return ""
        try:
            return (
                await self._parts.conversations.find(call.found.tenant, call.found.id, user, str(uuid.UUID(context)))
            ).id
        except (NotFoundError, ValueError) as error:
            raise A2AError(WRONG, f"there is no context {context[:80]!r}") from error

    async def _answered(self, call: "_Call", asked: Asked) -> RunRecord:
        """What a task that waits was told: an action by its id or title, and its inputs."""
        run = await self._task(call, asked.task)
        if run.status is not Status.PAUSED or not run.reasons:
            raise A2AError(UNSUPPORTED, f"task {run.id} waits for nothing: it is {run.status.value}")
        wanted = run.reasons[0]
        actions = {
            str(word).lower(): str(one["id"])
            for one in wanted.get("actions") or () for word in (one["id"], one.get("title") or one["id"])
        }  # fmt: skip
        named = str(asked.data.get("action") or asked.text).strip().lower()
        action = actions.get(named) or (next(iter(actions.values())) if len(set(actions.values())) == 1 else "")
        if not action:
            raise A2AError(WRONG, f"say one of {', '.join(sorted(set(actions)))}, as text or as data with 'action'")
        fields = [str(one["output_variable_name"]) for one in wanted.get("inputs") or ()]
        given: Any = asked.data.get("inputs") or {}
        inputs = {name: given.get(name, asked.text if named not in actions else "") for name in fields}
        preset: Mapping[str, Any] = wanted.get("resolved_default_values") or {}
        answer = {"inputs": {**inputs, **preset, **given}, "action": action, "user": run.user}
        filled = await self._parts.runs.journal.forms.fill(str(wanted.get("form_token")), answer)
        if filled is None:
            raise A2AError(UNSUPPORTED, "somebody answered already")
        await self._parts.runs.resume_soon(run.tenant, run.id)
        return await self._parts.runs.find(run.tenant, run.id)

    async def _stream(self, call: "_Call") -> StreamReply:
        if call.method == "SubscribeToTask":
            run = await self._task(call, call.task)
        else:
            run = await self._started(call, read_message(call.params))

        async def pieces() -> AsyncGenerator[bytes, None]:
            told = TaskEvents(run)
            yield call.piece(told.begin())
            async with aclosing(fed(self._parts.runs, run, told)) as pieces_of_it:
                async for one in pieces_of_it:
                    yield call.piece(one)

        def last_words(error: ModelyardError) -> bytes:
            return plain_events(_failed(call.number, *_problem(error)))

        return sse_reply(pieces(), last_words)

    async def _task(self, call: "_Call", name: str) -> RunRecord:
        try:
            run = await self._parts.runs.find(call.found.tenant, name)
        except NotFoundError:
            run = None
        if run is None or run.app != call.found.id:
            raise A2AError(NO_TASK, f"there is no task {name[:80]!r}")
        return run

    async def _get(self, call: "_Call") -> JSON:
        run = await self._task(call, call.task)
        text = ""
        if run.message and run.status.is_over:
            message = await self._parts.conversations.message(run.tenant, run.app, run.message)
            text = message.answer
        task = call.shown({"task": task_of(run, text)})
        return task if call.is_old else task["task"]

    async def _list(self, call: "_Call") -> JSON:
        token, size = str(call.params.get("pageToken") or "0"), call.params.get("pageSize", _PAGE)
        skip = whole_number(token)
        if skip is None or not isinstance(size, int) or not 1 <= size <= 100:
            raise A2AError(WRONG, "pageSize is a number from 1 to 100; pageToken is what the page before gave")
        found, total = await self._parts.runs.journal.list(call.found.tenant, call.found.id, most=size, skip=skip)
        wanted = call.params.get("contextId")
        tasks = [task_of(one, "") for one in found]
        return {
            "tasks": [one for one in tasks if wanted in (None, "", one["contextId"])], "pageSize": size,
            "totalSize": total, "nextPageToken": str(skip + size) if skip + size < total else "",
        }  # fmt: skip

    async def _cancel(self, call: "_Call") -> JSON:
        run = await self._task(call, call.task)
        if run.status.is_over:
            raise A2AError(NOT_CANCELABLE, f"task {run.id} is over: {run.status.value}")
        await self._parts.runs.stop(run.tenant, run.id)
        ended = await self._parts.runs.ended(run.tenant, run.id)
        task = call.shown({"task": task_of(ended, "")})
        return task if call.is_old else task["task"]


class _Call(msgspec.Struct, frozen=True):
    found: FoundApp
    app: App
    method: str
    params: dict[str, Any]
    number: Any
    is_old: bool = False
    """It speaks revision 0.3."""

    @property
    def task(self) -> str:
        """Raises A2AError."""
        name = self.params.get("id")
        if not isinstance(name, str) or not name:
            raise A2AError(WRONG, "params.id is required")
        return name

    def shown(self, piece: JSON) -> JSON:
        return as_0_3(piece) if self.is_old else piece

    def piece(self, one: JSON) -> bytes:
        return plain_events({"jsonrpc": "2.0", "id": self.number, "result": self.shown(one)})


def _body(data: bytes) -> JSON:
    """Raises A2AError."""
    try:
        found = decode_body(data)
    except BodyError as error:
        raise A2AError(PARSE, f"this is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("jsonrpc") != "2.0":
        raise A2AError(INVALID, "a request is an object with jsonrpc '2.0', id, method and params")
    return found


def _problem(error: ModelyardError) -> tuple[int, str]:
    status, _ = problem_of(error)
    return (WRONG if status < 500 else -32603), str(error)


def _failed(number: Any, code: int, message: str) -> JSON:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}
