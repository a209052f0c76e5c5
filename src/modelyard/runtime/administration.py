"""Changing what tenants have set up: checked, encrypted where it is secret, and known to every process within a second.

Each method is given the tenant it acts for and reaches nothing else. What comes back holds no secret; a new API key is
the one exception, and is shown that once.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError, InvokeBadRequestError, NotFoundError
from modelyard.base.numbers import Priority, Weight, check_numbers
from modelyard.models.types import JSON, ModelType
from modelyard.providers.definition import read_model
from modelyard.runtime import api_keys
from modelyard.runtime.caller import DEFAULT_TENANT, Caller, ForbiddenError, Role
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.runtime.tenancy import (
    KEPT_BY_OPERATOR,
    KINDS,
    OPERATOR,
    SETTINGS,
    TAKEN_BY_OPERATOR,
    ApiKey,
    CustomModel,
    DefaultModel,
    Directory,
    Limit,
    Route,
    StoredCredential,
    Target,
    Tenant,
    User,
)
from modelyard.storage.resources import Resource, Resources, missing
from modelyard.storage.secrets import KeyRing

T = TypeVar("T")

_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


class KeyInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be said of an API key; the rest is ours."""

    role: Role = Role.DEVELOPER
    user: str | None = None
    models: list[str] = []
    """Patterns as `openai/*`; empty for all."""
    priority: Priority = 0
    expires_at: float | None = None


class CredentialInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A filled-in form of a provider, and when it is to be used."""

    provider: str
    values: dict[str, Any] = {}
    model: str = ""
    model_type: str = ""
    weight: Weight = 1.0
    priority: Priority = 0
    domain: str = ""
    is_enabled: bool = True


INPUTS: Mapping[str, type[Any]] = {**KINDS, "key": KeyInput, "credential": CredentialInput}
"""Kind → what may be sent for one."""
WITH_SECRET: tuple[type[Any], ...] = tuple(one for one in KINDS.values() if "secret" in one.__struct_fields__)
"""What holds something encrypted."""
_OURS = {"key": ("digest", "revoked_at"), "credential": ("secret",)}


class Administration:
    def __init__(
        self, resources: Resources, directory: Directory, keys: KeyRing, providers: ProviderManager, clock: Clock
    ) -> None:
        self._resources = resources
        self._directory = directory
        self._keys = keys
        self._providers = providers
        self._clock = clock
        self._people: People | None = None
        self._has_house_keys: Callable[[], bool] = lambda: False

    def use(self, people: "People", has_house_keys: Callable[[], bool]) -> None:
        """Who else gets in: accounts, and keys of the settings."""
        self._people = people
        self._has_house_keys = has_house_keys

    # reading

    async def list(self, tenant: str, kind: str, *, after: str = "", most: int = 100) -> "list[JSON]":
        """In the order of their names, from the one after `after`."""
        found = await asyncio.to_thread(self._resources.all, tenant, kind, after=after, most=most)
        return [shown(one) for one in found if _is_readable(one)]

    def tenants(self) -> "list[JSON]":
        return [
            {"id": tenant, "name": tenant, **msgspec.to_builtins(value)} for tenant, value in self._directory.tenants()
        ]

    async def get(self, tenant: str, kind: str, id: str) -> JSON:  # noqa: A002  the field's word
        """Raises NotFoundError."""
        return shown(await asyncio.to_thread(self._resources.one, tenant, kind, id))

    # changing

    async def create(self, caller: Caller, tenant: str, kind: str, name: str, given: JSON) -> JSON:
        """Raises InvokeBadRequestError that says what is wrong with it."""
        if kind == Tenant.kind:
            return await self._create_tenant(caller, name, given)
        if not _NAME.fullmatch(name):
            raise InvokeBadRequestError("'name' must be 1 to 200 printable characters", param="name")
        value = self._read(kind, given)
        self._may_replace(caller, tenant, kind, name, value)
        self._checked(caller, tenant, name, value)
        if isinstance(value, User):
            await self._may_name(caller, tenant, name, value)
        if isinstance(value, KeyInput):
            return await self._mint(caller, tenant, name, value)
        body = partial(self._body, tenant, value=value)
        return shown(await self._known(self._resources.add(tenant, kind, name, body, set_by=_mark_of(caller))))

    async def _create_tenant(self, caller: Caller, name: str, given: JSON) -> JSON:
        if not _TENANT.fullmatch(name):
            raise InvokeBadRequestError("a tenant's name is made of a-z, 0-9 and -, and at most 63 long", param="name")
        value = self._read(Tenant.kind, given)
        made = self._resources.add(name, Tenant.kind, name, lambda row: _dump(value), id=name, set_by=_mark_of(caller))
        try:
            return shown(await self._known(made))
        except Exception as error:
            if "UNIQUE" in str(error).upper():
                raise InvokeBadRequestError(f"there is a tenant named {name!r} already", param="name") from error
            raise

    async def _mint(self, caller: Caller, tenant: str, name: str, value: KeyInput) -> JSON:
        row, key = api_keys.mint()
        stored = _key(value, self._keys.digest(key.encode()), api_keys.hint(key))
        made = self._resources.add(tenant, ApiKey.kind, name, lambda _: _dump(stored), id=row, set_by=_mark_of(caller))
        return {**shown(await self._known(made)), "key": key}

    async def change(self, caller: Caller, tenant: str, kind: str, id: str, given: JSON) -> JSON:  # noqa: A002
        """Fields that are given take the place of those that were. Raises NotFoundError."""
        old = await asyncio.to_thread(self._resources.one, tenant, kind, id)
        self._may_touch(caller, old)
        name = given.get("name", old.name)
        if not isinstance(name, str) or not _NAME.fullmatch(name) or (kind == Tenant.kind and name != old.name):
            raise InvokeBadRequestError("'name' must be 1 to 200 printable characters; a tenant's stays", param="name")
        before: JSON = msgspec.json.decode(old.body)
        ours = {field: before.pop(field, None) for field in (*_OURS.get(kind, ()), "hint") if field in before}
        value = self._read(kind, {**before, **{key: one for key, one in given.items() if key != "name"}})
        self._may_replace(caller, tenant, kind, name, value, but=id)
        self._checked(caller, tenant, name, value, old=before)
        if isinstance(value, User):
            await self._may_name(caller, tenant, name, value)
        if isinstance(value, KeyInput) and value.role is not Role.OWNER:
            await self._keep_an_owner(caller, tenant, without_key=id)
        if isinstance(value, KeyInput):
            body = _dump(
                msgspec.structs.replace(_key(value, ours["digest"], ours["hint"]), revoked_at=ours.get("revoked_at"))
            )
        elif isinstance(value, CredentialInput) and not value.values:
            body = _dump(_credential(value, ours["secret"]))
        else:
            body = self._body(tenant, id, value)
        set_by = _mark_after_change(caller, old, value, before)
        return shown(await self._known(self._resources.change(old, name=name, body=body, set_by=set_by)))

    async def remove(self, caller: Caller, tenant: str, kind: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError, ForbiddenError, InvokeBadRequestError."""
        if kind == Tenant.kind and id == DEFAULT_TENANT:
            raise InvokeBadRequestError("the default tenant stays")
        self._may_touch(caller, await asyncio.to_thread(self._resources.one, tenant, kind, id))
        if kind == ApiKey.kind:
            await self._keep_an_owner(caller, tenant, without_key=id)
        revision = self._resources.remove(tenant, kind, id)
        await asyncio.wrap_future(revision)
        await asyncio.to_thread(self._directory.refresh)

    async def revoke(self, caller: Caller, tenant: str, id: str) -> JSON:  # noqa: A002
        """The key serves nobody from now on; its row stays."""
        await self._keep_an_owner(caller, tenant, without_key=id)
        return await self._touch_key(
            caller, tenant, id, lambda key: msgspec.structs.replace(key, revoked_at=self._clock.time())
        )

    async def rotate(self, caller: Caller, tenant: str, id: str, *, grace_seconds: float = 0.0) -> JSON:  # noqa: A002
        """A new key with the old one's rights; the old one serves for `grace_seconds` more."""
        old = await asyncio.to_thread(self._resources.one, tenant, ApiKey.kind, id)
        self._may_touch(caller, old)
        value = msgspec.json.decode(old.body, type=ApiKey)
        if value.revoked_at is not None:
            raise InvokeBadRequestError(f"key {id!r} was revoked; make a new one")
        until = self._clock.time() + grace_seconds
        ends = min(until, value.expires_at) if value.expires_at else until
        await self._known(
            self._resources.change(
                old, name=f"{old.name} (until {until:.0f})", body=_dump(msgspec.structs.replace(value, expires_at=ends))
            )
        )
        given = KeyInput(
            role=value.role, user=value.user, models=value.models, priority=value.priority, expires_at=value.expires_at
        )
        return await self._mint(caller, tenant, old.name, given)

    async def _touch_key(self, caller: Caller, tenant: str, id: str, act: Callable[[ApiKey], ApiKey]) -> JSON:  # noqa: A002
        old = await asyncio.to_thread(self._resources.one, tenant, ApiKey.kind, id)
        self._may_touch(caller, old)
        body = _dump(act(msgspec.json.decode(old.body, type=ApiKey)))
        return shown(await self._known(self._resources.change(old, name=old.name, body=body)))

    @staticmethod
    def _may_touch(caller: Caller, old: Resource) -> None:
        """Raises ForbiddenError for what is above the caller as it is now, or is the operator's."""
        if old.kind in (ApiKey.kind, User.kind):
            role = Role(msgspec.json.decode(old.body).get("role", Role.DEVELOPER))
            if not caller.role.covers(role):
                raise ForbiddenError(f"a {old.kind} of role {role.value!r} is changed by its equals alone")
        if is_kept_from(caller, old.tenant, old.kind, old.set_by):
            raise ForbiddenError(f"this {old.kind} was set by the operator: a tenant does not change it")

    def _may_replace(self, caller: Caller, tenant: str, kind: str, name: str, value: Any, *, but: str = "") -> None:
        """Raises ForbiddenError where a row would stand for what one of the operator's does."""
        if kind not in KEPT_BY_OPERATOR or _is_operator(caller):
            return
        for known, other in self._directory.of(tenant, KINDS[kind]):
            is_same = known.name == name or (_stands_for(value) and _stands_for(value) == _stands_for(other))
            if is_same and known.id != but and is_kept_from(caller, tenant, kind, known.set_by):
                raise ForbiddenError(f"{kind} {known.name!r} was set by the operator: a tenant does not replace it")

    async def _may_name(self, caller: Caller, tenant: str, name: str, user: User) -> None:
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
            await self._keep_an_owner(caller, tenant, without_user=name)

    async def _keep_an_owner(
        self, caller: Caller, tenant: str, *, without_key: str = "", without_user: str = ""
    ) -> None:  # fmt: skip
        """Raises InvokeBadRequestError where nobody of a tenant could call as its owner any more.

        The operator may leave another tenant without, and whoever shows no key of ours (the command line, a key of the
        settings) needs none.
        """
        if _is_operator(caller) and (tenant != DEFAULT_TENANT or not caller.key):
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

    async def _known(self, made: "Future[Resource]") -> Resource:
        """Done, and known to this process at once."""
        resource: Resource = await asyncio.wrap_future(made)
        await asyncio.to_thread(self._directory.refresh)
        return resource

    # checks

    @staticmethod
    def _read(kind: str, given: JSON) -> Any:
        if kind not in INPUTS:
            raise missing("kind", kind)
        try:
            value = msgspec.convert(given, INPUTS[kind])
            check_numbers(value)
            return value
        except msgspec.ValidationError as error:
            raise InvokeBadRequestError(f"this is no {kind}: {error}") from error

    def _checked(self, caller: Caller, tenant: str, name: str, value: Any, *, old: JSON | None = None) -> None:
        try:
            self._check(caller, tenant, name, value, old=old)
        except ConfigError as error:  # what is wrong is the request here, and not the deployment
            raise InvokeBadRequestError(str(error)) from error

    def _check(self, caller: Caller, tenant: str, name: str, value: Any, *, old: JSON | None = None) -> None:
        match value:
            case KeyInput() | User():
                if not caller.role.covers(value.role):
                    raise ForbiddenError(f"role {value.role.value!r} is given by its equals alone")
                if (
                    isinstance(value, KeyInput)
                    and value.expires_at is not None
                    and value.expires_at <= self._clock.time()
                ):
                    raise InvokeBadRequestError("'expires_at' is in the past", param="expires_at")
            case CredentialInput():
                definition = self._providers.factory_of(tenant).get_definition(value.provider)
                if value.values or old is None:
                    self._providers.factory_of(tenant).validate_credentials(definition.name, value.values)
                if value.weight < 0:
                    raise InvokeBadRequestError("'weight' must be 0 or more", param="weight")
            case Limit():
                check_limit(value)
            case Route():
                self._check_route(tenant, name, value)
            case DefaultModel():
                self._check_default(tenant, name, value)
            case CustomModel():
                self._providers.factory_of(tenant).get_definition(value.provider)
                read_model(value.definition, value.provider)
            case _:
                pass

    def _check_route(self, tenant: str, name: str, route: Route) -> None:
        if not route.targets:
            raise InvokeBadRequestError("'targets' must name at least one model", param="targets")
        for target in route.targets:
            self._check_target(target)
        for model in [*(one.model for one in route.targets), *route.failover]:
            provider, slash, _ = model.partition("/")
            if not slash:
                raise InvokeBadRequestError(f"{model!r} must read 'provider/model'; a route may not lead to a route")
            self._providers.factory_of(tenant).get_definition(provider)
        if len({*route.failover}) != len(route.failover):
            raise InvokeBadRequestError("'failover' names a model twice", param="failover")
        if "/" in name and name.partition("/")[0] in {
            one.provider for one in self._providers.factory_of(tenant).get_providers()
        }:
            raise InvokeBadRequestError(f"{name!r} reads like a provider's model; choose another name", param="name")
        if route.hedge_after is not None and not 50 <= route.hedge_after < 100:
            raise InvokeBadRequestError("'hedge_after' is a percentile from 50 to below 100", param="hedge_after")

    def _check_default(self, tenant: str, name: str, value: DefaultModel) -> None:
        if name not in {*ModelType}:
            raise InvokeBadRequestError(f"'name' is a model type: {', '.join(ModelType)}; not {name!r}", param="name")
        provider, slash, model = value.model.partition("/")
        if self._providers.route(tenant, value.model) is not None:
            return
        if not slash:
            raise InvokeBadRequestError(f"{value.model!r} must read 'provider/model', or name a route", param="model")
        definition = self._providers.factory_of(tenant).get_definition(provider)
        known = self._providers.schema(tenant, provider, ModelType(name), model)
        if known is None and not definition.entity.is_customizable:
            raise InvokeBadRequestError(f"{provider!r} has no {name} model {model!r}", param="model")

    @staticmethod
    def _check_target(target: Target) -> None:
        if target.weight < 0:
            raise InvokeBadRequestError(f"the weight of {target.model!r} must be 0 or more", param="targets")

    # secrets

    def _body(self, tenant: str, row: str, value: Any) -> str:
        if not isinstance(value, CredentialInput):
            return _dump(value)
        accepted = self._providers.factory_of(tenant).validate_credentials(value.provider, value.values)
        text = msgspec.json.encode(accepted).decode()
        secret = self._keys.encrypt(text, tenant=tenant, kind=StoredCredential.kind, row=row)
        return _dump(_credential(value, secret))

    def unlock(self, tenant: str, row: str, secret: str) -> str:
        """Raises SecretError."""
        return self._keys.decrypt(secret, tenant=tenant, kind=StoredCredential.kind, row=row)

    async def encrypt_anew(self, keys: KeyRing) -> int:
        """Have everything encrypted with the ring's active key; how many rows were not."""
        done = 0
        for tenant in self.tenant_names():
            for kind in WITH_SECRET:
                for row in await asyncio.to_thread(self._resources.all, tenant, kind.kind, most=1_000_000):
                    done += await self._encrypt_row(keys, kind, row)
        self._keys = keys
        await asyncio.to_thread(self._directory.refresh)
        return done

    def tenant_names(self) -> "list[str]":
        return [DEFAULT_TENANT, *(one for one, _ in self._directory.tenants() if one != DEFAULT_TENANT)]

    async def _encrypt_row(self, keys: KeyRing, kind: type[Any], row: Resource) -> bool:
        """Whether there was anything to do. Servers go on meanwhile: what one of them changes is read again."""
        while True:
            value = msgspec.json.decode(row.body, type=kind)
            if not value.secret or keys.is_current(value.secret):
                return False
            plain = keys.decrypt(value.secret, tenant=row.tenant, kind=row.kind, row=row.id)
            sealed = keys.encrypt(plain, tenant=row.tenant, kind=row.kind, row=row.id)
            body = _dump(msgspec.structs.replace(value, secret=sealed))
            if await asyncio.wrap_future(self._resources.swap(row, body)):
                return True
            try:
                row = await asyncio.to_thread(self._resources.one, row.tenant, row.kind, row.id)
            except NotFoundError:  # it was removed
                return False


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


