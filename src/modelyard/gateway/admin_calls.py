"""What routes of the admin API share: where they are, and whose things a call is about."""

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import Request

PREFIX = "/admin/v1/"


def tenant_of(request: Request) -> str:
    """Whose things are meant. Raises NotFoundError for a tenant that is not the caller's."""
    named = request.query("tenant")
    if named is None or named == request.tenant:
        return request.tenant
    if not request.caller.is_operator:
        raise NotFoundError(f"tenant {named!r} does not exist", code="tenant_not_found")
    return named
