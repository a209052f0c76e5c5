"""One record for each call: refused ones too, found by their id, counted once."""

import json
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.show.proof import modelyard

from modelyard.base.settings import QueueSettings
from modelyard.models.types import JSON
from modelyard.runtime.usage_table import GROUPINGS
from modelyard.testing import Answer, Upstream, chat_answer, error_answer
from tests.gateway.conftest import Running
from tests.gateway.test_overload import Client, end_overload, overload
from tests.gateway.test_traffic import Got, ask

Start = Callable[..., Running]
BOSS = "operator-key-1"
CHAT: JSON = {"model": "echo/echo", "messages": [{"role": "user", "content": "hi"}]}


def chat(running: Running, key: str = "", **fields: Any) -> Got:
    """Return the answer to a chat completion of a model that answers by itself."""
    body = {**CHAT, **fields}
    return ask(running, "POST", "/v1/chat/completions", body, key=key)


def key_of(running: Running, tenant: str = "", **fields: Any) -> str:
    """Return a new key, of a new tenant if one is named."""
    path = "/admin/v1/keys"
    if tenant:
        made = ask(running, "POST", "/admin/v1/tenants", {"name": tenant}, key=BOSS)
        assert made.status == 201
        path += f"?tenant={tenant}"
    body = {"name": "one", "role": "owner", **fields}
    created = ask(running, "POST", path, body, key=BOSS)
    assert created.status == 201, created.body
    return created.json["key"]


def listed(running: Running, query: str = "", key: str = BOSS) -> JSON:
    """Return a page of the records."""
    running.flush()
    got = ask(running, "GET", f"/admin/v1/requests?limit=1000&{query}", key=key)
    assert got.status == 200, got.body
    return got.json


def record_of(running: Running, got: Got, key: str = BOSS, query: str = "") -> JSON:
    """Return the record of a call, found by the id that its caller got."""
    request_id = got.headers["x-request-id"]
    (record,) = listed(running, f"id={request_id}&{query}", key)["data"]
    assert record["id"] == request_id
    return record


@pytest.fixture
def running(start_gateway: Start) -> Running:
    """A gateway that needs a key."""
    return start_gateway(api_keys=[BOSS])


def test_a_refused_call_has_a_record_with_its_reason(running: Running):
    viewer = key_of(running, role="viewer")
    narrow = key_of(running, name="narrow", models=["openai/*"])
    refused = {
        403: chat(running, key=viewer),
        404: chat(running, key=BOSS, model="nobody/nothing"),
        400: chat(running, key=BOSS, messages="none"),
    }
    for status, got in refused.items():
        assert got.status == status
        record = record_of(running, got)
        error = got.json["error"]
        assert (record["http_status"], record["status"], record["message"]) == (
            status,
            error["code"],
            error["message"],
        )
        assert (record["outcome"], record["attempts"], record["calls"]) == (
            "refused",
            0,
            1,
        )
        assert record["route"] == "POST /v1/chat/completions"
    assert record_of(running, refused[404])["model"] == "nobody/nothing"
    not_allowed = record_of(running, chat(running, key=narrow, model="echo/echo"))
    assert not_allowed["status"] == "model_not_allowed"
    keys = ask(running, "GET", "/admin/v1/keys", key=BOSS).json["data"]
    assert not_allowed["key"] == {row["name"]: row["id"] for row in keys}["narrow"]


def test_a_spent_limit_is_a_refused_call_of_its_model_and_user(running: Running):
    limit = {"name": "one", "unit": "requests", "amount": 1, "window": "day"}
    assert ask(running, "POST", "/admin/v1/limits", limit, key=BOSS).status == 201
    assert chat(running, key=BOSS).status == 200
    got = chat(running, key=BOSS, user="alice", stream=True)
    assert got.status == 429
    record = record_of(running, got)
    assert (record["outcome"], record["http_status"]) == ("refused", 429)
    assert (record["provider"], record["model"]) == ("echo", "echo")
    assert (record["user"], record["type"]) == ("alice", "llm")
    assert record["route"] == "POST /v1/chat/completions"
    explained = ask(running, "GET", f"/admin/v1/calls/{record['id']}", key=BOSS).json
    assert explained["refusal"]["message"] == got.json["error"]["message"]
    assert "attempts" not in explained


