"""OpenTelemetry, wired: spans of calls to a collector."""

import asyncio
from functools import partial

from modelyard.base.settings import TelemetrySettings
from modelyard.base.version import __version__
from modelyard.runtime.callbacks import Callback, Outcome
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.telemetry import OpenTelemetryCallback
from modelyard.transport.http import HttpClient


class Traced(Callback):
    """Sends from the first call on: the exporter needs the loop that calls run on. All else, what has to be imported
    above all, is ready before that loop has anything to do."""

    def __init__(self, telemetry: TelemetrySettings, client: HttpClient) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from modelyard.transport.otlp import otlp_exporter

        self._exporter_at = partial(otlp_exporter, client, telemetry.endpoint)
        self._processor_of = partial(BatchSpanProcessor, schedule_delay_millis=2000)
        resource = Resource.create({"service.name": "modelyard", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracer = self._provider.get_tracer("modelyard", __version__)
        self._made = OpenTelemetryCallback(tracer, sample=telemetry.sample, content=telemetry.content)
        self._has_begun = False
        self.wants_result = telemetry.content

    def _callback(self) -> OpenTelemetryCallback:
        if not self._has_begun:
            self._has_begun = True
            exporter = self._exporter_at(asyncio.get_running_loop())
            self._provider.add_span_processor(self._processor_of(exporter))
        return self._made

    def on_after_invoke(self, invocation: Invocation, outcome: Outcome) -> None:
        self._callback().on_after_invoke(invocation, outcome)

    def on_invoke_error(self, invocation: Invocation, error: BaseException, outcome: Outcome) -> None:
        self._callback().on_invoke_error(invocation, error, outcome)

    async def aclose(self) -> None:
        """Send what is waiting."""
        await asyncio.to_thread(self._provider.shutdown)
