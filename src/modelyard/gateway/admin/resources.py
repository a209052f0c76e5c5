"""/admin/v1/tenants, /users, /keys, /credentials, /models, /routes, /limits and
/defaults: resources with uniform list, create, change and delete routes.

A caller reaches its own tenant. The owner of the default tenant may name another with
`?tenant=`; for everyone else that tenant does not exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from modelyard.administration.administration import Administration
from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.fields import required_field
from modelyard.gateway.admin.inputs import RotationInput
from modelyard.gateway.admin.requests import page_size, tenant_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply

# Path segment → resource type.
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
    """Routes for one resource type of a tenant."""

    admin: Administration
    kind: str

    async def listed(self, request: Request) -> Reply:
        """List resources by name, one page at a time.

        Raises NotFoundError, InvokeBadRequestError.
        """
        tenant = await self._tenant(request)
        limit = page_size(request, "limit", 100)
        # Fetch one resource more than requested, to know whether there is another page.
        resources = await self.admin.list(
            tenant, self.kind, after=request.query("after") or "", limit=limit + 1
        )
        return json_reply(
            {"data": resources[:limit], "has_more": len(resources) > limit}
        )

    async def create(self, request: Request) -> Reply:
        """Create a resource.

        Raises NotFoundError, InvokeBadRequestError, ForbiddenError.
        """
        tenant = await self._tenant(request)
        return await _create(self.admin, request, tenant, self.kind)

    async def get(self, request: Request) -> Reply:
        """Return one resource.

        Raises NotFoundError.
        """
        tenant = await self._tenant(request)
        return json_reply(await self.admin.get(tenant, self.kind, request.names["id"]))

    async def change(self, request: Request) -> Reply:
        """Change a resource.

        Raises NotFoundError, InvokeBadRequestError, ForbiddenError.
        """
        tenant = await self._tenant(request)
        return await _change(self.admin, request, tenant, self.kind)

    async def remove(self, request: Request) -> Reply:
        """Delete a resource.

        Raises NotFoundError, InvokeBadRequestError, ForbiddenError.
        """
        tenant = await self._tenant(request)
        return await _remove(self.admin, request, tenant, self.kind)

    async def _tenant(self, request: Request) -> str:
        """Return the tenant of the request.

        Raises NotFoundError if the query names a tenant that does not exist.
        """
        tenant = tenant_of(request)
        # The caller's own tenant was already checked at authentication.
        if tenant != request.tenant:
            await self.admin.get(tenant, "tenant", tenant)
        return tenant


@dataclass(frozen=True, slots=True)
class Keys(Collection):
    """Routes for API keys, which can also be revoked and rotated."""

    async def revoke(self, request: Request) -> Reply:
        """Revoke a key; its record stays.

        Raises NotFoundError, ForbiddenError.
        """
        tenant = await self._tenant(request)
        return json_reply(
            await self.admin.revoke(request.caller, tenant, request.names["id"])
        )

    async def rotate(self, request: Request) -> Reply:
        """Replace a key by a new one; the old one stays valid for the grace period.

        Raises NotFoundError, InvokeBadRequestError, ForbiddenError.
        """
        tenant = await self._tenant(request)
        rotation = _rotation(await request.body())
        rotated_key = await self.admin.rotate(
            request.caller,
            tenant,
            request.names["id"],
            grace_seconds=rotation.grace_seconds,
        )
        return json_reply(rotated_key, status=201)


@dataclass(frozen=True, slots=True)
class Tenants:
    """Routes for tenants. Operators reach all of them; everyone else may only read
    their own."""

    admin: Administration

    async def listed(self, request: Request) -> Reply:
        """List all tenants for an operator, otherwise only the caller's own.

        Raises NotFoundError if the caller's own tenant was removed.
        """
        if request.caller.is_operator:
            return json_reply({"data": self.admin.tenants(), "has_more": False})
        own_tenant = await self.admin.get(request.tenant, "tenant", request.tenant)
        return json_reply({"data": [own_tenant], "has_more": False})

    async def create(self, request: Request) -> Reply:
        """Create a tenant.

        Raises NotFoundError if the caller is not an operator, InvokeBadRequestError.
        """
        self._check_operator(request, "")
        return await _create(self.admin, request, "", "tenant")

    async def get(self, request: Request) -> Reply:
        """Return one tenant.

        Raises NotFoundError.
        """
        tenant = request.names["id"]
        if tenant != request.tenant:
            self._check_operator(request, tenant)
        return json_reply(await self.admin.get(tenant, "tenant", tenant))

    async def change(self, request: Request) -> Reply:
        """Change a tenant.

        Raises NotFoundError, InvokeBadRequestError.
        """
        tenant = request.names["id"]
        self._check_operator(request, tenant)
        return await _change(self.admin, request, tenant, "tenant")

    async def remove(self, request: Request) -> Reply:
        """Delete a tenant.

        Raises NotFoundError, InvokeBadRequestError.
        """
        tenant = request.names["id"]
        self._check_operator(request, tenant)
        return await _remove(self.admin, request, tenant, "tenant")

    @staticmethod
    def _check_operator(request: Request, tenant: str) -> None:
        """Raise NotFoundError if the caller is not an operator: other tenants must not
        be discoverable."""
        if not request.caller.is_operator:
            raise NotFoundError(
                f"Tenant {tenant!r} does not exist", code="tenant_not_found"
            )


async def _create(
    admin: Administration, request: Request, tenant: str, resource_type: str
) -> Reply:
    """Create a resource from the request's body."""
    body = await request.json()
    name = required_field(body, "name", str)
    # The name is a column of its own; everything else is the resource's content.
    fields = {key: value for key, value in body.items() if key != "name"}
    return json_reply(
        await admin.create(request.caller, tenant, resource_type, name, fields),
        status=201,
    )


async def _change(
    admin: Administration, request: Request, tenant: str, resource_type: str
) -> Reply:
    """Change a resource by the request's body."""
    body, resource_id = await request.json(), request.names["id"]
    changed = await admin.change(
        request.caller, tenant, resource_type, resource_id, body
    )
    return json_reply(changed)


async def _remove(
    admin: Administration, request: Request, tenant: str, resource_type: str
) -> Reply:
    """Delete the resource of the request's path."""
    id_ = request.names["id"]
    await admin.remove(request.caller, tenant, resource_type, id_)
    return json_reply(Removed(id=id_, deleted=True))


def _rotation(body: bytes) -> RotationInput:
    """Parse the optional body of a key rotation.

    Raises InvokeBadRequestError.
    """
    # Without a body, the defaults of all fields apply.
    try:
        return msgspec.json.decode(body or b"{}", type=RotationInput)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvokeBadRequestError(
            f"The body must be an object with 'grace_seconds': {error}"
        ) from error
