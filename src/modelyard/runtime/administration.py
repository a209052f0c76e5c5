"""Changing what tenants have set up: checked, encrypted where it is secret, and known to every process within a second.

Each method is given the tenant it acts for and reaches nothing else. What comes back holds no secret; a new API key is
the one exception, and is shown that once.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError, InvokeBadRequestError
from modelyard.models.types import JSON, ModelType
from modelyard.providers.definition import read_model
from modelyard.runtime import api_keys
from modelyard.runtime.caller import DEFAULT_TENANT, Caller, ForbiddenError, Role
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.runtime.tenancy import (
    KINDS,
    ApiKey,
    CustomModel,
    DefaultModel,
    Directory,
    Limit,
    OAuthClient,
    PluginEndpoint,
    Route,
    StoredCredential,
    Subscription,
    Target,
    Tenant,
    ToolCredential,
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
    priority: int = 0
    expires_at: float | None = None


class CredentialInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A filled-in form of a provider, and when it is to be used."""

    provider: str
    values: dict[str, Any] = {}
    model: str = ""
    model_type: str = ""
    weight: float = 1.0
    priority: int = 0
    domain: str = ""
    is_enabled: bool = True


INPUTS: Mapping[str, type[Any]] = {**KINDS, "key": KeyInput, "credential": CredentialInput}
"""Kind → what may be sent for one."""
_WITH_SECRET: tuple[type[Any], ...] = (StoredCredential, PluginEndpoint, Subscription, ToolCredential, OAuthClient)
_OURS = {"key": ("digest", "revoked_at"), "credential": ("secret", "set_by_operator")}


