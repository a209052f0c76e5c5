"""Authentication of app callers and reading of the request body, before a handler runs."""

from dataclasses import dataclass

from modelyard.gateway.http import Request
from modelyard.gateway.service.calls import Call, ServiceError, read_object
from modelyard.gateway.table import Answered, Content, Row
from modelyard.models.types import JSON
from modelyard.tenancy.caller import Caller, Role
from modelyard.workflow.apps import AppRecord, Apps


@dataclass(frozen=True, slots=True)
class AppAuthenticator:
    """The step between the router and the handlers of app requests."""

    apps: Apps

    async def enter(self, request: Request, row: Row) -> Answered:
        """Authenticate a caller by its app key and run the handler. Raises ServiceError
        if no valid key is shown."""
        return await self.admit(request, row, self._app_by_key(request))

    def _app_by_key(self, request: Request) -> AppRecord:
        """Return the app that the key belongs to. Raises ServiceError."""
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ServiceError(
                401,
                "unauthorized",
                "Authorization header must be provided and start with 'Bearer'",
            )
        app_version = self.apps.get_by_key(key.strip())
        # Whether the key is malformed or revoked is not revealed.
        if app_version is None:
            raise ServiceError(401, "unauthorized", "Access token is invalid")
        return app_version

    async def admit(
        self, request: Request, row: Row, app_version: AppRecord, visitor: str = ""
    ) -> Answered:
        """Run the handler for an authenticated caller: one with the app's key, or a
        visitor of its page.

        Raises NotPublishedError, ServiceError if the body is not an object, and
        whatever the handler raises.
        """
        # Model calls inside the run are charged and limited as calls of this app.
        request.identify(
            Caller(
                tenant=app_version.tenant, key=f"app:{app_version.id}", role=Role.VIEWER
            )
        )
        app = await self.apps.published_app(app_version)
        body = await _body_of(request, row)
        return await row.handler(Call(request, app_version, app, body, visitor))


async def _body_of(request: Request, row: Row) -> JSON:
    """Return the request's JSON, or nothing if it has none. Handlers of forms read the
    body themselves."""
    if row.takes is None or isinstance(row.takes, Content):
        return {}
    data = await request.body()
    return read_object(data) if data.strip() else {}
