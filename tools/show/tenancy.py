"""Every route with every id of another tenant's, in every place where an id can stand; and secrets, looked for wherever
words go.

The matrix follows from the routes: one that is added is in it the same day.
"""

import asyncio
import base64
import io
import json
import logging
import re
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
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
from modelyard.knowledge.entities import DatasetSettings, DocForm, MetadataField, Technique
from modelyard.knowledge.evaluations import Evaluation, Question
from modelyard.runtime.telemetry import OpenTelemetryCallback
from modelyard.tenancy.caller import Caller, Role
from modelyard.testing import Upstream, chat_answer, chat_events, error_answer, json_answer, stream_answer
from modelyard.workflow.dsl import AppMapping
from modelyard.workflow.services import upload_id
from tools.show.proof import Proof

CANARY = "canary7731"
"""In every name and value of the one tenant; the other must never see it."""
SECRET = "sk-secretcanary-9f8e7d6c5b4a"
_RESPONSE = {
    "id": "resp_upstream", "object": "response", "status": "completed", "model": "m", "created_at": 1,
    "output": [{
        "type": "message", "role": "assistant", "id": "m1", "status": "completed",
        "content": [{"type": "output_text", "text": "fine", "annotations": []}],
    }],
    "usage": {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4},
}  # fmt: skip
_OPERATOR = Caller(tenant="default")


@dataclass
class Seen:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(
    gateway: Gateway, method: str, path: str, key: str, body: Any = None, headers: Sequence[tuple[bytes, bytes]] = ()
) -> Seen:
    """A request, without a socket between."""
    data = json.dumps(body).encode() if body is not None else b""
    target, _, query = path.partition("?")
    scope = {
        "type": "http", "method": method, "path": urllib.parse.unquote(target), "query_string": query.encode(),
        "headers": [
            (b"host", b"127.0.0.1"), (b"content-type", b"application/json"),
            (b"authorization", f"Bearer {key}".encode()), (b"content-length", str(len(data)).encode()), *headers,
        ],
    }  # fmt: skip
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": data, "more_body": False}])

    async def receive() -> Any:
        if (message := next(messages, None)) is not None:
            return message
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Seen(sent[0]["status"], found, b"".join(one.get("body", b"") for one in sent[1:]))


_APP = """
kind: app
version: 0.6.0
app: {name: told, mode: chat}
model_config: {model: {provider: openai, name: x, mode: chat, completion_params: {}}, pre_prompt: WORD}
"""


@dataclass
class World:
    """Two tenants; the first has something of everything."""

    yard: Modelyard
    gateway: Gateway
    keys: dict[str, str] = field(default_factory=dict[str, str])
    """`tenant/role` → key."""
    ids: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Kind → ids of the first tenant's things."""


