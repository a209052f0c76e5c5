"""Access lists over HTTP: who sets them, who is refused, and what a refusal tells.

What each way in finds is compared with a model by `make show WHAT=permissions`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tools.show.tenancy import ask

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.app.workflows import RunCallers
from modelyard.base.settings import Settings
from modelyard.gateway.auth import Authenticator
from modelyard.knowledge.entities import DatasetSettings, Technique
from modelyard.tenancy.caller import Caller
from modelyard.tenancy.reader import ANYBODY, Reader
from modelyard.testing.workflows import ScriptedModel, scripted_models
from modelyard.workflow.run_record import RunRecord, dump_start, parse_record

Call = Callable[..., Awaitable[tuple[int, Any]]]
OPERATOR = Caller(tenant="default")
ZERO = "00000000-0000-0000-0000-000000000000"
CHAT = """
kind: app
version: 0.6.0
app: {name: chat, mode: chat}
model_config: {model: {provider: scripted, name: model, mode: chat}, pre_prompt: "", user_input_form: []}
"""


class World:
    """A server with one dataset of two documents, and a key of each role."""

    def __init__(self, yard: Modelyard) -> None:
        self.yard = yard
        self.gateway = gateway_for(yard.services)
        self.keys: dict[str, str] = {}
        self.base, self.documents = "", [""]

    async def prepare(self) -> None:
        """Add the dataset and the keys."""
        datasets = self.yard.knowledge.datasets
        settings = DatasetSettings(indexing_technique=Technique.ECONOMY)
        dataset = await datasets.create("default", "shop", settings=settings)
        texts = [(f"n{n}", f"Parcels leave before noon {n}.") for n in range(2)]
        added = await datasets.add_texts(dataset, texts)
        await datasets.wait(dataset, added[0].batch, 60)
        self.base = f"/v1/datasets/{dataset.id}"
        self.documents = [document.id for document in added]
        tenancy = self.yard.services.tenancy
        self.keys["datasets"] = await tenancy.dataset_keys.create("default")
        self.keys["trusted"] = await tenancy.dataset_keys.create("default", speaks_for_users=True)  # fmt: skip
        for role in ("admin", "editor", "developer"):
            fields: Any = {"role": role, "user": "ada"}
            created = await tenancy.administration.create(OPERATOR, "default", "key", role, fields)  # fmt: skip
            self.keys[role] = created["key"]

    async def call(
        self, method: str, path: str, key: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """Send a request and return its status and its JSON."""
        lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]  # fmt: skip
        reply = await ask(self.gateway, method, path, self.keys.get(key, key), body, lines)  # fmt: skip
        return reply.status, json.loads(reply.body) if reply.body else None

    async def hit_count(self, key: str, **headers: str) -> int:
        """Return how bulk_path documents a search finds."""
        status, body = await self.call("POST", f"{self.base}/retrieve", key, {"query": "parcels"}, **headers)  # fmt: skip
        assert status == 200, body
        return len(body["records"])


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    def go(work: Callable[[World], Awaitable[None]]) -> None:
        async def run_work() -> None:
            definition, builder = scripted_models(ScriptedModel())
            settings = Settings(home=str(tmp_path), defaults={"llm": "scripted/model"})
            async with Modelyard(
                settings, definitions=[definition], builders={"scripted": builder}, environ={}
            ) as yard:  # fmt: skip
                world = World(yard)
                await world.prepare()
                await work(world)

        asyncio.run(run_work())

    return go


Run = Callable[[Callable[[World], Awaitable[None]]], None]


def test_lists_are_set_read_and_removed(run: Run):
    async def work(world: World) -> None:
        first, second = world.documents
        path = f"{world.base}/documents/{first}/access"
        assert await world.call("GET", path, "datasets") == (200, {"access": None, "default_access": "everyone"})  # fmt: skip
        new_list = {"users": ["Ada@Example.com"], "groups": ["staff"]}
        stored = {"users": ["ada@example.com"], "groups": ["staff"], "everyone": False}
        status, body = await world.call("PUT", path, "datasets", new_list)
        assert (status, body["access"]) == (200, stored)
        assert (await world.call("GET", path, "admin"))[1]["access"] == stored
        assert await world.hit_count("developer") == 1
        named = {"x_modelyard_user": "ada%40example.com"}
        assert await world.hit_count("trusted", **named) == 2
        status, body = await world.call("PATCH", world.base, "datasets", {"default_access": "nobody"})  # fmt: skip
        assert (status, body["default_access"]) == (200, "nobody")
        assert await world.hit_count("trusted", **named) == 1
        assert await world.call("DELETE", path, "datasets") == (204, None)
        assert await world.hit_count("trusted", **named) == 0
        changes = [
            {"document_id": first, "access": {"everyone": True}},
            {"document_id": second, "access": {"groups": ["board"]}},
        ]
        bulk_path = f"{world.base}/documents/access"
        assert (await world.call("POST", bulk_path, "admin", {"documents": changes}))[
            0
        ] == 200
        assert await world.hit_count("datasets") == 1
        assert await world.hit_count("trusted", x_modelyard_groups="board") == 2

    run(work)


def test_content_and_list_come_together(run: Run):
    """A new document is never found without its list, nor new content by old readers."""

    async def work(world: World) -> None:
        body: Any = {"name": "secret", "text": "Parcels are late.", "access": {"users": ["ada"]}}  # fmt: skip
        status, added = await world.call("POST", f"{world.base}/document/create-by-text", "datasets", body)  # fmt: skip
        assert status == 200, added
        datasets = world.yard.knowledge.datasets
        dataset = await datasets.get_by_id_or_name("default", "shop")
        await datasets.wait(dataset, added["batch"], 60)
        assert await world.hit_count("datasets") == 2
        assert await world.hit_count("developer") == 3
        path = f"{world.base}/documents/{added['document']['id']}/update-by-text"
        body = {"text": "Parcels are lost.", "access": {"users": []}}
        assert (await world.call("POST", path, "datasets", body))[0] == 200
        # At once, while the old content is still indexed.
        assert await world.hit_count("developer") == 2

    run(work)


def test_invalid_lists_change_nothing(run: Run):
    async def work(world: World) -> None:
        first, _ = world.documents
        path = f"{world.base}/documents/{first}/access"
        bulk_path = f"{world.base}/documents/access"
        change = {"document_id": first, "access": {"users": ["ada"]}}
        for method, target, body, status, text in (
            ("PUT", path, {"user": ["ada"]}, 400, "unknown field `user`"),
            ("PUT", path, {"users": "ada"}, 400, "Expected `array`"),
            ("PUT", path, {"users": [" "]}, 400, "1 to 256 printable"),
            ("PUT", f"{world.base}/documents/{ZERO}/access", {}, 404, "does not exist"),
            ("POST", bulk_path, {}, 400, "1 to 1,000 items, got 0"),
            ("POST", bulk_path, {"documents": [change] * 1001}, 400, "got 1,001"),
            ("POST", bulk_path, {"documents": [{"access": None}]}, 400, "documents[0]: 'document_id' is required"),
            ("POST", bulk_path, {"documents": [{"document_id": first}]}, 400, "or null to remove it"),
            ("POST", bulk_path, {"documents": [change, {"document_id": first, "access": {"a": 1}}]}, 400, "documents[1].access"),
            ("POST", bulk_path, {"documents": [change, {"document_id": ZERO, "access": None}]}, 404, "does not exist"),
            ("PATCH", world.base, {"default_access": "all"}, 400, "everyone or nobody"),
            ("POST", f"{world.base}/document/create-by-text", {"name": "a", "text": "b", "access": {"x": 1}}, 400, "access:"),
        ):  # fmt: skip
            observed, answer = await world.call(method, target, "datasets", body)
            assert (observed, text in answer["message"]) == (status, True), (body, answer)  # fmt: skip
        assert (await world.call("GET", path, "datasets"))[1]["access"] is None
        assert await world.hit_count("datasets") == 2

    run(work)


def test_whoever_manages_no_lists_is_refused_and_told_nothing(run: Run):
    async def work(world: World) -> None:
        first, second = world.documents
        # Without lists developers manage the dataset, as before.
        assert (await world.call("GET", f"{world.base}/documents", "developer"))[
            0
        ] == 200
        rule = {"users": ["ben"]}
        await world.call(
            "PUT", f"{world.base}/documents/{first}/access", "datasets", rule
        )
        hidden = f"{world.base}/documents/{first}"
        for method, path, body in (
            ("GET", f"{world.base}/documents", None),
            ("GET", f"{world.base}/documents/batch/indexing-status", None),
            ("GET", f"{world.base}/queries", None),
            ("GET", f"{hidden}/access", None),
            ("PUT", f"{hidden}/access", {"everyone": True}),
            ("DELETE", f"{hidden}/access", None),
            ("DELETE", hidden, None),
            ("DELETE", world.base, None),
            ("PATCH", world.base, {"default_access": "everyone"}),
            ("POST", f"{world.base}/documents/access", {"documents": []}),
            ("POST", f"{world.base}/documents/download-zip", {"document_ids": [first]}),
            ("POST", f"{world.base}/document/create-by-text", {"name": "a", "text": "b"}),
            ("POST", f"{hidden}/segments", {"segments": [{"content": "x"}]}),
            ("POST", f"{world.base}/documents/metadata", {"operation_data": []}),
            ("GET", f"{world.base}/pipeline/datasource-plugins", None),
            ("POST", f"{world.base}/pipeline/run", {}),
        ):  # fmt: skip
            for key, headers in (("developer", {}), ("editor", {}), ("trusted", {"x_modelyard_user": "ada"})):  # fmt: skip
                status, answer = await world.call(method, path, key, body, **headers)
                assert status == 403, (method, path, key, answer)
                assert "only administrators" in answer["message"]
        for end in ("", "/segments", f"/segments/{ZERO}", "/download", "/upload-file"):
            observed = await world.call("GET", f"{hidden}{end}", "developer")
            absent = await world.call("GET", f"{world.base}/documents/{ZERO}{end}", "developer")  # fmt: skip
            assert observed[0] == absent[0] == 404
            assert json.dumps(observed).replace(first, ZERO) == json.dumps(absent), end
            assert (await world.call("GET", f"{hidden}{end}", "trusted", x_modelyard_user="ada"))[0] == 404  # fmt: skip
        assert (await world.call("GET", f"{world.base}/documents/{second}", "developer"))[0] == 200  # fmt: skip
        assert (await world.call("GET", hidden, "trusted", x_modelyard_user="ben"))[0] == 200  # fmt: skip
        _, listed = await world.call("GET", "/v1/datasets", "developer")
        assert [row["document_count"] for row in listed["data"]] == [0]
        _, listed = await world.call("GET", "/v1/datasets", "admin")
        assert [row["document_count"] for row in listed["data"]] == [2]
        path = "/admin/v1/evaluations/shop"
        status, answer = await world.call("GET", path, "developer")
        assert (status, "only administrators evaluate" in str(answer)) == (403, True)
        assert (await world.call("GET", path, "admin"))[0] == 200

    run(work)


def test_only_trusted_keys_name_a_user(run: Run):
    async def work(world: World) -> None:
        named = {"x_modelyard_user": "ben"}
        search: Any = {"query": "parcels"}
        external = {"knowledge_id": world.base.rpartition("/")[2], "query": "parcels"}
        record, _, _ = await world.yard.apps.add("default", CHAT, name="chat")
        _, world.keys["app"] = await world.yard.apps.make_key(record)
        chat: Any = {"query": "hello", "inputs": {}, "user": "ben"}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        for key, path, body in (
            ("datasets", f"{world.base}/retrieve", search),
            ("admin", f"{world.base}/ask", search),
            ("developer", "/v1/chat/completions", {"model": "default", "messages": []}),
            ("developer", "/mcp", message),
            ("app", "/v1/chat-messages", chat),
            ("app", f"/a2a/{record.id}", message),
        ):  # fmt: skip
            status, answer = await world.call("POST", path, key, body, **named)
            assert status == 403, (path, answer)
            assert "may not read documents on behalf of users" in str(answer)
        status, answer = await world.call("POST", "/retrieval", "datasets", external, **named)  # fmt: skip
        assert (status, answer["error_code"]) == (403, 1002)
        for value, text in (("%ff", "percent-encoded UTF-8"), ("a%0Ab", "printable")):
            status, answer = await world.call("POST", f"{world.base}/retrieve", "trusted", search, x_modelyard_user=value)  # fmt: skip
            assert (status, text in answer["message"]) == (400, True), answer

    run(work)


def test_only_administrators_make_keys_that_name_users(run: Run):
    async def work(world: World) -> None:
        record, _, _ = await world.yard.apps.add("default", CHAT, name="chat")
        path, right = f"/admin/v1/apps/{record.id}/keys", {"speaks_for_users": True}
        status, answer = await world.call("POST", path, "editor", right)
        assert (status, "Only administrators" in str(answer)) == (403, True)
        assert (await world.call("POST", path, "editor"))[0] == 201
        assert (await world.call("POST", path, "admin", right))[0] == 201
        _, listed = await world.call("GET", path, "editor")
        assert sorted(key["speaks_for_users"] for key in listed["data"]) == [
            False,
            True,
        ]
        status, created = await world.call("POST", "/admin/v1/keys", "admin", {"name": "k", **right})  # fmt: skip
        assert (status, created["speaks_for_users"]) == (201, True)
        # A rotated key keeps the right.
        status, created = await world.call("POST", f"/admin/v1/keys/{created['id']}/rotate", "admin")  # fmt: skip
        assert (status, created["speaks_for_users"]) == (201, True)
        status, answer = await world.call("POST", "/admin/v1/users", "admin", {"name": "u", "groups": ["\n"]})  # fmt: skip
        assert (status, "printable" in str(answer)) == (400, True)

    run(work)


def test_an_operator_is_anybody_in_another_tenant(run: Run):
    async def work(world: World) -> None:
        tenancy = world.yard.services.tenancy
        await tenancy.administration.create(OPERATOR, "default", "tenant", "acme", {})
        keeper = Authenticator([], tenancy.directory, world.yard.services.storage.keys)
        fields: Any = {"role": "owner", "user": "ada"}
        created = await tenancy.administration.create(OPERATOR, "default", "key", "o", fields)  # fmt: skip
        bearer = (b"authorization", f"Bearer {created['key']}".encode())
        scope: Any = {
            "headers": [bearer], "method": "GET", "path": "/v1/models",
            "query_string": b"", "client": ("127.0.0.1", 1),
        }  # fmt: skip
        assert (await keeper.caller_of(scope)).reader == Reader(users=("ada",))
        scope["headers"] = [bearer, (b"x-modelyard-tenant", b"acme")]
        caller = await keeper.caller_of(scope)
        assert (caller.tenant, caller.reader) == ("acme", ANYBODY)

    run(work)


def test_a_run_reads_as_whoever_started_it(run: Run):
    """Also after it was stored and is resumed by another process, whatever the key of
    the run, and whatever the user that the request stated."""

    async def work(world: World) -> None:
        services = world.yard.services
        callers = RunCallers(services.tenancy.directory, services.clock)
        row = world.keys["admin"].split("_")[1]
        for api_key in ("", row):
            for reader in (ANYBODY, Reader(users=("ben",), groups=("staff",))):
                record = RunRecord(
                    tenant="default", id="r", app="a", user="ada", api_key=api_key, reader=reader
                )  # fmt: skip
                columns = {
                    "body": dump_start(record), "result": None, "finished_at": None,
                    **{name: getattr(record, name) for name in ("tenant", "id", "app", "status", "user", "created_at", "epoch")},
                }  # fmt: skip
                stored = msgspec.structs.replace(parse_record(columns), api_key=api_key)
                assert callers.caller_of(stored).reader == reader

    run(work)
