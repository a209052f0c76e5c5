"""/v1/responses: answers as items, kept so that the next request can go on from one of them."""

import hashlib
from dataclasses import dataclass
from typing import Any

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import may, need
from modelyard.base.ids import new_id
from modelyard.gateway.answers import named_events, prepared, streamed, whole
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.gateway.openai.hosted_tools import Hosted, HostedModel, HostedTools, as_functions
from modelyard.models.llm import LLMRequest
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.response_store import ResponseStore
from modelyard.tools.entities import ToolContext
from modelyard.wire import openai_responses


@dataclass(frozen=True, slots=True)
class CreateRoute:
    manager: ModelManager
    clock: Clock
    store: ResponseStore
    hosted: HostedTools

    async def __call__(self, request: Request) -> Reply | StreamReply:
        body = await request.json()
        for name in ("background", "conversation"):
            if body.get(name):
                raise InvokeBadRequestError(f"{name!r} is not offered here; leave it out", param=name)
        items = _items(body)
        instance = request.find(self.manager, need(body, "model", str), ModelType.LLM)
        asked = openai_responses.parse_request(await self._with_history(request.tenant, body, items, instance))
        asked, headers = prepared(request, instance, asked)
        model = self._with_tools(request, instance, asked, body)
        if isinstance(model, HostedModel):
            asked, model.hosted = await self.hosted.prepare(request.tenant, asked, may(body, "max_tool_calls", int))
        echo = openai_responses.echo_of(body)
        is_kept = body.get("store") is not False
        # One that is kept needs an id that nobody else gave out.
        own_id = new_id("resp") if is_kept else ""
        if not asked.stream:
            result = await whole(request, model, asked, self.clock, prefix="resp")
            document = openai_responses.dump_result(result, echo)
            if own_id:
                document["id"] = own_id
                self._keep(request.tenant, body, items, document)
            return json_reply(document, headers=headers)

        def make(response_id: str, created: int, model: str) -> openai_responses.StreamDumper:
            return openai_responses.StreamDumper(
                response_id=own_id or response_id, created=created, model=model, echo=echo
            )

        def on_end(dumper: openai_responses.StreamDumper) -> None:
            self._keep(request.tenant, body, items, dumper.response())

        return streamed(
            model, asked, self.clock, make,
            prefix="resp", frame=named_events, shape="openai", headers=headers, on_end=on_end if own_id else None,
        )  # fmt: skip

    def _with_tools(
        self, request: Request, instance: ModelInstance, asked: LLMRequest, body: JSON
    ) -> ModelInstance | HostedModel:
        """The model; where it is to have hosted tools that its provider has not, with ours."""
        if not self.hosted.wanted(instance, asked):
            return instance
        user = request.caller.user or may(body, "user", str) or ""
        about = ToolContext(tenant=request.tenant, user=user, app="responses", key=new_id("call"))
        return HostedModel(instance, self.hosted, Hosted(), about)

    async def _with_history(self, tenant: str, body: JSON, items: list[Any], instance: ModelInstance) -> JSON:
        """The request with all that went before it in place of the id that stands for it."""
        previous = may(body, "previous_response_id", str)
        rest = {name: value for name, value in body.items() if name not in ("previous_response_id", "store")}
        if previous is not None:
            rest["input"] = [*await self.store.history(tenant, previous), *items]
        if isinstance(rest.get("input"), list) and not instance.speaks(openai_responses.FORMAT):
            rest["input"] = as_functions(rest["input"])
        return rest

    def _keep(self, tenant: str, body: JSON, items: list[Any], document: JSON) -> None:
        self.store.add(tenant, document, items, previous=body.get("previous_response_id"))


def _items(body: JSON) -> list[Any]:
    given = body.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return given if isinstance(given, list) else []


@dataclass(frozen=True, slots=True)
class StoredResponses:
    """Responses that were kept: looked at and removed."""

    store: ResponseStore

    async def get(self, request: Request) -> Reply:
        """GET /v1/responses/ID. Raises NotFoundError."""
        return json_reply(await self.store.get(request.tenant, request.names["response"]))

    async def input_items(self, request: Request) -> Reply:
        """GET /v1/responses/ID/input_items. Raises NotFoundError."""
        return json_reply(_listed(await self.store.input_items(request.tenant, request.names["response"])))

    async def remove(self, request: Request) -> Reply:
        """DELETE /v1/responses/ID. Raises NotFoundError."""
        name = request.names["response"]
        await self.store.remove(request.tenant, name)
        return json_reply({"id": name, "object": "response", "deleted": True})


@dataclass(frozen=True, slots=True)
class CountRoute:
    """POST /v1/responses/input_tokens."""

    manager: ModelManager

    async def __call__(self, request: Request) -> Reply:
        body = await request.json()
        asked = openai_responses.parse_request(body)
        instance = request.find(self.manager, need(body, "model", str), ModelType.LLM)
        counted = await request.while_here(instance.count_tokens(asked))
        headers = {"x-modelyard-estimated": "true"} if counted.estimated else {}
        return json_reply({"object": "response.input_tokens", "input_tokens": counted.tokens}, headers=headers)


def _listed(items: list[Any]) -> JSON:
    """Newest first, each with an id, as OpenAI lists them."""
    named = [{**one, "id": one.get("id") or _made_id(one, place)} for place, one in enumerate(items)]
    named.reverse()
    ends = {"first_id": named[0]["id"], "last_id": named[-1]["id"]} if named else {"first_id": None, "last_id": None}
    return {"object": "list", "data": named, **ends, "has_more": False}


def _made_id(item: JSON, place: int) -> str:
    return "msg_" + hashlib.sha256(f"{place}{item}".encode()).hexdigest()[:24]
