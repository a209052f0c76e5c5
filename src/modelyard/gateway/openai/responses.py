"""/v1/responses: chats as items, stored so that a later request can continue from a
response."""

import hashlib
from dataclasses import dataclass
from typing import Any

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.fields import optional_field, required_field
from modelyard.base.ids import new_id
from modelyard.base.json_types import JsonValue
from modelyard.gateway.chat_response import (
    complete_reply,
    complete_response,
    named_events,
    prepare_request,
    stream_response,
)
from modelyard.gateway.errors import error_document, status_of
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.gateway.openai.hosted_tools import (
    HostedModel,
    HostedTools,
    HostedToolSet,
    as_functions,
)
from modelyard.models.llm import LLMRequest, LLMResult
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.response_store import ResponseStore
from modelyard.tools.entities import ToolContext
from modelyard.wire import openai_responses


@dataclass(frozen=True, slots=True)
class CreateRoute:
    """POST /v1/responses: answer a chat, complete or streamed, and store the response
    unless `store` is false."""

    manager: ModelManager
    clock: Clock
    store: ResponseStore
    hosted: HostedTools

    async def __call__(self, request: Request) -> Reply | StreamReply:
        body = await request.json()
        _refuse_unsupported(body)
        # Only the new items of this request are stored; the history is stored with the
        # earlier responses.
        items = _input_items(body)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.LLM
        )
        chat_request = openai_responses.parse_request(
            await self._with_history(request.tenant, body, items, instance)
        )
        model = self._with_tools(request, instance, chat_request, body)
        # From here on the hosted tools are functions, and the model object executes
        # their calls.
        if isinstance(model, HostedModel):
            chat_request, model.hosted = await self.hosted.prepare(
                request.tenant,
                chat_request,
                optional_field(body, "max_tool_calls", int),
            )
        # After that, so that a tool of this server is not named as left out.
        chat_request, headers = prepare_request(request, instance, chat_request)
        is_stored = body.get("store") is not False
        ending = _Ending(
            store=self.store,
            tenant=request.tenant,
            body=body,
            items=items,
            echo=openai_responses.echo_of(body),
            # A stored response needs an id that is unique on this server; the
            # provider's id is not.
            own_id=new_id("resp") if is_stored else "",
        )
        if not chat_request.stream:
            result = await complete_response(
                request, model, chat_request, self.clock, prefix="resp"
            )
            return complete_reply(
                request,
                ending.complete(result),
                result,
                "openai",
                headers,
                openai_responses.FORMAT,
            )
        return stream_response(
            request,
            model,
            chat_request,
            self.clock,
            ending.make_dumper,
            prefix="resp",
            frame=named_events,
            shape="openai",
            headers=headers,
            on_end=ending.store_streamed if is_stored else None,
            fail=_failure_events,
        )

    def _with_tools(
        self,
        request: Request,
        instance: ModelInstance,
        chat_request: LLMRequest,
        body: JSON,
    ) -> ModelInstance | HostedModel:
        """Return the model; if the request declares hosted tools that the provider
        lacks, with tools of this server."""
        if not self.hosted.is_needed(instance, chat_request):
            return instance
        user = request.caller.user or optional_field(body, "user", str) or ""
        context = ToolContext(
            tenant=request.tenant, user=user, app="responses", key=new_id("call")
        )
        return HostedModel(instance, self.hosted, HostedToolSet(), context)

    async def _with_history(
        self, tenant: str, body: JSON, items: list[Any], instance: ModelInstance
    ) -> JSON:
        """Return the request with the full history in place of `previous_response_id`.

        Raises NotFoundError if the response does not exist.
        """
        previous = optional_field(body, "previous_response_id", str)
        expanded_body = {
            name: value
            for name, value in body.items()
            if name not in ("previous_response_id", "store")
        }
        # What must not be stored here must not be stored by the provider either.
        if body.get("store") is False:
            expanded_body["store"] = False
        if previous is not None:
            expanded_body["input"] = [
                *await self.store.history(tenant, previous),
                *items,
            ]
        # The history can contain hosted calls that this model's provider does not
        # understand.
        if isinstance(
            expanded_body.get("input"), list
        ) and not instance.supports_wire_format(openai_responses.FORMAT):
            expanded_body["input"] = as_functions(expanded_body["input"])
        return expanded_body