class Administration:
    def __init__(
        self, resources: Resources, directory: Directory, keys: KeyRing, providers: ProviderManager, clock: Clock
    ) -> None:
        self._resources = resources
        self._directory = directory
        self._keys = keys
        self._providers = providers
        self._clock = clock

    # reading

    async def list(self, tenant: str, kind: str, *, after: str = "", most: int = 100) -> "list[JSON]":
        """In the order of their names, from the one after `after`."""
        found = await asyncio.to_thread(self._resources.all, tenant, kind, after=after, most=most)
        return [shown(one) for one in found]

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
            return await self._create_tenant(name, given)
        if not _NAME.fullmatch(name):
            raise InvokeBadRequestError("'name' must be 1 to 200 printable characters", param="name")
        value = self._read(kind, given)
        self._checked(caller, tenant, name, value)
        if isinstance(value, KeyInput):
            return await self._mint(tenant, name, value)
        made = self._resources.add(tenant, kind, name, lambda row: self._body(caller, tenant, row, value))
        return shown(await self._known(made))

    async def _create_tenant(self, name: str, given: JSON) -> JSON:
        if not _TENANT.fullmatch(name):
            raise InvokeBadRequestError("a tenant's name is made of a-z, 0-9 and -, and at most 63 long", param="name")
        value = self._read(Tenant.kind, given)
        made = self._resources.add(name, Tenant.kind, name, lambda row: _dump(value), id=name)
        try:
            return shown(await self._known(made))
        except Exception as error:
            if "UNIQUE" in str(error).upper():
                raise InvokeBadRequestError(f"there is a tenant named {name!r} already", param="name") from error
            raise

    async def _mint(self, tenant: str, name: str, value: KeyInput) -> JSON:
        row, key = api_keys.mint()
        stored = _key(value, self._keys.digest(key.encode()), api_keys.hint(key))
        made = self._resources.add(tenant, ApiKey.kind, name, lambda _: _dump(stored), id=row)
        return {**shown(await self._known(made)), "key": key}

    async def change(self, caller: Caller, tenant: str, kind: str, id: str, given: JSON) -> JSON:  # noqa: A002
        """Fields that are given take the place of those that were. Raises NotFoundError."""
        old = await asyncio.to_thread(self._resources.one, tenant, kind, id)
        name = given.get("name", old.name)
        if not isinstance(name, str) or not _NAME.fullmatch(name) or (kind == Tenant.kind and name != old.name):
            raise InvokeBadRequestError("'name' must be 1 to 200 printable characters; a tenant's stays", param="name")
        before: JSON = msgspec.json.decode(old.body)
        ours = {field: before.pop(field, None) for field in (*_OURS.get(kind, ()), "hint") if field in before}
        value = self._read(kind, {**before, **{key: one for key, one in given.items() if key != "name"}})
        self._checked(caller, tenant, name, value, old=before)
        if isinstance(value, KeyInput):
            body = _dump(
                msgspec.structs.replace(_key(value, ours["digest"], ours["hint"]), revoked_at=ours.get("revoked_at"))
            )
        elif isinstance(value, CredentialInput) and not value.values:
            # The form stays as it was filled in; sent to another provider, it is the word of whoever sends it there.
            is_theirs = bool(ours.get("set_by_operator"))
            is_moved = value.provider != before.get("provider")
            is_operators = caller.is_operator if is_moved else is_theirs
            body = _dump(_credential(value, ours["secret"], set_by_operator=is_operators))
        else:
            body = self._body(caller, tenant, id, value)
        return shown(await self._known(self._resources.change(old, name=name, body=body)))

    async def remove(self, caller: Caller, tenant: str, kind: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError."""
        if kind == Tenant.kind and id == DEFAULT_TENANT:
            raise InvokeBadRequestError("the default tenant stays")
        if kind == ApiKey.kind:
            self._may_touch(caller, await asyncio.to_thread(self._resources.one, tenant, kind, id))
        revision = self._resources.remove(tenant, kind, id)
        await asyncio.wrap_future(revision)
        await asyncio.to_thread(self._directory.refresh)

    async def revoke(self, caller: Caller, tenant: str, id: str) -> JSON:  # noqa: A002
        """The key serves nobody from now on; its row stays."""
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
        return await self._mint(tenant, old.name, given)

    async def _touch_key(self, caller: Caller, tenant: str, id: str, act: Callable[[ApiKey], ApiKey]) -> JSON:  # noqa: A002
        old = await asyncio.to_thread(self._resources.one, tenant, ApiKey.kind, id)
        self._may_touch(caller, old)
        body = _dump(act(msgspec.json.decode(old.body, type=ApiKey)))
        return shown(await self._known(self._resources.change(old, name=old.name, body=body)))

    @staticmethod
    def _may_touch(caller: Caller, old: Resource) -> None:
        role = msgspec.json.decode(old.body, type=ApiKey).role
        if not caller.role.covers(role):
            raise ForbiddenError(f"a key of role {role.value!r} is changed by its equals alone")

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
            return msgspec.convert(given, INPUTS[kind])
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

    def _body(self, caller: Caller, tenant: str, row: str, value: Any) -> str:
        if not isinstance(value, CredentialInput):
            return _dump(value)
        accepted = self._providers.factory_of(tenant).validate_credentials(value.provider, value.values)
        text = msgspec.json.encode(accepted).decode()
        secret = self._keys.encrypt(text, tenant=tenant, kind=StoredCredential.kind, row=row)
        return _dump(_credential(value, secret, set_by_operator=caller.is_operator))

    def unlock(self, tenant: str, row: str, secret: str) -> str:
        """Raises SecretError."""
        return self._keys.decrypt(secret, tenant=tenant, kind=StoredCredential.kind, row=row)

    async def encrypt_anew(self, keys: KeyRing) -> int:
        """Have everything encrypted with the ring's active key; how many rows were not."""
        done = 0
        for tenant in [DEFAULT_TENANT, *(one for one, _ in self._directory.tenants() if one != DEFAULT_TENANT)]:
            for kind in _WITH_SECRET:
                for row in await asyncio.to_thread(self._resources.all, tenant, kind.kind, most=1_000_000):
                    value = msgspec.json.decode(row.body, type=kind)
                    if keys.is_current(value.secret):
                        continue
                    plain = keys.decrypt(value.secret, tenant=tenant, kind=row.kind, row=row.id)
                    sealed = keys.encrypt(plain, tenant=tenant, kind=row.kind, row=row.id)
                    body = _dump(msgspec.structs.replace(value, secret=sealed))
                    await self._known(self._resources.change(row, name=row.name, body=body))
                    done += 1
        self._keys = keys
        return done


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
        return msgspec.convert({**given, "targets": spelled}, Route)
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


def _credential(value: CredentialInput, secret: str, *, set_by_operator: bool) -> StoredCredential:
    return StoredCredential(
        provider=value.provider, secret=secret, model=value.model, model_type=value.model_type, weight=value.weight,
        priority=value.priority, domain=value.domain, is_enabled=value.is_enabled, set_by_operator=set_by_operator,
    )  # fmt: skip


def _dump(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def shown(one: Resource) -> JSON:
    """A resource as others see it: without what is secret."""
    body: JSON = msgspec.json.decode(one.body)
    for field in ("digest", "secret"):
        body.pop(field, None)
    return {"id": one.id, "name": one.name, **body, "created_at": one.created_at, "updated_at": one.updated_at}