def _is_operator(caller: Caller) -> bool:
    """Whether the operator calls, for whichever tenant."""
    return caller.is_operator or caller.is_acting


def _mark_of(caller: Caller) -> str:
    """The mark of a row that this caller sets."""
    return OPERATOR if _is_operator(caller) else ""


def _mark_after_change(caller: Caller, old: Resource, value: Any, before: JSON) -> str:
    """Who set a row, after a change of it.

    A credential is the word of whoever filled its form in, or sent the form to another provider: what it is weighed
    with changes nothing of that. Of other rows the operator takes some by changing them, and a tenant takes back none.
    """
    if isinstance(value, CredentialInput):
        is_filled_in = bool(value.values) or value.provider != before.get("provider")
        return _mark_of(caller) if is_filled_in else old.set_by
    is_taken = old.kind in TAKEN_BY_OPERATOR and _is_operator(caller)
    return OPERATOR if is_taken else old.set_by


def is_kept_from(caller: Caller, tenant: str, kind: str, set_by: str) -> bool:
    """Whether a row is the operator's, and not this caller's to change or replace. What the operator stored in the
    default tenant is open to its administrators; what the settings say is nobody else's."""
    is_operators = set_by == SETTINGS or (set_by == OPERATOR and tenant != DEFAULT_TENANT)
    return is_operators and kind in KEPT_BY_OPERATOR and not _is_operator(caller)


