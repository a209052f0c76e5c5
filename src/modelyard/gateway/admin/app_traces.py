"""/admin/v1/apps/ID/traces: where the traces of an app's runs are sent."""

import importlib.util
import time
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import ConfigError, InvokeBadRequestError
from modelyard.gateway.admin.app_shapes import (
    TraceDestinationList,
    TraceDestinationView,
    TraceServiceView,
    TraceTestView,
)
from modelyard.gateway.admin.inputs import TraceDestinationInput
from modelyard.gateway.admin.requests import app_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.workflow.apps import AppRecord, Apps
from modelyard.workflow.trace_destinations import NewDestination, TraceDestinations
from modelyard.workflow.trace_export import TraceExport
from modelyard.workflow.trace_services import TRACE_SERVICES

_MAX_NAME_CHARS = 60


@dataclass(frozen=True, slots=True)
class AppTraces:
    """Routes for the trace destinations of an app. Credentials are never returned."""

    apps: Apps
    destinations: TraceDestinations
    export: TraceExport

    async def list_destinations(self, request: Request) -> Reply:
        """List the trace destinations of an app, and the services that are known.

        Raises NotFoundError.
        """
        app_record = app_of(request, self.apps)
        return json_reply(
            TraceDestinationList(data=self._views(app_record), services=_services())
        )

    async def save(self, request: Request) -> Reply:
        """Add a trace destination, or replace the one of this name.

        Raises NotFoundError, InvokeBadRequestError, and ConfigError if OpenTelemetry is
        not installed.
        """
        app_record, name = app_of(request, self.apps), request.names["name"]
        # Names are part of the row's own name, which is read again by people.
        if not name.isprintable() or len(name) > _MAX_NAME_CHARS:
            raise InvokeBadRequestError(
                f"A name has at most {_MAX_NAME_CHARS} printable characters",
                param="name",
            )
        _check_is_installed()
        try:
            given = msgspec.convert(await request.json(), TraceDestinationInput)
        except msgspec.ValidationError as error:
            raise InvokeBadRequestError(str(error)) from error
        destination = NewDestination(**msgspec.structs.asdict(given))
        await self.destinations.save(
            app_record.tenant, app_record.id, name, destination
        )
        # Shown as it is stored, without the credentials.
        views = {view.name: view for view in self._views(app_record)}
        return json_reply(views[name])

    async def test(self, request: Request) -> Reply:
        """Send a trace of one span to a destination, and say what became of it.

        Raises NotFoundError, InvokeBadRequestError, and ConfigError if OpenTelemetry is
        not installed.
        """
        app_record, name = app_of(request, self.apps), request.names["name"]
        _check_is_installed()
        error = await self.export.send_test(
            app_record.tenant, app_record.id, name, time.time()
        )
        return json_reply(TraceTestView(accepted=not error, error=error))

    async def remove(self, request: Request) -> Reply:
        """Remove a trace destination.

        Raises NotFoundError.
        """
        app_record, name = app_of(request, self.apps), request.names["name"]
        await self.destinations.remove(app_record.tenant, app_record.id, name)
        return json_reply(Removed(id=name, deleted=True))

    def _views(self, app_record: AppRecord) -> list[TraceDestinationView]:
        """Return the views of an app's destinations."""
        views: list[TraceDestinationView] = []
        destinations = self.destinations.of_app(app_record.tenant, app_record.id)
        for row, name, destination in destinations:
            state = self.export.state(row)
            views.append(
                TraceDestinationView(
                    name=name,
                    service=destination.service,
                    url=destination.url,
                    project=destination.project,
                    content=destination.content,
                    is_enabled=destination.is_enabled,
                    sent=state.sent,
                    dropped=state.dropped,
                    error=state.error,
                )
            )
        return views


def _services() -> list[TraceServiceView]:
    """Return the known services, so that a form can ask for what each needs."""
    return [
        TraceServiceView(
            name=name,
            default_url=service.default_url,
            credentials=list(service.credentials),
            optional=list(service.optional),
            takes_headers=service.takes_headers,
        )
        for name, service in TRACE_SERVICES.items()
    ]


def _check_is_installed() -> None:
    """Raise ConfigError if traces could not be encoded."""
    # Said when it is set up, and not only in the log of the first run.
    if importlib.util.find_spec("opentelemetry") is None:
        raise ConfigError("Traces require OpenTelemetry: pip install 'modelyard[otel]'")
