"""OpenTelemetry setup: sends the spans of calls to a collector."""

import asyncio
from functools import partial

from modelyard.base.settings import TelemetrySettings
from modelyard.base.version import __version__
from modelyard.runtime.callbacks import Callback, CallResult
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.telemetry import OpenTelemetryCallback
from modelyard.transport.http import HttpClient


class TracingCallback(Callback):
    """Callback that exports a span for each call.

    The exporter needs the event loop on which calls run, so it is created at the first
    call. Everything else, mainly the slow imports, is prepared in the constructor.
    """

    def __init__(self, telemetry: TelemetrySettings, client: HttpClient) -> None:
        # Imported here because the OpenTelemetry packages are slow to load and are
        # optional.
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from modelyard.transport.otlp import otlp_exporter

        self._exporter_at = partial(otlp_exporter, client, telemetry.endpoint)
        self._processor_of = partial(BatchSpanProcessor, schedule_delay_millis=2000)
        resource = Resource.create(
            {"service.name": "modelyard", "service.version": __version__}
        )
        # `aclose` shuts the provider down, so no exit hook of the interpreter is
        # needed.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracer = self._provider.get_tracer("modelyard", __version__)
        self._wrapped = OpenTelemetryCallback(
            tracer, sample=telemetry.sample, content=telemetry.content
        )
        self._has_started = False
        self.wants_result = telemetry.content

    def _callback(self) -> OpenTelemetryCallback:
        """Return the wrapped callback. The first use attaches the exporter to the
        running loop."""
        if not self._has_started:
            self._has_started = True
            exporter = self._exporter_at(asyncio.get_running_loop())
            self._provider.add_span_processor(self._processor_of(exporter))
        return self._wrapped

    def on_after_invoke(self, invocation: Invocation, outcome: CallResult) -> None:
        """Record the span of a call that succeeded."""
        self._callback().on_after_invoke(invocation, outcome)

    def on_invoke_error(
        self, invocation: Invocation, error: BaseException, outcome: CallResult
    ) -> None:
        """Record the span of a call that failed."""
        self._callback().on_invoke_error(invocation, error, outcome)

    async def aclose(self) -> None:
        """Export the pending spans and shut the provider down."""
        # The shutdown blocks until the last batch is sent, so it runs in a thread.
        await asyncio.to_thread(self._provider.shutdown)