def _stands_for(value: Any) -> tuple[str, ...]:
    """What a row is about beside its name: two models of one name at one provider are one model."""
    if not isinstance(value, CustomModel):
        return ()
    given = value.definition
    kind = str(given.get("model_type") or ModelType.LLM.value)
    return value.provider, kind, str(given.get("name") or given.get("model") or "")


def check_limit(limit: Limit) -> None:
    """Raises InvokeBadRequestError for a limit that makes no sense."""
    if limit.amount < 0 and limit.amount != -1:
        raise InvokeBadRequestError(
            f"'amount' must be 0 or more, or -1 for unlimited, not {limit.amount:g}", param="amount"
        )
    if limit.unit == "concurrency" and limit.amount == 0:
        raise InvokeBadRequestError(
            "a concurrency of 0 would refuse every call; disable the key instead", param="amount"
        )
    if any(one < 0 for one in limit.credits.values()):
        raise InvokeBadRequestError("'credits' must be 0 or more", param="credits")


def configured_limit(name: str, given: Mapping[str, Any]) -> Limit:
    """A limit from the settings. Raises ConfigError."""
    try:
        limit = msgspec.convert(dict(given), Limit)
        check_numbers(limit)
        check_limit(limit)
    except (msgspec.ValidationError, InvokeBadRequestError) as error:
        raise ConfigError(f"limit {name!r}: {error}") from error
    return limit


