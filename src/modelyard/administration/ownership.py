"""Who may change what: rows of the operator's, keys and users above the caller, the one owner that a tenant keeps."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from modelyard.administration.inputs import CredentialInput
from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError
from modelyard.models.types import JSON, ModelType
from modelyard.storage.resources import Resource
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller, ForbiddenError, Role
from modelyard.tenancy.directory import KEPT_BY_OPERATOR, OPERATOR, SETTINGS, TAKEN_BY_OPERATOR, Directory
from modelyard.tenancy.kinds import KINDS, ApiKey, CustomModel, User


class Person(Protocol):
    @property
    def email(self) -> str: ...

    @property
    def role(self) -> Role: ...

    @property
    def is_enabled(self) -> bool: ...


class People(Protocol):
    """Who may sign in."""

    async def of(self, tenant: str) -> Sequence[Person]: ...


class Ownership:
    """Every method is given the tenant whose rows it is about."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._people: People | None = None
        self._has_house_keys: Callable[[], bool] = lambda: False

    def use(self, people: People, has_house_keys: Callable[[], bool]) -> None:
        """Who else gets in: accounts, and keys of the settings."""
        self._people = people
        self._has_house_keys = has_house_keys

    @staticmethod
    def check_change(caller: Caller, old: Resource) -> None:
        """Raises ForbiddenError for what is above the caller as it is now, or is the operator's."""
        if old.kind in (ApiKey.kind, User.kind):
            role = Role(msgspec.json.decode(old.body).get("role", Role.DEVELOPER))
            if not caller.role.covers(role):
                raise ForbiddenError(f"a {old.kind} of role {role.value!r} is changed by its equals alone")
        if is_kept_from(caller, old.tenant, old.kind, old.set_by):
            raise ForbiddenError(f"this {old.kind} was set by the operator: a tenant does not change it")

    def check_replacement(
        self, caller: Caller, tenant: str, kind: str, name: str, value: Any, *, but: str = ""
    ) -> None:
        """Raises ForbiddenError where a row would stand for what one of the operator's does."""
        if kind not in KEPT_BY_OPERATOR or is_operator(caller):
            return
        for known, other in self._directory.of(tenant, KINDS[kind]):
            is_same = known.name == name or (_stands_for(value) and _stands_for(value) == _stands_for(other))
            if is_same and known.id != but and is_kept_from(caller, tenant, kind, known.set_by):
                raise ForbiddenError(f"{kind} {known.name!r} was set by the operator: a tenant does not replace it")

    async def check_switch_off(self, caller: Caller, tenant: str, name: str, user: User) -> None:
        """A user that is switched off shuts out the keys and the account of that name: it takes a role that covers
        theirs. Raises ForbiddenError, InvokeBadRequestError."""
        if user.is_enabled:
            return
        roles = [key.role for _, key in self._directory.of(tenant, ApiKey) if key.user == name]
        if self._people is not None:
            roles += [one.role for one in await self._people.of(tenant) if one.email == name]
        for role in roles:
            if not caller.role.covers(role):
                raise ForbiddenError(
                    f"{name[:60]!r} has the role {role.value!r}, and is switched off by its equals alone"
                )
        if Role.OWNER in roles:
            await self.keep_an_owner(caller, tenant, without_user=name)

    async def keep_an_owner(
        self, caller: Caller, tenant: str, *, without_key: str = "", without_user: str = ""
    ) -> None:  # fmt: skip
        """Raises InvokeBadRequestError where nobody of a tenant could call as its owner any more.

        The operator may leave another tenant without, and whoever shows no key of ours (the command line, a key of the
        settings) needs none.
        """
        if is_operator(caller) and (tenant != DEFAULT_TENANT or not caller.key):
            return
        if tenant == DEFAULT_TENANT and self._has_house_keys():
            return
        gone = self._directory.one(tenant, ApiKey, without_key) if without_key else None
        if without_key and (gone is None or not self._is_way_in(tenant, gone)):
            return
        for known, key in self._directory.of(tenant, ApiKey):
            is_other = known.id != without_key and not (without_user and key.user == without_user)
            if is_other and self._is_way_in(tenant, key):
                return
        for one in await self._people.of(tenant) if self._people is not None else ():
            is_owner = one.role is Role.OWNER and one.is_enabled and one.email != without_user
            if is_owner and not self._directory.shuts_out(tenant, one.email):
                return
        raise InvokeBadRequestError("a tenant keeps one owner's key, or one owner who may sign in")

    def _is_way_in(self, tenant: str, key: ApiKey) -> bool:
        """Whether an owner gets in by a key."""
        is_good = key.revoked_at is None and (key.expires_at is None or key.expires_at > self._clock.time())
        return is_good and key.role is Role.OWNER and not self._directory.shuts_out(tenant, key.user)


def is_operator(caller: Caller) -> bool:
    """Whether the operator calls, for whichever tenant."""
    return caller.is_operator or caller.is_acting


def mark_of(caller: Caller) -> str:
    """The mark of a row that this caller sets."""
    return OPERATOR if is_operator(caller) else ""


def mark_after_change(caller: Caller, old: Resource, value: Any, before: JSON) -> str:
    """Who set a row, after a change of it.

    A credential is the word of whoever filled its form in, or sent the form to another provider: what it is weighed
    with changes nothing of that. Of other rows the operator takes some by changing them, and a tenant takes back none.
    """
    if isinstance(value, CredentialInput):
        is_filled_in = bool(value.values) or value.provider != before.get("provider")
        return mark_of(caller) if is_filled_in else old.set_by
    is_taken = old.kind in TAKEN_BY_OPERATOR and is_operator(caller)
    return OPERATOR if is_taken else old.set_by


def is_kept_from(caller: Caller, tenant: str, kind: str, set_by: str) -> bool:
    """Whether a row is the operator's, and not this caller's to change or replace. What the operator stored in the
    default tenant is open to its administrators; what the settings say is nobody else's."""
    is_operators = set_by == SETTINGS or (set_by == OPERATOR and tenant != DEFAULT_TENANT)
    return is_operators and kind in KEPT_BY_OPERATOR and not is_operator(caller)


def _stands_for(value: Any) -> tuple[str, ...]:
    """What a row is about beside its name: two models of one name at one provider are one model."""
    if not isinstance(value, CustomModel):
        return ()
    given = value.definition
    kind = str(given.get("model_type") or ModelType.LLM.value)
    return value.provider, kind, str(given.get("name") or given.get("model") or "")