async def build(home: str, url: str, callbacks: Sequence[Any], *, database: str = "") -> World:
    """`database` empty is SQLite in the home folder."""
    egress = EgressSettings(private=[urlsplit(url).netloc])  # the tenants' own provider lives on this machine
    settings = Settings(home=home, database=database, retries=0, egress=egress)
    yard = Modelyard(settings, environ={}, callbacks=callbacks)
    await yard.open()
    world = World(yard, gateway_for(yard.services))
    admin = yard.services.tenancy.administration
    for tenant in ("alpha", "beta"):
        await admin.create(
            _OPERATOR, tenant, "tenant", tenant, {"label": f"{CANARY} label" if tenant == "alpha" else ""}
        )
        owner = Caller(tenant=tenant)
        for role in Role:
            made = await admin.create(owner, tenant, "key", f"{tenant}-{role.value}", {"role": role.value})
            world.keys[f"{tenant}/{role.value}"] = made["key"]
    alpha = Caller(tenant="alpha")
    target = {"model": "openai/gpt-5-mini"}
    for kind, given in (
        ("user", {"email": f"{CANARY}@example.org"}),
        ("key", {"role": "viewer"}),
        ("credential", {"provider": "openai", "values": {"api_key": SECRET, "base_url": url}}),
        ("limit", {"unit": "requests", "amount": 100_000}),
        ("route", {"targets": [target]}),
        ("model", {"provider": "openai", "definition": {"name": f"{CANARY}-model", "context_size": 100}}),
    ):
        made = await admin.create(alpha, "alpha", kind, f"{CANARY}-{kind}", given)
        world.ids.setdefault(kind, []).append(made["id"])
    await admin.create(Caller(tenant="beta"), "beta", "credential", "own", {
        "provider": "openai", "values": {"api_key": "sk-beta-own-key", "base_url": url},
    })  # fmt: skip
    world.ids["tenant"] = ["alpha"]
    key = world.keys["alpha/owner"]
    chat = {
        "model": "openai/gpt-5-mini",
        "messages": [{"role": "user", "content": f"{CANARY} question"}],
        "user": CANARY,
    }
    called = await ask(world.gateway, "POST", "/v1/chat/completions", key, chat)
    world.ids["call"] = [called.headers["x-request-id"]]
    kept = await ask(
        world.gateway, "POST", "/v1/responses", key, {"model": "openai/gpt-5-mini", "input": f"{CANARY} input"}
    )
    world.ids["response"] = [json.loads(kept.body)["id"]]
    await _documents(world)
    await _apps(world)
    await yard.services.calls.ledger.flush()
    return world


async def _apps(world: World) -> None:
    """An app of each tenant's; the first one's has a draft, a key, a page, a conversation and a file."""
    apps = world.yard.apps
    mapping = AppMapping(models={"*": "openai/gpt-5-mini"})
    for tenant in ("alpha", "beta"):
        text = _APP.replace("WORD", f"{CANARY} prompt" if tenant == "alpha" else "own")
        found, _, _ = await apps.add(
            tenant, text, name=f"{CANARY} app" if tenant == "alpha" else "own", mapping=mapping
        )
        row, key = await apps.make_key(found)
        world.keys[f"{tenant}/app"] = key
        if tenant == "beta":
            continue
        await apps.set_page(found, is_on=True)
        await apps.add(tenant, text + "\n# changed\n", name=found.name, publishes=False)
        asked = {"query": f"{CANARY} query", "inputs": {}, "user": f"{CANARY} user"}
        said = await ask(world.gateway, "POST", "/v1/chat-messages", key, asked)
        told = json.loads(said.body)
        file = await asyncio.to_thread(
            world.yard.services.storage.files.add, tenant, "a.txt", f"{CANARY} file".encode()
        )
        world.ids |= {
            "app": [found.id], "app key": [row], "conversation": [told["conversation_id"]],
            "message": [told["message_id"]], "run": [told["task_id"]], "file": [upload_id(file.id)],
        }  # fmt: skip


def app_cases(world: World) -> Iterator[tuple[str, str, Any, str]]:
    """What administrators of apps ask for, with the other's app; and what callers of an app ask for, with the other's
    conversations, messages, runs and files."""
    ids = {name: world.ids[name][0] for name in ("app", "app key", "conversation", "message", "run", "file")}
    app, key = ids["app"], ids["app key"]
    for method, rest, body in (
        ("GET", "/file", None), ("PUT", "/file", {"file": _APP}), ("POST", "/publish", {}),
        ("POST", "/restore", {"version": "anything"}), ("GET", "/keys", None), ("POST", "/keys", {}),
        ("DELETE", f"/keys/{key}", None), ("GET", "/triggers", None), ("GET", "/form", None), ("GET", "/runs", None),
        ("GET", "/conversations", None), ("GET", f"/conversations/{ids['conversation']}", None),
        ("GET", "/feedback", None), ("GET", "/annotations", None), ("POST", "/files", None),
        ("POST", "/runs", {"query": "hi"}), ("PATCH", "", {"is_enabled": False, "page": {"is_on": False}}),
    ):  # fmt: skip
        yield method, f"/admin/v1/apps/{app}{rest}", body, app
    dataset, evaluation = world.ids["dataset"][0], world.ids["evaluation"][0]
    for method, rest, body in (
        ("GET", f"/{evaluation}", None), ("POST", "", {"questions": [{"question": "?", "documents": ["x"]}]}),
        ("POST", "/questions", {}), ("DELETE", f"/{evaluation}", None),
    ):  # fmt: skip
        yield method, f"/admin/v1/evaluations/{dataset}{rest}", body, dataset
        if rest.startswith(f"/{evaluation}"):
            own = world.ids["own dataset"][0]
            yield method, f"/admin/v1/evaluations/{own}{rest}", body, evaluation


