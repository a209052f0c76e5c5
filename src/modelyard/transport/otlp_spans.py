"""Spans as OpenTelemetry's protobuf messages, encoded with the project's own classes. No
I/O."""

from collections.abc import Iterable, Mapping
from typing import Any

from modelyard.base.errors import ConfigError
from modelyard.base.version import __version__

try:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
    )
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
except ImportError as missing:
    raise ConfigError(
        "Traces require OpenTelemetry: pip install 'modelyard[otel]'"
    ) from missing

CONTENT_TYPE = "application/x-protobuf"
_MAX_ERROR_CHARS = 1_000


def encode_spans(spans: Iterable[Any], resource: Mapping[str, str]) -> bytes:
    """Return the body of an export request. `spans` have the fields of
    `workflow.run_spans.RunSpan`; `resource` are the attributes of their source."""
    request = ExportTraceServiceRequest()
    # One request holds one trace, whose spans all have the same source.
    group = request.resource_spans.add()
    attributes = {
        "service.name": "modelyard",
        "service.version": __version__,
        **resource,
    }
    group.resource.attributes.extend(_key_values(attributes))
    scope = group.scope_spans.add()
    scope.scope.name, scope.scope.version = "modelyard", __version__
    for span in spans:
        scope.spans.append(_span(span))
    return request.SerializeToString()


def _span(span: Any) -> Span:
    """Return one span as a message."""
    message = Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_id,
        name=span.name,
        kind=Span.SPAN_KIND_CLIENT if span.is_model_call else Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=_nanoseconds(span.started_at),
        end_time_unix_nano=_nanoseconds(span.ended_at),
    )
    message.attributes.extend(_key_values(span.attributes))
    message.status.code = (
        Status.STATUS_CODE_ERROR if span.error else Status.STATUS_CODE_OK
    )
    message.status.message = span.error[:_MAX_ERROR_CHARS]
    return message


def _nanoseconds(seconds: float) -> int:
    """Return a time in nanoseconds, exact to the microsecond as clocks here are."""
    return round(seconds * 1_000_000) * 1_000


def _key_values(attributes: Mapping[str, Any]) -> list[KeyValue]:
    """Return attributes as messages."""
    return [
        KeyValue(key=name, value=_any_value(value))
        for name, value in attributes.items()
    ]


def _any_value(value: Any) -> AnyValue:
    """Return a text or a number as a message."""
    # Services add up numbers, but not numbers in texts.
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=str(value))
