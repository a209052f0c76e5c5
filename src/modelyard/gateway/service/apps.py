"""The service API: apps as their callers know them, under `/v1`, each with a key of its own (`app-…`).

Chat, completion and workflow apps: runs streamed or whole, stopped, looked at, watched again; messages, conversations,
files, forms, what an app takes. What each answers: docs/reference/service-api.md.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import msgspec

from modelyard.base.errors import (
    ModelyardError,
    NotFoundError,
)
from modelyard.base.fields import whole_number
from modelyard.gateway.http import (
    Reply,
    Request,
    StreamReply,
    encode,
    json_reply,
    sse_reply,
)
from modelyard.gateway.service.about import AboutCalls
from modelyard.gateway.service.agui_events import AgUiEvents
from modelyard.gateway.service.annotations import AnnotationCalls
from modelyard.gateway.service.calls import (
    CHATS,
    Call,
    Handler,
    ServiceError,
    end_user_id,
    error_document,
    list_of,
    made_id,
    mapping_of,
    problem_of,
    problem_reply,
    read_object,
)
from modelyard.gateway.service.conversations import ConversationCalls
from modelyard.gateway.service.events import ServiceEvents, problem_of_run
from modelyard.gateway.service.parts import ServiceParts, fed
from modelyard.models.types import JSON
from modelyard.runtime.caller import Caller, Role
from modelyard.workflow.apps import FoundApp
from modelyard.workflow.chats import workflow_id
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.variables import WorkflowError

_FOR_VISITORS = frozenset({
    "/v1/chat-messages", "/v1/chat-messages/", "/v1/completion-messages", "/v1/completion-messages/",
    "/v1/workflows/run", "/v1/workflows/tasks/", "/v1/workflow/", "/v1/messages", "/v1/messages/",
    "/v1/conversations", "/v1/conversations/", "/v1/files/upload", "/v1/files/", "/v1/info", "/v1/parameters",
    "/v1/site", "/v1/audio-to-text", "/v1/text-to-audio", "/v1/form/human_input/",
})  # fmt: skip
"""What an app's page may ask for."""
PING_SECONDS = 10.0
PING = b"event: ping\n\n"


