"""Model calls that the server makes for a request keep the request's caller.

The caller's model list and limits apply, and the ledger names the caller. Every way
from a request to a model is tried with two API keys: one that may call the model, and
one that may not. The provider is a mock server that records its requests.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tools.show.tenancy import GatewayResponse, ask

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import EgressSettings, Settings
from modelyard.gateway.server import Gateway
from modelyard.knowledge.entities import DatasetSettings
from modelyard.storage.usage_sums import UsageQuery
from modelyard.tenancy.caller import Caller, acting_for, current_caller, on_behalf
from modelyard.testing import (
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    embedding_answer,
    stream_answer,
)
from modelyard.workflow.dsl import AppMapping
from modelyard.workflow.journal import RunRecord

CHAT, EMBEDDING = "openai/gpt-5-mini", "openai/text-embedding-3-small"
OTHER = "openai/gpt-5-nano"
OPERATOR = Caller(tenant="default")
APP = """
kind: app
version: 0.6.0
app: {name: helper, mode: workflow, description: Helps.}
workflow:
  graph:
    nodes:
      - {id: start, data: {type: start, title: s, variables: [{variable: question, label: q, type: text-input, required: true}]}}
      - id: llm
        data: {type: llm, title: l, model: {provider: openai, name: gpt-5-mini, mode: chat, completion_params: {}},
               prompt_template: [{role: user, text: "{{#start.question#}}"}], context: {enabled: false}, vision: {enabled: false}}
      - {id: end, data: {type: end, title: e, outputs: [{variable: text, value_selector: [llm, text]}]}}
    edges:
      - {id: a, source: start, target: llm, sourceHandle: source, targetHandle: target}
      - {id: b, source: llm, target: end, sourceHandle: source, targetHandle: target}