def test_without_a_usable_credential_a_call_is_refused_and_not_failed(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    def answer(request: Any) -> Answer:
        return error_answer(500)

    running = start_gateway(upstream(answer), api_keys=[BOSS])
    failed = chat(running, key=BOSS, model="openai/gpt-5-mini")
    refused = chat(running, key=BOSS, model="anthropic/claude-sonnet-4-5")
    assert refused.status == 503
    assert record_of(running, failed)["outcome"] == "failed"
    record = record_of(running, refused)
    assert (record["outcome"], record["attempts"]) == ("refused", 0)


def test_the_command_line_explains_a_refusal_and_counts_it(
    running: Running, tmp_path: Path
):
    got = chat(running, key=BOSS, model="nobody/nothing")
    running.flush()
    environ = {"MODELYARD_HOME": str(tmp_path)}
    printed = modelyard("explain", got.headers["x-request-id"], environ=environ)
    assert "refused" in printed
    assert "404" in printed
    (line,) = json.loads(modelyard("usage", "--json", environ=environ))
    assert (line["calls"], line["refused"], line["attempts"]) == (1, 1, 0)


def test_callers_without_a_valid_key_belong_to_no_tenant(running: Running):
    other = key_of(running, "acme")
    unknown = chat(running, key="my-secret-wrong-key")
    nameless = chat(running)
    assert unknown.status == nameless.status == 401
    query = "unauthenticated=true"
    record = record_of(running, unknown, query=query)
    assert record["status"] == "invalid_api_key"
    assert len(record["key_fingerprint"]) == 8
    assert record_of(running, nameless, query=query)["key_fingerprint"] == ""
    assert listed(running)["data"] == []
    assert (
        b"my-secret-wrong-key"
        not in ask(running, "GET", f"/admin/v1/requests?{query}", key=BOSS).body
    )
    # Nobody but the operator sees them, in a list or by their id.
    path = f"/admin/v1/calls/{unknown.headers['x-request-id']}"
    assert ask(running, "GET", path, key=BOSS).json["refusal"]["status"] == 401
    assert ask(running, "GET", path, key=other).status == 404
    hidden = ask(running, "GET", f"/admin/v1/requests?{query}", key=other)
    assert hidden.status == 404


def test_a_path_that_does_not_exist_is_recorded_for_its_caller(running: Running):
    got = ask(running, "POST", "/chat/completions", CHAT, key=BOSS)
    assert got.status == 404
    record = record_of(running, got)
    assert (record["route"], record["status"]) == ("", "unknown_url")
    # What browsers and monitors ask for is no call.
    assert ask(running, "GET", "/favicon.ico", key=BOSS).status == 404
    assert ask(running, "POST", "/admin/v1/nothing", CHAT, key=BOSS).status == 404
    assert listed(running)["total"] == 1


def test_another_tenants_calls_are_not_visible(running: Running):
    other = key_of(running, "acme")
    got = chat(running, key=other, model="nobody/nothing")
    record = record_of(running, got, key=other)
    assert listed(running)["data"] == []
    assert record_of(running, got, query="tenant=acme") == record
    path = f"/admin/v1/calls/{record['id']}"
    assert ask(running, "GET", path, key=other).status == 200
    assert ask(running, "GET", path, key=key_of(running, "rival")).status == 404


def test_the_key_of_an_app_and_a_body_that_is_too_large(start_gateway: Start):
    running = start_gateway(api_keys=[BOSS], max_body_mb=1)
    body = {**CHAT, "user": "x" * (1 << 20)}
    got = ask(running, "POST", "/v1/chat/completions", body, key=BOSS)
    assert got.status == 413
    assert record_of(running, got)["http_status"] == 413
    got = ask(running, "POST", "/v1/chat-messages", {"query": "hi"}, key="app-wrong")
    assert got.status == 401
    record = record_of(running, got, query="unauthenticated=true")
    assert record["route"] == "POST /v1/chat-messages"


def test_a_head_that_cannot_be_read_is_recorded_for_the_operator(running: Running):
    host, _, port = running.origin.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
        head += f"X-Large: {'x' * 70_000}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 431 " in connection.recv(1000)
    (record,) = listed(running, "unauthenticated=true")["data"]
    assert (record["outcome"], record["http_status"]) == ("refused", 431)


def sums_by(running: Running, by: str) -> tuple[JSON, JSON]:
    """Return the counts of all groups together, and those that the server states."""
    got = ask(running, "GET", f"/admin/v1/usage?by={by}", key=BOSS).json
    total = got["total"]
    rows = got["data"]
    return {name: sum(row.get(name, 0) for row in rows) for name in total}, total


def test_a_call_that_failed_over_counts_once_for_each_grouping(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    def answer(request: Any) -> Answer:
        is_first = request.json["model"] == "gpt-5-mini"
        return error_answer(500) if is_first else chat_answer("fine")

    running = start_gateway(
        upstream(answer),
        api_keys=[BOSS],
        failover={"openai/gpt-5-mini": ["openai/gpt-5-nano"]},
    )
    for _ in range(3):
        assert chat(running, key=BOSS, model="openai/gpt-5-mini").status == 200
    assert chat(running, key=BOSS).status == 200
    assert chat(running, key=BOSS, model="nobody/nothing").status == 404
    records = listed(running)
    assert (records["total"], records["calls"]) == (5, 5)
    outcomes = Counter(record["outcome"] for record in records["data"])
    assert outcomes == {"served": 4, "refused": 1}
    for by in (*GROUPINGS, "provider,model"):
        sums, total = sums_by(running, by)
        assert sums == total, by
        assert (total["calls"], total["refused"]) == (5, 1)
        assert (total["failed"], total["cancelled"]) == (0, 0)
        assert total["attempts"] - total["failed_attempts"] == 4
    # The model that answered has the call, the one that failed only its attempts.
    by_model = ask(running, "GET", "/admin/v1/usage?by=model", key=BOSS).json["data"]
    calls = {row["model"]: (row["calls"], row["failed"]) for row in by_model}
    assert calls == {
        "gpt-5-nano": (3, 0),
        "gpt-5-mini": (0, 0),
        "echo": (1, 0),
        "-": (1, 0),
    }


def test_early_refusals_are_recorded_with_their_ids(start_gateway: Start):
    running = start_gateway(
        api_keys=["the-operators-key"], queue=QueueSettings(target_ms=10)
    )
    overload(running)
    ids: set[str] = set()
    with Client(running) as client:
        for _ in range(30):
            status, headers, _ = client.post("/v1/chat/completions", CHAT)
            if status == 503:
                ids.add(headers["x-request-id"])
    end_overload(running)
    assert len(ids) >= 20
    records = listed(running, "outcome=refused", "the-operators-key")
    assert {record["id"] for record in records["data"]} == ids
    assert {record["status"] for record in records["data"]} == {"overloaded"}


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("outcome=served", 1),
        ("outcome=refused", 2),
        ("outcome=failed", 0),
        ("outcome=cancelled", 0),
        ("status=model_not_found", 1),
        ("model=nobody/nothing", 1),
        ("model=echo", 1),
        ("provider=echo&type=llm", 1),
        ("user=alice", 1),
        ("until=1", 0),
    ],
)
def test_records_are_filtered(running: Running, query: str, count: int):
    chat(running, key=BOSS, user="alice")
    not_found = chat(running, key=BOSS, model="nobody/nothing")
    query = query.replace("model_not_found", not_found.json["error"]["code"])
    chat(running, key=BOSS, messages=1)
    page = listed(running, query)
    assert (page["total"], len(page["data"])) == (count, count)