class Service:
    """All of it. `routes` is path → method → handler; a path that ends in a slash holds for what is below."""

    def __init__(self, parts: ServiceParts) -> None:
        self._parts = parts
        self._conversations = ConversationCalls(parts)
        self.routes: Mapping[str, Mapping[str, Handler]] = {
            "/v1/chat-messages": {"POST": self.chat},
            "/v1/chat-messages/": {"POST": self.stop_chat},
            "/v1/completion-messages": {"POST": self.complete},
            "/v1/completion-messages/": {"POST": self.stop_completion},
            "/v1/workflows/run": {"POST": self.run_workflow},
            "/v1/workflows/run/": {"GET": self.one_run},
            "/v1/workflows/tasks/": {"POST": self.stop_workflow},
            "/v1/workflows/logs": {"GET": self.logs},
            "/v1/workflows/": {"POST": self.run_version},
            "/v1/workflow/": {"GET": self.watch},
            "/v1/form/human_input/": {"GET": self.form, "POST": self.fill},
            "/v1/ag-ui": {"POST": self.ag_ui},
            **AnnotationCalls(parts.features, parts.apps).routes,
            **AboutCalls(parts).routes,
            **self._conversations.routes,
            "/v1/messages/": {**self._conversations.routes["/v1/messages/"], "POST": self.about_message},
        }  # fmt: skip

    def route(self, path: str) -> "Mapping[str, _Route]":
        return {verb: _Route(self, path, handler) for verb, handler in self.routes[path].items()}

    # who calls

    async def admit(self, request: Request, path: str) -> Call:
        """Raises ServiceError where no app's key is shown."""
        shown = request.header(b"authorization") or ""
        scheme, _, key = shown.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ServiceError(401, "unauthorized", "Authorization header must be provided and start with 'Bearer'")
        found = self._parts.apps.by_key(key.strip())
        if found is None:
            raise ServiceError(401, "unauthorized", "Access token is invalid")
        request.payer = found.tenant
        return await self._call(request, found, request.path, path)

    async def _call(self, request: Request, found: FoundApp, asked: str, path: str, visitor: str = "") -> Call:
        request.identify(Caller(tenant=found.tenant, key=f"app:{found.id}", role=Role.VIEWER))
        app = await self._parts.apps.app(found)
        rest = asked.rstrip("/").removeprefix(path) if path.endswith("/") else ""
        kind = request.header(b"content-type") or ""
        body: JSON = {}
        if request.method in ("POST", "PUT", "DELETE", "PATCH") and not kind.startswith("multipart/"):
            data = await request.body()
            if data.strip():
                body = read_object(data)
        return Call(request, found, app, rest, body, visitor)

    async def visit(self, request: Request, found: FoundApp, asked: str, visitor: str) -> Reply | StreamReply:
        """A call of an app's page: some of the routes, each for the visitor alone. Raises ServiceError."""
        above = [one for one in _FOR_VISITORS if one.endswith("/") and asked.startswith(one)]
        path = asked if asked in _FOR_VISITORS else max(above, key=len, default="")
        handler = self.routes.get(path, {}).get(request.method) if path else None
        if handler is None:
            raise ServiceError(404, "not_found", f"there is nothing at {request.path!r}")
        reply = await handler(await self._call(request, found, asked, path, visitor))
        return await _begun(reply, request) if isinstance(reply, _Patient) else reply

    # workflows

    async def run_workflow(self, call: Call) -> Reply | StreamReply:
        call.must_be("workflow")
        return await self._workflow(call)

    async def run_version(self, call: Call) -> Reply | StreamReply:
        """A version by its id; the app's own id is the one that is published."""
        name = call.subject("run")
        call.must_be("workflow")
        await self._at_version(call, "" if name == call.found.id else name)
        return await self._workflow(call)

    async def _at_version(self, call: Call, name: str) -> None:
        """Have the call be about a version that was published once; an empty name is the one that is. Raises
        ServiceError."""
        found = call.found
        if not name or name == workflow_id(found):
            return
        if found.stored.draft and name == workflow_id(self._parts.apps.at(found, found.stored.draft)):
            raise ServiceError(
                403, "workflow_version_execution_not_allowed", "A draft cannot be run: publish it first."
            )
        for one in found.stored.versions:
            version = self._parts.apps.at(found, one.digest)
            if name == workflow_id(version):
                call.found, call.app = version, await self._parts.apps.app(version)
                return
        raise ServiceError(404, "not_found", f"Workflow not found with id: {name[:80]}")

    async def _workflow(self, call: Call) -> Reply | StreamReply:
        user, is_streaming = call.user, call.is_streaming
        run = await self._parts.chats.run(
            call.found, call.app, inputs=mapping_of(call.body, "inputs"), user=user, files=list_of(call.body, "files")
        )
        return self._answer(run, call, is_streaming=is_streaming)

    async def one_run(self, call: Call) -> Reply:
        call.must_be("workflow", "advanced-chat")
        run = await self._run(call, call.rest)
        return json_reply({
            "id": run.id, "workflow_id": run.system.get("workflow_id"), "status": run.status.value,
            "inputs": json.dumps(run.inputs, ensure_ascii=False), "outputs": run.outputs, "error": run.error or None,
            "total_steps": run.total_steps, "total_tokens": run.total_tokens, "created_at": int(run.created_at),
            "finished_at": _seconds(run.finished_at), "elapsed_time": round(run.elapsed, 6),
        })  # fmt: skip

    async def _run(self, call: Call, run_id: str) -> RunRecord:
        """A run of this app. Raises NotFoundError."""
        run = await self._parts.runs.find(call.tenant, run_id)
        if run.app != call.found.id:
            raise NotFoundError(f"run {run_id[:80]!r} does not exist")
        return run

    async def stop_workflow(self, call: Call) -> Reply:
        call.must_be("workflow")
        return await self._stop(call)

    async def stop_chat(self, call: Call) -> Reply:
        call.must_be(*CHATS)
        return await self._stop(call)

    async def stop_completion(self, call: Call) -> Reply:
        call.must_be("completion")
        return await self._stop(call)

    async def _stop(self, call: Call) -> Reply:
        name = call.subject("stop")
        user = call.user
        with suppress(NotFoundError):
            run = await self._run(call, name)
            if run.user == user:
                await self._parts.runs.stop(call.tenant, name)
        return json_reply({"result": "success"})

    async def logs(self, call: Call) -> Reply:
        page, limit = call.number("page", 1, 10_000), call.number("limit", 20)
        status = call.request.query("status") or ""
        if status not in ("", "succeeded", "failed", "stopped", "partial-succeeded", "running", "paused"):
            raise ServiceError(400, "invalid_param", f"status {status[:40]!r} is none; succeeded, failed, stopped are")
        before = _moment(call, "created_at__before", 1e15)
        since = _moment(call, "created_at__after", 0.0)
        found, total = await self._parts.runs.journal.list(
            call.tenant, call.found.id, status=status, before=before, since=since, most=limit, skip=(page - 1) * limit
        )
        session = call.request.query("created_by_end_user_session_id")
        data = [self._log(one) for one in found if session is None or one.user == session]
        return json_reply({
            "page": page, "limit": limit, "total": total, "has_more": page * limit < total, "data": data,
        })  # fmt: skip

    @staticmethod
    def _log(run: RunRecord) -> JSON:
        user = end_user_id(run.tenant, run.app, run.user)
        return {
            "id": made_id(run.id),
            "workflow_run": {
                "id": run.id, "version": run.digest, "status": run.status.value, "error": run.error or None,
                "elapsed_time": round(run.elapsed, 6), "total_tokens": run.total_tokens,
                "total_steps": run.total_steps, "created_at": int(run.created_at),
                "finished_at": _seconds(run.finished_at), "exceptions_count": run.exceptions_count,
                "triggered_from": "app-run",
            },
            "created_from": run.created_from, "created_by_role": "end_user", "created_by_account": None,
            "created_by_end_user": {"id": user, "type": "service_api", "is_anonymous": False, "session_id": run.user},
            "created_at": int(run.created_at), "details": None,
        }  # fmt: skip

    async def watch(self, call: Call) -> StreamReply:
        """A run's events from the beginning, or after a number: what a caller that lost its connection asks for."""
        name = call.subject("events")
        if call.request.query("format") != "ag-ui":
            call.must_be("workflow", "advanced-chat")
        user = call.user
        run = await self._run(call, name)
        if run.user != user:
            raise NotFoundError(f"run {name[:80]!r} does not exist")
        if call.request.query("format") == "ag-ui":
            return self._ag_ui_stream(run)
        last = call.request.header(b"last-event-id") or call.request.query("after") or "0"
        after = whole_number(last) or 0
        goes_on = (call.request.query("continue_on_pause") or "").lower() == "true"
        return self._stream(run, call, after=after, goes_on=goes_on, is_numbered=True)

    # streams and whole answers

    def _answer(self, run: RunRecord, call: Call, *, is_streaming: bool) -> StreamReply:
        return self._stream(run, call) if is_streaming else self._whole(run, call)

    def _stream(
        self, run: RunRecord, call: Call, *, after: int = 0, goes_on: bool = False, is_numbered: bool = False
    ) -> StreamReply:
        told = ServiceEvents(run, end_user=call.end_user())
        # Widely used clients read `data:` lines alone and trip over others; whoever watches again asks for numbers.
        pieces = self._pieces(run, told, after=after, goes_on=goes_on, is_numbered=is_numbered)

        def last_words(error: ModelyardError) -> bytes:
            status, code = problem_of(error)
            return b"data: " + encode(told.error_event(status, code, str(error))) + b"\n\n"

        return sse_reply(pieces, last_words)

    async def _pieces(
        self, run: RunRecord, told: ServiceEvents | AgUiEvents, *, after: int, goes_on: bool, is_numbered: bool
    ) -> AsyncGenerator[bytes, None]:
        """The run's events as they come, and a ping where nothing does."""
        queue: asyncio.Queue[tuple[int, Any] | BaseException | None] = asyncio.Queue(maxsize=1000)

        async def watch() -> None:
            try:
                number = after
                while True:
                    async with aclosing(self._parts.runs.watch(run.tenant, run.id, after=number)) as events:
                        async for one in events:
                            number = one[0]
                            await queue.put(one)
                    record = await self._parts.runs.find(run.tenant, run.id)
                    if not goes_on or record.status.is_over:
                        break
                    await asyncio.sleep(0.5)
                await queue.put(None)
            except ModelyardError as error:
                await queue.put(error)

        # Every event is told to whoever keeps count, even those that the caller has seen.
        task = asyncio.ensure_future(watch())
        try:
            while True:
                try:
                    async with asyncio.timeout(PING_SECONDS):
                        got = await queue.get()
                except TimeoutError:
                    yield PING
                    continue
                if got is None:
                    return
                if isinstance(got, BaseException):
                    raise got
                number, event = got
                for document in told.feed(event):
                    yield b"data: " + encode(document) + (b"\nid: %d\n\n" % number if is_numbered else b"\n\n")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _whole(self, run: RunRecord, call: Call) -> StreamReply:
        """The answer once there is one. Blanks keep the connection open while it is not."""

        async def pieces() -> AsyncGenerator[bytes, None]:
            work = asyncio.ensure_future(self._told(run, call))
            try:
                while True:
                    done, _ = await asyncio.wait([work], timeout=PING_SECONDS)
                    if done:
                        break
                    yield b" "
                told = work.result()
                yield encode(self._blocking(run, told))
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

        return _Patient(pieces(), lambda error: encode(error_document(error)), [(b"content-type", b"application/json")])

    async def _told(self, run: RunRecord, call: Call) -> ServiceEvents:
        told = ServiceEvents(run, end_user=call.end_user())
        async with aclosing(fed(self._parts.runs, run, told)) as pieces:
            async for _ in pieces:
                pass
        if told.finished is None:
            raise WorkflowError("the run ended without a word")
        if told.says_messages and told.finished["status"] == Status.FAILED.value:
            raise ServiceError(*problem_of_run(told.error_type), told.error)
        return told

    @staticmethod
    def _blocking(run: RunRecord, told: ServiceEvents) -> JSON:
        if not told.says_messages:
            return {"task_id": run.id, "workflow_run_id": run.id, "data": told.finished}
        message = run.message or run.id
        answer: JSON = {
            "event": "message", "task_id": run.id, "id": message, "message_id": message, "mode": run.mode,
            "answer": "".join(told.answer), "metadata": told.metadata(), "created_at": int(run.created_at),
        }  # fmt: skip
        return {**answer, "conversation_id": run.conversation} if run.conversation else answer

    async def ag_ui(self, call: Call) -> StreamReply:
        """A run for a front end that speaks AG-UI: its thread is our conversation, its state our inputs."""
        body = call.body
        thread, messages = str(body.get("threadId") or ""), list_of(body, "messages")
        asked = next((one for one in reversed(messages) if isinstance(one, dict) and one.get("role") == "user"), None)
        query = _words(asked.get("content")) if asked else ""
        inputs = mapping_of(body, "state") if isinstance(body.get("state"), dict) else {}
        props = body.get("forwardedProps")
        user = str((props.get("user") if isinstance(props, dict) else "") or call.request.query("user") or "ag-ui")
        if call.app.is_chat:
            if not query:
                raise ServiceError(400, "invalid_param", "messages must hold one of the user")
            known = await self._known_thread(call, user, thread)
            run, _ = await self._parts.chats.send(
                call.found, call.app, query=query, inputs=inputs, user=user, conversation_id=known
            )
        else:
            given = {**inputs, **({"query": query} if query and call.app.mode == "completion" else {})}
            run = await self._parts.chats.run(call.found, call.app, inputs=given, user=user)
        return self._ag_ui_stream(run, str(body.get("runId") or ""))

    async def _known_thread(self, call: Call, user: str, thread: str) -> str:
        """The conversation that a thread is; empty where it is a new one."""
        if not _is_uuid(thread):
            return ""
        try:
            found = await self._parts.conversations.find(call.tenant, call.found.id, user, thread)
        except NotFoundError:
            return ""
        return found.id

    def _ag_ui_stream(self, run: RunRecord, run_id: str = "") -> StreamReply:
        pieces = self._pieces(run, AgUiEvents(run, run_id=run_id), after=0, goes_on=False, is_numbered=False)

        def last_words(error: ModelyardError) -> bytes:
            return b"data: " + encode({"type": "RUN_ERROR", "message": str(error), "code": error.code}) + b"\n\n"

        return sse_reply(pieces, last_words)

    # messages

    async def chat(self, call: Call) -> Reply | StreamReply:
        call.must_be(*CHATS)
        user, is_streaming = call.user, call.is_streaming
        query = call.body.get("query")
        if not isinstance(query, str):
            raise ServiceError(400, "invalid_param", "query is required")
        if (version := call.body.get("workflow_id")) and call.app.mode == "advanced-chat":
            if not _is_uuid(version):
                raise ServiceError(400, "bad_request", f"workflow_id {str(version)[:80]!r} is not a valid uuid.")
            await self._at_version(call, str(version))
        conversation = call.body.get("conversation_id") or ""
        if conversation and not _is_uuid(conversation):
            raise ServiceError(400, "invalid_param", f"{str(conversation)[:80]} is not a valid uuid.")
        run, _ = await self._parts.chats.send(
            call.found, call.app, query=query, inputs=mapping_of(call.body, "inputs"), user=user,
            conversation_id=str(conversation), files=list_of(call.body, "files"),
            names=call.body.get("auto_generate_name", True) is not False,
        )  # fmt: skip
        return self._answer(run, call, is_streaming=is_streaming)

    async def complete(self, call: Call) -> Reply | StreamReply:
        call.must_be("completion")
        user, is_streaming = call.user, call.is_streaming
        inputs = dict(mapping_of(call.body, "inputs"))
        if isinstance(query := call.body.get("query"), str) and query:
            inputs.setdefault("query", query)
        run = await self._parts.chats.run(
            call.found, call.app, inputs=inputs, user=user, files=list_of(call.body, "files")
        )
        return self._answer(run, call, is_streaming=is_streaming)

    async def about_message(self, call: Call) -> Reply | StreamReply:
        if call.rest.endswith("/more-like-this"):
            return await self.more_like_this(call)
        return await self._conversations.feedback(call)

    async def more_like_this(self, call: Call) -> Reply | StreamReply:
        """Another answer to what a message answered, with more chance in it."""
        name = call.subject("more-like-this")
        call.must_be("completion")
        if not (call.app.features.get("more_like_this") or {}).get("enabled"):
            raise ServiceError(400, "bad_request", "More Like This Is Disabled.")
        user, is_streaming = call.user, call.is_streaming
        message = await self._parts.conversations.message(call.tenant, call.found.id, name)
        if message.user != user:
            raise NotFoundError("Message Not Exists.")
        run = await self._parts.chats.run(
            call.found, call.app, inputs=message.inputs, user=user, files=message.files, is_varied=True
        )
        return self._answer(run, call, is_streaming=is_streaming)

    # forms

    async def _form(self, call: Call) -> tuple[Any, JSON]:
        row = await self._parts.runs.journal.form_by_token(call.rest)
        if row is None or row["tenant"] != call.tenant:
            raise NotFoundError("the form does not exist")
        await self._run(call, row["run"])
        if row["answer"]:
            given = msgspec.json.decode(row["answer"])
            code = "human_input_form_expired" if "expired" in given else "human_input_form_submitted"
            raise ServiceError(412, code, "the form was filled in already, or its time is over")
        return row, msgspec.json.decode(row["body"])

    async def form(self, call: Call) -> Reply:
        row, form = await self._form(call)
        return json_reply({
            "form_content": form["form_content"], "inputs": form["inputs"], "user_actions": form["actions"],
            "resolved_default_values": form["resolved_default_values"], "expiration_time": int(row["expires_at"]),
        })  # fmt: skip

    async def fill(self, call: Call) -> Reply:
        _, form = await self._form(call)
        user = call.user
        action = str(call.body.get("action") or "")
        actions = [one["id"] for one in form["actions"]]
        if action not in actions:
            raise ServiceError(
                400, "invalid_form_data", f"action must be one of {', '.join(actions)}, not {action[:40]!r}"
            )
        inputs = mapping_of(call.body, "inputs")
        missing = [one["output_variable_name"] for one in form["inputs"] if one["output_variable_name"] not in inputs]
        defaults = form["resolved_default_values"]
        if lacking := [name for name in missing if name not in defaults]:
            raise ServiceError(400, "invalid_form_data", f"{', '.join(lacking)} is missing")
        answer = {"inputs": {**defaults, **inputs}, "action": action, "user": user}
        filled = await self._parts.runs.journal.fill(call.rest, answer)
        if filled is None:
            raise ServiceError(412, "human_input_form_submitted", "the form was filled in already")
        await self._parts.runs.resume_soon(*filled)
        return json_reply({})


