"""Tests for tenants, keys, limits, routes, caches and explanations over HTTP."""

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelyard.base.errors import ConfigError
from modelyard.base.settings import (
    CacheSettings,
    CredentialSettings,
    ProviderSettings,
    load_settings,
)
from modelyard.testing import (
    Answer,
    Upstream,
    chat_answer,
    chat_events,
    embedding_answer,
    error_answer,
    stream_answer,
)
from tests.gateway.conftest import Running

Start = Callable[..., Running]
CHAT = {"model": "openai/gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}


class Got:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    running: Running,
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str = "",
    headers: dict[str, str] | None = None,
) -> Got:
    sent = {
        "content-type": "application/json",
        **({"authorization": f"Bearer {key}"} if key else {}),
        **(headers or {}),
    }
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(running.origin + path, data, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return Got(answer.status, answer.headers, answer.read())
    except HTTPError as error:
        with error:
            return Got(error.code, error.headers, error.read())


def chat(
    running: Running,
    *,
    key: str = "",
    headers: dict[str, str] | None = None,
    **extra_fields: Any,
) -> Got:
    return ask(
        running,
        "POST",
        "/v1/chat/completions",
        {**CHAT, **extra_fields},
        key=key,
        headers=headers,
    )


@pytest.fixture
def upstream_fine(upstream: Callable[..., Upstream]) -> Upstream:
    def answer(request: Any) -> Answer:
        if request.path.endswith("/embeddings"):
            texts = request.json["input"]
            inputs = texts if isinstance(texts, list) else [texts]
            return embedding_answer([[float(len(text)), 1.0] for text in inputs])
        if request.json.get("stream"):
            return stream_answer(chat_events(["fi", "ne"]))
        return chat_answer("fine", prompt=10, completion=5)

    return upstream(answer)


# API keys


def test_a_tenants_key_uses_the_tenants_credential_until_it_is_revoked(
    start_gateway: Start, upstream_fine: Upstream
):
    running = start_gateway(upstream_fine, api_keys=["operator-key-1"])
    boss = "operator-key-1"
    assert (
        ask(running, "POST", "/admin/v1/tenants", {"name": "acme"}, key=boss).status
        == 201
    )
    response = ask(
        running,
        "POST",
        "/admin/v1/keys?tenant=acme",
        {"name": "one", "role": "owner"},
        key=boss,
    )
    assert response.status == 201
    key, row = response.json["key"], response.json["id"]
    assert "digest" not in response.json
    assert chat(running, key=key).json["error"]["code"] == "no_credential_available"
    values = {"api_key": "sk-of-acme-1", "base_url": upstream_fine.url}
    credential = {"name": "own", "provider": "openai", "values": values}
    assert (
        ask(running, "POST", "/admin/v1/credentials", credential, key=key).status == 201
    )
    listed = ask(running, "GET", "/admin/v1/credentials", key=key)
    assert b"sk-of-acme-1" not in listed.body
    assert chat(running, key=key).status == 200
    assert upstream_fine.requests[-1].key == "sk-of-acme-1"
    rotated = ask(running, "POST", f"/admin/v1/keys/{row}/rotate", key=key)
    assert rotated.status == 201
    assert chat(running, key=rotated.json["key"]).status == 200
    assert chat(running, key=key).status == 401
    assert (
        ask(
            running,
            "POST",
            f"/admin/v1/keys/{rotated.json['id']}/revoke",
            key=boss + "",
        ).status
        == 404
    )
    path = f"/admin/v1/keys/{rotated.json['id']}/revoke?tenant=acme"
    assert ask(running, "POST", path, key=boss).status == 200
    assert (
        "was revoked" in chat(running, key=rotated.json["key"]).json["error"]["message"]
    )


def test_labels_are_unique_within_a_provider(
    start_gateway: Start, upstream_fine: Upstream
):
    """The error names the credential that exists; renaming is held to the same."""
    running = start_gateway(upstream_fine, api_keys=["operator-key-1"])
    path = "/admin/v1/credentials"

    def sent(method: str, where: str, **body: Any) -> Any:
        return ask(running, method, where, body, key="operator-key-1")

    values = {"api_key": "sk-1234567890", "base_url": upstream_fine.url}
    body = {"provider": "openai", "values": values}
    first = sent("POST", path, name="main", **body)
    assert first.status == 201
    for name in ("main", "openai: main"):
        again = sent("POST", path, name=name, **body)
        assert again.status == 400
        message = again.json["error"]["message"]
        assert message.startswith("Provider 'openai' has a credential 'main' already")
        assert first.json["id"] in message
    second = sent("POST", path, name="other", **body)
    assert second.status == 201
    row = f"{path}/{second.json['id']}"
    taken = sent("PATCH", row, name="openai: main")
    assert (taken.status, first.json["id"] in taken.json["error"]["message"]) == (400, True)  # fmt: skip
    # Its own name is no other credential's.
    assert sent("PATCH", row, name="other", weight=2).status == 200
    assert sent("PATCH", row, name="openai: other").status == 200


def test_a_key_is_restricted_to_its_models_and_role(
    start_gateway: Start, upstream_fine: Upstream
):
    running = start_gateway(
        upstream_fine,
        api_keys=["operator-key-1"],
        failover={"openai/gpt-5-mini": ["echo/echo"]},
    )
    key_request = {"name": "narrow", "models": ["openai/*"]}
    key = ask(
        running, "POST", "/admin/v1/keys", key_request, key="operator-key-1"
    ).json["key"]
    assert chat(running, key=key).status == 200
    refused = chat(running, key=key, model="echo/echo")
    assert (refused.status, refused.json["error"]["code"]) == (403, "model_not_allowed")
    assert {
        model["owned_by"]
        for model in ask(running, "GET", "/v1/models", key=key).json["data"]
    } == {"openai"}
    for method, path in (
        ("POST", "/admin/v1/keys"),
        ("GET", "/admin/v1/credentials"),
        ("DELETE", "/admin/v1/cache"),
    ):
        body = {"name": "x", "role": "owner"} if method == "POST" else None
        assert ask(running, method, path, body, key=key).status == 403
    viewer = ask(
        running,
        "POST",
        "/admin/v1/keys",
        {"name": "v", "role": "viewer"},
        key="operator-key-1",
    ).json["key"]
    assert chat(running, key=viewer).status == 403
    assert ask(running, "GET", "/admin/v1/usage", key=viewer).status == 200
    expiring_key = {"name": "late", "expires_at": time.time() + 0.3}
    late_key = ask(
        running, "POST", "/admin/v1/keys", expiring_key, key="operator-key-1"
    ).json["key"]
    assert chat(running, key=late_key).status == 200
    time.sleep(0.4)
    assert "expired" in chat(running, key=late_key).json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "expected_text"),
    [
        ("keys", {"name": "x", "digest": "mine"}, 400, "digest"),
        ("keys", {"name": "x", "role": "emperor"}, 400, "emperor"),
        ("keys", {"role": "viewer"}, 400, "name"),
        ("keys", {"name": "x", "expires_at": 1}, 400, "past"),
        ("tenants", {"name": "Not A Slug"}, 400, "a-z"),
        ("tenants", {"name": "default"}, 201, ""),
        (
            "limits",
            {"name": "x", "unit": "requests", "amount": -3},
            400,
            "-1 for unlimited",
        ),
        ("limits", {"name": "x", "unit": "apples", "amount": 3}, 400, "apples"),
        ("routes", {"name": "x", "targets": []}, 400, "at least one"),
        ("routes", {"name": "x", "targets": [{"model": "nobody/x"}]}, 404, "nobody"),
        (
            "routes",
            {"name": "openai/x", "targets": [{"model": "openai/gpt-5"}]},
            400,
            "another name",
        ),
        ("credentials", {"name": "x", "provider": "nobody"}, 404, "nobody"),
        (
            "credentials",
            {"name": "x", "provider": "openai", "values": {}},
            400,
            "api_key",
        ),
        ("models", {"name": "x", "provider": "openai", "definition": {}}, 400, "name"),
        (
            "models",
            {
                "name": "x",
                "provider": "openai",
                "definition": {"name": "x", "quirks": {"drop": ["seed"]}},
            },
            400,
            "'definition.quirks' can only be set in the settings",
        ),
        ("usage?by=secret", None, 400, "must list some of provider"),
        ("calls/req_nothing", None, 404, "not found"),
    ],
)
def test_each_invalid_admin_request_gets_its_error(
    start_gateway: Start, path: str, body: Any, status: int, expected_text: str
):
    running = start_gateway()
    method = "POST" if body is not None else "GET"
    response = ask(running, method, f"/admin/v1/{path}", body)
    assert response.status == status, response.body
    assert expected_text in response.body.decode()


