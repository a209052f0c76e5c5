"""The service API: apps as their callers know them, under `/v1`, each with a key of its own (`app-…`).

Chat, completion and workflow apps: runs streamed or whole, stopped, looked at, watched again; messages, conversations,
files, forms, what an app takes. What each answers: docs/reference/service-api.md.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from modelyard.base.errors import (
    ModelyardError,
    NotFoundError,
)
from modelyard.gateway.agui_events import AgUiEvents
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import (
    Reply,
    Request,
    StreamReply,
    audio_reply,
    encode,
    json_reply,
    sse_reply,
)
from modelyard.gateway.service_annotations import AnnotationCalls
from modelyard.gateway.service_calls import (
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
    read_object,
    retry_after,
)
from modelyard.gateway.service_events import ServiceEvents
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import SystemPromptMessage, UserPromptMessage
from modelyard.models.speech2text import Speech2TextRequest
from modelyard.models.tts import TTSRequest
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.caller import Caller
from modelyard.runtime.model_manager import ModelManager
from modelyard.storage.files import FileStore, StoredFile
from modelyard.workflow.apps import Apps
from modelyard.workflow.chats import NEW_NAME, Chats, workflow_id
from modelyard.workflow.conversations import Conversation, Conversations, Message
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Status
from modelyard.workflow.features import Features
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.nodes.start import form_of
from modelyard.workflow.runs import Runs
from modelyard.workflow.services import file_kind, stored_id, upload_id
from modelyard.workflow.variables import WorkflowError, fits

PING_SECONDS = 10.0
PING = b"event: ping\n\n"
_UPLOAD_MB = {"image": 10, "video": 100, "audio": 50, "document": 15, "custom": 15}
_PREVIEW_SECONDS = 300.0
_DEFAULTS: Mapping[str, Any] = {
    "opening_statement": "", "suggested_questions": [], "suggested_questions_after_answer": {"enabled": False},
    "speech_to_text": {"enabled": False}, "text_to_speech": {"enabled": False}, "retriever_resource": {"enabled": True},
    "annotation_reply": {"enabled": False}, "more_like_this": {"enabled": False},
    "sensitive_word_avoidance": {"enabled": False}, "file_upload": {"enabled": False},
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceParts:
    apps: Apps
    runs: Runs
    chats: Chats
    conversations: Conversations
    files: FileStore
    models: ModelManager
    features: Features
    origin: Callable[[], str]


class Service:
    """All of it. `routes` is path → method → handler; a path that ends in a slash holds for what is below."""

    def __init__(self, parts: ServiceParts) -> None:
        self._parts = parts
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
            "/v1/messages": {"GET": self.messages},
            "/v1/messages/": {"GET": self.suggested, "POST": self.feedback},
            "/v1/app/feedbacks": {"GET": self.feedbacks},
            "/v1/conversations": {"GET": self.list_conversations},
            "/v1/conversations/": {
                "DELETE": self.delete_conversation, "POST": self.rename, "GET": self.variables,
                "PUT": self.update_variable,
            },
            "/v1/files/upload": {"POST": self.upload},
            "/v1/files/": {"GET": self.preview},
            "/v1/info": {"GET": self.info},
            "/v1/parameters": {"GET": self.parameters},
            "/v1/meta": {"GET": self.meta},
            "/v1/site": {"GET": self.site},
            "/v1/end-users/": {"GET": self.one_user},
            "/v1/audio-to-text": {"POST": self.transcribe},
            "/v1/text-to-audio": {"POST": self.speak},
            "/v1/form/human_input/": {"GET": self.form, "POST": self.fill},
            "/v1/ag-ui": {"POST": self.ag_ui},
            **AnnotationCalls(parts.features, parts.apps).routes,
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
        app = await self._parts.apps.app(found)
        rest = request.path.rstrip("/").removeprefix(path) if path.endswith("/") else ""
        kind = request.header(b"content-type") or ""
        body: JSON = {}
        if request.method in ("POST", "PUT", "DELETE", "PATCH") and not kind.startswith("multipart/"):
            data = await request.body()
            if data.strip():
                body = read_object(data)
        return Call(request, found, app, rest, body)

    # workflows

    async def run_workflow(self, call: Call) -> Reply | StreamReply:
        call.must_be("workflow")
        return await self._workflow(call)

    async def run_version(self, call: Call) -> Reply | StreamReply:
        name = call.subject("run")
        call.must_be("workflow")
        if name not in (workflow_id(call.found), call.found.id):
            raise ServiceError(404, "not_found", f"Workflow not found with id: {name[:80]}")
        return await self._workflow(call)

    async def _workflow(self, call: Call) -> Reply | StreamReply:
        user, is_streaming = call.user, call.is_streaming
        run = await self._parts.chats.run(
            call.found, call.app, inputs=mapping_of(call.body, "inputs"), user=user, files=list_of(call.body, "files")
        )
        return self._answer(run, call, is_streaming=is_streaming)

    async def one_run(self, call: Call) -> Reply:
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
        user = call.user
        run = await self._run(call, name)
        if run.user != user:
            raise NotFoundError(f"run {name[:80]!r} does not exist")
        if call.request.query("format") == "ag-ui":
            return self._ag_ui_stream(run)
        last = call.request.header(b"last-event-id") or call.request.query("after") or "0"
        after = int(last) if last.isdigit() else 0
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
        async with aclosing(self._parts.runs.watch(run.tenant, run.id)) as events:
            async for _, event in events:
                for _ in told.feed(event):
                    pass
        if told.finished is None:
            raise WorkflowError("the run ended without a word")
        if told.says_messages and told.finished["status"] == Status.FAILED.value:
            raise ServiceError(400, "completion_request_error", told.error)
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

    async def messages(self, call: Call) -> Reply:
        call.must_be(*CHATS)
        user, limit = call.user, call.number("limit", 20)
        conversation = await self._parts.conversations.find(
            call.tenant, call.found.id, user, call.request.query("conversation_id") or ""
        )
        before = 1e15
        if first := call.request.query("first_id"):
            before = (await self._parts.conversations.message(call.tenant, call.found.id, first)).created_at
        found = await self._parts.conversations.thread(call.tenant, conversation.id, before=before, most=limit + 1)
        shown = [self._message(one, call) for one in found[:limit]][::-1]
        return json_reply({"limit": limit, "has_more": len(found) > limit, "data": shown})

    def _message(self, one: Message, call: Call) -> JSON:
        usage = one.metadata.get("usage") or {}
        return {
            "id": one.id, "conversation_id": one.conversation, "parent_message_id": one.parent, "inputs": one.inputs,
            "query": one.query, "answer": one.answer, "status": one.status, "error": one.error or None,
            "message_files": [self._message_file(file, call) for file in one.files],
            "feedback": {"rating": one.rating} if one.rating else None,
            "retriever_resources": one.metadata.get("retriever_resources") or [],
            "agent_thoughts": one.metadata.get("agent_thoughts") or [],
            "created_at": int(one.created_at), "extra_contents": [], "total_tokens": usage.get("total_tokens", 0),
        }  # fmt: skip

    def _message_file(self, file: JSON, call: Call) -> JSON:
        url = file.get("remote_url") or self._parts.chats.files_of(call.tenant).address_of(file)
        return {
            "id": made_id(str(file.get("related_id") or url)),
            "filename": file.get("filename"), "type": file.get("type"), "url": url,
            "mime_type": file.get("mime_type"), "size": file.get("size"),
            "transfer_method": file.get("transfer_method"), "belongs_to": "user",
            "upload_file_id": upload_id(str(file.get("related_id") or "")) or None,
        }  # fmt: skip

    async def suggested(self, call: Call) -> Reply:
        name = call.subject("suggested")
        call.must_be(*CHATS)
        message = await self._parts.conversations.message(call.tenant, call.found.id, name)
        if message.user != call.user:
            raise NotFoundError("Message Not Exists.")
        if not (call.app.features.get("suggested_questions_after_answer") or {}).get("enabled"):
            raise ServiceError(400, "bad_request", "Suggested Questions Is Disabled.")
        told = (
            "Read the exchange and write three short questions that the user may ask next, in the language of the "
            'exchange. Answer with a JSON array of strings and nothing else, as ["…", "…", "…"].'
        )
        said = f"User: {message.query}\nAssistant: {message.answer}"
        model = self._parts.models.find(Caller(tenant=call.tenant), "default", ModelType.LLM)
        messages: list[Any] = [SystemPromptMessage(content=told), UserPromptMessage(content=said)]
        result = await model.invoke_llm(LLMRequest(messages=messages, model_parameters={"max_tokens": 256}))
        return json_reply({"result": "success", "data": _questions(result.text)})

    async def feedback(self, call: Call) -> Reply:
        name = call.subject("feedbacks")
        rating = call.body.get("rating")
        if rating not in ("like", "dislike", None):
            raise ServiceError(400, "invalid_param", f"rating must be like, dislike or null, not {str(rating)[:40]!r}")
        message = await self._parts.conversations.message(call.tenant, call.found.id, name)
        if message.user != call.user:
            raise NotFoundError("Message Not Exists.")
        content = str(call.body.get("content") or "")
        await self._parts.conversations.rate(call.tenant, call.found.id, name, rating or "", content)
        return json_reply({"result": "success"})

    async def feedbacks(self, call: Call) -> Reply:
        page, limit = call.number("page", 1, 10_000), call.number("limit", 20)
        found = await self._parts.conversations.rated(call.tenant, call.found.id, most=limit, skip=(page - 1) * limit)
        data = [
            {
                "id": made_id(f"feedback/{one.id}"), "app_id": call.found.id,
                "conversation_id": one.conversation, "message_id": one.id, "rating": one.rating,
                "content": one.feedback, "from_source": "user",
                "from_end_user_id": end_user_id(one.tenant, one.app, one.user),
                "from_account_id": None, "created_at": _iso(one.rated_at), "updated_at": _iso(one.rated_at),
            }
            for one in found
        ]  # fmt: skip
        return json_reply({"data": data})

    # conversations

    async def list_conversations(self, call: Call) -> Reply:
        call.must_be(*CHATS)
        user, limit = call.user, call.number("limit", 20)
        sort = call.request.query("sort_by") or "-updated_at"
        field = sort.removeprefix("-")
        if field not in ("created_at", "updated_at"):
            raise ServiceError(400, "invalid_param", f"sort_by must be created_at or updated_at, not {sort[:40]!r}")
        found = await self._parts.conversations.newest(call.tenant, call.found.id, user)
        found.sort(key=lambda one: getattr(one, field), reverse=sort.startswith("-"))
        if last := call.request.query("last_id"):
            place = next((place for place, one in enumerate(found) if one.id == last), None)
            if place is None:
                raise NotFoundError("Last Conversation Not Exists.")
            found = found[place + 1 :]
        shown = [_conversation(one) for one in found[:limit]]
        return json_reply({"limit": limit, "has_more": len(found) > limit, "data": shown})

    async def _conversation(self, call: Call) -> tuple[Conversation, str]:
        """(the one that the address names, what stands behind it)."""
        call.must_be(*CHATS)
        name, _, verb = call.rest.partition("/")
        return await self._parts.conversations.find(call.tenant, call.found.id, call.user, name), verb

    async def delete_conversation(self, call: Call) -> Reply:
        conversation, _ = await self._conversation(call)
        await self._parts.conversations.delete(call.tenant, call.found.id, call.user, conversation.id)
        return Reply(b"", status=204)

    async def rename(self, call: Call) -> Reply:
        conversation, verb = await self._conversation(call)
        if verb != "name":
            raise ServiceError(404, "not_found", f"there is nothing at {call.request.path!r}")
        name = call.body.get("name")
        if not call.body.get("auto_generate") and (not isinstance(name, str) or not name.strip()):
            raise ServiceError(400, "invalid_param", "name is required when auto_generate is false")
        if call.body.get("auto_generate"):
            first = await self._parts.conversations.thread(call.tenant, conversation.id, most=500)
            query = " ".join(first[-1].query.split()) if first else ""
            named = await self._parts.features.name_of(call.tenant, call.user, query) if query else ""
            name = named or query[:40] or NEW_NAME
        renamed = await self._parts.conversations.rename(conversation, str(name)[:255])
        return json_reply(_conversation(renamed))

    async def variables(self, call: Call) -> Reply:
        conversation, verb = await self._conversation(call)
        if verb != "variables":
            raise ServiceError(404, "not_found", f"there is nothing at {call.request.path!r}")
        wanted, limit = call.request.query("variable_name"), call.number("limit", 20)
        data = [
            _variable(name, one, conversation)
            for name, one in conversation.variables.items()
            if wanted in (None, "", name)
        ]
        if last := call.request.query("last_id"):
            place = next((place for place, one in enumerate(data) if one["id"] == last), -1)
            data = data[place + 1 :]
        return json_reply({"limit": limit, "has_more": len(data) > limit, "data": data[:limit]})

    async def update_variable(self, call: Call) -> Reply:
        conversation, verb = await self._conversation(call)
        kind, _, row = verb.partition("/")
        name = next((name for name, one in conversation.variables.items() if one.get("id") == row), None)
        if kind != "variables" or name is None:
            raise ServiceError(404, "not_found", "Conversation Variable Not Exists.")
        if "value" not in call.body:
            raise ServiceError(400, "invalid_param", "value is required")
        one, value = conversation.variables[name], call.body["value"]
        if not fits(value, str(one.get("value_type") or "any")):
            raise ServiceError(400, "bad_request", f"{name} is {one.get('value_type')}; the value is not")
        variables = {**conversation.variables, name: {**one, "value": value}}
        await self._parts.conversations.touch(call.tenant, conversation.id, variables)
        return json_reply(_variable(name, variables[name], conversation))

    # files

    async def upload(self, call: Call) -> Reply:
        data = await call.request.body()
        form = parse_form(
            call.request.header(b"content-type") or "", data,
            wanted="send the file as multipart/form-data, in the field 'file'",
        )  # fmt: skip
        if form.file is None:
            raise ServiceError(400, "no_file_uploaded", "Please upload your file.")
        if not form.filename:
            raise ServiceError(400, "filename_not_exists_error", "The specified filename does not exist.")
        user = form.fields.get("user") or ""
        stored = await asyncio.to_thread(self._parts.files.add, call.tenant, form.filename, form.file, owner=user)
        most = _UPLOAD_MB[file_kind(stored.extension, stored.mime_type)]
        if stored.size > most << 20:
            await asyncio.to_thread(self._parts.files.remove, call.tenant, stored.id)
            raise ServiceError(413, "file_too_large", f"File size exceeded: {most} MB is the most for such a file.")
        return json_reply(self._uploaded(stored, call, user), status=201)

    def _uploaded(self, stored: StoredFile, call: Call, user: str) -> JSON:
        end_user = end_user_id(call.tenant, call.found.id, user)
        query = self._parts.files.sign("read", call.tenant, stored.id, seconds=_PREVIEW_SECONDS)
        return {
            "id": upload_id(stored.id), "name": stored.name, "size": stored.size,
            "extension": stored.extension.lstrip("."), "mime_type": stored.mime_type, "created_by": end_user,
            "created_at": int(stored.created_at), "preview_url": None,
            "source_url": f"{self._parts.origin()}/files/{stored.id}?{query}", "user_id": end_user,
            "tenant_id": made_id(call.tenant), "conversation_id": None, "file_key": None,
            "original_url": None,
        }  # fmt: skip

    async def preview(self, call: Call) -> Reply:
        name = call.subject("preview")
        user = call.request.query("user") or ""
        try:
            stored, data = await asyncio.to_thread(self._parts.files.get, call.tenant, stored_id(name))
        except NotFoundError:
            raise ServiceError(404, "file_not_found", "The requested file was not found.") from None
        if stored.owner and user and stored.owner != user:
            raise ServiceError(403, "file_access_denied", "Access to the requested file is denied.")
        as_file = (call.request.query("as_attachment") or "").lower() == "true"
        kind = stored.mime_type
        # What a browser could run is handed over, never shown.
        is_safe = kind.startswith(("image/", "audio/", "video/")) and "svg" not in kind
        headers = {
            "content-disposition": f"{'attachment' if as_file or not is_safe else 'inline'}; "
            f'filename="{stored.id}{stored.extension}"',
            "x-content-type-options": "nosniff",
        }
        return Reply(data, content_type=kind.encode("latin-1", "replace"), headers=headers)

    # the app

    async def info(self, call: Call) -> Reply:
        return json_reply({
            "name": call.found.name, "description": call.app.description, "tags": [], "mode": call.app.mode,
            "author_name": "",
        })  # fmt: skip

    async def parameters(self, call: Call) -> Reply:
        features = {**_DEFAULTS, **{name: one for name, one in call.app.features.items() if one is not None}}
        shown = {name: features[name] for name in _DEFAULTS}
        return json_reply({
            **shown,
            "user_input_form": user_input_form(call.app),
            "system_parameters": {
                "file_size_limit": _UPLOAD_MB["document"], "image_file_size_limit": _UPLOAD_MB["image"],
                "audio_file_size_limit": _UPLOAD_MB["audio"], "video_file_size_limit": _UPLOAD_MB["video"],
                "workflow_file_upload_limit": 10,
            },
        })  # fmt: skip

    async def meta(self, call: Call) -> Reply:
        return json_reply({"tool_icons": {}})

    async def site(self, call: Call) -> Reply:
        app = call.app
        return json_reply({
            "title": call.found.name, "chat_color_theme": None, "chat_color_theme_inverted": False,
            "icon_type": app.icon_type, "icon": app.icon, "icon_background": app.icon_background, "icon_url": None,
            "description": app.description, "copyright": None, "privacy_policy": None, "input_placeholder": None,
            "custom_disclaimer": "", "default_language": "en-US", "show_workflow_steps": True,
            "use_icon_as_answer_icon": False,
        })  # fmt: skip

    async def one_user(self, call: Call) -> Reply:
        found, _ = await self._parts.runs.journal.list(call.tenant, call.found.id, most=1000)
        for run in found:
            row = end_user_id(run.tenant, run.app, run.user)
            if row == call.rest:
                return json_reply({
                    "id": row, "tenant_id": made_id(run.tenant), "app_id": run.app,
                    "type": "service_api", "external_user_id": run.user, "name": None, "is_anonymous": False,
                    "session_id": run.user, "created_at": _iso(run.created_at), "updated_at": _iso(run.created_at),
                })  # fmt: skip
        raise ServiceError(404, "end_user_not_found", "End user not found.")

    # speech

    async def transcribe(self, call: Call) -> Reply:
        if not (call.app.features.get("speech_to_text") or {}).get("enabled"):
            raise ServiceError(400, "speech_to_text_disabled", "Speech to text is not enabled for this app.")
        form = parse_form(
            call.request.header(b"content-type") or "", await call.request.body(),
            wanted="send the recording as multipart/form-data, in the field 'file'",
        )  # fmt: skip
        if form.file is None:
            raise ServiceError(400, "no_audio_uploaded", "Please upload your audio.")
        model = self._parts.models.find(Caller(tenant=call.tenant), "default-speech2text", ModelType.SPEECH2TEXT)
        asked = Speech2TextRequest(audio=form.file, filename=form.filename or "audio")
        return json_reply({"text": (await call.request.while_here(model.invoke_speech2text(asked))).text})

    async def speak(self, call: Call) -> StreamReply:
        text = call.body.get("text")
        if message := call.body.get("message_id"):
            text = (await self._parts.conversations.message(call.tenant, call.found.id, str(message))).answer
        if not isinstance(text, str) or not text.strip():
            raise ServiceError(400, "invalid_param", "text or message_id is required")
        feature = call.app.features.get("text_to_speech") or {}
        voice = str(call.body.get("voice") or feature.get("voice") or "default")
        model = self._parts.models.find(Caller(tenant=call.tenant), "default-tts", ModelType.TTS)

        async def pieces() -> AsyncGenerator[bytes, None]:
            asked = TTSRequest(text=text, voice=voice, format="mp3")
            async with aclosing(model.invoke_tts(asked)) as chunks:
                async for chunk in chunks:
                    if chunk.audio:
                        yield chunk.audio

        return audio_reply(pieces(), "audio/mpeg")

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
        await self._resume(*filled)
        return json_reply({})

    async def _resume(self, tenant: str, run: str) -> None:
        """The run goes on; where other branches still run, once they have paused."""
        for _ in range(100):
            if await self._parts.runs.resume(tenant, run):
                return
            if (await self._parts.runs.find(tenant, run)).status.is_over:
                return
            await asyncio.sleep(0.05)


class _Patient(StreamReply):
    """A whole answer that may take long. Where it fails before anything was sent, its status says so."""


@dataclass(frozen=True, slots=True)
class _Route:
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
            status, _ = problem_of(error)
            return json_reply(error_document(error), status=status, headers=retry_after(error))


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


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def _moment(call: Call, name: str, default: float) -> float:
    text = call.request.query(name)
    if not text:
        return default
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ServiceError(400, "invalid_param", f"{name} must be an ISO 8601 date, not {text[:40]!r}") from None


def _conversation(one: Conversation) -> JSON:
    return {
        "id": one.id, "name": one.name, "inputs": one.inputs, "status": "normal", "introduction": "",
        "created_at": int(one.created_at), "updated_at": int(one.updated_at),
    }  # fmt: skip


def _variable(name: str, one: JSON, conversation: Conversation) -> JSON:
    value = one.get("value")
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return {
        "id": one.get("id"), "name": name, "value_type": one.get("value_type"), "value": shown,
        "description": one.get("description") or "", "created_at": int(conversation.created_at),
        "updated_at": int(one.get("updated_at") or conversation.updated_at),
    }  # fmt: skip


def _questions(text: str) -> list[str]:
    start, end = text.find("["), text.rfind("]")
    try:
        found = json.loads(text[start : end + 1]) if 0 <= start < end else []
    except ValueError:
        found = []
    return [str(one) for one in found if isinstance(one, str)][:3]


def user_input_form(app: App) -> list[JSON]:
    """What an app asks for, one control an entry."""
    if not app.roots:
        return []
    if app.model_config:
        return list(app.model_config.get("user_input_form") or ())
    controls: list[JSON] = []
    for one in form_of(app.graph().nodes[app.roots[0]]):
        control = {name: value for name, value in msgspec.to_builtins(one).items() if value not in (None, [], "")}
        control |= {"label": one.label or one.variable, "variable": one.variable, "required": one.required,
                    "default": one.default if one.default is not None else ""}  # fmt: skip
        if one.type == "select":
            control["options"] = [str(option) for option in one.options]
        controls.append({one.type: control})
    return controls


def _words(content: Any) -> str:
    """A message's text: as it is, or its parts' together."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(one.get("text") or "") for one in parts if isinstance(one, dict) and one.get("type") == "text")