class _Patient(StreamReply):
    """A whole answer that may take long. Where it fails before anything was sent, its status says so."""


@dataclass(frozen=True, slots=True)
class _Route:
    admits_itself: ClassVar[bool] = True
    service: Service
    path: str
    handler: Handler

    async def __call__(self, request: Request) -> Reply | StreamReply:
        try:
            call = await self.service.admit(request, self.path)
            reply = await self.handler(call)
            if isinstance(reply, _Patient):
                return await _begun(reply, request)
            return reply
        except ModelyardError as error:
            return problem_reply(error)


async def _begun(reply: StreamReply, request: Request) -> Reply | StreamReply:
    """Wait for the first of it: an early end is an answer with a status of its own."""
    pieces = reply.pieces

    async def first() -> bytes | None:
        return await anext(pieces, None)

    try:
        piece = await request.while_here(first())
    except BaseException:
        await pieces.aclose()
        raise
    if piece is not None and piece.strip():
        await pieces.aclose()
        return Reply(piece)

    async def rest() -> AsyncGenerator[bytes, None]:
        async with aclosing(pieces):
            yield piece or b" "
            async for one in pieces:
                yield one

    return StreamReply(rest(), reply.on_error, reply.headers)


# ------------------------------------------------------------------------------------------------ helpers


def _is_uuid(value: Any) -> bool:
    try:
        uuid.UUID(str(value))
    except ValueError:
        return False
    return True


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


def _moment(call: Call, name: str, default: float) -> float:
    text = call.request.query(name)
    if not text:
        return default
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ServiceError(400, "invalid_param", f"{name} must be an ISO 8601 date, not {text[:40]!r}") from None


def _words(content: Any) -> str:
    """A message's text: as it is, or its parts' together."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(one.get("text") or "") for one in parts if isinstance(one, dict) and one.get("type") == "text")
