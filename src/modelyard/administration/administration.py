"""Changing what tenants have set up: checked, encrypted where it is secret, and known to every process within a second.

Each method is given the tenant it acts for and reaches nothing else. What comes back holds no secret; a new API key is
the one exception, and is shown that once.
"""

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from modelyard.administration.inputs import CredentialInput, InputChecks, KeyInput, read_input
from modelyard.administration.ownership import Ownership, People, mark_after_change, mark_of
from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.models.types import JSON
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.storage.resources import Resource, Resources
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy import api_keys
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller, Role
from modelyard.tenancy.directory import KEPT_BY_OPERATOR, Directory
from modelyard.tenancy.kinds import KINDS, ApiKey, StoredCredential, Tenant, User

_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


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
        self._checks = InputChecks(providers, clock)
        self._ownership = Ownership(directory, clock)

    def use(self, people: People, has_house_keys: Callable[[], bool]) -> None:
        """Who else gets in: accounts, and keys of the settings."""
        self._ownership.use(people, has_house_keys)

    # reading

    async def list(self, tenant: str, kind: str, *, after: str = "", most: int = 100) -> "list[JSON]":
        """In the order of their names, from the one after `after`."""
        found = await self._resources.all(tenant, kind, after=after, most=most)
        return [shown(one) for one in found if _is_readable(one)]

    def tenants(self) -> "list[JSON]":
        return [
            {"id": tenant, "name": tenant, **msgspec.to_builtins(value)} for tenant, value in self._directory.tenants()
        ]

    async def get(self, tenant: str, kind: str, id: str) -> JSON:  # noqa: A002  the field's word
        """Raises NotFoundError."""
        return shown(await self._resources.one(tenant, kind, id))

    # changing

    async def create(self, caller: Caller, tenant: str, kind: str, name: str, given: JSON) -> JSON:
        """Raises InvokeBadRequestError that says what is wrong with it."""
        if kind == Tenant.kind:
            return await self._create_tenant(caller, name, given)
        if not _NAME.fullmatch(name):
            raise InvokeBadRequestError("'name' must be 1 to 200 printable characters", param="name")
        value = read_input(kind, given)
        self._ownership.check_replacement(caller, tenant, kind, name, value)
        self._checks.check(caller, tenant, name, value)
        if isinstance(value, User):
            await self._ownership.check_switch_off(caller, tenant, name, value)
        if isinstance(value, KeyInput):
            return await self._mint(caller, tenant, name, value)
        body = partial(self._body, tenant, value=value)
        return shown(await self._known(self._resources.add(tenant, kind, name, body, set_by=mark_of(caller))))

    async def _create_tenant(self, caller: Caller, name: str, given: JSON) -> JSON:
        if not _TENANT.fullmatch(name):
            raise InvokeBadRequestError("a tenant's name is made of a-z, 0-9 and -, and at most 63 long", param="name")
        value = read_input(Tenant.kind, given)
        made = self._resources.add(name, Tenant.kind, name, lambda row: _dump(value), id=name, set_by=mark_of(caller))
        return shown(await self._known(made))

    async def _mint(self, caller: Caller, tenant: str, name: str, value: KeyInput) -> JSON:
        row, key = api_keys.mint()
        stored = _key(value, self._keys.digest(key.encode()), api_keys.hint(key))
        made = self._resources.add(tenant, ApiKey.kind, name, lambda _: _dump(stored), id=row, set_by=mark_of(caller))
        return {**shown(await self._known(made)), "key": key}

    async def change(self, caller: Caller, tenant: str, kind: str, id: str, given: JSON) -> JSON:  # noqa: A002
        """Fields that are given take the place of those that were. Raises NotFoundError."""
        old = await self._resources.one(tenant, kind, id)
        self._ownership.check_change(caller, old)
        name = given.get("name", old.name)
        if not isinstance(name, str) or not _NAME.fullmatch(name) or (kind == Tenant.kind and name != old.name):
            raise InvokeBadRequestError("'name' must be 1 to 200 printable characters; a tenant's stays", param="name")
        before: JSON = msgspec.json.decode(old.body)
        ours = {field: before.pop(field, None) for field in (*_OURS.get(kind, ()), "hint") if field in before}
        value = read_input(kind, {**before, **{key: one for key, one in given.items() if key != "name"}})
        self._ownership.check_replacement(caller, tenant, kind, name, value, but=id)
        self._checks.check(caller, tenant, name, value, old=before)
        if isinstance(value, User):
            await self._ownership.check_switch_off(caller, tenant, name, value)
        if isinstance(value, KeyInput) and value.role is not Role.OWNER:
            await self._ownership.keep_an_owner(caller, tenant, without_key=id)
        if isinstance(value, KeyInput):
            body = _dump(
                msgspec.structs.replace(_key(value, ours["digest"], ours["hint"]), revoked_at=ours.get("revoked_at"))
            )
        elif isinstance(value, CredentialInput) and not value.values:
            body = _dump(_credential(value, ours["secret"]))
        else:
            body = self._body(tenant, id, value)
        set_by = mark_after_change(caller, old, value, before)
        return shown(await self._known(self._resources.change(old, name=name, body=body, set_by=set_by)))

    async def remove(self, caller: Caller, tenant: str, kind: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError, ForbiddenError, InvokeBadRequestError."""
        if kind == Tenant.kind and id == DEFAULT_TENANT:
            raise InvokeBadRequestError("the default tenant stays")
        self._ownership.check_change(caller, await self._resources.one(tenant, kind, id))
        if kind == ApiKey.kind:
            await self._ownership.keep_an_owner(caller, tenant, without_key=id)
        await self._resources.remove(tenant, kind, id)
        await self._directory.refresh()

    async def revoke(self, caller: Caller, tenant: str, id: str) -> JSON:  # noqa: A002
        """The key serves nobody from now on; its row stays."""
        await self._ownership.keep_an_owner(caller, tenant, without_key=id)
        return await self._touch_key(
            caller, tenant, id, lambda key: msgspec.structs.replace(key, revoked_at=self._clock.time())
        )

    async def rotate(self, caller: Caller, tenant: str, id: str, *, grace_seconds: float = 0.0) -> JSON:  # noqa: A002
        """A new key with the old one's rights; the old one serves for `grace_seconds` more."""
        old = await self._resources.one(tenant, ApiKey.kind, id)
        self._ownership.check_change(caller, old)
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
        old = await self._resources.one(tenant, ApiKey.kind, id)
        self._ownership.check_change(caller, old)
        body = _dump(act(msgspec.json.decode(old.body, type=ApiKey)))
        return shown(await self._known(self._resources.change(old, name=old.name, body=body)))

    async def _known(self, made: Awaitable[Resource]) -> Resource:
        """Done, and known to this process at once."""
        resource = await made
        await self._directory.refresh()
        return resource

    # secrets

    def _body(self, tenant: str, row: str, value: Any) -> str:
        if not isinstance(value, CredentialInput):
            return _dump(value)
        accepted = self._providers.factory_of(tenant).validate_credentials(value.provider, value.values)
        text = msgspec.json.encode(accepted).decode()
        secret = self._keys.encrypt(text, tenant=tenant, kind=StoredCredential.kind, row=row)
        return _dump(_credential(value, secret))

    async def encrypt_anew(self, keys: KeyRing) -> int:
        """Have everything encrypted with the ring's active key; how many rows were not."""
        done = 0
        for tenant in self.tenant_names():
            for kind in WITH_SECRET:
                for row in await self._resources.all(tenant, kind.kind, most=1_000_000):
                    done += await self._encrypt_row(keys, kind, row)
        self._keys = keys
        await self._directory.refresh()
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
            if await self._resources.swap(row, body):
                return True
            try:
                row = await self._resources.one(row.tenant, row.kind, row.id)
            except NotFoundError:  # it was removed
                return False


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