"""


def answer(request: UpstreamRequest) -> Any:
    body = request.json
    if request.path.endswith("/embeddings"):
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        return embedding_answer([[1.0, float(len(text) % 7), 0.5] for text in texts])
    if body.get("stream"):
        return stream_answer(chat_events(["Parcels leave", " before noon [1]."]))
    return chat_answer("Parcels leave before noon [1].")


@dataclass
class World:
    yard: Modelyard
    gateway: Gateway
    keys: dict[str, str]
    ids: dict[str, str]
    dataset: str
    app: str

    async def call(
        self, method: str, path: str, key: str, body: Any = None
    ) -> GatewayResponse:
        return await ask(self.gateway, method, path, self.keys[key], body)

    async def rows(self) -> list[Any]:
        await self.yard.services.calls.ledger.flush()
        return await self.yard.services.calls.ledger.usage.recent("acme", limit=1000)


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with Upstream(answer) as upstream:
        yield upstream


@pytest.fixture
def run(
    tmp_path: Path, provider: Upstream
) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    def go(work: Callable[[World], Awaitable[None]]) -> None:
        async def run_world() -> None:
            host = provider.url.split("//")[1].split("/")[0]
            settings = Settings(
                home=str(tmp_path), egress=EgressSettings(private=[host])
            )
            async with Modelyard(settings, environ={}) as yard:
                await work(await build(yard, provider.url))

        asyncio.run(run_world())

    return go


async def build(yard: Modelyard, url: str) -> World:
    admin = yard.services.tenancy.administration
    await admin.create(OPERATOR, "acme", "tenant", "acme", {})
    owner = Caller(tenant="acme")
    await admin.create(
        OPERATOR,
        "acme",
        "credential",
        "own",
        {"provider": "openai", "values": {"api_key": "sk-x", "base_url": url}},
    )
    keys, ids = {}, {}
    await admin.create(owner, "acme", "user", "ann", {"email": "ann@example.org"})
    for name, models in (("may", [CHAT, EMBEDDING]), ("other", [OTHER])):
        created = await admin.create(
            owner,
            "acme",
            "key",
            name,
            {"role": "admin", "models": models, "user": "ann"},
        )
        keys[name], ids[name] = created["key"], created["id"]
    settings = DatasetSettings(
        embedding_model="text-embedding-3-small", embedding_model_provider="openai"
    )
    dataset = await yard.knowledge.datasets.create("acme", "guide", settings=settings)
    added = await yard.knowledge.datasets.add_texts(
        dataset, [("shipping", "Parcels leave before noon. Always.")]
    )
    await yard.knowledge.datasets.wait(dataset, added[0].batch, 30)
    app, _, _ = await yard.apps.add("acme", APP, name="helper", mapping=AppMapping())
    return World(yard, gateway_for(yard.services), keys, ids, dataset.id, app.id)


def mcp(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": name, "arguments": arguments},
    }


def model_calls(world: World) -> dict[str, tuple[str, str, Any]]:
    """Return the requests that lead to a model call, as (method, path, body)."""
    base = f"/v1/datasets/{world.dataset}"
    return {
        "ask": ("POST", f"{base}/ask", {"query": "When do parcels leave?", "model": CHAT}),
        "search": ("POST", f"{base}/retrieve", {"query": "parcels here", "retrieval_model": {
            "search_method": "semantic_search", "reranking_enable": False, "top_k": 2, "score_threshold_enabled": False}}),
        "external knowledge": ("POST", "/retrieval", {"knowledge_id": world.dataset, "query": "parcels outside", "retrieval_setting": {"top_k": 2, "score_threshold": 0}}),
        "evaluation": ("POST", f"/admin/v1/evaluations/{world.dataset}", {"questions": [{"question": "parcels?", "documents": ["shipping"]}], "ways": ["semantic"]}),
        "questions": ("POST", f"/admin/v1/evaluations/{world.dataset}/questions", {"count": 1, "model": CHAT}),
        "mcp: dataset": ("POST", "/mcp", mcp("dataset_guide", {"query": "parcels by mcp"})),
        "mcp: app": ("POST", "/mcp", mcp("helper", {"question": "When?"})),
        "tool: app": ("POST", "/admin/tools/call", {"tool": "workflow/helper/helper", "arguments": {"question": "When?"}}),
        "app run": ("POST", f"/admin/v1/apps/{world.app}/runs", {"inputs": {"question": "When?"}}),
        "hosted file search": ("POST", "/v1/responses", {"model": CHAT, "input": "When?", "tools": [{"type": "file_search", "vector_store_ids": ["guide"]}]}),
    }  # fmt: skip


def test_every_way_to_a_model_keeps_the_caller(run: Any):
    async def work(world: World) -> None:
        expected = {(world.ids["may"], "ann")}
        missing: dict[str, Any] = {}
        for name, (method, path, body) in model_calls(world).items():
            rows_before = await world.rows()
            reply = await world.call(method, path, "may", body)
            await settled(world)
            callers = _callers(await world.rows()) - _callers(rows_before)
            if {caller[1:] for caller in callers} != expected:
                missing[name] = (reply.status, reply.body[:300], callers)
        assert missing == {}

    run(work)


def _callers(rows: Iterable[Any]) -> set[tuple[str, str, str]]:
    """Return (row id, API key, user) of each row of the ledger."""
    return {(row.id, row.api_key, row.user) for row in rows}


async def settled(world: World) -> None:
    """Wait until the started runs have ended."""
    for _ in range(200):
        if world.yard.services.workflows.runs.count == 0:
            return
        await asyncio.sleep(0.02)


def test_no_request_reaches_a_model_that_the_key_may_not_call(
    run: Any, provider: Upstream
):
    async def work(world: World) -> None:
        for name, (method, path, body) in model_calls(world).items():
            count = len(provider.requests)
            reply = await world.call(method, path, "other", body)
            await settled(world)
            assert len(provider.requests) == count, (
                name,
                reply.status,
                reply.body[:300],
            )

    run(work)


def test_a_keys_limit_holds_for_what_is_called_inside(run: Any, provider: Upstream):
    async def work(world: World) -> None:
        limit = {
            "unit": "requests",
            "amount": 1,
            "window": "day",
            "key": world.ids["may"],
        }
        await world.yard.services.tenancy.administration.create(
            Caller(tenant="acme"), "acme", "limit", "one", limit
        )
        search = model_calls(world)["search"]
        assert (await world.call(search[0], search[1], "may", search[2])).status == 200
        count = len(provider.requests)
        for name, (method, path, body) in model_calls(world).items():
            await world.call(method, path, "may", body)
            await settled(world)
            assert len(provider.requests) == count, name

    run(work)


def test_limits_of_the_app_and_the_key_apply_to_calls_on_behalf(
    run: Any, provider: Upstream
):
    async def work(world: World) -> None:
        admin, owner = world.yard.services.tenancy.administration, Caller(tenant="acme")
        everything, app = model_calls(world), f"app:{world.app}"
        through_app = ("mcp: app", "tool: app", "app run")

        async def calls_of(name: str) -> int:
            requests_before = len(provider.requests)
            await world.call(*everything[name][:2], "may", everything[name][2])
            await settled(world)
            return len(provider.requests) - requests_before

        limit = {"unit": "requests", "amount": 1, "window": "day", "key": app}
        row = (await admin.create(owner, "acme", "limit", "of the app", limit))["id"]
        assert [await calls_of(name) for name in through_app] == [1, 0, 0]
        assert await calls_of("ask") > 0  # the key itself has no limit
        await world.yard.services.calls.ledger.flush()
        assert await used_by(world, app) == 1
        await admin.remove(owner, "acme", "limit", row)
        # Counters of new limits start from the ledger, which counts the app's calls for
        # both the app and the key.
        row = (await admin.create(owner, "acme", "limit", "of the app, anew", limit))[
            "id"
        ]
        assert [await calls_of(name) for name in through_app] == [0, 0, 0]
        await admin.change(owner, "acme", "limit", row, {"amount": 1000})
        await admin.create(
            owner, "acme", "limit", "of the key", {**limit, "key": world.ids["may"]}
        )
        assert [await calls_of(name) for name in through_app] == [0, 0, 0]

    run(work)


async def used_by(world: World, app: str) -> int:
    """Return the number of an app's calls, with its own key and on behalf of others."""
    sought = UsageQuery("acme", "key", app, is_apps=True)
    return sum(
        usage.calls
        for usage in await world.yard.services.calls.ledger.sums.between(
            sought, 0, 1 << 40
        )
    )


