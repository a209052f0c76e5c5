"""/a2a/APP: a published app as an A2A agent. Serves revision 1.0, and 0.3 for older
clients."""

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.fields import whole_number
from modelyard.base.json_types import EMPTY_OBJECT, is_mapping, is_object
from modelyard.gateway.a2a.shapes import (
    INVALID,
    INVALID_PARAMS,
    NO_METHOD,
    NO_PUSH,
    NO_TASK,
    NOT_CANCELABLE,
    PARSE,
    UNSUPPORTED,
    A2AError,
    IncomingMessage,
    TaskEvents,
    read_message,
    task_from_run,
    to_revision_0_3,
)
from modelyard.gateway.chat_response import plain_events
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply, sse_reply
from modelyard.gateway.keep_alive import SSE_COMMENT
from modelyard.gateway.service.authentication import app_caller, named_reader
from modelyard.gateway.service.calls import ServiceError, status_and_code
from modelyard.gateway.service.dependencies import ServiceDependencies, translate_events
from modelyard.models.types import JSON
from modelyard.tenancy.resource_types import AppKey
from modelyard.workflow.apps import AppRecord
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Status
from modelyard.workflow.form_answers import FormClosedError
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.nodes.start import InputError, form_of

PREFIX = "/a2a/"
_METHODS = {
    "message/send": "SendMessage",
    "message/stream": "SendStreamingMessage",
    "tasks/get": "GetTask",
    "tasks/cancel": "CancelTask",
    "tasks/resubscribe": "SubscribeToTask",
}
"""Method name of revision 0.3 → method name of 1.0."""
_PUSH = "PushNotificationConfig"
_USER = "a2a"
_PAGE = 50