def call_cases(world: World) -> Iterator[tuple[str, str, Any, str]]:
    who = {"user": f"{CANARY} user"}
    talk, said, run, file = (world.ids[name][0] for name in ("conversation", "message", "run", "file"))
    query = f"user={urllib.parse.quote(who['user'])}"
    ask_again = {"query": "hi", "inputs": {}, **who}
    attached = {"type": "document", "transfer_method": "local_file", "upload_file_id": file}
    for method, path, body, id_ in (
        ("GET", f"/messages?conversation_id={talk}&{query}", None, talk),
        ("GET", f"/conversations?last_id={talk}&{query}", None, talk),
        ("GET", f"/conversations/{talk}/variables?{query}", None, talk),
        ("POST", f"/conversations/{talk}/name", {**who, "name": "x"}, talk),
        ("DELETE", f"/conversations/{talk}", who, talk), ("GET", f"/messages/{said}/suggested?{query}", None, said),
        ("POST", f"/messages/{said}/feedbacks", {**who, "rating": "like"}, said),
        ("POST", "/text-to-audio", {**who, "message_id": said}, said),
        ("GET", f"/workflows/run/{run}", None, run), ("GET", f"/workflow/{run}/events?{query}", None, run),
        ("POST", f"/chat-messages/{run}/stop", who, run), ("GET", f"/files/{file}/preview?{query}", None, file),
        ("POST", "/chat-messages", {**ask_again, "conversation_id": talk, "response_mode": "blocking"}, talk),
        ("POST", "/chat-messages", {**ask_again, "files": [attached]}, file),
    ):  # fmt: skip
        yield method, f"/v1{path}", body, id_


async def _documents(world: World) -> None:
    """A dataset of each tenant's, with something of everything in the first one's."""
    datasets = world.yard.knowledge.datasets
    field_ = MetadataField(id=new_uuid(), name=f"{CANARY} field")
    for tenant in ("alpha", "beta"):
        settings = DatasetSettings(
            indexing_technique=Technique.ECONOMY,
            doc_form=DocForm.HIERARCHICAL,
            fields=[field_] if tenant == "alpha" else [],
        )
        name = f"{CANARY} dataset" if tenant == "alpha" else "own"
        one = await datasets.create(tenant, name, settings=settings)
        world.ids["dataset" if tenant == "alpha" else "own dataset"] = [one.id]
        if tenant == "beta":
            continue
        (document,) = await datasets.add_texts(
            one, [(f"{CANARY} document", f"{CANARY} text of it")], batch="canarybatch"
        )
        await datasets.wait(one, document.batch)
        (segment,), _ = await datasets.stored.segments.listed(tenant, document.id)
        (child,), _ = await datasets.stored.segments.children(tenant, segment.id)
        asked = [Question(question=f"{CANARY} question", documents=[document.id])]
        async for told in world.yard.knowledge.evaluations.run(one, asked, ["full_text"], by=CANARY):
            if isinstance(told, Evaluation):
                world.ids["evaluation"] = [told.id]
        tag = await datasets.stored.tags.add(tenant, f"{CANARY} tag")
        await datasets.stored.tags.bind(tenant, one.id, [tag], is_on=True)
        world.ids |= {
            "document": [document.id], "segment": [segment.id], "child": [child.id], "tag": [tag], "field": [field_.id],
        }  # fmt: skip