def test_documents_are_indexed_on_behalf_of_the_key_that_added_them(run: Any):
    async def work(world: World) -> None:
        base = f"/v1/datasets/{world.dataset}"
        body = {"name": "returns", "text": "Goods come back within a month."}
        batches: dict[str, str] = {}
        for key in ("may", "other"):
            reply = await world.call(
                "POST",
                f"{base}/document/create-by-text",
                key,
                {**body, "name": f"by {key}"},
            )
            batches[key] = json.loads(reply.body)["batch"]
            dataset = await world.yard.knowledge.stored.datasets.get(
                "acme", world.dataset
            )
            await world.yard.knowledge.datasets.wait(dataset, batches[key], 30)
        store = world.yard.knowledge.stored
        (allowed_document,), _ = await store.documents.list_page(
            "acme", world.dataset, batch=batches["may"]
        )
        (refused_document,), _ = await store.documents.list_page(
            "acme", world.dataset, batch=batches["other"]
        )
        assert (allowed_document.status.value, refused_document.status.value) == (
            "completed",
            "error",
        )
        assert "has no access" in refused_document.error
        assert any(
            row.api_key == world.ids["may"] and row.model_type == "text-embedding"
            for row in await world.rows()
        )

    run(work)


def test_a_run_that_is_resumed_keeps_its_key_and_a_revoked_one_ends_it(run: Any):
    async def work(world: World) -> None:
        callers = world.yard.services.workflows.run_services.callers
        record = RunRecord(
            tenant="acme", id="r", app=world.app, api_key=world.ids["may"]
        )
        caller = callers.caller_of(record)
        assert (caller.key, caller.app, caller.models) == (
            world.ids["may"],
            f"app:{world.app}",
            (CHAT, EMBEDDING),
        )
        await world.yard.services.tenancy.administration.revoke(
            Caller(tenant="acme"), "acme", world.ids["may"]
        )
        with pytest.raises(Exception, match="no longer valid"):
            callers.caller_of(record)

    run(work)


# the rule on its own

KEY = Caller(tenant="acme", key="k1", user="ann", models=(CHAT,))


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        (None, Caller(tenant="acme"), Caller(tenant="acme")),
        (KEY, Caller(tenant="acme"), KEY),
        (KEY, Caller(tenant="acme", user="bob"), Caller(tenant="acme", key="k1", user="bob", models=(CHAT,))),
        (KEY, Caller(tenant="acme", key="app:1"), Caller(tenant="acme", key="k1", user="ann", models=(CHAT,), app="app:1")),
        (KEY, Caller(tenant="globex"), Caller(tenant="globex")),
        (KEY, Caller(tenant="acme", key="k2"), Caller(tenant="acme", key="k2")),
        (Caller(tenant="acme", key="app:1"), Caller(tenant="acme", key="app:2"), Caller(tenant="acme", key="app:2")),
        (Caller(tenant="acme", key="app:1"), Caller(tenant="acme"), Caller(tenant="acme", key="app:1")),
    ],
    ids=["outside", "tenant", "user", "app", "other tenant", "explicit key", "app in app", "inside an app"],
)  # fmt: skip
def test_the_caller_of_nested_calls(
    outer: Caller | None, inner: Caller, expected: Caller
):
    with acting_for(outer):
        assert on_behalf(inner) == expected
    assert current_caller() is None