def test_a_name_is_created_once_in_a_race(start_gateway: Start):
    running = start_gateway()
    limit = {"name": "a", "unit": "requests", "amount": 1000}
    with ThreadPoolExecutor(8) as pool:
        statuses = list(
            pool.map(
                lambda _: ask(running, "POST", "/admin/v1/limits", limit).status,
                range(8),
            )
        )
    assert sorted(statuses) == [201] + [400] * 7


# limits


def test_a_limit_sends_retry_after_and_changes_apply_at_once(
    start_gateway: Start, upstream_fine: Upstream
):
    running = start_gateway(
        upstream_fine, limits={"few": {"unit": "requests", "amount": 2}}
    )
    assert [chat(running).status for _ in range(3)] == [200, 200, 429]
    refused = chat(running)
    assert refused.json["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 31
    assert "'few'" in refused.json["error"]["message"]
    response = ask(
        running,
        "POST",
        "/admin/v1/limits",
        {"name": "none", "unit": "requests", "amount": 0, "window": "day"},
    )
    assert chat(running).json["error"]["code"] in (
        "insufficient_quota",
        "rate_limit_exceeded",
    )
    assert (
        ask(running, "DELETE", f"/admin/v1/limits/{response.json['id']}").status == 200
    )


def test_a_budget_matches_the_ledger_after_a_restart(
    start_gateway: Start, upstream_fine: Upstream, tmp_path: Path
):
    model = {"name": "m", "input_price": 1000, "output_price": 1000}
    credential = CredentialSettings(values={"api_key": "sk-own"})
    provider = ProviderSettings(
        name="own", base_url=upstream_fine.url, credentials=[credential], models=[model]
    )
    limits = {"budget": {"unit": "cost", "amount": 0.04, "window": "day"}}
    options = {
        "providers": [provider],
        "limits": limits,
        "home": str(tmp_path / "kept"),
    }
    running = start_gateway(**options)
    statuses = [chat(running, model="own/m").status for _ in range(5)]
    # 0.015 each: the third call exceeds the limit and is the last.
    assert statuses == [
        200,
        200,
        200,
        429,
        429,
    ]
    running.close()
    restarted = start_gateway(**options)
    assert chat(restarted, model="own/m").status == 429
    assert "0.04 USD per day" in chat(restarted, model="own/m").json["error"]["message"]


def test_concurrent_calls_are_limited_and_released(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    release = threading.Event()

    async def slow(request: Any) -> Answer:
        await asyncio.to_thread(release.wait, 5)
        return chat_answer("fine")

    running = start_gateway(
        upstream(slow), limits={"one": {"unit": "concurrency", "amount": 1}}
    )
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(chat, running)
        time.sleep(0.3)
        assert chat(running).status == 429
        release.set()
        assert first.result().status == 200
    assert chat(running).status == 200


def test_a_hosted_credential_serves_until_its_quota_is_exhausted(
    start_gateway: Start, upstream_fine: Upstream
):
    url = upstream_fine.url
    hosted = CredentialSettings(
        name="hosted",
        values={"api_key": "sk-hosted"},
        quota={"unit": "times", "amount": 2},
    )
    own_credential = CredentialSettings(name="own", values={"api_key": "sk-own-key"})
    running = start_gateway(
        providers=[
            ProviderSettings(
                name="openai", base_url=url, credentials=[hosted, own_credential]
            )
        ]
    )
    ask(
        running,
        "POST",
        "/admin/v1/tenants",
        {"name": "default", "preferred": {"openai": "system"}},
    )
    assert [chat(running).status for _ in range(4)] == [200] * 4
    assert [request.key for request in upstream_fine.requests] == [
        "sk-hosted",
        "sk-hosted",
        "sk-own-key",
        "sk-own-key",
    ]


# routes and caches


def test_a_route_is_a_model_that_calls_its_targets(
    start_gateway: Start, upstream_fine: Upstream
):
    routes = {
        "smart": {
            "targets": ["openai/gpt-5-mini", "echo/echo"],
            "strategy": "round_robin",
        }
    }
    running = start_gateway(upstream_fine, routes=routes)
    texts = {
        chat(running, model="smart").json["choices"][0]["message"]["content"]
        for _ in range(4)
    }
    assert texts == {"fine", "hi"}
    assert "smart" in [
        model["id"] for model in ask(running, "GET", "/v1/models").json["data"]
    ]


def test_deterministic_requests_are_cached(
    start_gateway: Start, upstream_fine: Upstream
):
    running = start_gateway(upstream_fine, cache=CacheSettings(seconds=60))
    request = {"temperature": 0, "model": "openai/gpt-4o-mini"}
    first, second = chat(running, **request), chat(running, **request)
    assert first.json["choices"] == second.json["choices"]
    streamed = chat(running, stream=True, **request)
    assert b"fine" in streamed.body
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    assert len(upstream_fine.requests) == 1
    assert chat(running, headers={"x-modelyard-cache": "off"}, **request).status == 200
    assert chat(running, model="openai/gpt-4o-mini").status == 200
    assert len(upstream_fine.requests) == 3
    rejected = chat(running, headers={"x-modelyard-cache": "maybe"}, **request)
    assert (rejected.status, "refresh" in rejected.body.decode()) == (400, True)
    rows = running.flush()
    assert [row.status for row in rows].count("cached") == 2
    assert all(row.total_price == 0 for row in rows if row.status == "cached")
    assert ask(running, "DELETE", "/admin/v1/cache").status == 200
    assert chat(running, **request).status == 200
    assert len(upstream_fine.requests) == 4


def test_embeddings_are_cached_per_text_and_combined(
    start_gateway: Start, upstream_fine: Upstream
):
    credential = CredentialSettings(values={"api_key": "sk-own"})
    model = {
        "name": "e",
        "model_type": "text-embedding",
        "properties": {"max_chunks": 16},
    }
    provider = ProviderSettings(
        name="own", base_url=upstream_fine.url, credentials=[credential], models=[model]
    )
    running = start_gateway(
        providers=[provider], cache=CacheSettings(seconds=60), embedding_batch_ms=100.0
    )

    def embed(*texts: str) -> Any:
        body = {"model": "own/e", "input": list(texts)}
        return ask(running, "POST", "/v1/embeddings", body).json

    assert [embedding["embedding"][0] for embedding in embed("a", "bb")["data"]] == [
        1.0,
        2.0,
    ]
    assert [embedding["embedding"][0] for embedding in embed("bb", "ccc")["data"]] == [
        2.0,
        3.0,
    ]
    assert [request.json["input"] for request in upstream_fine.requests] == [
        ["a", "bb"],
        ["ccc"],
    ]
    with ThreadPoolExecutor(6) as pool:
        responses = list(pool.map(lambda n: embed("x" * (n + 10)), range(6)))
    assert [response["data"][0]["embedding"][0] for response in responses] == [
        10.0 + n for n in range(6)
    ]
    assert len(upstream_fine.requests) < 8
    rows = [row for row in running.flush() if row.status == "ok"]
    assert len(rows) == 8
    assert sum(row.prompt_tokens for row in rows) == sum(
        len(r.json["input"]) for r in upstream_fine.requests
    )


# observability


def test_a_call_can_be_explained_by_its_request_id(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    fates = iter([error_answer(500, "broken")])
    server = upstream(lambda request: next(fates, chat_answer("fine")))
    first_credential, two = (
        CredentialSettings(name=name, values={"api_key": f"sk-{name}-key"})
        for name in ("one", "two")
    )
    running = start_gateway(
        providers=[
            ProviderSettings(
                name="openai", base_url=server.url, credentials=[first_credential, two]
            )
        ],
        retries=2,
    )
    response = chat(running)
    explanation = ask(
        running, "GET", f"/admin/v1/calls/{response.headers['x-request-id']}"
    ).json
    assert [step["what"] for step in explanation["decisions"]] == [
        "chose",
        "failed",
        "chose",
    ]
    assert [(attempt["credential"], attempt["status"]) for attempt in explanation["attempts"]] == [
        ("one", "upstream_unavailable"), ("two", "ok"),
    ]  # fmt: skip
    assert explanation["status"] == "ok"
    plain = ask(
        running, "GET", f"/admin/v1/calls/{chat(running).headers['x-request-id']}"
    ).json
    assert [step["what"] for step in plain["decisions"]] == ["chose"]


def test_metrics_are_in_prometheus_format(
    start_gateway: Start, upstream_fine: Upstream
):
    running = start_gateway(upstream_fine)
    chat(running)
    chat(running, model="openai/nothing-like-it-42")
    families = {
        family.name: family
        for family in text_string_to_metric_families(
            ask(running, "GET", "/metrics").body.decode()
        )
    }
    samples = {sample.name: sample for sample in families["modelyard_requests"].samples}
    assert samples["modelyard_requests_total"].labels["provider"] == "openai"
    buckets = [
        sample
        for sample in families["modelyard_request_seconds"].samples
        if sample.name.endswith("_bucket")
    ]
    counts = [
        bucket.value for bucket in buckets if bucket.labels["model"] == "gpt-5-mini"
    ]
    assert counts == sorted(counts)
    assert families["modelyard_in_flight"].samples[0].value == 0
    tokens = {
        sample.labels["direction"]: sample.value
        for sample in families["modelyard_tokens"].samples
        if sample.labels["model"] == "gpt-5-mini"
    }
    assert tokens == {"in": 10, "out": 5}


def test_usage_export_is_complete_and_safe_for_spreadsheets(
    start_gateway: Start, upstream_fine: Upstream
):
    running = start_gateway(upstream_fine)
    chat(running, user="=HYPERLINK()")
    running.flush()
    lines = ask(running, "GET", "/admin/v1/usage/rows").body.decode().splitlines()
    assert json.loads(lines[0])["prompt_tokens"] == 10
    table = (
        ask(running, "GET", "/admin/v1/usage/rows?format=csv")
        .body.decode()
        .splitlines()
    )
    assert table[0].startswith("id,invocation,attempt,tenant,api_key,user")
    assert ",'=HYPERLINK()," in table[1]
    sums = ask(running, "GET", "/admin/v1/usage?by=user,day").json["data"]
    assert (sums[0]["user"], sums[0]["calls"]) == ("=HYPERLINK()", 1)


def test_the_admin_api_describes_itself(start_gateway: Start):
    document = ask(start_gateway(), "GET", "/admin/openapi.json").json
    assert document["openapi"].startswith("3.1")
    assert {
        "/admin/v1/keys",
        "/admin/v1/keys/{id}",
        "/admin/v1/keys/{id}/rotate",
        "/admin/v1/usage",
    } <= set(document["paths"])
    assert "KeyInput" in document["components"]["schemas"]


# operation


def test_valid_settings_are_applied_and_invalid_ones_are_not(
    start_gateway: Start, upstream_fine: Upstream, tmp_path: Path
):
    running = start_gateway(upstream_fine)
    home, yard = tmp_path / "home", running.yard
    home.mkdir()
    base = {
        "home": str(home),
        "providers": [
            {
                "name": "openai",
                "base_url": upstream_fine.url,
                "credentials": [{"values": {"api_key": "sk-two"}}],
            }
        ],
    }

    def take(**changes: Any) -> None:
        path = home / "modelyard.yaml"
        path.write_text(
            json.dumps(
                {
                    key: value
                    for key, value in {**base, **changes}.items()
                    if key != "home"
                }
            )
        )
        settings = load_settings({"MODELYARD_HOME": str(home)}, config=str(path))
        asyncio.run_coroutine_threadsafe(_reload(yard, settings), running.loop).result(
            5
        )

    take(limits={"none": {"unit": "requests", "amount": 0}})
    assert chat(running).status == 429
    take()
    assert chat(running).status == 200
    assert upstream_fine.requests[-1].key == "sk-two"
    for invalid_settings in (
        {"limits": {"x": {"unit": "requests", "amount": -5}}},
        {"routes": {"x": {"targets": "openai"}}},
        {"failover": {"openai/a": ["openai/b"], "openai/b": ["openai/a"]}},
        {"providers": [{"name": "nobody"}]},
        {
            "providers": [
                {"name": "openai", "credentials": [{"values": {"organization": "x"}}]}
            ]
        },
    ):
        with pytest.raises((ConfigError, Exception), match=r"x|cycle|nobody|api_key"):
            take(**invalid_settings)
        assert chat(running).status == 200


async def _reload(yard: Any, settings: Any) -> None:
    yard.reload(settings)


def test_an_unwritable_database_refuses_billable_calls_until_it_recovers(
    start_gateway: Start, upstream_fine: Upstream
):
    running = start_gateway(upstream_fine)
    assert chat(running).status == 200
    running.flush()
    writer: Any = running.yard.services.storage.database.submit(
        lambda connection: connection
    ).result(5)
    # SQLite raises the limit to the current size; once that is full, no page can be
    # allocated.
    writer.execute("PRAGMA max_page_count = 1")
    statuses = []
    until = time.monotonic() + 20
    while time.monotonic() < until and 503 not in statuses:
        statuses.append(chat(running, user="u" * 4000).status)
    assert 503 in statuses
    refused = chat(running)
    assert refused.json["error"]["code"] == "ledger_unavailable"
    assert refused.headers["retry-after"] == "1"
    ready = ask(running, "GET", "/health/ready")
    assert (ready.status, "full" in ready.body.decode()) == (503, True)
    assert ask(running, "GET", "/health/live").status == 200
    writer.execute("PRAGMA max_page_count = 1000000")
    while time.monotonic() < until and chat(running).status != 200:
        time.sleep(0.1)
    assert chat(running).status == 200
    running.flush()
    rows = [row for row in running.rows("default", limit=100_000) if row.user]
    # Nothing was lost, and nobody had to repair anything.
    assert len(rows) == statuses.count(200)
