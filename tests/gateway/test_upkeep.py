"""Tests for background work and tracing: health, settings, spans, the semantic cache.

They use real servers on loopback.
"""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from modelyard.app.maintenance import SettingsFileWatcher
from modelyard.base.settings import (
    CacheSettings,
    CredentialSettings,
    ProviderSettings,
    TelemetrySettings,
    load_settings,
)
from modelyard.runtime import trace_attributes
from modelyard.testing import (
    Answer,
    Upstream,
    chat_answer,
    embedding_answer,
    json_answer,
)
from tests.gateway.conftest import Running
from tests.gateway.test_traffic import chat

Start = Callable[..., Running]


def eventually(condition: Callable[[], Any], seconds: float = 8.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False


def on_loop(running: Running, work: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(work, running.loop).result(10)


def test_an_unhealthy_provider_is_not_called(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    status = 503
    server = upstream(
        lambda request: (
            json_answer({}, status=status)
            if request.path == "/health"
            else chat_answer("fine")
        )
    )
    credential = CredentialSettings(values={"api_key": "sk-own"})
    url = server.url.removesuffix("/v1") + "/health"
    provider = ProviderSettings(
        name="openai",
        base_url=server.url,
        credentials=[credential],
        health_url=url,
        health_seconds=0.2,
    )
    running = start_gateway(providers=[provider])
    assert eventually(
        lambda: running.yard.services.providers.manager.health.in_cooldown()
    )
    status = 200
    assert eventually(lambda: chat(running).status == 200)


def test_the_settings_file_is_watched(
    start_gateway: Start, upstream: Callable[..., Upstream], tmp_path: Path
):
    running = start_gateway(upstream(lambda request: chat_answer("fine")))
    path = tmp_path / "followed.yaml"
    path.write_text("{}")

    def load() -> Any:
        return load_settings(
            {"MODELYARD_HOME": str(tmp_path / "home")}, config=str(path)
        )

    async def follow() -> None:
        SettingsFileWatcher(path, load, running.yard.reload).start_watching(
            running.yard.services.upkeep
        )

    on_loop(running, follow())
    path.write_text(json.dumps({"limits": {"none": {"unit": "requests", "amount": 0}}}))
    assert eventually(lambda: chat(running, model="echo/echo").status == 429)
    path.write_text("limits: [this is, no mapping")
    time.sleep(1.3)
    assert chat(running, model="echo/echo").status == 429  # the old limits stay
    path.write_text(json.dumps({"limits": {}, "retries": 1}))
    assert eventually(lambda: chat(running, model="echo/echo").status == 200)


def test_questions_with_the_same_meaning_get_the_cached_answer(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    vectors = {
        "What is the capital of France?": [1.0, 0.0],
        "France's capital?": [0.99, 0.05],
    }

    def answer(request: Any) -> Answer:
        if request.path.endswith("/embeddings"):
            texts = request.json["input"]
            inputs = texts if isinstance(texts, list) else [texts]
            return embedding_answer([vectors.get(text, [0.0, 1.0]) for text in inputs])
        return chat_answer(f"answer {len(server.requests)}")

    server = upstream(answer)
    cache = CacheSettings(
        seconds=60,
        semantic_model="openai/text-embedding-3-small",
        semantic_threshold=0.95,
    )
    running = start_gateway(server, cache=cache, embedding_batch_ms=0.0)

    def ask(text: str, *history: dict[str, str]) -> str:
        messages = [*history, {"role": "user", "content": text}]
        response = chat(
            running, model="openai/gpt-4o-mini", temperature=0, messages=messages
        )
        return response.json["choices"][0]["message"]["content"]

    first = ask("What is the capital of France?")
    assert ask("France's capital?") == first
    assert ask("How are you?") != first
    # The same text in another conversation is a different question.
    assert (
        ask("France's capital?", {"role": "system", "content": "Answer in Greek."})
        != first
    )


def test_calls_become_spans_with_both_attribute_conventions(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    spans: list[Any] = []

    def collector(request: Any) -> Answer:
        assert request.path == "/v1/traces"
        sent = MessageToDict(ExportTraceServiceRequest.FromString(request.body))
        for resource in sent["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                spans.extend(scope["spans"])
        return Answer(headers={"content-type": "application/x-protobuf"})

    sent_to = upstream(collector).url.removesuffix("/v1")
    running = start_gateway(
        upstream(lambda request: chat_answer("fine", prompt=10, completion=5)),
        telemetry=TelemetrySettings(endpoint=sent_to, sample=1.0),
    )
    answered = chat(running, user="alice")
    assert answered.status == 200
    assert eventually(lambda: spans)
    (span,) = spans
    attributes = {
        attribute["key"]: next(iter(attribute["value"].values()))
        for attribute in span["attributes"]
    }
    assert span["name"] == "chat gpt-5-mini"
    assert int(span["endTimeUnixNano"]) > int(span["startTimeUnixNano"])
    assert (
        attributes[trace_attributes.OPERATION],
        attributes[trace_attributes.KIND],
    ) == (
        "chat",
        "LLM",
    )
    assert (
        attributes[trace_attributes.INPUT_TOKENS],
        attributes[trace_attributes.PROMPT_TOKENS],
    ) == ("10", "10")
    assert (attributes[trace_attributes.CALL], attributes[trace_attributes.USER]) == (
        answered.headers["x-request-id"],
        "alice",
    )
    # Content is traced only if that is enabled.
    assert trace_attributes.INPUT_VALUE not in attributes
    assert [event["name"] for event in span["events"]] == ["chose"]


@pytest.mark.parametrize("shared", ["valkey", "database"])
def test_the_response_cache_is_shared_if_configured(
    start_gateway: Start, upstream: Callable[..., Upstream], tmp_path: Path, shared: str
):
    from tools.show.servers import Valkey

    server = upstream(lambda request: chat_answer("fine"))
    with Valkey(tmp_path / "valkey") as valkey:
        options: dict[str, Any] = {
            "cache": CacheSettings(seconds=60, store="database"),
            "database": str(tmp_path / "x.db"),
        }
        if shared == "valkey":
            options = {
                "cache": CacheSettings(seconds=60, store="shared"),
                "shared": valkey.url,
            }
        first_gateway, second_gateway = (
            start_gateway(server, **options),
            start_gateway(server, **{**options, "home": str(tmp_path / "other")}),
        )
        request = {"model": "openai/gpt-4o-mini", "temperature": 0}
        assert chat(first_gateway, **request).status == 200
        first_gateway.flush()
        assert chat(second_gateway, **request).status == 200
        assert len(server.requests) == 1
        first_gateway.close()
        second_gateway.close()
