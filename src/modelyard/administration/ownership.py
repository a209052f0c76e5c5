"""Permissions for changes: rows of the operator, keys and users above the caller, and
the last owner of a tenant."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from modelyard.administration.inputs import CredentialInput
from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError
from modelyard.models.types import JSON, ModelType
from modelyard.storage.resources import Resource, kind_label
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller, ForbiddenError, Role
from modelyard.tenancy.directory import (
    OPERATOR,
    OPERATOR_CLAIMED,
    OPERATOR_MANAGED,
    SETTINGS,
    Directory,
)
from modelyard.tenancy.resource_types import KINDS, ApiKey, CustomModel, User


class Person(Protocol):
    """A person who may sign in."""

    @property
    def email(self) -> str:
        """The mail address, which is also the user name."""
        ...

    @property
    def role(self) -> Role:
        """The person's role."""
        ...

    @property
    def is_enabled(self) -> bool:
        """Whether the person may sign in."""
        ...


class People(Protocol):
    """The accounts of people."""

    async def list_accounts(self, tenant: str) -> Sequence[Person]:
        """Return the people of a tenant."""
        ...


class Ownership:
    """Checks who may change which row. Every method takes the tenant whose rows it is
    about."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._people: People | None = None
        self._has_configured_keys: Callable[[], bool] = lambda: False

    def use(self, people: People, has_configured_keys: Callable[[], bool]) -> None:
        """Set the other ways in: accounts, and API keys in the settings."""
        self._people = people
        self._has_configured_keys = has_configured_keys

    @staticmethod
    def check_change(caller: Caller, old: Resource) -> None:
        """Raise ForbiddenError if the row's current role is above the caller's, or the
        row belongs to the operator."""
        if old.kind in (ApiKey.kind, User.kind):
            # The stored role is checked, not the requested one, or a caller could
            # demote an account above it.
            role = Role(msgspec.json.decode(old.body).get("role", Role.DEVELOPER))
            if not caller.role.covers(role):
                raise ForbiddenError(
                    f"Only a caller with role {role.value!r} or higher can change this"
                    f" {old.kind}; your role is {caller.role.value!r}"
                )
        if is_operator_managed(caller, old.tenant, old.kind, old.set_by):
            raise ForbiddenError(
                f"This {old.kind} was set by the operator; a tenant cannot change it"
            )

    def check_replacement(
        self,
        caller: Caller,
        tenant: str,
        kind: str,
        name: str,
        value: Any,
        *,
        but: str = "",
    ) -> None:
        """Raise ForbiddenError if a tenant's row would take the place of one that the
        operator set.

        `but` is the id of the row that is changed itself.
        """
        if kind not in OPERATOR_MANAGED or is_operator(caller):
            return
        for row, existing in self._directory.of(tenant, KINDS[kind]):
            # A row replaces another by its name, or by being about the same model.
            is_same = row.name == name or (
                _identity(value) and _identity(value) == _identity(existing)
            )
            if (
                is_same
                and row.id != but
                and is_operator_managed(caller, tenant, kind, row.set_by)
            ):
                raise ForbiddenError(
                    f"{kind_label(kind)} {row.name!r} was set by the operator; a tenant"
                    " cannot replace it"
                )

    async def check_switch_off(
        self, caller: Caller, tenant: str, name: str, user: User
    ) -> None:
        """Check that the caller may disable a user.

        A disabled user shuts out the keys and the account of that name, so the caller's
        role must cover theirs. Raises ForbiddenError or InvokeBadRequestError.
        """
        if user.is_enabled:
            return
        roles = [
            key.role
            for _, key in self._directory.of(tenant, ApiKey)
            if key.user == name
        ]
        if self._people is not None:
            roles += [
                person.role
                for person in await self._people.list_accounts(tenant)
                if person.email == name
            ]
        # Otherwise a lower role could lock out those above it.
        for role in roles:
            if not caller.role.covers(role):
                raise ForbiddenError(
                    f"User {name[:60]!r} has role {role.value!r}; only a caller with that"
                    " role or higher can disable it"
                )
        if Role.OWNER in roles:
            await self.require_owner(caller, tenant, without_user=name)

    async def require_owner(
        self,
        caller: Caller,
        tenant: str,
        *,
        without_key: str = "",
        without_user: str = "",
    ) -> None:
        """Raise InvokeBadRequestError if the tenant would have no owner key and no owner
        account left.

        The operator may leave another tenant without an owner. A caller without an API
        key of ours (the command line, a key in the settings) does not need one.
        """
        if is_operator(caller) and (tenant != DEFAULT_TENANT or not caller.key):
            return
        if tenant == DEFAULT_TENANT and self._has_configured_keys():
            return
        # Removing a key that gives no owner access changes nothing.
        removed_key = (
            self._directory.one(tenant, ApiKey, without_key) if without_key else None
        )
        if without_key and (
            removed_key is None or not self._gives_owner_access(tenant, removed_key)
        ):
            return
        if self._has_owner_key(tenant, without_key, without_user):
            return
        if await self._has_owner_account(tenant, without_user):
            return
        raise InvokeBadRequestError(
            f"Tenant {tenant!r} must keep at least one valid owner key or one enabled"
            " owner account"
        )

    def _has_owner_key(self, tenant: str, without_key: str, without_user: str) -> bool:
        """Return whether an owner key exists, apart from this key and this user's."""
        for row, key in self._directory.of(tenant, ApiKey):
            is_remaining = row.id != without_key and not (
                without_user and key.user == without_user
            )
            if is_remaining and self._gives_owner_access(tenant, key):
                return True
        return False

    async def _has_owner_account(self, tenant: str, without_user: str) -> bool:
        """Return whether an enabled owner account exists, apart from this user's."""
        if self._people is None:
            return False
        for person in await self._people.list_accounts(tenant):
            is_owner = (
                person.role is Role.OWNER
                and person.is_enabled
                and person.email != without_user
            )
            if is_owner and not self._directory.is_disabled(tenant, person.email):
                return True
        return False

    def _gives_owner_access(self, tenant: str, key: ApiKey) -> bool:
        """Return whether a key is valid and gives the access of an owner."""
        if key.revoked_at is not None or key.role is not Role.OWNER:
            return False
        is_expired = key.expires_at is not None and key.expires_at <= self._clock.time()
        return not is_expired and not self._directory.is_disabled(tenant, key.user)


