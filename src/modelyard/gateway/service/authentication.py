"""Authentication of app callers and reading of the request body, before a handler runs."""

from dataclasses import dataclass

from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.http import Request
from modelyard.gateway.service.calls import Call, ServiceError, read_object
from modelyard.gateway.speaking import with_named_reader
from modelyard.gateway.table import Answered, Content, Row
from modelyard.models.types import JSON
from modelyard.tenancy.caller import Caller, ForbiddenError, Role
from modelyard.tenancy.resource_types import AppKey
from modelyard.workflow.apps import AppRecord, Apps


@dataclass(frozen=True, slots=True)
class AppAuthenticator:
    """The step between the router and the handlers of app requests."""

    apps: Apps

    async def enter(self, request: Request, row: Row) -> Answered:
        """Authenticate a caller by its app key and run the handler. Raises ServiceError
        if no valid key is shown."""
        app_version, key = self._app_by_key(request)
        return await self.admit(request, row, app_version, key=key)

    def _app_by_key(self, request: Request) -> tuple[AppRecord, AppKey]:
        """Return the app that the key belongs to, and the key's rights. Raises
        ServiceError."""
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ServiceError(
                401,
                "unauthorized",
                "Authorization header must be provided and start with 'Bearer'",
            )
        app_and_key = self.apps.get_by_key(key.strip())
        # Whether the key is malformed or revoked is not revealed.
        if app_and_key is None:
            raise ServiceError(401, "unauthorized", "Access token is invalid")
        return app_and_key

    async def admit(
        self,
        request: Request,
        row: Row,
        app_version: AppRecord,
        visitor: str = "",
        key: AppKey | None = None,
    ) -> Answered:
        """Run the handler for an authenticated caller: one with the app's key, or a
        visitor of its page.

        Raises NotPublishedError, ServiceError if the body is not an object or names a
        user for whom the key may not read, and whatever the handler raises.
        """
        caller = app_caller(app_version, key)
        request.identify(caller)
        app = await self.apps.published_app(app_version)
        body = await _body_of(request, row)
        user = body.get("user")
        request.identify(
            named_reader(caller, request, user if isinstance(user, str) else "")
        )
        return await row.handler(Call(request, app_version, app, body, visitor))


def app_caller(app_record: AppRecord, key: AppKey | None) -> Caller:
    """Return the caller for an app's key or for a visitor of its page, who has none."""
    # Model calls inside the run are charged and limited as calls of this app.
    return Caller(
        tenant=app_record.tenant,
        key=f"app:{app_record.id}",
        role=Role.VIEWER,
        speaks_for_users=key is not None and key.speaks_for_users,
    )


def named_reader(caller: Caller, request: Request, user: str = "") -> Caller:
    """Return the caller reading documents on behalf of the user that the headers name,
    or `user` if the key may name users. Raises ServiceError."""
    try:
        return with_named_reader(caller, request.scope, user)
    except ForbiddenError as error:
        raise ServiceError(403, "forbidden", str(error)) from error
    except InvokeBadRequestError as error:
        raise ServiceError(400, "invalid_param", str(error)) from error


async def _body_of(request: Request, row: Row) -> JSON:
    """Return the request's JSON, or nothing if it has none. Handlers of forms read the
    body themselves."""
    if row.takes is None or isinstance(row.takes, Content):
        return {}
    data = await request.body()
    return read_object(data) if data.strip() else {}
