"""/admin/v1/tenants, /users, /keys, /credentials, /models, /routes, /limits, /defaults: things that are listed, made,
changed and removed alike.

A caller reaches its own tenant. The default tenant's owner may name another with `?tenant=`; for anybody else that
tenant does not exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from modelyard.administration.administration import Administration
from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.fields import need
from modelyard.gateway.admin.inputs import RotationInput
from modelyard.gateway.admin.requests import count_of, tenant_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply

PLURALS: Mapping[str, str] = {
    "tenants": "tenant",
    "users": "user",
    "keys": "key",
    "credentials": "credential",
    "models": "model",
    "routes": "route",
    "limits": "limit",
    "defaults": "default",
}


@dataclass(frozen=True, slots=True)
class Collection:
    """Things of one kind, of one tenant."""

    admin: Administration
    kind: str

    async def listed(self, request: Request) -> Reply:
        """By name, a page at a time. Raises NotFoundError, InvokeBadRequestError."""
        tenant = await self._tenant(request)
        most = count_of(request, "limit", 100)
        found = await self.admin.list(tenant, self.kind, after=request.query("after") or "", most=most + 1)
        return json_reply({"data": found[:most], "has_more": len(found) > most})

    async def make(self, request: Request) -> Reply:
        """Raises NotFoundError, InvokeBadRequestError, ForbiddenError."""
        tenant = await self._tenant(request)
        return await _made(self.admin, request, tenant, self.kind)

    async def one(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        tenant = await self._tenant(request)
        return json_reply(await self.admin.get(tenant, self.kind, request.names["id"]))

    async def change(self, request: Request) -> Reply:
        """Raises NotFoundError, InvokeBadRequestError, ForbiddenError."""
        tenant = await self._tenant(request)
        return await _changed(self.admin, request, tenant, self.kind)

    async def remove(self, request: Request) -> Reply:
        """Raises NotFoundError, InvokeBadRequestError, ForbiddenError."""
        tenant = await self._tenant(request)
        return await _removed(self.admin, request, tenant, self.kind)

    async def _tenant(self, request: Request) -> str:
        """Whose things are meant. Raises NotFoundError where another tenant is named that is not there."""
        tenant = tenant_of(request)
        if tenant != request.tenant:
            await self.admin.get(tenant, "tenant", tenant)
        return tenant


@dataclass(frozen=True, slots=True)
class Keys(Collection):
    """API keys: they are taken out of service and replaced besides."""

    async def revoke(self, request: Request) -> Reply:
        """Raises NotFoundError, ForbiddenError."""
        tenant = await self._tenant(request)
        return json_reply(await self.admin.revoke(request.caller, tenant, request.names["id"]))

    async def rotate(self, request: Request) -> Reply:
        """Raises NotFoundError, InvokeBadRequestError, ForbiddenError."""
        tenant = await self._tenant(request)
        rotation = _rotation(await request.body())
        made = await self.admin.rotate(
            request.caller, tenant, request.names["id"], grace_seconds=rotation.grace_seconds
        )
        return json_reply(made, status=201)


@dataclass(frozen=True, slots=True)
class Tenants:
    """An operator's: all of them. Anybody's: their own, to look at."""

    admin: Administration

    async def listed(self, request: Request) -> Reply:
        """Raises NotFoundError where the caller's own was removed."""
        if request.caller.is_operator:
            return json_reply({"data": self.admin.tenants(), "has_more": False})
        own = await self.admin.get(request.tenant, "tenant", request.tenant)
        return json_reply({"data": [own], "has_more": False})

    async def make(self, request: Request) -> Reply:
        """Raises NotFoundError for whoever is no operator, InvokeBadRequestError."""
        self._check_operator(request, "")
        return await _made(self.admin, request, "", "tenant")

    async def one(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        tenant = request.names["id"]
        if tenant != request.tenant:
            self._check_operator(request, tenant)
        return json_reply(await self.admin.get(tenant, "tenant", tenant))

    async def change(self, request: Request) -> Reply:
        """Raises NotFoundError, InvokeBadRequestError."""
        tenant = request.names["id"]
        self._check_operator(request, tenant)
        return await _changed(self.admin, request, tenant, "tenant")

    async def remove(self, request: Request) -> Reply:
        """Raises NotFoundError, InvokeBadRequestError."""
        tenant = request.names["id"]
        self._check_operator(request, tenant)
        return await _removed(self.admin, request, tenant, "tenant")

    @staticmethod
    def _check_operator(request: Request, tenant: str) -> None:
        """Raises NotFoundError: for whoever is no operator, other tenants do not exist."""
        if not request.caller.is_operator:
            raise NotFoundError(f"tenant {tenant!r} does not exist", code="tenant_not_found")


async def _made(admin: Administration, request: Request, tenant: str, kind: str) -> Reply:
    body = await request.json()
    name = need(body, "name", str)
    fields = {key: value for key, value in body.items() if key != "name"}
    return json_reply(await admin.create(request.caller, tenant, kind, name, fields), status=201)


async def _changed(admin: Administration, request: Request, tenant: str, kind: str) -> Reply:
    body = await request.json()
    return json_reply(await admin.change(request.caller, tenant, kind, request.names["id"], body))


async def _removed(admin: Administration, request: Request, tenant: str, kind: str) -> Reply:
    id_ = request.names["id"]
    await admin.remove(request.caller, tenant, kind, id_)
    return json_reply(Removed(id=id_, deleted=True))


def _rotation(body: bytes) -> RotationInput:
    """What was sent, where anything was. Raises InvokeBadRequestError."""
    try:
        return msgspec.json.decode(body, type=RotationInput) if body else RotationInput()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvokeBadRequestError(f"the body must be an object with 'grace_seconds': {error}") from error
