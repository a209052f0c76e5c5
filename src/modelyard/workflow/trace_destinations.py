"""Where the traces of an app's runs are sent, as the tenant has set it. Credentials are
stored encrypted and never returned."""

from collections.abc import Mapping

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import TraceDestination
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.workflow.trace_services import headers_for, service_of, traces_url


class NewDestination(msgspec.Struct, frozen=True, kw_only=True):
    """A destination as it is set."""

    service: str
    base_url: str = ""
    project: str = ""
    credentials: Mapping[str, str] | None = None
    """None for those that are stored."""
    content: bool = True
    is_enabled: bool = True


class ActiveDestination(msgspec.Struct, frozen=True, kw_only=True):
    """A destination with what it takes to send to it."""

    id: str
    url: str
    project: str
    content: bool
    service: str
    headers: dict[str, str]


class TraceDestinations:
    """The destinations of all apps. Every method acts for one tenant only."""

    def __init__(self, rows: SealedRows, directory: Directory) -> None:
        self._rows = rows
        self._directory = directory

    def of_app(self, tenant: str, app: str) -> list[tuple[str, str, TraceDestination]]:
        """Return (id, name, destination) of an app's destinations."""
        # Names of rows are unique in a tenant, so they start with the app's id.
        prefix = f"{app}/"
        return sorted(
            (resource.id, resource.name.removeprefix(prefix), destination)
            for resource, destination in self._directory.of(tenant, TraceDestination)
            if destination.app == app
        )

    async def save(self, tenant: str, app: str, name: str, new: NewDestination) -> None:
        """Add or replace a destination of an app.

        Raises InvokeBadRequestError for an unknown service, an invalid address or wrong
        credentials, and SecretError if stored ones cannot be decrypted.
        """
        destination = TraceDestination(
            app=app,
            service=new.service,
            url=traces_url(service_of(new.service), new.base_url),
            project=new.project,
            content=new.content,
            is_enabled=new.is_enabled,
        )
        row, previous = self._find(tenant, app, name) or ("", None)
        # Keys mean nothing to another service. All are checked before anything is
        # stored, so that a wrong one is noticed now.
        keeps_service = previous is not None and previous.service == new.service
        if new.credentials is None and previous is not None and keeps_service:
            headers = self._stored_headers(tenant, row, previous, destination)
        else:
            service = service_of(new.service)
            headers = headers_for(service, new.credentials or {}, new.project)
        await self._rows.save(
            tenant,
            TraceDestination.kind,
            f"{app}/{name}",
            headers,
            destination,
            id=row,
        )

    def _stored_headers(
        self, tenant: str, row: str, previous: TraceDestination, new: TraceDestination
    ) -> dict[str, str]:
        """Return the stored headers of a destination, for its next version. Raises
        InvokeBadRequestError if they are for another address or project."""
        # Stored keys must not travel to an address that whoever changes it chooses.
        if (previous.url, previous.project) != (new.url, new.project):
            raise InvokeBadRequestError(
                "'credentials' must be given again if the address or the project"
                " changes",
                param="credentials",
            )
        return self._rows.read(tenant, TraceDestination.kind, row, previous.secret)

    async def remove(self, tenant: str, app: str, name: str) -> None:
        """Remove a destination. Raises NotFoundError."""
        row, _ = self._found(tenant, app, name)
        await self._rows.remove(tenant, TraceDestination.kind, row)

    async def remove_all(self, tenant: str, app: str) -> None:
        """Remove the destinations of an app that is deleted."""
        for row, _, _ in self.of_app(tenant, app):
            await self._rows.remove(tenant, TraceDestination.kind, row)

    def active(self, tenant: str, app: str) -> list[ActiveDestination]:
        """Return the enabled destinations of an app with their headers. Raises
        SecretError if credentials cannot be decrypted."""
        # Disabled destinations are not decrypted, so damaged credentials of one do not
        # stop the others' traces.
        return [
            ActiveDestination(
                id=row,
                url=destination.url,
                project=destination.project,
                content=destination.content,
                service=destination.service,
                headers=self._rows.read(
                    tenant, TraceDestination.kind, row, destination.secret
                ),
            )
            for row, _, destination in self.of_app(tenant, app)
            if destination.is_enabled
        ]

    def active_by_name(self, tenant: str, app: str, name: str) -> ActiveDestination:
        """Return an enabled destination with its headers. Raises NotFoundError,
        InvokeBadRequestError if it is disabled, and SecretError."""
        row, destination = self._found(tenant, app, name)
        if not destination.is_enabled:
            raise InvokeBadRequestError("The destination is disabled", param="name")
        return next(active for active in self.active(tenant, app) if active.id == row)

    def _found(self, tenant: str, app: str, name: str) -> tuple[str, TraceDestination]:
        """Return (id, destination) by a destination's name. Raises NotFoundError."""
        existing = self._find(tenant, app, name)
        if existing is None:
            raise NotFoundError(f"The app has no trace destination {name[:80]!r}")
        return existing

    def _find(
        self, tenant: str, app: str, name: str
    ) -> tuple[str, TraceDestination] | None:
        """Return (id, destination) by a destination's name; None if there is none."""
        destinations = self.of_app(tenant, app)
        return next(
            (
                (row, destination)
                for row, row_name, destination in destinations
                if row_name == name
            ),
            None,
        )
