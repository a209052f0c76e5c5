"""Tests for exporting spans: by the given client, to the collector, with retries."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from modelyard.testing import Answer, Upstream
from modelyard.transport.egress import EgressRefusedError
from modelyard.transport.http import HttpClient
from modelyard.transport.otlp import otlp_exporter

pytestmark = pytest.mark.anyio


def span(**attributes: Any) -> ReadableSpan:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("modelyard").start_as_current_span(
        "chat", attributes=attributes
    ):
        pass
    return exporter.get_finished_spans()[0]


async def sent(endpoint: str, *spans: ReadableSpan) -> SpanExportResult:
    client = HttpClient()
    try:
        exporter: SpanExporter = otlp_exporter(
            client, endpoint, asyncio.get_running_loop()
        )
        return await asyncio.to_thread(exporter.export, spans)
    finally:
        await client.aclose()


async def test_spans_arrive_unchanged(upstream: Callable[..., Upstream]):
    server = upstream(lambda request: Answer())
    values = {
        "text": "é",
        "count": 2**40,
        "share": 0.5,
        "yes": True,
        "many": ("a", "b"),
    }
    assert await sent(server.url, span(**values)) is SpanExportResult.SUCCESS
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/v1/traces")
    assert request.headers["content-type"] == "application/x-protobuf"
    (resource,) = ExportTraceServiceRequest.FromString(request.body).resource_spans
    (exported_span,) = resource.scope_spans[0].spans
    assert exported_span.name == "chat"
    assert {attribute.key: attribute.value.WhichOneof("value") for attribute in exported_span.attributes} == {
        "text": "string_value", "count": "int_value", "share": "double_value", "yes": "bool_value",
        "many": "array_value",
    }  # fmt: skip


async def test_a_busy_collector_gets_retries(
    upstream: Callable[..., Upstream],
):
    def answer(request: Any) -> Answer:
        return (
            Answer(status=503, headers={"retry-after": "0"})
            if len(server.requests) < 3
            else Answer()
        )

    server = upstream(answer)
    assert await sent(server.url, span()) is SpanExportResult.SUCCESS
    assert len(server.requests) == 3
    assert len({request.body for request in server.requests}) == 1


@pytest.mark.parametrize("status", [400, 401, 500])
async def test_rejected_spans_are_not_sent_again(
    upstream: Callable[..., Upstream], status: int
):
    server = upstream(lambda request: Answer(status=status))
    assert await sent(server.url, span()) is SpanExportResult.FAILURE
    assert len(server.requests) == 1


async def test_spans_follow_no_redirects_and_no_proxy(
    upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch
):
    other_server = upstream(lambda request: Answer())
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, other_server.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server = upstream(
        lambda request: Answer(status=307, headers={"location": other_server.url})
    )
    await sent(server.url, span())
    assert (len(server.requests), other_server.requests) == (1, [])


async def test_spans_are_sent_only_by_the_given_client(
    upstream: Callable[..., Upstream],
):
    def refuse(origin: Any, addresses: Any) -> None:
        raise EgressRefusedError("not there")

    server = upstream(lambda request: Answer())
    client = HttpClient(guard=refuse)
    try:
        exporter = otlp_exporter(client, server.url, asyncio.get_running_loop())
        exporting = asyncio.to_thread(exporter.export, [span()])
        # Otherwise it would retry for ten seconds.
        threading.Timer(0.2, exporter.shutdown).start()
        assert await exporting is SpanExportResult.FAILURE
        assert server.requests == []
    finally:
        await client.aclose()


async def test_a_closed_loop_sends_nothing():
    ended = asyncio.new_event_loop()
    ended.close()
    client = HttpClient()
    try:
        exporter = otlp_exporter(client, "http://127.0.0.1:9", ended)
        exporter.shutdown()
        assert exporter.export([span()]) is SpanExportResult.FAILURE
    finally:
        await client.aclose()
