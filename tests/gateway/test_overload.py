"""Tests for refusals of an overloaded gateway over HTTP."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelyard.base.settings import (
    CredentialSettings,
    ProviderSettings,
    QueueSettings,
)
from modelyard.runtime.overload import LoadController
from modelyard.testing import Answer, Upstream, chat_answer
from tests.gateway.conftest import Running

Start = Callable[..., Running]
KEY = {"authorization": "Bearer the-operators-key", "content-type": "application/json"}
MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"model": "echo/echo", "messages": MESSAGES}
FORMATS: dict[str, tuple[str, Any]] = {
    "openai": ("/v1/chat/completions", CHAT),
    "responses": ("/v1/responses", {"model": "echo/echo", "input": "hi"}),
    "anthropic": ("/v1/messages", {**CHAT, "max_tokens": 5}),
    "google": (
        "/v1beta/models/echo:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    ),
    "cohere": ("/v2/chat", CHAT),
    "jina": ("/v1/rerank", {"model": "echo", "query": "a", "documents": ["b"]}),
}


def start(start_gateway: Start, **changes: Any) -> Running:
    """Start a gateway that controls its load and needs a key."""
    changes = {"queue": QueueSettings(target_ms=10), **changes}
    return start_gateway(api_keys=["the-operators-key"], **changes)


class Frozen(LoadController):
    """A controller whose state no measurement changes any more."""

    def observe(self, lag_seconds: float, now: float) -> None:
        pass


def overload(running: Running) -> LoadController:
    """Make the gateway refuse every call of the default tenant."""
    load = running.yard.services.calls.load

    async def change() -> None:
        for step in range(4):
            load.observe(0.03, 0.03 * step)
        assert load.is_refusing
        load.__class__ = Frozen
        calls = [load.refusal("default") for _ in range(100)]
        assert calls[-1] is not None

    running.do(change())
    return load


def end_overload(running: Running) -> None:
    """Make the gateway admit every call."""

    async def change() -> None:
        running.yard.services.calls.load.is_refusing = False

    running.do(change())


class Client:
    """One connection to the gateway."""

    def __init__(self, running: Running) -> None:
        host = running.origin.partition("://")[2]
        self._connection = http.client.HTTPConnection(host, timeout=20)

    def post(self, path: str, body: Any) -> tuple[int, Any, Any]:
        """Return the status, headers and body of an answer."""
        self.send(path, body)
        return self.receive()

    def send(self, path: str, body: Any) -> None:
        """Send a request."""
        self._connection.request("POST", path, json.dumps(body), KEY)

    def get(self, path: str) -> tuple[int, Any, bytes]:
        """Return the status, headers and body of an answer."""
        self._connection.request("GET", path, headers=KEY)
        response = self._connection.getresponse()
        return response.status, response.headers, response.read()

    def receive(self) -> tuple[int, Any, Any]:
        """Return the status, headers and body of the answer to the request."""
        response = self._connection.getresponse()
        return response.status, response.headers, json.loads(response.read())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def check_error(format_name: str, body: Any, request_id: str) -> None:
    """Check an error body in one format."""
    if format_name == "anthropic":
        assert body["type"] == "error"
        assert body["request_id"] == request_id
        assert "overloaded" in body["error"]["message"]
    elif format_name == "google":
        assert body["error"]["code"] == 503
        assert body["error"]["status"] == "UNAVAILABLE"
    elif format_name == "cohere":
        assert "overloaded" in body["message"]
        assert body["id"] == request_id
    else:
        assert body["error"]["type"] == "server_error"
        assert body["error"]["code"] == "overloaded"


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_refusal_is_in_the_callers_format_and_leaves_nothing(
    format_name: str, start_gateway: Start
):
    limit: Any = {"unit": "requests", "amount": 1, "window": "day"}
    running = start(start_gateway, limits={"one-call": limit})
    overload(running)
    path, request = FORMATS[format_name]
    with Client(running) as client:
        # The first one is refused by the gateway, the others by their first bytes.
        for _ in range(3):
            status, headers, body = client.post(path, request)
            assert status == 503
            assert headers["retry-after"] == "1"
            assert headers["content-type"] == "application/json"
            check_error(format_name, body, headers["x-request-id"])
        assert running.flush() == []
        assert running.yard.services.calls.queue.running == 0
        end_overload(running)
        # The limit allows a single call, and no refused call has used it.
        assert client.post(*FORMATS["openai"])[0] == 200
        assert client.post(*FORMATS["openai"])[0] == 429


def test_only_model_calls_of_loud_tenants_are_refused(start_gateway: Start):
    running = start(start_gateway)
    load = overload(running)
    refused_before = load.refused_calls
    with Client(running) as client:
        assert client.get("/v1/models")[0] == 200
        assert client.post(*FORMATS["openai"])[0] == 503
        metrics = client.get("/metrics")[2].decode()
    families = {
        family.name: family for family in text_string_to_metric_families(metrics)
    }
    refusals = families["modelyard_overload_refusals"].samples[0]
    assert refusals.value == refused_before + 1
    assert "modelyard_loop_lag_seconds" in families


def test_without_a_target_nothing_is_refused(start_gateway: Start):
    running = start(start_gateway, queue=QueueSettings(target_ms=0))
    load = running.yard.services.calls.load
    assert load.target_seconds == 0
    with Client(running) as client:
        assert client.post(*FORMATS["openai"])[0] == 200


def test_a_call_whose_caller_left_while_it_waited_never_starts(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    release = threading.Event()

    async def answer_once_released(request: Any) -> Answer:
        await asyncio.to_thread(release.wait, 20)
        return chat_answer("fine")

    provider = upstream(answer_once_released)
    running = start_gateway(
        provider, api_keys=["the-operators-key"], queue=QueueSettings(capacity=1)
    )
    queue = running.yard.services.calls.queue

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    chat = {**CHAT, "model": "openai/gpt-5-mini"}
    with Client(running) as first, Client(running) as second:
        first.send("/v1/chat/completions", chat)
        running.do(until(lambda: queue.running == 1))
        second.send("/v1/chat/completions", chat)
        running.do(until(lambda: queue.waiting == 1))
        second.close()
        running.do(until(lambda: queue.waiting == 0))
        release.set()
        assert first.receive()[0] == 200
    running.do(until(lambda: queue.running == 0))
    assert len(provider.requests) == 1


def test_the_target_follows_the_settings(start_gateway: Start):
    running = start(start_gateway)
    load = running.yard.services.calls.load
    assert load.target_seconds == 0.01

    async def change() -> None:
        yard = running.yard
        queue = QueueSettings(target_ms=25)
        yard.reload(msgspec.structs.replace(yard.settings, queue=queue))

    running.do(change())
    assert load.target_seconds == 0.025


def test_calls_that_are_admitted_stay_cheap(start_gateway: Start, upstream: Any):
    """While others are refused, a call still goes straight from the protocol class, and
    is charged once."""
    provider = ProviderSettings(
        name="acme",
        base_url=upstream(lambda _: chat_answer("hello")).url,
        wire="openai",
        credentials=[CredentialSettings(name="a", values={"api_key": "sk-a"})],
        models=[{"name": "m", "context_size": 1000}],
    )
    running = start(start_gateway, providers=[provider])
    chat = {**CHAT, "model": "acme/m"}
    direct = running.yard.services.calls.direct
    with Client(running) as client:
        # The first two calls open the connection and make the head known.
        assert [client.post("/v1/chat/completions", chat)[0] for _ in range(2)] == [
            200,
            200,
        ]
        load = overload(running)
        load._granted += 3  # pyright: ignore[reportPrivateUsage]  three calls may start
        sent = direct.sent
        statuses = [client.post("/v1/chat/completions", chat)[0] for _ in range(5)]
        assert statuses == [200, 200, 200, 503, 503]
        assert direct.sent == sent + 3
        end_overload(running)