def configured_route(name: str, given: Mapping[str, Any]) -> Route:
    """A route from the settings: targets may be names alone. Raises ConfigError."""
    targets = given.get("targets")
    spelled = (
        [{"model": one} if isinstance(one, str) else one for one in targets] if isinstance(targets, list) else targets
    )
    try:
        route = msgspec.convert({**given, "targets": spelled}, Route)
        check_numbers(route)
        return route
    except msgspec.ValidationError as error:
        raise ConfigError(f"route {name!r}: {error}") from error


def cycle(failover: Mapping[str, Sequence[str]]) -> list[str]:
    """A way from a model back to itself, by what it fails over to; empty where there is none."""

    def walk(here: str, path: list[str]) -> list[str]:
        if here in path:
            return [*path[path.index(here) :], here]
        return next((found for one in failover.get(here, ()) if (found := walk(one, [*path, here]))), [])

    return next((found for start in failover if (found := walk(start, []))), [])


def _key(value: KeyInput, digest: str, hint: str) -> ApiKey:
    return ApiKey(
        digest=digest, hint=hint, role=value.role, user=value.user, models=value.models, priority=value.priority,
        expires_at=value.expires_at,
    )  # fmt: skip


def _credential(value: CredentialInput, secret: str) -> StoredCredential:
    return StoredCredential(
        provider=value.provider, secret=secret, model=value.model, model_type=value.model_type, weight=value.weight,
        priority=value.priority, domain=value.domain, is_enabled=value.is_enabled,
    )  # fmt: skip


def _dump(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _is_readable(one: Resource) -> bool:
    """Whether a row's body is a JSON object: one that was damaged does not hide the others. The directory's log names
    it."""
    try:
        return isinstance(msgspec.json.decode(one.body), dict)
    except msgspec.MsgspecError:
        return False


def shown(one: Resource) -> JSON:
    """A resource as others see it: without what is secret."""
    body: JSON = msgspec.json.decode(one.body)
    for field in ("digest", "secret"):
        body.pop(field, None)
    set_by = {"set_by": one.set_by} if one.kind in KEPT_BY_OPERATOR else {}
    return {
        "id": one.id, "name": one.name, **body, **set_by, "created_at": one.created_at, "updated_at": one.updated_at
    }  # fmt: skip
