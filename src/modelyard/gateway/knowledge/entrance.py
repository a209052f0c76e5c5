"""Who calls the knowledge API, found out before its handlers are asked; and the request's body, read."""

import uuid
from dataclasses import dataclass

from modelyard.base.errors import NotFoundError
from modelyard.gateway.auth import OriginError, UnauthorizedError
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import Request
from modelyard.gateway.knowledge.calls import Asked, DatasetParts
from modelyard.gateway.service.calls import (
    ServiceError,
    read_object,
)
from modelyard.gateway.table import Answered, NoSuchPathError, Row
from modelyard.tenancy.caller import Caller, Role


@dataclass(frozen=True, slots=True)
class Callers:
    """Whose key is shown: one of a tenant's datasets, or any that may call models."""

    parts: DatasetParts

    async def of(self, request: Request) -> Caller:
        """Who asks. Raises ServiceError."""
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        if scheme.lower() == "bearer" and key.strip().startswith("dataset-"):
            tenant = self.parts.tenant_of_key(key.strip())
            if tenant is None:
                raise ServiceError(401, "unauthorized", "Access token is invalid")
            return Caller(tenant=tenant, role=Role.DEVELOPER)
        try:
            caller = await self.parts.gatekeeper.caller_of(request.scope)
        except OriginError as error:
            raise ServiceError(403, "forbidden", str(error)) from error
        except (UnauthorizedError, NotFoundError) as error:
            raise ServiceError(401, "unauthorized", str(error)) from error
        if not caller.role.covers(Role.DEVELOPER):
            raise ServiceError(403, "forbidden", f"this takes the role 'developer'; the key's is {caller.role.value!r}")
        return caller


@dataclass(frozen=True, slots=True)
class Entrance:
    """Between the router and the handlers."""

    parts: DatasetParts
    callers: Callers

    async def enter(self, request: Request, row: Row) -> Answered:
        """Raises ServiceError where no key is shown that fits, NoSuchPathError for an id that is none."""
        request.identify(await self.callers.of(request))
        for name in ("dataset", "document", "segment"):
            if name in request.names and not _is_uuid(request.names[name]):
                raise NoSuchPathError(request.path, None)
        asked = Asked(request, request.tenant, self.parts, dict(request.names), {})
        await _read_body(asked)
        return await row.handler(asked)


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


async def _read_body(asked: Asked) -> None:
    request = asked.request
    if request.method == "GET":
        return
    kind = request.header(b"content-type") or ""
    data = await request.body()
    if kind.startswith("multipart/"):
        asked.form = parse_form(kind, data, wanted="send the file as multipart/form-data, in the field 'file'")
    elif data.strip():
        asked.body = read_object(data)