@pytest.mark.parametrize("query", ["outcome=none", "unauthenticated=yes", "limit=0"])
def test_invalid_filters_are_refused(running: Running, query: str):
    got = ask(running, "GET", f"/admin/v1/requests?{query}", key=BOSS)
    assert got.status == 400
    assert got.json["error"]["param"] == query.partition("=")[0]


def test_pages_do_not_overlap(running: Running):
    for count in range(7):
        model = "echo/echo" if count % 2 else "nobody/nothing"
        chat(running, key=BOSS, model=model)
    everything = [record["id"] for record in listed(running)["data"]]
    pages = [
        record["id"]
        for offset in range(0, 9, 3)
        for record in ask(
            running, "GET", f"/admin/v1/requests?limit=3&offset={offset}", key=BOSS
        ).json["data"]
    ]
    assert pages == everything
    assert len(set(pages)) == 7


def budgets_of(running: Running, key: str = BOSS) -> dict[str, JSON]:
    """Return the limits of a tenant with their levels, by name."""
    got = ask(running, "GET", "/admin/v1/budgets", key=key)
    assert got.status == 200, got.body
    return {budget["name"]: budget for budget in got.json["data"]}


def test_budgets_show_what_is_used_and_left(running: Running):
    """Before a call and after a restart too: the level then comes from the ledger."""
    limits: dict[str, JSON] = {
        "few": {"unit": "requests", "amount": 2, "window": "day"},
        "of alice": {
            "unit": "requests",
            "amount": 5,
            "window": "month",
            "per": "user",
            "user": "alice",
        },
        "each": {"unit": "requests", "amount": 5, "window": "day", "per": "user"},
        "unlimited": {"unit": "tokens", "amount": -1},
    }
    assert chat(running, key=BOSS, user="alice").status == 200
    for name, limit in limits.items():
        body = {"name": name, **limit}
        assert ask(running, "POST", "/admin/v1/limits", body, key=BOSS).status == 201
    budgets = budgets_of(running)
    assert budgets.keys() == {"few", "of alice", "each"}
    few = budgets["few"]
    assert (few["used"], few["left"], few["is_spent"]) == (1, 1, False)
    assert few["forecast"] >= 1
    assert few["resets_at"] > 0
    assert budgets["of alice"]["used"] == 1
    # Each user has its own amount.
    assert (budgets["each"]["used"], budgets["each"]["left"]) == (None, None)
    assert chat(running, key=BOSS).status == 200
    assert chat(running, key=BOSS).status == 429
    few = budgets_of(running)["few"]
    assert (few["used"], few["left"], few["is_spent"]) == (2, 0, True)
    assert budgets_of(running, key_of(running, "acme")) == {}