def dataset_cases(world: World) -> Iterator[tuple[str, str, Any, str]]:
    """Every route of the knowledge API with the other's ids, and with the other's ids below a dataset of one's own."""
    ids = {name: world.ids[name][0] for name in ("dataset", "document", "segment", "child", "field")}
    names = {**ids, "batch": "canarybatch", "action": "enable", "command": "retry", "node": "files"}
    for api, row in world.gateway.router.rows():
        if api.name != "knowledge" or not row.path.startswith("/v1/datasets"):
            continue
        method, pattern = row.method, row.path.removeprefix("/v1/datasets").lstrip("/")
        if method == "POST" and pattern in ("", "tags"):
            continue  # they name nobody's things, and cannot be done twice
        body: Any = {
            "name": "made", "text": "made", "content": "made", "query": "text of it", "type": "string",
            "segments": [{"content": "made"}], "segment": {"content": "made"}, "document_ids": [ids["document"]],
            "tag_ids": [world.ids["tag"][0]], "tag_id": world.ids["tag"][0], "target_id": ids["dataset"],
            "operation_data": [{"document_id": ids["document"], "metadata_list": []}],
        } if method != "GET" else None  # fmt: skip
        yield method, f"/v1/datasets/{pattern.format_map(names)}".rstrip("/"), body, ids["dataset"]
        if "{document}" in pattern:
            own = {**names, "dataset": world.ids["own dataset"][0]}
            yield method, f"/v1/datasets/{pattern.format_map(own)}", body, ids["document"]
    yield "POST", "/retrieval", {"knowledge_id": ids["dataset"], "query": "text of it"}, ids["dataset"]


def cases(world: World) -> Iterator[tuple[str, str, Any, str]]:
    """(method, path, body, the foreign id) for every route, every verb, every place where an id may stand."""
    yield from dataset_cases(world)
    yield from app_cases(world)
    every = [(kind, id_) for kind, many in world.ids.items() for id_ in many if kind != "own dataset"]
    names = [f"{CANARY}-route", f"openai/{CANARY}-model", f"{CANARY}-model"]
    for _, row in world.gateway.router.rows():
        method, path = row.method, row.path
        body = _body(path) if method in ("POST", "PUT", "PATCH") else None
        if row.names:
            for _, id_ in every:
                yield method, _filled(path, id_), body, id_
        yield method, f"{_filled(path, 'x')}?tenant=alpha", body, "alpha"
        if body is not None:
            for name in names:
                yield method, _filled(path, name), _with_model(body, name), name
            for _, id_ in every:
                yield method, _filled(path, "openai/gpt-5-mini"), {**body, **_ids(id_)}, id_


def _filled(path: str, name: str) -> str:
    """An address of a row, with the same in the place of each of its named parts."""
    return re.sub(r"\{\w+(:path)?\}", name, path)


def _ids(id_: str) -> dict[str, Any]:
    return {
        "previous_response_id": id_, "id": id_, "tenant": "alpha", "user": id_, "conversation": id_, "key": id_,
        "credential": id_,
    }  # fmt: skip


def _body(path: str) -> dict[str, Any]:
    if path.startswith(PREFIX):
        return {"name": "made", "label": "x"} if "tenants" in path else {"name": "made"}
    question = [{"role": "user", "content": "hi"}]
    return {
        "model": "openai/gpt-5-mini", "messages": question, "input": "hi", "prompt": "hi", "max_tokens": 5,
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}], "query": "q", "documents": ["d"], "texts": ["t"],
    }  # fmt: skip