@dataclass(frozen=True, slots=True)
class _Ending:
    """How the response to one request is written and, if it has an id of this server,
    stored."""

    store: ResponseStore
    tenant: str
    body: JSON
    items: list[Any]
    echo: JSON
    """Fields of the request that the response repeats."""
    own_id: str
    """Id of the stored response; empty if the response is not stored."""

    def complete(self, result: LLMResult) -> JSON:
        """Return the complete response as a document, after storing it."""
        document = openai_responses.dump_result(result, self.echo)
        if self.own_id:
            document["id"] = self.own_id
            self._store(document)
        return document

    def make_dumper(
        self, response_id: str, created: int, model: str
    ) -> openai_responses.StreamDumper:
        """Return the dumper of the stream, with the stored id if there is one."""
        return openai_responses.StreamDumper(
            response_id=self.own_id or response_id,
            created=created,
            model=model,
            echo=self.echo,
        )

    def store_streamed(self, dumper: openai_responses.StreamDumper) -> None:
        """Store the complete response after it was streamed."""
        self._store(dumper.response())

    def _store(self, document: JSON) -> None:
        """Store a response with its input items."""
        self.store.add(
            self.tenant,
            document,
            self.items,
            previous=self.body.get("previous_response_id"),
        )


def _failure_events(
    dumper: openai_responses.StreamDumper, error: ModelyardError
) -> list[JSON]:
    """Return the last events of a stream that has broken off."""
    status, document = status_of(error)[0], error_document(error)["error"]
    # Clients know the code of a failing server, and repeat the call.
    code = "server_error" if status >= 500 else document["code"] or error.code
    return dumper.finish({"code": code, "message": document["message"]})


def _refuse_unsupported(body: JSON) -> None:
    """Raise InvokeBadRequestError if the request uses a feature that needs server state
    that is not supported; ignoring it would surprise the client."""
    for name in ("background", "conversation"):
        if body.get(name):
            raise InvokeBadRequestError(
                f"{name!r} is not supported; omit it", param=name
            )


def _input_items(body: JSON) -> list[Any]:
    """Return the input as a list of items; a plain text becomes one user message."""
    raw_input: JsonValue = body.get("input")
    if isinstance(raw_input, str):
        return [{"type": "message", "role": "user", "content": raw_input}]
    return raw_input if isinstance(raw_input, list) else []


@dataclass(frozen=True, slots=True)
class StoredResponses:
    """Routes that read and delete stored responses."""

    store: ResponseStore

    async def get(self, request: Request) -> Reply:
        """GET /v1/responses/ID: return a stored response.

        Raises NotFoundError.
        """
        return json_reply(
            await self.store.get(request.tenant, request.names["response"])
        )

    async def input_items(self, request: Request) -> Reply:
        """GET /v1/responses/ID/input_items: list the input of a stored response.

        Raises NotFoundError.
        """
        return json_reply(
            _item_list(
                await self.store.input_items(request.tenant, request.names["response"])
            )
        )

    async def remove(self, request: Request) -> Reply:
        """DELETE /v1/responses/ID: delete a stored response.

        Raises NotFoundError.
        """
        name = request.names["response"]
        await self.store.remove(request.tenant, name)
        return json_reply({"id": name, "object": "response", "deleted": True})


@dataclass(frozen=True, slots=True)
class CountRoute:
    """POST /v1/responses/input_tokens: count the tokens of a request."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        body = await request.json()
        chat_request = openai_responses.parse_request(body)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.LLM
        )
        token_count = await request.cancel_on_disconnect(
            instance.count_tokens(chat_request)
        )
        # Providers without a counting endpoint are estimated locally.
        headers = {"x-modelyard-estimated": "true"} if token_count.estimated else {}
        return json_reply(
            {"object": "response.input_tokens", "input_tokens": token_count.tokens},
            headers=headers,
        )


def _item_list(items: list[Any]) -> JSON:
    """Return items in OpenAI's list format, newest first, each with an id."""
    # Clients send items without ids, but the list must have them.
    items_with_ids = [
        {**item, "id": item.get("id") or _derived_id(item, index)}
        for index, item in enumerate(items)
    ]
    items_with_ids.reverse()
    ends = (
        {"first_id": items_with_ids[0]["id"], "last_id": items_with_ids[-1]["id"]}
        if items_with_ids
        else {"first_id": None, "last_id": None}
    )
    return {"object": "list", "data": items_with_ids, **ends, "has_more": False}


def _derived_id(item: JSON, index: int) -> str:
    """Return an id derived from the item and its position, so that repeated requests
    return the same id."""
    return "msg_" + hashlib.sha256(f"{index}{item}".encode()).hexdigest()[:24]