def is_operator(caller: Caller) -> bool:
    """Return whether the caller is the operator, acting for any tenant."""
    return caller.is_operator or caller.is_acting


def set_by_mark(caller: Caller) -> str:
    """Return the `set_by` mark of a row that this caller creates."""
    return OPERATOR if is_operator(caller) else ""


def mark_after_change(
    caller: Caller, old: Resource, value: Any, old_fields: JSON
) -> str:
    """Return the `set_by` mark of a row after a change.

    A credential belongs to whoever entered its form values or moved it to another
    provider; changing its weight does not change that. Some other rows become the
    operator's when it changes them; a tenant never takes one back.
    """
    if isinstance(value, CredentialInput):
        is_filled_in = bool(value.values) or value.provider != old_fields.get(
            "provider"
        )
        return set_by_mark(caller) if is_filled_in else old.set_by
    becomes_operators = old.kind in OPERATOR_CLAIMED and is_operator(caller)
    return OPERATOR if becomes_operators else old.set_by


def is_operator_managed(caller: Caller, tenant: str, kind: str, set_by: str) -> bool:
    """Return whether a row is the operator's and may not be changed or replaced by this
    caller.

    Administrators of the default tenant may change what the operator stored there.
    Nobody may change what comes from the settings.
    """
    is_operators = set_by == SETTINGS or (
        set_by == OPERATOR and tenant != DEFAULT_TENANT
    )
    return is_operators and kind in OPERATOR_MANAGED and not is_operator(caller)


def _identity(value: Any) -> tuple[str, ...]:
    """Return what a row is about apart from its name: two models of one name and type
    at one provider are the same model."""
    if not isinstance(value, CustomModel):
        return ()
    definition = value.definition
    model_type = str(definition.get("model_type") or ModelType.LLM.value)
    return (
        value.provider,
        model_type,
        str(definition.get("name") or definition.get("model") or ""),
    )