def _with_model(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {**body, "model": name}


async def _acting(world: World, foreign: list[str], differing: list[str]) -> int:
    """Calls of one tenant's that name the other as whom they act for; how many."""
    tried = 0
    for role in Role:
        for _, row in world.gateway.router.rows():
            method, path = row.method, _filled(row.path, "x")
            body, key = _body(path) if method in ("POST", "PUT", "PATCH") else None, world.keys[f"beta/{role.value}"]
            seen, other = [
                await ask(world.gateway, method, path, key, body, [(TENANT, name)]) for name in (b"alpha", b"zzpha")
            ]
            tried += 1
            what = f"beta/{role.value} for alpha {method} {path}: {seen.status} {seen.body[:160]!r}"
            said = seen.body.replace(b"alpha", b"")
            if CANARY.encode() in said or SECRET.encode() in seen.body:
                foreign.append(what)
            if (seen.status, _shape(seen, "alpha")) != (other.status, _shape(other, "zzpha")):
                differing.append(f"{what} differs from {other.status} {other.body[:160]!r}")
    return tried


async def matrix(world: World) -> tuple[int, list[str], list[str]]:
    """(cases tried, foreign bytes seen, answers that differ from those to an id that never was)."""
    tried, foreign, differing = 0, list[str](), list[str]()
    before = await _alpha(world)
    every = [(f"beta/{role.value}", case) for role in Role for case in cases(world)]
    every += [("beta/app", case) for case in call_cases(world)]
    for who, (method, path, body, id_) in every:
        key = world.keys[who]
        seen = await ask(world.gateway, method, path, key, body)
        tried += 1
        what = f"{who} {method} {path} {str(body)[:80]}: {seen.status} {seen.body[:160]!r}"
        said = seen.body.replace(id_.encode(), b"").replace(urllib.parse.quote(id_).encode(), b"")
        if CANARY.encode() in said or SECRET.encode() in seen.body or b"alpha-" in said:
            foreign.append(what)
        owner, slash, name = id_.rpartition("/")
        never = f"{owner}{slash}{'00' if name.count('-') == 4 else 'zz'}{name[2:]}"
        other = await ask(world.gateway, method, path.replace(id_, never), key, _replaced(body, id_, never))
        if (seen.status, _shape(seen, id_)) != (other.status, _shape(other, never)):
            differing.append(f"{what} differs from {other.status} {other.body[:160]!r}")
    tried += await _acting(world, foreign, differing)
    if await _alpha(world) != before:
        foreign.append("something of the first tenant's was changed")
    return tried, foreign, differing


_TABLES = (
    "datasets", "documents", "segments", "children", "dataset_tags", "dataset_tag_bindings", "conversations",
    "messages",
)  # fmt: skip


async def _alpha(world: World) -> list[Any]:
    """All that the first tenant has, to be compared."""
    kinds = (*PLURALS.values(), "app", "app_key")
    resources = [one for kind in kinds for one in await world.yard.services.storage.resources.all("alpha", kind)]
    rows: list[tuple[Any, ...]] = []
    for table in _TABLES:
        fetched = await world.yard.services.storage.database.fetch(
            f"SELECT * FROM {table} WHERE tenant = ?", ("alpha",)
        )
        rows += [tuple(row) for row in fetched]
    return [*resources, *await world.yard.services.calls.ledger.usage.recent("alpha", most=1000), *rows]


def _replaced(body: Any, id_: str, never: str) -> Any:
    return json.loads(json.dumps(body).replace(id_, never)) if body is not None else None


def _shape(seen: Seen, id_: str) -> str:
    """The answer without what differs between any two calls."""
    try:
        document = json.loads(seen.body)
    except ValueError:
        return seen.body.decode("latin-1").replace(id_, "ID")[:40]
    if seen.status < 400:
        return "fine"
    error = document.get("error", document)
    words = error.get("message") if isinstance(error, dict) else document.get("message")
    # What is near a name is looked for among what the caller has: the suggestion may differ, the refusal may not.
    return str(words or document).replace(id_, "ID").partition(";")[0]


async def secrets_said(world: World, logs: io.StringIO, spans: Any, home: str) -> list[str]:
    """Where the secret, or a form of it, can be read."""
    key = world.keys["alpha/owner"]
    shown = [key]
    for body in ({"model": "openai/gpt-5-mini", "messages": [{"role": "user", "content": f"my key is {SECRET}"}]},):
        for stream in (False, True):
            await ask(world.gateway, "POST", "/v1/chat/completions", key, {**body, "stream": stream})
    paths = (
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
    answers = [(path, (await ask(world.gateway, "GET", f"{PREFIX}/{path}", key)).body) for path in paths]
    answers.append(("metrics", (await ask(world.gateway, "GET", "/metrics", key)).body))
    answers.append(("openapi", (await ask(world.gateway, "GET", "/admin/openapi.json", key)).body))
    explained = f"{PREFIX}/calls/{world.ids['call'][0]}"
    answers.append(("explain", (await ask(world.gateway, "GET", explained, key)).body))
    await world.yard.services.calls.ledger.flush()
    places = [(f"answer of {name}", body) for name, body in answers]
    places += [("the log", logs.getvalue().encode())]
    places += [("a trace", str([dict(one.attributes) for one in spans]).encode())]
    places += [("a trace's events", str([[e.name, dict(e.attributes)] for one in spans for e in one.events]).encode())]
    places += await asyncio.to_thread(_files, Path(home))
    found = []
    for name, text in places:
        for secret in (SECRET, *shown):
            forms = {secret, base64.b64encode(secret.encode()).decode(), urllib.parse.quote(secret), secret[:16]}
            found += [
                f"{name} says {form[:6]}…" for form in forms if form.encode() in text and name != "file master.key"
            ]
    return sorted(set(found))


def _files(home: Path) -> list[tuple[str, bytes]]:
    return [(f"file {path.name}", path.read_bytes()) for path in home.rglob("*") if path.is_file()]


def prove() -> Proof:
    return asyncio.run(_prove())


async def _prove() -> Proof:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    proof = Proof()
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    logs, logger = io.StringIO(), logging.getLogger("modelyard")
    handlers = [logging.StreamHandler(logs), logging.StreamHandler(logs)]
    handlers[0].setFormatter(JsonFormatter())
    handlers[1].setFormatter(TextFormatter())

    def answer(request: Any) -> Any:
        if "secretcanary" in json.dumps(request.json):
            return error_answer(401, f"the key {SECRET} is wrong")  # some providers repeat it
        if request.path.endswith("/responses"):
            return json_answer(_RESPONSE)
        return stream_answer(chat_events(["fi", "ne"])) if request.json.get("stream") else chat_answer("fine")

    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as home, Upstream(answer) as upstream:
        traced = OpenTelemetryCallback(provider.get_tracer("x"), content=True)
        world = await build(home, upstream.url, [traced])
        asked = {request.key for request in upstream.requests}
        tried, foreign, differing = await matrix(world)
        wrong = {request.key for request in upstream.requests} - asked - {"sk-beta-own-key"}
        for handler in handlers:
            logger.addHandler(handler)
        level = logger.level
        logger.setLevel(logging.DEBUG)
        try:
            said = await secrets_said(world, logs, exporter.get_finished_spans(), home)
        finally:
            logger.setLevel(level)
            for handler in handlers:
                logger.removeHandler(handler)
        await world.yard.aclose()
    routes = sum(1 for _ in world.gateway.router.rows())
    proof.line("routes, cases tried by four roles", f"{routes}, {tried}", tried > 1000)
    proof.line("foreign bytes", foreign[:3] or "none", not foreign)
    proof.line("answers unlike those to an id that never was", differing[:3] or "none", not differing)
    proof.line("foreign credentials used upstream", wrong or "none", not wrong)
    proof.line("places where a secret is said", said[:5] or "none", not said)
    proof.figures |= {
        "routes": routes,
        "cases": tried,
        "foreign": len(foreign),
        "differing": len(differing),
        "secrets": len(said),
    }
    return proof
