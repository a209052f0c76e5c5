"""OpenTelemetry, wired: spans of calls to a collector."""

import asyncio
from typing import Any

from modelyard.base.settings import TelemetrySettings
from modelyard.base.version import __version__
from modelyard.runtime.callbacks import Callback, Outcome
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.telemetry import OpenTelemetryCallback
from modelyard.transport.http import HttpClient


class Traced(Callback):
    """Begins with the first call: the exporter needs the loop that calls run on."""

    def __init__(self, telemetry: TelemetrySettings, client: HttpClient) -> None:
        self._telemetry = telemetry
        self._client = client
        self._made: OpenTelemetryCallback | None = None
        self._provider: Any = None
        self.wants_result = telemetry.content

    def _callback(self) -> OpenTelemetryCallback:
        if self._made is None:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            from modelyard.transport.otlp import OtlpExporter

            resource = Resource.create({"service.name": "modelyard", "service.version": __version__})
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            exporter = OtlpExporter(self._client, self._telemetry.endpoint, asyncio.get_running_loop())
            self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=2000))
            self._made = OpenTelemetryCallback(
                self._provider.get_tracer("modelyard", __version__),
                sample=self._telemetry.sample,
                content=self._telemetry.content,
            )
        return self._made

    def on_after_invoke(self, invocation: Invocation, outcome: Outcome) -> None:
        self._callback().on_after_invoke(invocation, outcome)

    def on_invoke_error(self, invocation: Invocation, error: BaseException, outcome: Outcome) -> None:
        self._callback().on_invoke_error(invocation, error, outcome)

    async def aclose(self) -> None:
        """Send what is waiting."""
        if self._provider is not None:
            await asyncio.to_thread(self._provider.shutdown)
