"""The caller of a request and its permissions."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Literal

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.patterns import matches_glob
from modelyard.tenancy.reader import ANYBODY, Reader

DEFAULT_TENANT = "default"


class Role(StrEnum):
    """A role. Each one includes the permissions of those after it."""

    OWNER = "owner"
    """Everything, including other people's roles."""
    ADMIN = "admin"
    """API keys, credentials, limits, routes and models."""
    EDITOR = "editor"
    """Create, edit, publish, import and export apps, and see their runs and
    conversations."""
    DEVELOPER = "developer"
    """Call models and see usage."""
    VIEWER = "viewer"
    """See usage."""

    def covers(self, required_role: "Role") -> bool:
        """Return whether this role includes the permissions of another."""
        return required_role in _COVERED_ROLES[self]


_COVERED_ROLES = {
    role: frozenset(list(Role)[position:]) for position, role in enumerate(Role)
}
"""For each role, itself and those that it includes."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a caller and its permissions."""

    tenant: str
    key: str = ""
    """The id of the API key that was presented; empty if none is needed."""
    user: str | None = None
    role: Role = Role.OWNER
    models: tuple[str, ...] = ()
    """Patterns of `provider/model` that may be called; empty for all."""
    priority: int = 0
    expires_at: float | None = None
    is_acting: bool = False
    """Whether this is the operator acting within another tenant."""
    unpriced: Literal["", "refuse", "count"] = ""
    """What a limit of money does with calls whose price is unknown; empty for what the
    settings say."""
    app: str = ""
    """`app:ID` of the app that runs on behalf of the key, if any. Its limits apply in
    addition to the key's."""
    reader: Reader = ANYBODY
    """On whose behalf documents are read. Unlike `user`, which anybody may write into a
    request, it is somebody who was identified."""
    speaks_for_users: bool = False
    """Whether the caller may name another reader in its requests."""
    is_speaking: bool = False
    """Whether it has named one."""
    manages_datasets: bool = False
    """Whether the caller presented a key of the tenant's datasets."""

    @property
    def sees_all_documents(self) -> bool:
        """Whether access lists do not restrict which documents the caller manages. They
        always restrict what its searches find."""
        return not self.is_speaking and (
            self.manages_datasets or self.role.covers(Role.ADMIN)
        )

    def speaking_for(self, reader: Reader) -> "Caller":
        """Return the caller reading documents on behalf of another reader. Raises
        ForbiddenError if it may not."""
        if not self.speaks_for_users:
            raise ForbiddenError(
                "This key may not read documents on behalf of users; an administrator"
                " can create one with 'speaks_for_users'"
            )
        return msgspec.structs.replace(self, reader=reader, is_speaking=True)

    @property
    def has_api_key(self) -> bool:
        """Whether the caller presented an API key, as opposed to an app's key or a
        signed-in account."""
        return bool(self.key) and not self.key.startswith(("app:", "account:"))

    @property
    def is_operator(self) -> bool:
        """Whether the caller may manage other tenants."""
        return self.tenant == DEFAULT_TENANT and self.role is Role.OWNER

    def may_call(self, model: str) -> bool:
        """Return whether the caller may call the model, given as `provider/model`."""
        return not self.models or any(
            matches_glob(pattern, model) for pattern in self.models
        )


def matches_pattern(pattern: str, model: str) -> bool:
    """Return whether `provider/model` matches a pattern such as `openai/*`; an empty
    pattern matches everything."""
    return not pattern or matches_glob(pattern, model)


class ModelNotAllowedError(ModelyardError):
    """The API key does not allow calling this model."""

    code = "model_not_allowed"


class ForbiddenError(ModelyardError):
    """The caller is identified but lacks the permission."""

    code = "forbidden"


# Not a parameter: dozens of places find a model by its tenant alone, and the next one
# would forget to pass it on.
_outer: ContextVar[Caller | None] = ContextVar("modelyard_caller", default=None)
"""The sender of the request that the current task works on. Tasks inherit it from the
task that starts them."""


@contextmanager
def acting_for(caller: Caller | None) -> Generator[None]:
    """Attribute the model calls made inside the block to `caller`; None for no
    particular caller."""
    token = _outer.set(caller)
    try:
        yield
    finally:
        _outer.reset(token)


def set_current_caller(caller: Caller) -> None:
    """Attribute the rest of this task to a caller. For requests whose caller is
    identified only while they are served."""
    _outer.set(caller)


def current_caller() -> Caller | None:
    """Return the sender of the request that this task works on; None outside of
    requests."""
    return _outer.get()


def current_api_key(tenant: str) -> str:
    """Return the id of the request's API key, for work that is done later. Empty
    without one, as for callers of apps."""
    caller = _outer.get()
    return (
        caller.key
        if caller is not None and caller.tenant == tenant and caller.has_api_key
        else ""
    )


def current_reader(tenant: str) -> Reader:
    """Return on whose behalf this task reads a tenant's documents: anybody, if the
    request's caller belongs to another tenant or there is no request."""
    caller = _outer.get()
    return caller.reader if caller is not None and caller.tenant == tenant else ANYBODY


def on_behalf(caller: Caller) -> Caller:
    """Return the caller to use for a model call that something inside the server makes.

    Code inside the server (a dataset, a tool, an agent, a workflow) knows the tenant,
    and perhaps the user and the app. The key of the request decides which models may be
    called and which limits apply, whatever code the request went through. An app's own
    key is used only if no API key was presented.
    """
    outer = _outer.get()
    # Never cross tenants, and never replace an API key that the inner caller has
    # itself.
    if (
        outer is None
        or outer.tenant != caller.tenant
        or outer.key == caller.key
        or caller.has_api_key
    ):
        return caller
    user = caller.user or outer.user
    if not caller.key:
        return msgspec.structs.replace(outer, user=user)
    # The app runs on behalf of the key, so the limits of both apply.
    if outer.has_api_key:
        return msgspec.structs.replace(outer, user=user, app=caller.key)
    return caller
