"""Who calls an app, found out before its handlers are asked; and the request's body, read."""

from dataclasses import dataclass

from modelyard.gateway.http import Request
from modelyard.gateway.service.calls import Call, ServiceError, read_object
from modelyard.gateway.table import Answered, Content, Row
from modelyard.models.types import JSON
from modelyard.tenancy.caller import Caller, Role
from modelyard.workflow.apps import Apps, FoundApp


@dataclass(frozen=True, slots=True)
class Entrance:
    """Between the router and the handlers of calls to apps."""

    apps: Apps

    async def enter(self, request: Request, row: Row) -> Answered:
        """Answer a caller who shows an app's key. Raises ServiceError where none is shown that fits."""
        return await self.admit(request, row, self._app_shown(request))

    def _app_shown(self, request: Request) -> FoundApp:
        """The app whose key is shown. Raises ServiceError."""
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ServiceError(401, "unauthorized", "Authorization header must be provided and start with 'Bearer'")
        found = self.apps.by_key(key.strip())
        if found is None:
            raise ServiceError(401, "unauthorized", "Access token is invalid")
        return found

    async def admit(self, request: Request, row: Row, found: FoundApp, visitor: str = "") -> Answered:
        """Answer somebody who may call the app: a caller with its key, or a visitor of its page.

        Raises NotPublishedError, ServiceError for a body that is no object, and what the handler raises.
        """
        request.identify(Caller(tenant=found.tenant, key=f"app:{found.id}", role=Role.VIEWER))
        app = await self.apps.app(found)
        body = await _body_of(request, row)
        return await row.handler(Call(request, found, app, body, visitor))


async def _body_of(request: Request, row: Row) -> JSON:
    """The request's JSON. Empty where there is none; what takes a form reads it itself."""
    if row.takes is None or isinstance(row.takes, Content):
        return {}
    data = await request.body()
    return read_object(data) if data.strip() else {}
