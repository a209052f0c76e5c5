"""Where callers put their key: one order for all, and never in a log."""

import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.gateway.auth import presented_key
from modelyard.testing import Answer, Handler, Upstream, UpstreamRequest, chat_answer
from tests.gateway.conftest import Running

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
KEY = "key-of-the-caller"
OTHER = "another-key"
CHAT = {"model": "echo/echo", "messages": [{"role": "user", "content": "hi"}]}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
GOOGLE = "/v1beta/models/echo/echo:generateContent"
AZURE = "/openai/deployments/echo%2Fecho/chat/completions?api-version=2024-10-21"


@pytest.fixture
def running(start_gateway: Start) -> Running:
    return start_gateway(api_keys=[KEY])


def post(running: Running, path: str, headers: dict[str, str]) -> httpx.Response:
    body = CONTENTS if path.startswith("/v1beta") else CHAT
    return httpx.post(running.origin + path, json=body, headers=headers, timeout=30)


@pytest.mark.case("9.2")
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/chat/completions", {"authorization": f"Bearer {KEY}"}, 200),
        ("/v1/chat/completions", {"authorization": f"bearer   {KEY}"}, 200),
        ("/v1/chat/completions", {"x-api-key": KEY}, 200),
        ("/v1/chat/completions", {"x-goog-api-key": KEY}, 200),
        # An empty carrier is absent.
        (
            "/v1/chat/completions",
            {"x-api-key": "", "authorization": f"Bearer {KEY}"},
            200,
        ),
        (
            "/v1/chat/completions",
            {"authorization": "Bearer", "x-api-key": KEY},
            200,
        ),
        # Another scheme is no key.
        (
            "/v1/chat/completions",
            {"authorization": "Basic YTpi", "x-api-key": KEY},
            200,
        ),
        # The first one decides, whatever order the lines have.
        (
            "/v1/chat/completions",
            {"x-api-key": OTHER, "authorization": f"Bearer {KEY}"},
            200,
        ),
        (
            "/v1/chat/completions",
            {"x-api-key": KEY, "authorization": f"Bearer {OTHER}"},
            401,
        ),
        # Azure's header and Google's parameter count on their own paths alone.
        (AZURE, {"api-key": KEY}, 200),
        (AZURE, {"api-key": OTHER}, 401),
        (AZURE, {"api-key": ""}, 401),
        ("/v1/chat/completions", {"api-key": KEY}, 401),
        (f"{GOOGLE}?key={KEY}", {}, 200),
        (f"{GOOGLE}?key={OTHER}", {}, 401),
        (f"{GOOGLE}?key=", {}, 401),
        (f"{GOOGLE}?key={OTHER}", {"x-goog-api-key": KEY}, 200),
        (f"/v1/chat/completions?key={KEY}", {}, 401),
    ],
)
def test_where_a_key_is_read(
    running: Running, path: str, headers: dict[str, str], status: int
):
    assert post(running, path, headers).status_code == status


@pytest.mark.case("9.2")
def test_a_key_in_a_url_is_in_no_log_and_no_answer(
    running: Running, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    for path in (
        f"{GOOGLE}?key={KEY}",
        f"{GOOGLE}?key={OTHER}",
        f"/v1beta/nothing?key={OTHER}",
        f"/v1beta/models/echo/none:generateContent?key={KEY}",
    ):
        answer = post(running, path, {})
        for secret in (KEY, OTHER):
            assert secret not in answer.text
            assert secret not in str(answer.headers)
    rows = running.flush()
    logged = [
        str(vars(record)) for record in caplog.records if "httpx" not in record.name
    ]
    for secret in (KEY, OTHER):
        assert not [text for text in logged if secret in text]
        assert secret not in str(rows)


def test_the_order_of_the_carriers():
    scope: dict[str, Any] = {"path": "/openai/v1/x", "query_string": b"key=e"}
    lines = [
        (b"api-key", b"d"),
        (b"x-goog-api-key", b"c"),
        (b"x-api-key", b" \t"),
        (b"x-api-key", b" b "),
        (b"authorization", b"Bearer a"),
    ]
    found = []
    while lines:
        found.append(presented_key({**scope, "headers": lines}))
        lines.pop()
    assert found == [b"a", b"b", b"c", b"c", b"d"]
    assert presented_key({**scope, "headers": []}) is None
    assert presented_key({**scope, "path": "/v1beta/models", "headers": []}) == b"e"


@pytest.mark.case("9.2")
def test_restrictions_are_those_of_the_key_that_counts(
    start_gateway: Start, upstream: Play
):
    def answer(request: UpstreamRequest) -> Answer:
        return chat_answer("hello")

    server = upstream(answer)
    running = start_gateway(
        api_keys=[KEY],
        providers=[
            ProviderSettings(
                name="acme",
                base_url=server.url,
                wire="openai",
                credentials=[CredentialSettings(values={"api_key": "sk"})],
                models=[{"name": "m", "context_size": 1000}],
            )
        ],
    )
    created = httpx.post(
        f"{running.origin}/admin/v1/keys",
        json={"name": "narrow", "role": "developer", "models": ["echo/*"]},
        headers={"authorization": f"Bearer {KEY}"},
        timeout=30,
    )
    assert created.status_code in (200, 201), created.text
    narrow = created.json()["key"]
    for first, second, status in ((narrow, KEY, 403), (KEY, narrow, 200)):
        answered = httpx.post(
            f"{running.url}/chat/completions",
            content=json.dumps({**CHAT, "model": "acme/m"}),
            headers={"x-api-key": second, "authorization": f"Bearer {first}"},
            timeout=30,
        )
        assert answered.status_code == status
