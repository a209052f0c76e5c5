"""Who is calling, and what they may."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
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
    is_acting: bool = False
    """The operator, within another tenant."""
    app: str = ""
    """`app:ID` of the app that runs on behalf of the key, if one does; its own limits hold as well as the key's."""

    @property
    def has_api_key(self) -> bool:
        """Whether the caller was identified by an API key, and not by an app's key or a signed-in account."""
        return bool(self.key) and not self.key.startswith(("app:", "account:"))

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


_outer: ContextVar[Caller | None] = ContextVar("modelyard_caller", default=None)
"""Who sent the request that this task works on. Tasks inherit it from the task that starts them."""


@contextmanager
def acting_for(caller: Caller | None) -> Generator[None]:
    """Attribute the model calls made inside the block to `caller`; None for nobody in particular."""
    token = _outer.set(caller)
    try:
        yield
    finally:
        _outer.reset(token)


def set_current_caller(caller: Caller) -> None:
    """Attribute the rest of this task to a caller: for a request whose caller is identified while it is served."""
    _outer.set(caller)


def current_caller() -> Caller | None:
    """Who sent the request that this task works on; None outside of requests."""
    return _outer.get()


def current_api_key(tenant: str) -> str:
    """The id of the API key of the request, for work that is done later; empty without one, as for callers of apps."""
    caller = _outer.get()
    return caller.key if caller is not None and caller.tenant == tenant and caller.has_api_key else ""


def on_behalf(caller: Caller) -> Caller:
    """The caller of a model call that something inside the server makes.

    Code inside the server (a dataset, a tool, an agent, a workflow) knows the tenant, and perhaps the user and the app.
    The key that the request came with says which models may be called and which limits hold, so it is the key that
    counts, whatever the request went through. An app's own key stands where no API key was shown.
    """
    outer = _outer.get()
    if outer is None or outer.tenant != caller.tenant or outer.key == caller.key or caller.has_api_key:
        return caller
    user = caller.user or outer.user
    if not caller.key:
        return msgspec.structs.replace(outer, user=user)
    if outer.has_api_key:
        return msgspec.structs.replace(outer, user=user, app=caller.key)
    return caller
