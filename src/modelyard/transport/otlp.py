"""Spans to an OpenTelemetry collector: OTLP over HTTP as JSON, through the one client that goes out."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from modelyard.base.errors import ModelyardError
from modelyard.transport.http import HttpClient, Timeouts

logger = logging.getLogger("modelyard.telemetry")


class OtlpExporter(SpanExporter):
    """Called by the SDK in a thread of its own; sends on the loop that the client belongs to."""

    def __init__(self, client: HttpClient, endpoint: str, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._url = endpoint.rstrip("/") + "/v1/traces"
        self._loop = loop

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._loop.is_closed():
            return SpanExportResult.FAILURE
        sending = asyncio.run_coroutine_threadsafe(self._send(document(spans)), self._loop)
        try:
            status = sending.result(10)
        except (ModelyardError, TimeoutError, RuntimeError) as error:
            logger.warning("traces could not be sent", extra={"fields": {"error": str(error)}})
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS if 200 <= status < 300 else SpanExportResult.FAILURE

    async def _send(self, body: bytes) -> int:
        limits = Timeouts(connect=5.0, first_byte=5.0, between_bytes=5.0)
        response = await self._client.send(
            "POST", self._url, headers={"content-type": "application/json"}, body=[body], timeouts=limits
        )
        await response.read(most=1 << 20)
        return response.status


def document(spans: Sequence[ReadableSpan]) -> bytes:
    """The spans as OTLP's ExportTraceServiceRequest, in its JSON form."""
    resource: Any = spans[0].resource if spans else None
    return msgspec.json.encode({
        "resourceSpans": [{
            "resource": {"attributes": _pairs(resource.attributes if resource else {})},
            "scopeSpans": [{"scope": {"name": "modelyard"}, "spans": [_span(one) for one in spans]}],
        }]
    })  # fmt: skip


def _span(span: ReadableSpan) -> dict[str, Any]:
    context: Any = span.context
    return {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        **({"parentSpanId": f"{span.parent.span_id:016x}"} if span.parent else {}),
        "name": span.name,
        "kind": span.kind.value + 1,  # OTLP counts from "unspecified"
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _pairs(span.attributes or {}),
        "events": [
            {"timeUnixNano": str(one.timestamp), "name": one.name, "attributes": _pairs(one.attributes or {})}
            for one in span.events
        ],
        "status": {"code": span.status.status_code.value, "message": span.status.description or ""},
    }


def _pairs(attributes: Any) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case _:
            return {"arrayValue": {"values": [_value(one) for one in value]}}