class Agents:
    """Apps as A2A agents: agent cards and JSON-RPC calls."""

    def __init__(self, parts: ServiceDependencies) -> None:
        self._parts = parts
        self._calls: Mapping[str, Callable[[_Call], Awaitable[JSON]]] = {
            "SendMessage": self._send,
            "GetTask": self._get,
            "ListTasks": self._list,
            "CancelTask": self._cancel,
        }

    async def card(self, request: Request) -> Reply:
        """GET …/.well-known/agent-card.json: return the card of an agent.

        Raises ServiceError if the caller may not see it.
        """
        app_record = self._authenticate(request, is_card=True)
        return json_reply(
            self._card(app_record, await self._parts.apps.published_app(app_record))
        )

    async def call(self, request: Request) -> Reply | StreamReply:
        """POST: handle one JSON-RPC request.

        Raises ServiceError if the caller is not authorized; other errors are JSON-RPC
        error responses.
        """
        return await self._rpc(request, self._authenticate(request, is_card=False))

    def _authenticate(self, request: Request, *, is_card: bool) -> AppRecord:
        """Return the addressed app, and identify the request as acting for it.

        Raises ServiceError if the caller is not authorized.
        """
        app_record, key = self._find_app(
            request, request.names["agent"], is_card=is_card
        )
        request.identify(named_reader(app_caller(app_record, key), request))
        return app_record

    def _find_app(
        self, request: Request, name: str, *, is_card: bool
    ) -> tuple[AppRecord, AppKey | None]:
        """Return the app whose API key the request presents, with the key.

        A card needs no key if the app has a public page. Raises ServiceError otherwise.
        """
        # The key is a bearer token or, without one, the x-api-key header.
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        presented_key = key.strip() if scheme.lower() == "bearer" else ""
        presented_key = presented_key or request.header(b"x-api-key") or ""
        app_and_key = (
            self._parts.apps.get_by_key(presented_key) if presented_key else None
        )
        # The key must belong to the app in the path, which is named by its id or its
        # page token.
        if app_and_key is not None and name in (
            app_and_key[0].id,
            app_and_key[0].stored.page.token,
        ):
            request.payer = app_and_key[0].tenant
            return app_and_key
        public = self._parts.apps.get_by_page_token(name)
        if is_card and public is not None:
            return public, None
        raise ServiceError(
            401, "unauthorized", "App key required: send Authorization: Bearer app-…"
        )

    def _card(self, app_record: AppRecord, app: App) -> JSON:
        """Return the agent card, in a form that clients of both revisions can read."""
        url = f"{self._parts.origin()}{PREFIX}{app_record.id}"
        modes = ["text/plain", "application/json"]
        # A2A has no schema for inputs, so the description of the skill lists the
        # fields.
        inputs = ", ".join(
            input_field.variable
            for root in app.roots
            for input_field in form_of(app.graph(root).nodes[root])
        )
        description = app_record.stored.description or f"The app {app_record.name}."
        skill = {
            "id": app_record.id,
            "name": app_record.name,
            "tags": [app.mode],
            "description": f"{description} Input fields: {inputs}."
            if inputs
            else description,
        }
        return {
            "name": app_record.name,
            "description": description,
            "version": (app_record.stored.digest or "0")[:12],
            "supportedInterfaces": [
                {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
                {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "0.3"},
            ],
            "capabilities": {
                "streaming": True,
                "pushNotifications": False,
                "extendedAgentCard": False,
            },
            "defaultInputModes": modes,
            "defaultOutputModes": modes,
            "skills": [skill],
            "securitySchemes": {
                "key": {"httpAuthSecurityScheme": {"scheme": "bearer"}}
            },
            "securityRequirements": [{"schemes": {"key": {"list": []}}}],
            # Fields that clients of revision 0.3 read.
            "url": url,
            "preferredTransport": "JSONRPC",
            "protocolVersion": "0.3.0",
        }

    # Calls.

    async def _rpc(
        self, request: Request, app_record: AppRecord
    ) -> Reply | StreamReply:
        """Dispatch a JSON-RPC request; errors become error responses with the request's
        id."""
        # The id stays None until the body is parsed, as JSON-RPC requires for
        # unreadable requests.
        number: Any = None
        try:
            body = _body(await request.body())
            number = body.get("id")
            call = await self._read(request, app_record, body)
            if call.method in ("SendStreamingMessage", "SubscribeToTask"):
                return await self._stream(call)
            # The methods that stream were handled above; the others return one result.
            handler = self._calls.get(call.method)
            if handler is None:
                raise _unknown_method(call.method, str(body.get("method")))
            # The run itself continues if the client disconnects; only the waiting is
            # cancelled.
            result = await request.cancel_on_disconnect(handler(call))
            return json_reply({"jsonrpc": "2.0", "id": number, "result": result})
        except A2AError as error:
            return json_reply(_error_response(number, error.code, str(error)))
        except ModelyardError as error:
            return json_reply(_error_response(number, *_error_code(error)))

    async def _read(
        self, request: Request, app_record: AppRecord, body: JSON
    ) -> "_Call":
        """Parse a JSON-RPC request into a call.

        Raises A2AError if method or params are invalid.
        """
        method_name, params = body.get("method"), body.get("params")
        if not isinstance(method_name, str):
            raise A2AError(INVALID, "'method' is required")
        if params is not None and not is_object(params):
            raise A2AError(INVALID_PARAMS, "'params' must be an object")
        app = await self._parts.apps.published_app(app_record)
        # Methods are handled under their 1.0 name. An old name marks a client of
        # revision 0.3.
        return _Call(
            app_record,
            app,
            _METHODS.get(method_name, method_name),
            params or dict[str, Any](),
            body.get("id"),
            is_old=method_name in _METHODS,
        )

    async def _send(self, call: "_Call") -> JSON:
        """Handle SendMessage: run the app and return the task."""
        message = read_message(call.params)
        run = await self._start_run(call, message)
        configuration: Any = call.params.get("configuration")
        settings: Mapping[str, Any] = configuration if is_mapping(configuration) else {}
        # 1.0 says returnImmediately; 0.3 says blocking: false.
        if settings.get("returnImmediately") or settings.get("blocking") is False:
            return call.in_client_revision({"task": task_from_run(run, "")})
        events = TaskEvents(run)
        async with aclosing(
            translate_events(self._parts.runs, run, events)
        ) as event_stream:
            # The events object collects the text while the stream is drained.
            async for _ in event_stream:
                pass
        ended = await self._parts.runs.find(run.tenant, run.id)
        return call.in_client_revision(
            {"task": task_from_run(ended, "".join(events.text))}
        )

    async def _start_run(self, call: "_Call", message: IncomingMessage) -> RunRecord:
        """Start a run for a message, or resume the task that it refers to.

        Raises A2AError if the message lacks what the app needs.
        """
        if message.task:
            return await self._submit_form(call, message)
        user = message.user or _USER
        tenant = call.found.tenant
        files: list[JSON] = [
            {"transfer_method": "remote_url", "url": url} for url, _ in message.links
        ]
        # Inline files are stored first, so that the run can refer to them like to an
        # upload.
        for name, data, media_type in message.blobs:
            stored_file = await self._parts.files.add(
                tenant, name, data, media_type, owner=user
            )
            files.append(
                {"transfer_method": "local_file", "upload_file_id": stored_file.id}
            )
        chats = self._parts.chats
        # Workflow apps take inputs; a plain text becomes the input `query`.
        if not call.app.is_chat:
            inputs = dict(message.data)
            if message.text and "query" not in inputs:
                inputs["query"] = message.text
            return await chats.run(
                call.found,
                call.app,
                inputs=inputs,
                user=user,
                files=files,
                created_from="a2a",
            )
        if not message.text:
            raise A2AError(INVALID_PARAMS, "params.message must have a text part")
        run, _ = await chats.send(
            call.found,
            call.app,
            query=message.text,
            inputs=message.data,
            user=user,
            files=files,
            conversation_id=await self._conversation_id(call, user, message.context),
            created_from="a2a",
        )
        return run

    async def _conversation_id(self, call: "_Call", user: str, context: str) -> str:
        """Return the conversation id of a context, or an empty string for none.

        Raises A2AError if the context does not exist or belongs to another user.
        """
        if not context:
            return ""
        try:
            return (
                await self._parts.conversations.find(
                    call.found.tenant,
                    call.found.id,
                    user,
                    str(uuid.UUID(context)),
                )
            ).id
        except (NotFoundError, ValueError) as error:
            raise A2AError(
                INVALID_PARAMS, f"Context {context[:80]!r} not found"
            ) from error

    async def _submit_form(self, call: "_Call", message: IncomingMessage) -> RunRecord:
        """Submit the form for which a paused task waits, and return the resumed run.

        The message names an action by its id or title and may carry inputs. Raises
        A2AError if the task does not wait or the action is unknown.
        """
        run = await self._task(call, message.task)
        if run.status is not Status.PAUSED or not run.reasons:
            raise A2AError(
                UNSUPPORTED,
                f"Task {run.id} is not waiting for input: it is {run.status.value}",
            )
        form_request = run.reasons[0]
        action, inputs = _form_answer(form_request, message)
        answers = self._parts.form_answers
        try:
            token = str(form_request.get("form_token"))
            form = answers.opened(await answers.find(run.tenant, token))
            await answers.submit(
                form,
                action=action,
                inputs=inputs,
                user=run.user,
            )
        except FormClosedError as error:
            raise A2AError(UNSUPPORTED, error.public_text) from error
        except (InvokeBadRequestError, InputError) as error:
            raise A2AError(INVALID_PARAMS, error.public_text) from error
        return await self._parts.runs.find(run.tenant, run.id)

    async def _stream(self, call: "_Call") -> StreamReply:
        """Handle SendStreamingMessage and SubscribeToTask: stream the task's updates."""
        if call.method == "SubscribeToTask":
            run = await self._task(call, call.task)
        else:
            run = await self._start_run(call, read_message(call.params))

        async def event_chunks() -> AsyncGenerator[bytes, None]:
            """Yield the task first, then each update as an SSE event."""
            events = TaskEvents(run)
            yield call.sse_event(events.initial_task())
            async with aclosing(
                translate_events(self._parts.runs, run, events)
            ) as updates:
                async for update in updates:
                    yield call.sse_event(update)

        def error_event(error: ModelyardError) -> bytes:
            """Return the last event of a stream that failed."""
            return plain_events(_error_response(call.number, *_error_code(error)))

        return sse_reply(event_chunks(), error_event, keep_alive=SSE_COMMENT)

    async def _task(self, call: "_Call", name: str) -> RunRecord:
        """Return the run of a task.

        Raises A2AError if there is none or it belongs to another app.
        """
        try:
            run = await self._parts.runs.find(call.found.tenant, name)
        except NotFoundError:
            run = None
        # The app check keeps the key of one app from reading tasks of another one of
        # the tenant.
        if run is None or run.app != call.found.id:
            raise A2AError(NO_TASK, f"Task {name[:80]!r} not found")
        return run

    async def _get(self, call: "_Call") -> JSON:
        """Handle GetTask."""
        run = await self._task(call, call.task)
        text = ""
        # The text of a chat run is stored with its message, not with the run.
        if run.message and run.status.is_over:
            message = await self._parts.conversations.get_message(
                run.tenant, run.app, run.message
            )
            text = message.answer
        task = call.in_client_revision({"task": task_from_run(run, text)})
        # GetTask returns the bare task; the conversion to 0.3 has already unwrapped it.
        return task if call.is_old else task["task"]

    async def _list(self, call: "_Call") -> JSON:
        """Handle ListTasks: newest first, with the offset as the page token.

        Raises A2AError if pageSize or pageToken is invalid.
        """
        token, size = (
            str(call.params.get("pageToken") or "0"),
            call.params.get("pageSize", _PAGE),
        )
        skip = whole_number(token)
        if skip is None or not isinstance(size, int) or not 1 <= size <= 100:
            raise A2AError(
                INVALID_PARAMS,
                "pageSize must be a number from 1 to 100, pageToken the nextPageToken of a page",
            )
        runs, total = await self._parts.runs.journal.list(
            call.found.tenant, call.found.id, limit=size, skip=skip
        )
        context_id = call.params.get("contextId")
        tasks = [task_from_run(run, "") for run in runs]
        return {
            # The context filter applies to the fetched page only, so a page can have
            # fewer tasks than pageSize.
            "tasks": [
                task for task in tasks if context_id in (None, "", task["contextId"])
            ],
            "pageSize": size,
            "totalSize": total,
            "nextPageToken": str(skip + size) if skip + size < total else "",
        }

    async def _cancel(self, call: "_Call") -> JSON:
        """Handle CancelTask, and return the task after it has ended.

        Raises A2AError if it is already over.
        """
        run = await self._task(call, call.task)
        if run.status.is_over:
            raise A2AError(
                NOT_CANCELABLE,
                f"Task {run.id} has already ended: it is {run.status.value}",
            )
        await self._parts.runs.stop(run.tenant, run.id)
        ended = await self._parts.runs.wait_until_ended(run.tenant, run.id)
        task = call.in_client_revision({"task": task_from_run(ended, "")})
        return task if call.is_old else task["task"]


def _form_answer(
    form_request: Mapping[str, Any], message: IncomingMessage
) -> tuple[str, JSON]:
    """Return the action and the inputs that a message submits to a form.

    Raises A2AError if the message names no action of the form.
    """
    # An action can be named by its id or by its title, in any case.
    actions = {
        str(label).lower(): str(form_action["id"])
        for form_action in form_request.get("actions") or ()
        for label in (form_action["id"], form_action.get("title") or form_action["id"])
    }
    action_label = str(message.data.get("action") or message.text).strip().lower()
    action = actions.get(action_label) or _only_action(actions)
    if not action:
        labels = ", ".join(sorted(set(actions)))
        raise A2AError(
            INVALID_PARAMS,
            f"Expected one of the actions {labels}, as text or as 'action' in a data part",
        )
    # A text that names no action fills the form's fields.
    text = "" if action_label in actions else message.text
    submitted: Any = message.data.get("inputs")
    submitted_inputs = submitted if is_mapping(submitted) else EMPTY_OBJECT
    preset: Mapping[str, Any] = form_request.get("resolved_default_values") or {}
    # A field with a default keeps it, and a text is no file.
    inputs = {
        str(form_input["output_variable_name"]): _text_for(form_input, text)
        for form_input in form_request.get("inputs") or ()
        if form_input["output_variable_name"] not in preset
    }
    return action, {**inputs, **submitted_inputs}


def _text_for(form_input: Mapping[str, Any], text: str) -> Any:
    """Return the value of a field that only a message's text can fill."""
    empty_values = {"file": None, "file-list": list[Any]()}
    return empty_values.get(str(form_input.get("type")), text)


def _only_action(actions: Mapping[str, str]) -> str:
    """Return the action of a form that has only one, which any answer selects;
    otherwise an empty string."""
    ids = set(actions.values())
    return ids.pop() if len(ids) == 1 else ""


class _Call(msgspec.Struct, frozen=True):
    """One JSON-RPC call to an agent."""

    found: AppRecord
    app: App
    method: str
    params: dict[str, Any]
    number: Any
    is_old: bool = False
    """Whether the client uses revision 0.3."""

    @property
    def task(self) -> str:
        """Return the task id of the params; raises A2AError if it is missing."""
        name = self.params.get("id")
        if not isinstance(name, str) or not name:
            raise A2AError(INVALID_PARAMS, "params.id is required")
        return name

    def in_client_revision(self, result: JSON) -> JSON:
        """Return the result in the revision of the client."""
        return to_revision_0_3(result) if self.is_old else result

    def sse_event(self, result: JSON) -> bytes:
        """Return the result as an SSE event that holds a JSON-RPC response."""
        return plain_events(
            {
                "jsonrpc": "2.0",
                "id": self.number,
                "result": self.in_client_revision(result),
            }
        )


def _body(data: bytes) -> JSON:
    """Parse a JSON-RPC request object.

    Raises A2AError with the JSON-RPC code for a parse error or an invalid request.
    """
    try:
        rpc_request = decode_body(data)
    except BodyError as error:
        raise A2AError(PARSE, f"Request body is not valid JSON: {error}") from error
    if not is_object(rpc_request) or rpc_request.get("jsonrpc") != "2.0":
        raise A2AError(
            INVALID,
            "Request must be an object with jsonrpc '2.0', id, method and params",
        )
    return rpc_request


def _unknown_method(method: str, sent_name: str) -> A2AError:
    """Return the error for a method that is not supported. `sent_name` is its name as
    the client sent it."""
    # The protocol has its own error codes for optional features, so these come before
    # "unknown method".
    if _PUSH in method or "pushNotification" in sent_name:
        return A2AError(NO_PUSH, "Push notifications are not supported")
    if method == "GetExtendedAgentCard":
        return A2AError(UNSUPPORTED, "No extended agent card is available")
    return A2AError(NO_METHOD, f"Unknown method {sent_name[:60]!r}")


def _error_code(error: ModelyardError) -> tuple[int, str]:
    """Return the JSON-RPC error code and the message of an error."""
    status, _ = status_and_code(error)
    # -32603 is JSON-RPC's "internal error".
    return (INVALID_PARAMS if status < 500 else -32603), error.public_text


def _error_response(number: Any, code: int, message: str) -> JSON:
    """Return a JSON-RPC error response."""
    return {
        "jsonrpc": "2.0",
        "id": number,
        "error": {"code": code, "message": message},
    }
