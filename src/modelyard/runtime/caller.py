"""Who is calling, and what they may."""

from enum import StrEnum

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.patterns import fits_glob

DEFAULT_TENANT = "default"


class Role(StrEnum):
    """What somebody may do; each may do what those after it may."""

    OWNER = "owner"
    """Everything, roles of others included."""
    ADMIN = "admin"
    """Keys, credentials, limits, routes, models."""
    DEVELOPER = "developer"
    """Call models, see what was used."""
    VIEWER = "viewer"
    """See what was used."""

    def covers(self, other: "Role") -> bool:
        order = list(Role)
        return order.index(self) <= order.index(other)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who is calling, and what they may."""

    tenant: str
    key: str = ""
    """The id of the API key that was shown; empty where none is needed."""
    user: str | None = None
    role: Role = Role.OWNER
    models: tuple[str, ...] = ()
    """Patterns of `provider/model` that may be called; empty for all."""
    priority: int = 0
    expires_at: float | None = None

    @property
    def is_operator(self) -> bool:
        """Whether other tenants are theirs to manage."""
        return self.tenant == DEFAULT_TENANT and self.role is Role.OWNER

    def may_call(self, model: str) -> bool:
        return not self.models or any(fits_glob(one, model) for one in self.models)


def fits(pattern: str, model: str) -> bool:
    """Whether `provider/model` fits a pattern as `openai/*`; an empty one fits all."""
    return not pattern or fits_glob(pattern, model)


class ModelNotAllowedError(ModelyardError):
    """The API key may not call this model."""

    code = "model_not_allowed"


class ForbiddenError(ModelyardError):
    """The caller is known, and may not do this."""

    code = "forbidden"
