"""Tenant isolation: every route is called with every id of another tenant, in every
position in which an id can stand. Secrets are searched for in all outputs.

The cases are derived from the router, so a new route is covered as soon as it exists.
"""

import asyncio
import base64
import io
import itertools
import json
import logging
import re
import tempfile
import urllib.parse
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.ids import new_uuid
from modelyard.base.log import JsonFormatter, TextFormatter
from modelyard.base.settings import EgressSettings, Settings
from modelyard.gateway.admin.resources import PLURALS
from modelyard.gateway.admin.rows import PREFIX
from modelyard.gateway.auth import TENANT
from modelyard.gateway.server import Gateway
from modelyard.knowledge.entities import (
    DatasetSettings,
    DocForm,
    MetadataField,
    Technique,
)
from modelyard.knowledge.evaluations import Evaluation, Question
from modelyard.runtime.telemetry import OpenTelemetryCallback
from modelyard.tenancy.caller import Caller, Role
from modelyard.testing import (
    Upstream,
    chat_answer,
    chat_events,
    error_answer,
    json_answer,
    stream_answer,
)
from modelyard.workflow.dsl import AppMapping
from modelyard.workflow.services import upload_id
from tools.show.proof import Proof

CANARY = "canary7731"
"""Part of every name and value of tenant alpha; tenant beta must never see it."""
SECRET = "sk-secretcanary-9f8e7d6c5b4a"
_RESPONSE = {
    "id": "resp_upstream",
    "object": "response",
    "status": "completed",
    "model": "m",
    "created_at": 1,
    "output": [
        {
            "type": "message",
            "role": "assistant",
            "id": "m1",
            "status": "completed",
            "content": [{"type": "output_text", "text": "fine", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4},
}
_OPERATOR = Caller(tenant="default")


@dataclass
class GatewayResponse:
    """The response to one request."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(
    gateway: Gateway,
    method: str,
    path: str,
    key: str,
    body: Any = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> GatewayResponse:
    """Send a request to the gateway over ASGI in this process and return the response."""
    data = json.dumps(body).encode() if body is not None else b""
    target, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": urllib.parse.unquote(target),
        "query_string": query.encode(),
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/json"),
            (b"authorization", f"Bearer {key}".encode()),
            (b"content-length", str(len(data)).encode()),
            *headers,
        ],
    }
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": data, "more_body": False}])

    async def receive() -> Any:
        """Return the request body once, then block: the caller stays connected."""
        if (message := next(messages, None)) is not None:
            return message
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Collect a message of the response."""
        sent.append(message)

    await gateway(scope, receive, send)
    response_headers = {
        name.decode(): value.decode() for name, value in sent[0]["headers"]
    }
    return GatewayResponse(
        sent[0]["status"],
        response_headers,
        b"".join(message.get("body", b"") for message in sent[1:]),
    )


_APP = """
kind: app
version: 0.6.0
app: {name: told, mode: chat}
model_config: {model: {provider: openai, name: x, mode: chat, completion_params: {}}, pre_prompt: WORD}
"""


@dataclass
class TenantWorld:
    """Two tenants; the first one, alpha, has at least one resource of every type."""

    yard: Modelyard
    gateway: Gateway
    keys: dict[str, str] = field(default_factory=dict[str, str])
    """`tenant/role` to API key."""
    ids: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Resource type to the ids of tenant alpha."""


async def build(
    home: str, url: str, callbacks: Sequence[Any], *, database: str = ""
) -> TenantWorld:
    """Create the tenants and all resources of alpha. An empty `database` means SQLite
    in the home folder."""
    # The tenants' own provider runs on this machine.
    egress = EgressSettings(private=[urlsplit(url).netloc])
    settings = Settings(home=home, database=database, retries=0, egress=egress)
    yard = Modelyard(settings, environ={}, callbacks=callbacks)
    await yard.open()
    world = TenantWorld(yard, gateway_for(yard.services))
    await _tenants(world)
    await _resources(world, url)
    await _calls(world)
    await _documents(world)
    await _apps(world)
    # The ledger writes in batches; the cases need its rows now.
    await yard.services.calls.ledger.flush()
    return world


async def _tenants(world: TenantWorld) -> None:
    """Create both tenants, and a key of each role for each."""
    admin = world.yard.services.tenancy.administration
    for tenant in ("alpha", "beta"):
        label = f"{CANARY} label" if tenant == "alpha" else ""
        await admin.create(_OPERATOR, tenant, "tenant", tenant, {"label": label})
        owner = Caller(tenant=tenant)
        for role in Role:
            created = await admin.create(
                owner, tenant, "key", f"{tenant}-{role.value}", {"role": role.value}
            )
            world.keys[f"{tenant}/{role.value}"] = created["key"]


async def _resources(world: TenantWorld, url: str) -> None:
    """Create one resource of every type that tenants manage, each with the canary in
    its name."""
    admin = world.yard.services.tenancy.administration
    alpha = Caller(tenant="alpha")
    model = {"name": f"{CANARY}-model", "context_size": 100}
    for resource_type, fields in (
        ("user", {"email": f"{CANARY}@example.org"}),
        ("key", {"role": "viewer"}),
        ("credential", _openai_credential(SECRET, url)),
        ("limit", {"unit": "requests", "amount": 100_000}),
        ("route", {"targets": [{"model": "openai/gpt-5-mini"}]}),
        ("model", {"provider": "openai", "definition": model}),
    ):
        created = await admin.create(
            alpha, "alpha", resource_type, f"{CANARY}-{resource_type}", fields
        )
        world.ids.setdefault(resource_type, []).append(created["id"])
    # Beta needs a credential too, so that its calls get past the choice of a
    # credential.
    beta_credential = _openai_credential(_BETA_SECRET, url)
    await admin.create(
        Caller(tenant="beta"), "beta", "credential", "own", beta_credential
    )
    world.ids["tenant"] = ["alpha"]


_BETA_SECRET = "sk-beta-own-key"


def _openai_credential(api_key: str, url: str) -> dict[str, Any]:
    """Return the fields of a credential for the simulated provider."""
    return {"provider": "openai", "values": {"api_key": api_key, "base_url": url}}


async def _calls(world: TenantWorld) -> None:
    """Make a call and a stored response of alpha, whose ids are then tried by beta."""
    key = world.keys["alpha/owner"]
    chat = {
        "model": "openai/gpt-5-mini",
        "messages": [{"role": "user", "content": f"{CANARY} question"}],
        "user": CANARY,
    }
    called = await ask(world.gateway, "POST", "/v1/chat/completions", key, chat)
    world.ids["call"] = [called.headers["x-request-id"]]
    request = {"model": "openai/gpt-5-mini", "input": f"{CANARY} input"}
    response = await ask(world.gateway, "POST", "/v1/responses", key, request)
    world.ids["response"] = [json.loads(response.body)["id"]]


async def _apps(world: TenantWorld) -> None:
    """Create an app for each tenant; alpha's app has a draft, a key, a page, a
    conversation and a file."""
    apps = world.yard.apps
    mapping = AppMapping(models={"*": "openai/gpt-5-mini"})
    for tenant in ("alpha", "beta"):
        text = _APP.replace("WORD", f"{CANARY} prompt" if tenant == "alpha" else "own")
        app, _, _ = await apps.add(
            tenant,
            text,
            name=f"{CANARY} app" if tenant == "alpha" else "own",
            mapping=mapping,
        )
        row, key = await apps.make_key(app)
        world.keys[f"{tenant}/app"] = key
        if tenant == "beta":
            continue
        await apps.set_page(app, is_on=True)
        library = world.yard.services.workflows.library
        tag = await library.add_tag(tenant, f"{tenant} tag")
        await library.set_tags(app, [tag.id])
        # Added again without publishing, which makes it a draft of the same app.
        await apps.add(tenant, text + "\n# changed\n", name=app.name, publishes=False)
        chat_body = {"query": f"{CANARY} query", "inputs": {}, "user": f"{CANARY} user"}
        response = await ask(world.gateway, "POST", "/v1/chat-messages", key, chat_body)
        answer = json.loads(response.body)
        file = await world.yard.services.storage.files.add(
            tenant,
            "a.txt",
            f"{CANARY} file".encode(),
        )
        world.ids |= {
            "app": [app.id],
            "app key": [row],
            "app tag": [tag.id],
            "conversation": [answer["conversation_id"]],
            "message": [answer["message_id"]],
            "run": [answer["task_id"]],
            "file": [upload_id(file.id)],
        }


def app_cases(world: TenantWorld) -> Iterator[tuple[str, str, Any, str]]:
    """Yield cases for the administration of apps and evaluations with alpha's ids."""
    ids = {
        name: world.ids[name][0]
        for name in ("app", "app key", "conversation", "message", "run", "file")
    }
    app, key = ids["app"], ids["app key"]
    for method, subpath, body in (
        ("GET", "/file", None),
        ("PUT", "/file", {"file": _APP}),
        ("POST", "/publish", {}),
        ("POST", "/restore", {"version": "anything"}),
        ("GET", "/keys", None),
        ("POST", "/keys", {}),
        ("DELETE", f"/keys/{key}", None),
        ("GET", "/triggers", None),
        ("GET", "/form", None),
        ("GET", "/runs", None),
        ("GET", "/conversations", None),
        ("GET", f"/conversations/{ids['conversation']}", None),
        ("GET", "/feedback", None),
        ("GET", "/annotations", None),
        ("GET", "/annotation-reply", None),
        ("PUT", "/annotation-reply", {"enabled": False}),
        ("GET", "/statistics", None),
        ("POST", "/duplicate", {"name": "taken"}),
        ("POST", "/files", None),
        ("POST", "/runs", {"query": "hi"}),
        ("PATCH", "", {"is_enabled": False, "page": {"is_on": False}}),
    ):
        yield method, f"/admin/v1/apps/{app}{subpath}", body, app
    dataset, evaluation = world.ids["dataset"][0], world.ids["evaluation"][0]
    for method, subpath, body in (
        ("GET", f"/{evaluation}", None),
        ("POST", "", {"questions": [{"question": "?", "documents": ["x"]}]}),
        ("POST", "/questions", {}),
        ("DELETE", f"/{evaluation}", None),
    ):
        yield method, f"/admin/v1/evaluations/{dataset}{subpath}", body, dataset
        # The foreign evaluation is also addressed below the caller's own dataset.
        if subpath.startswith(f"/{evaluation}"):
            own_dataset = world.ids["own dataset"][0]
            yield (
                method,
                f"/admin/v1/evaluations/{own_dataset}{subpath}",
                body,
                evaluation,
            )


def call_cases(world: TenantWorld) -> Iterator[tuple[str, str, Any, str]]:
    """Yield cases for callers of an app with alpha's conversations, messages, runs and
    files."""
    # The same end user name as in alpha's conversation: a user name alone must not give
    # access.
    who = {"user": f"{CANARY} user"}
    talk, message_id, run, file = (
        world.ids[name][0] for name in ("conversation", "message", "run", "file")
    )
    query = f"user={urllib.parse.quote(who['user'])}"
    ask_again = {"query": "hi", "inputs": {}, **who}
    attached = {
        "type": "document",
        "transfer_method": "local_file",
        "upload_file_id": file,
    }
    for method, path, body, id_ in (
        ("GET", f"/messages?conversation_id={talk}&{query}", None, talk),
        ("GET", f"/conversations?last_id={talk}&{query}", None, talk),
        ("GET", f"/conversations/{talk}/variables?{query}", None, talk),
        ("POST", f"/conversations/{talk}/name", {**who, "name": "x"}, talk),
        ("DELETE", f"/conversations/{talk}", who, talk),
        ("GET", f"/messages/{message_id}/suggested?{query}", None, message_id),
        (
            "POST",
            f"/messages/{message_id}/feedbacks",
            {**who, "rating": "like"},
            message_id,
        ),
        ("POST", "/text-to-audio", {**who, "message_id": message_id}, message_id),
        ("GET", f"/workflows/run/{run}", None, run),
        ("GET", f"/workflow/{run}/events?{query}", None, run),
        ("POST", f"/chat-messages/{run}/stop", who, run),
        ("GET", f"/files/{file}/preview?{query}", None, file),
        (
            "POST",
            "/chat-messages",
            {**ask_again, "conversation_id": talk, "response_mode": "blocking"},
            talk,
        ),
        ("POST", "/chat-messages", {**ask_again, "files": [attached]}, file),
    ):
        yield method, f"/v1{path}", body, id_


async def _documents(world: TenantWorld) -> None:
    """Create a dataset for each tenant; alpha's has a document, segments, metadata, a
    tag and an evaluation."""
    datasets = world.yard.knowledge.datasets
    field_ = MetadataField(id=new_uuid(), name=f"{CANARY} field")
    for tenant in ("alpha", "beta"):
        settings = DatasetSettings(
            indexing_technique=Technique.ECONOMY,
            doc_form=DocForm.HIERARCHICAL,
            fields=[field_] if tenant == "alpha" else [],
        )
        name = f"{CANARY} dataset" if tenant == "alpha" else "own"
        dataset = await datasets.create(tenant, name, settings=settings)
        world.ids["dataset" if tenant == "alpha" else "own dataset"] = [dataset.id]
        if tenant == "beta":
            continue
        (document,) = await datasets.add_texts(
            dataset,
            [(f"{CANARY} document", f"{CANARY} text of it")],
            batch="canarybatch",
        )
        await datasets.wait(dataset, document.batch)
        (segment,), _ = await datasets.store.segments.list_page(tenant, document.id)
        (child,), _ = await datasets.store.segments.list_children(tenant, segment.id)
        questions = [Question(question=f"{CANARY} question", documents=[document.id])]
        async for event in world.yard.knowledge.evaluations.run(
            dataset, questions, ["full_text"], by=CANARY
        ):
            if isinstance(event, Evaluation):
                world.ids["evaluation"] = [event.id]
        tag = await datasets.store.tags.add(tenant, f"{CANARY} tag")
        await datasets.store.tags.bind(tenant, dataset.id, [tag], is_on=True)
        world.ids |= {
            "document": [document.id],
            "segment": [segment.id],
            "child": [child.id],
            "tag": [tag],
            "field": [field_.id],
        }


def dataset_cases(world: TenantWorld) -> Iterator[tuple[str, str, Any, str]]:
    """Yield every route of the knowledge API with alpha's ids, and with them below the
    caller's own dataset."""
    ids = {
        name: world.ids[name][0]
        for name in ("dataset", "document", "segment", "child", "field")
    }
    names = {
        **ids,
        "batch": "canarybatch",
        "action": "enable",
        "command": "retry",
        "node": "files",
        "job": "canaryjob",
    }
    for api, row in world.gateway.router.rows():
        if api.name != "knowledge" or not row.path.startswith("/v1/datasets"):
            continue
        method, pattern = row.method, row.path.removeprefix("/v1/datasets").lstrip("/")
        # These two name no resource of a tenant, and cannot be repeated.
        if method == "POST" and pattern in ("", "tags"):
            continue
        body = None if method == "GET" else _dataset_body(world)
        path = f"/v1/datasets/{pattern.format_map(names)}".rstrip("/")
        yield method, path, body, ids["dataset"]
        # A foreign document below the caller's own dataset must not be found either.
        if "{document}" in pattern:
            own_names = {**names, "dataset": world.ids["own dataset"][0]}
            path = f"/v1/datasets/{pattern.format_map(own_names)}"
            yield method, path, body, ids["document"]
    search = {"knowledge_id": ids["dataset"], "query": "text of it"}
    yield "POST", "/retrieval", search, ids["dataset"]


def _dataset_body(world: TenantWorld) -> dict[str, Any]:
    """Return a body with the fields of all routes of the knowledge API; each route reads
    the ones that it knows."""
    document, tag = world.ids["document"][0], world.ids["tag"][0]
    return {
        "name": "made",
        "text": "made",
        "content": "made",
        "query": "text of it",
        "type": "string",
        "segments": [{"content": "made"}],
        "segment": {"content": "made"},
        "document_ids": [document],
        "tag_ids": [tag],
        "tag_id": tag,
        "target_id": world.ids["dataset"][0],
        "operation_data": [{"document_id": document, "metadata_list": []}],
    }


def cases(world: TenantWorld) -> Iterator[tuple[str, str, Any, str]]:
    """Yield (method, path, body, foreign id) for every route, method and position of an
    id."""
    yield from dataset_cases(world)
    yield from app_cases(world)
    foreign_ids = _foreign_ids(world)
    for _, row in world.gateway.router.rows():
        method, path = row.method, row.path
        body = _body(path) if method in _METHODS_WITH_BODY else None
        if row.names:
            for id_ in foreign_ids:
                yield method, _fill_path(path, id_), body, id_
        yield method, f"{_fill_path(path, 'x')}?tenant=alpha", body, "alpha"
        if body is not None:
            yield from _body_cases(method, path, body, foreign_ids)


def _foreign_ids(world: TenantWorld) -> list[str]:
    """Return the ids of alpha. Beta's own dataset is in the table too, and is left
    out."""
    return [
        id_
        for resource_type, resource_ids in world.ids.items()
        for id_ in resource_ids
        if resource_type != "own dataset"
    ]


_METHODS_WITH_BODY = ("POST", "PUT", "PATCH")


def _body_cases(
    method: str, path: str, body: dict[str, Any], foreign_ids: Sequence[str]
) -> Iterator[tuple[str, str, Any, str]]:
    """Yield the cases of a route with an id in the body, as a model name or in any
    other field."""
    for name in (f"{CANARY}-route", f"openai/{CANARY}-model", f"{CANARY}-model"):
        yield method, _fill_path(path, name), _with_model(body, name), name
    own_path = _fill_path(path, "openai/gpt-5-mini")
    for id_ in foreign_ids:
        yield method, own_path, {**body, **_ids(id_)}, id_


def _fill_path(path: str, name: str) -> str:
    """Return the path of a route with every path parameter replaced by `name`."""
    return re.sub(r"\{\w+(:path)?\}", name, path)


def _ids(id_: str) -> dict[str, Any]:
    """Return every body field that may refer to a resource, set to this id."""
    return {
        "previous_response_id": id_,
        "id": id_,
        "tenant": "alpha",
        "user": id_,
        "conversation": id_,
        "key": id_,
        "credential": id_,
    }


def _body(path: str) -> dict[str, Any]:
    """Return a body that is valid for the route, or close enough to pass its first
    checks."""
    if path.startswith(PREFIX):
        return {"name": "made", "label": "x"} if "tenants" in path else {"name": "made"}
    question = [{"role": "user", "content": "hi"}]
    return {
        "model": "openai/gpt-5-mini",
        "messages": question,
        "input": "hi",
        "prompt": "hi",
        "max_tokens": 5,
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "query": "q",
        "documents": ["d"],
        "texts": ["t"],
    }


def _with_model(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {**body, "model": name}


async def _check_acting_for(
    world: TenantWorld, foreign: list[str], differing: list[str]
) -> int:
    """Let every role of beta claim to act for alpha on every route; return the number
    of cases.

    Appends to `foreign` if the response contains alpha's data, and to `differing` if it
    reveals that alpha exists.
    """
    routes = [
        (row.method, _fill_path(row.path, "x"))
        for _, row in world.gateway.router.rows()
    ]
    for role, (method, path) in itertools.product(Role, routes):
        key = world.keys[f"beta/{role.value}"]
        body = _body(path) if method in _METHODS_WITH_BODY else None
        # The second name belongs to no tenant: both responses have to be the same.
        response, control_response = [
            await ask(world.gateway, method, path, key, body, [(TENANT, name)])
            for name in (b"alpha", b"zzpha")
        ]
        description = (
            f"beta/{role.value} for alpha {method} {path}: {_summary(response)}"
        )
        visible_body = response.body.replace(b"alpha", b"")
        if CANARY.encode() in visible_body or SECRET.encode() in response.body:
            foreign.append(description)
        is_same_status = response.status == control_response.status
        is_same_shape = _shape(response, "alpha") == _shape(control_response, "zzpha")
        if not (is_same_status and is_same_shape):
            differing.append(f"{description} differs from {_summary(control_response)}")
    return len(Role) * len(routes)


def _summary(response: GatewayResponse) -> str:
    """Return the status and the start of the body for a report."""
    return f"{response.status} {response.body[:160]!r}"


async def matrix(world: TenantWorld) -> tuple[int, list[str], list[str]]:
    """Run all cases; return (number of cases, responses with foreign data, responses
    that reveal whether an id exists)."""
    case_count, foreign, differing = 0, list[str](), list[str]()
    # Alpha's state is compared at the end: no case may change anything of it.
    state_before = await _alpha_state(world)
    all_cases = [(f"beta/{role.value}", case) for role in Role for case in cases(world)]
    all_cases += [("beta/app", case) for case in call_cases(world)]
    for who, (method, path, body, id_) in all_cases:
        key = world.keys[who]
        response = await ask(world.gateway, method, path, key, body)
        case_count += 1
        description = f"{who} {method} {path} {str(body)[:80]}: {_summary(response)}"
        # The response may repeat the id that the caller sent; that is not a leak.
        visible_body = response.body.replace(id_.encode(), b"").replace(
            urllib.parse.quote(id_).encode(), b""
        )
        if (
            CANARY.encode() in visible_body
            or SECRET.encode() in response.body
            or b"alpha-" in visible_body
        ):
            foreign.append(description)
        # An id of the same form that does not exist is the control: a different
        # response would reveal that the foreign id exists.
        owner, slash, name = id_.rpartition("/")
        unused_id = f"{owner}{slash}{'00' if name.count('-') == 4 else 'zz'}{name[2:]}"
        control_response = await ask(
            world.gateway,
            method,
            path.replace(id_, unused_id),
            key,
            _replaced(body, id_, unused_id),
        )
        if (response.status, _shape(response, id_)) != (
            control_response.status,
            _shape(control_response, unused_id),
        ):
            differing.append(f"{description} differs from {_summary(control_response)}")
    case_count += await _check_acting_for(world, foreign, differing)
    if await _alpha_state(world) != state_before:
        foreign.append("a resource of the first tenant was changed")
    return case_count, foreign, differing


_TABLES = (
    "datasets",
    "documents",
    "segments",
    "children",
    "dataset_tags",
    "dataset_tag_bindings",
    "conversations",
    "messages",
)


async def _alpha_state(world: TenantWorld) -> list[Any]:
    """Return everything that alpha owns, for a comparison."""
    kinds = (*PLURALS.values(), "app", "app_tag", "app_key")
    resources = [
        resource
        for resource_type in kinds
        for resource in await world.yard.services.storage.resources.list(
            "alpha", resource_type
        )
    ]
    rows: list[tuple[Any, ...]] = []
    for table in _TABLES:
        fetched = await world.yard.services.storage.database.fetch(
            f"SELECT * FROM {table} WHERE tenant = ?", ("alpha",)
        )
        rows += [tuple(row) for row in fetched]
    return [
        *resources,
        *await world.yard.services.calls.ledger.usage.recent("alpha", limit=1000),
        *rows,
    ]


def _replaced(body: Any, id_: str, unused_id: str) -> Any:
    """Return the body with the id replaced everywhere."""
    return (
        json.loads(json.dumps(body).replace(id_, unused_id))
        if body is not None
        else None
    )


def _shape(response: GatewayResponse, id_: str) -> str:
    """Return the response without the parts that differ between any two calls."""
    try:
        document = json.loads(response.body)
    except ValueError:
        return response.body.decode("latin-1").replace(id_, "ID")[:40]
    # Successful responses have contents of their own; only the success is compared.
    if response.status < 400:
        return "fine"
    error = document.get("error", document)
    message = (
        error.get("message") if isinstance(error, dict) else document.get("message")
    )
    # Suggestions of similar names come from the caller's own resources, so the
    # suggestion may differ; the refusal may not.
    return str(message or document).replace(id_, "ID").partition(";")[0]


async def find_leaked_secrets(
    world: TenantWorld, logs: io.StringIO, spans: Any, home: str
) -> list[str]:
    """Return the outputs in which a secret, or an encoding of it, can be read."""
    key = world.keys["alpha/owner"]
    # The upstream refuses this request and repeats the secret in its error message.
    question = {
        "model": "openai/gpt-5-mini",
        "messages": [{"role": "user", "content": f"my key is {SECRET}"}],
    }
    for stream in (False, True):
        body = {**question, "stream": stream}
        await ask(world.gateway, "POST", "/v1/chat/completions", key, body)
    outputs = await _admin_responses(world, key)
    await world.yard.services.calls.ledger.flush()
    outputs.append(("the log", logs.getvalue().encode()))
    attributes = [dict(span.attributes) for span in spans]
    events = [
        [[event.name, dict(event.attributes)] for event in span.events]
        for span in spans
    ]
    outputs.append(("a trace", str(attributes).encode()))
    outputs.append(("a trace's events", str(events).encode()))
    outputs += await asyncio.to_thread(_files, Path(home))
    leaks = {
        f"{name} contains {encoded[:6]}…"
        for secret in (SECRET, key)
        for encoded in _encodings(secret)
        for name, text in outputs
        # The master key file is a secret itself.
        if encoded.encode() in text and name != "file master.key"
    }
    return sorted(leaks)


def _encodings(secret: str) -> set[str]:
    """Return the forms in which a secret may be readable. Its prefix is one of them:
    partial masking must not show this much."""
    base64_text = base64.b64encode(secret.encode()).decode()
    return {secret, base64_text, urllib.parse.quote(secret), secret[:16]}


async def _admin_responses(world: TenantWorld, key: str) -> list[tuple[str, bytes]]:
    """Return (name, body) of the responses in which a secret would be likely."""
    paths = {
        f"response of {path}": f"{PREFIX}/{path}"
        for path in (
            "credentials",
            "keys",
            "users",
            "limits",
            "routes",
            "models",
            "usage",
            "usage/rows",
            "usage/rows?format=csv",
        )
    }
    paths["response of metrics"] = "/metrics"
    paths["response of openapi"] = "/admin/openapi.json"
    paths["response of explain"] = f"{PREFIX}/calls/{world.ids['call'][0]}"
    return [
        (name, (await ask(world.gateway, "GET", path, key)).body)
        for name, path in paths.items()
    ]


def _files(home: Path) -> list[tuple[str, bytes]]:
    """Return the name and the contents of every file in the home folder."""
    return [
        (f"file {path.name}", path.read_bytes())
        for path in home.rglob("*")
        if path.is_file()
    ]


def prove() -> Proof:
    """Run the isolation and the secrets check."""
    return asyncio.run(_prove())


async def _prove() -> Proof:
    """Build the tenants, run the cases, then search logs, traces, files and responses
    for secrets."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )

    proof = Proof()
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-show-") as home,
        Upstream(_upstream_answer) as upstream,
    ):
        traced = OpenTelemetryCallback(provider.get_tracer("x"), content=True)
        world = await build(home, upstream.url, [traced])
        setup_keys = {request.key for request in upstream.requests}
        case_count, foreign, differing = await matrix(world)
        # Every key that the upstream saw during the cases must be one that setup used
        # or beta's own.
        used_keys = {request.key for request in upstream.requests}
        foreign_keys = used_keys - setup_keys - {_BETA_SECRET}
        with _captured_logs() as logs:
            leaks = await find_leaked_secrets(
                world, logs, exporter.get_finished_spans(), home
            )
        await world.yard.aclose()
    routes = sum(1 for _ in world.gateway.router.rows())
    proof.line(
        "routes, cases tried by four roles",
        f"{routes}, {case_count}",
        case_count > 1000,
    )
    proof.line("foreign bytes", foreign[:3] or "none", not foreign)
    proof.line(
        "responses that differ from those for an unused id",
        differing[:3] or "none",
        not differing,
    )
    proof.line(
        "foreign credentials used upstream", foreign_keys or "none", not foreign_keys
    )
    proof.line("outputs with a readable secret", leaks[:5] or "none", not leaks)
    proof.figures |= {
        "routes": routes,
        "cases": case_count,
        "foreign": len(foreign),
        "differing": len(differing),
        "secrets": len(leaks),
    }
    return proof


def _upstream_answer(request: Any) -> Any:
    """Refuse requests that contain the secret, and respond to all others."""
    if "secretcanary" in json.dumps(request.json):
        # Some providers repeat the key in their error message.
        return error_answer(401, f"the key {SECRET} is wrong")
    if request.path.endswith("/responses"):
        return json_answer(_RESPONSE)
    if request.json.get("stream"):
        return stream_answer(chat_events(["fi", "ne"]))
    return chat_answer("fine")


@contextmanager
def _captured_logs() -> Generator[io.StringIO]:
    """Capture the log in both formats, at the most verbose level, where a leak is most
    likely."""
    logs, logger = io.StringIO(), logging.getLogger("modelyard")
    level = logger.level
    handlers = [logging.StreamHandler(logs), logging.StreamHandler(logs)]
    for handler, formatter in zip(
        handlers, (JsonFormatter(), TextFormatter()), strict=True
    ):
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield logs
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
