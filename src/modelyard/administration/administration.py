"""Creating and changing the resources of tenants. They are validated, secrets are
encrypted, and every process sees a change within a second.

Each method takes the tenant it acts for and reaches nothing else. Results contain no
secrets, except for a new API key, which is returned once.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec

from modelyard.administration.inputs import (
    CredentialInput,
    InputChecks,
    KeyInput,
    read_input,
)
from modelyard.administration.labels import check_label
from modelyard.administration.ownership import (
    Ownership,
    People,
    mark_after_change,
    set_by_mark,
)
from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.models.types import JSON
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.storage.resources import Resource, Resources
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy import api_keys
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller, Role
from modelyard.tenancy.directory import OPERATOR_MANAGED, Directory
from modelyard.tenancy.resource_types import (
    COMPLETED_FIELDS,
    KINDS,
    ApiKey,
    StoredCredential,
    Tenant,
    User,
)

# A tenant's name is its id, and part of paths, so that it is written plainly.
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
# Control characters would break lines of logs and tables.
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


WITH_SECRET: tuple[type[Any], ...] = tuple(
    resource_class
    for resource_class in KINDS.values()
    if "secret" in resource_class.__struct_fields__
)
"""The resource types that contain an encrypted secret."""
# Fields that only the server may set, by type; a change keeps them.
_INTERNAL_FIELDS = {"key": ("digest", "revoked_at"), "credential": ("secret",)}


class CustomModelSource(Protocol):
    """Knows models that their providers do not list."""

    async def complete(
        self,
        tenant: str,
        provider: str,
        values: Mapping[str, Any],
        model: str = "",
        model_type: str = "",
    ) -> JSON:
        """Return the fields that a plugin adds to credentials when it tries them."""
        ...

    async def describe(
        self,
        tenant: str,
        provider: str,
        values: Mapping[str, Any],
        model: str,
        model_type: str,
    ) -> JSON | None:
        """Return the definition of a model; None if there is nothing to add."""
        ...

    async def store(self, tenant: str, provider: str, definition: JSON) -> None:
        """Store a definition for a tenant."""
        ...


class Administration:
    """The administration service."""

    def __init__(
        self,
        resources: Resources,
        directory: Directory,
        keys: KeyRing,
        providers: ProviderManager,
        clock: Clock,
    ) -> None:
        self._resources = resources
        self._directory = directory
        self._keys = keys
        self._providers = providers
        self._clock = clock
        self._checks = InputChecks(providers, clock)
        self._ownership = Ownership(directory, clock)
        self._custom_models: CustomModelSource | None = None

    def configure_custom_models(self, custom_models: "CustomModelSource") -> None:
        """Set who describes models that a provider does not list."""
        self._custom_models = custom_models

    def configure_ownership(
        self, people: People, has_configured_keys: Callable[[], bool]
    ) -> None:
        """Set the other ways in: accounts, and API keys in the settings."""
        self._ownership.use(people, has_configured_keys)

    # reading

    async def list(
        self, tenant: str, kind: str, *, after: str = "", limit: int = 100
    ) -> "list[JSON]":
        """Return a page of resources in the order of their names, starting after the
        name `after`."""
        rows = await self._resources.list(tenant, kind, after=after, limit=limit)
        return [public_view(resource) for resource in rows if _is_readable(resource)]

    def tenants(self) -> "list[JSON]":
        """Return all tenants."""
        return [
            {"id": tenant, "name": tenant, **msgspec.to_builtins(value)}
            for tenant, value in self._directory.tenants()
        ]

    async def get(self, tenant: str, kind: str, id: str) -> JSON:
        """Return a resource. Raises NotFoundError."""
        return public_view(await self._resources.get(tenant, kind, id))

    # changing

    async def create(
        self, caller: Caller, tenant: str, kind: str, name: str, fields: JSON
    ) -> JSON:
        """Create a resource and return it. Raises InvokeBadRequestError with the reason
        if it is not valid."""
        if kind == Tenant.kind:
            return await self._create_tenant(caller, name, fields)
        if not _NAME.fullmatch(name):
            raise InvokeBadRequestError(
                "'name' must be 1 to 200 printable characters", param="name"
            )
        value = read_input(kind, fields)
        # A new row may replace one of the operator's by name or meaning, so this counts
        # as a change of it.
        self._ownership.check_replacement(caller, tenant, kind, name, value)
        check_label(self._directory, tenant, name, value)
        self._checks.check(caller, tenant, name, value)
        if isinstance(value, User):
            await self._ownership.check_switch_off(caller, tenant, name, value)
        # A key has a digest instead of the input's values, and its text is part of the
        # result.
        if isinstance(value, KeyInput):
            return await self._mint(caller, tenant, name, value)
        # Asked first: what the plugin refuses is not stored.
        definition = await self._described(tenant, value)
        await self._store_model(tenant, value, definition)
        completed = await self._completed(tenant, value)
        body = partial(self._body, tenant, value=value, completed=completed)
        return public_view(
            await self._apply_write(
                self._resources.add(
                    tenant, kind, name, body, set_by=set_by_mark(caller)
                )
            )
        )

    async def _create_tenant(self, caller: Caller, name: str, fields: JSON) -> JSON:
        """Create a tenant. Its name is also its id."""
        if not _TENANT.fullmatch(name):
            raise InvokeBadRequestError(
                f"Invalid tenant name {name[:80]!r}; use 1 to 63 characters a-z, 0-9 and"
                " -, starting with a letter or digit",
                param="name",
            )
        value = read_input(Tenant.kind, fields)
        operation = self._resources.add(
            name,
            Tenant.kind,
            name,
            lambda row: _dump(value),
            id=name,
            set_by=set_by_mark(caller),
        )
        return public_view(await self._apply_write(operation))

    async def _mint(
        self, caller: Caller, tenant: str, name: str, value: KeyInput
    ) -> JSON:
        """Create an API key; the result contains the key itself."""
        row, key = api_keys.generate_key()
        api_key = _key(value, self._keys.digest(key.encode()), api_keys.hint(key))
        operation = self._resources.add(
            tenant,
            ApiKey.kind,
            name,
            lambda _: _dump(api_key),
            id=row,
            set_by=set_by_mark(caller),
        )
        return {**public_view(await self._apply_write(operation)), "key": key}

    async def change(
        self, caller: Caller, tenant: str, kind: str, id: str, fields: JSON
    ) -> JSON:
        """Change the given fields of a resource; the others stay. Raises NotFoundError."""
        old = await self._resources.get(tenant, kind, id)
        self._ownership.check_change(caller, old)
        name = _changed_name(old, fields)
        # Validate the merged fields as if they were new; internal fields are not part
        # of the input.
        old_fields: JSON = msgspec.json.decode(old.body)
        internal_fields = {
            field: old_fields.pop(field, None)
            for field in (*_INTERNAL_FIELDS.get(kind, ()), "hint")
            if field in old_fields
        }
        new_fields = {key: value for key, value in fields.items() if key != "name"}
        value = read_input(kind, {**old_fields, **new_fields})
        self._ownership.check_replacement(caller, tenant, kind, name, value, but=id)
        check_label(self._directory, tenant, name, value, but=id)
        self._checks.check(caller, tenant, name, value, old=old_fields)
        if isinstance(value, User):
            await self._ownership.check_switch_off(caller, tenant, name, value)
        # Lowering the role of the last owner key would lock the tenant out.
        if isinstance(value, KeyInput) and value.role is not Role.OWNER:
            await self._ownership.require_owner(caller, tenant, without_key=id)
        definition = await self._described(tenant, value)
        await self._store_model(tenant, value, definition)
        operation = self._resources.change(
            old,
            name=name,
            body=self._changed_body(
                tenant, id, value, internal_fields, await self._completed(tenant, value)
            ),
            set_by=mark_after_change(caller, old, value, old_fields),
        )
        return public_view(await self._apply_write(operation))

    def _changed_body(
        self,
        tenant: str,
        id: str,
        value: Any,
        internal_fields: JSON,
        completed: JSON,
    ) -> str:
        """Return the JSON body of a changed row. Internal fields, such as a key's digest
        and a stored secret, stay."""
        if isinstance(value, KeyInput):
            key = _key(value, internal_fields["digest"], internal_fields["hint"])
            revoked_at = internal_fields.get("revoked_at")
            return _dump(msgspec.structs.replace(key, revoked_at=revoked_at))
        # Without new form values the stored secret stays.
        if isinstance(value, CredentialInput) and not value.values:
            return _dump(_credential(value, internal_fields["secret"]))
        return self._body(tenant, id, value, completed)

    async def remove(self, caller: Caller, tenant: str, kind: str, id: str) -> None:
        """Delete a resource. Raises NotFoundError, ForbiddenError or
        InvokeBadRequestError."""
        if kind == Tenant.kind and id == DEFAULT_TENANT:
            raise InvokeBadRequestError("The default tenant cannot be deleted")
        self._ownership.check_change(
            caller, await self._resources.get(tenant, kind, id)
        )
        # Deleting the last owner key would lock the tenant out.
        if kind == ApiKey.kind:
            await self._ownership.require_owner(caller, tenant, without_key=id)
        await self._resources.remove(tenant, kind, id)
        await self._directory.refresh()

    async def revoke(self, caller: Caller, tenant: str, id: str) -> JSON:
        """Revoke a key at once. Its row stays, so that usage can still be attributed to
        it."""
        await self._ownership.require_owner(caller, tenant, without_key=id)
        return await self._change_key(
            caller,
            tenant,
            id,
            lambda key: msgspec.structs.replace(key, revoked_at=self._clock.time()),
        )

    async def rotate(
        self, caller: Caller, tenant: str, id: str, *, grace_seconds: float = 0.0
    ) -> JSON:
        """Create a new key with the old one's permissions. The old one stays valid for
        `grace_seconds`."""
        old = await self._resources.get(tenant, ApiKey.kind, id)
        self._ownership.check_change(caller, old)
        value = msgspec.json.decode(old.body, type=ApiKey)
        if value.revoked_at is not None:
            raise InvokeBadRequestError(f"Key {id!r} was revoked; create a new one")
        until = self._clock.time() + grace_seconds
        # The old key never becomes valid for longer than it was.
        ends = min(until, value.expires_at) if value.expires_at else until
        # Names are unique, so the old key is renamed before the new one takes its name.
        await self._apply_write(
            self._resources.change(
                old,
                name=f"{old.name} (until {until:.0f})",
                body=_dump(msgspec.structs.replace(value, expires_at=ends)),
            )
        )
        key_input = KeyInput(
            role=value.role,
            user=value.user,
            models=value.models,
            priority=value.priority,
            expires_at=value.expires_at,
            unpriced=value.unpriced,
            speaks_for_users=value.speaks_for_users,
        )
        return await self._mint(caller, tenant, old.name, key_input)

    async def _change_key(
        self, caller: Caller, tenant: str, id: str, act: Callable[[ApiKey], ApiKey]
    ) -> JSON:
        """Apply a function to a stored key, and return the changed key."""
        old = await self._resources.get(tenant, ApiKey.kind, id)
        self._ownership.check_change(caller, old)
        body = _dump(act(msgspec.json.decode(old.body, type=ApiKey)))
        return public_view(
            await self._apply_write(
                self._resources.change(old, name=old.name, body=body)
            )
        )

    async def _apply_write(self, operation: Awaitable[Resource]) -> Resource:
        """Wait for a write, and load it into this process's directory, so that it takes
        effect at once."""
        resource = await operation
        await self._directory.refresh()
        return resource

    # secrets

    def _body(self, tenant: str, row: str, value: Any, completed: JSON) -> str:
        """Return the JSON body of a row; a credential's values are validated and
        encrypted, with the fields that a plugin has added."""
        if not isinstance(value, CredentialInput):
            return _dump(value)
        accepted = self._accepted(tenant, value)
        if completed:
            accepted = {**accepted, COMPLETED_FIELDS: completed}
        text = msgspec.json.encode(accepted).decode()
        secret = self._keys.encrypt(
            text, tenant=tenant, kind=StoredCredential.kind, row=row
        )
        return _dump(_credential(value, secret))

    def _accepted(self, tenant: str, value: CredentialInput) -> JSON:
        """Return the validated form values of a credential."""
        return self._providers.factory_of(tenant).validate_credentials(
            value.provider,
            value.values,
            model=value.model,
            model_type=value.model_type,
        )

    async def _completed(self, tenant: str, value: Any) -> JSON:
        """Return the fields that a plugin adds to new values of a credential."""
        if not isinstance(value, CredentialInput) or not value.values:
            return {}
        if self._custom_models is None:
            return {}
        return await self._custom_models.complete(
            tenant,
            value.provider,
            self._accepted(tenant, value),
            value.model,
            value.model_type,
        )

    async def _described(self, tenant: str, value: Any) -> JSON | None:
        """Return what is known of the model that a credential is for; None if it is for
        all models, or the provider lists the model."""
        if not isinstance(value, CredentialInput) or not value.model:
            return None
        if self._custom_models is None or not value.values:
            return None
        return await self._custom_models.describe(
            tenant,
            value.provider,
            self._accepted(tenant, value),
            value.model,
            value.model_type,
        )

    async def _store_model(
        self, tenant: str, value: Any, definition: JSON | None
    ) -> None:
        """Store the definition of the model that a credential is for."""
        if definition is not None and self._custom_models is not None:
            await self._custom_models.store(tenant, value.provider, definition)

    async def reencrypt_all(self, keys: KeyRing) -> int:
        """Encrypt all secrets with the ring's active key. Returns how many rows were
        changed."""
        count = 0
        for tenant in self.tenant_names():
            for resource_class in WITH_SECRET:
                for row in await self._resources.list(
                    tenant, resource_class.kind, limit=1_000_000
                ):
                    count += await self._encrypt_row(keys, resource_class, row)
        self._keys = keys
        await self._directory.refresh()
        return count

    def tenant_names(self) -> "list[str]":
        """Return the names of all tenants, the default one first."""
        names = (tenant for tenant, _ in self._directory.tenants())
        # The directory need not have an entry for the default tenant, so it is added.
        return [DEFAULT_TENANT, *(name for name in names if name != DEFAULT_TENANT)]

    async def _encrypt_row(
        self, keys: KeyRing, resource_class: type[Any], row: Resource
    ) -> bool:
        """Encrypt one row's secret with the active key; return False if it already is.

        Servers keep running meanwhile, so a row that changes during the operation is
        read again.
        """
        while True:
            value = msgspec.json.decode(row.body, type=resource_class)
            if not value.secret or keys.is_current(value.secret):
                return False
            plain = keys.decrypt(
                value.secret, tenant=row.tenant, kind=row.kind, row=row.id
            )
            sealed = keys.encrypt(plain, tenant=row.tenant, kind=row.kind, row=row.id)
            body = _dump(msgspec.structs.replace(value, secret=sealed))
            # Swaps only if the row is unchanged, so that a concurrent change is never
            # overwritten.
            if await self._resources.swap(row, body):
                return True
            try:
                row = await self._resources.get(row.tenant, row.kind, row.id)
            # The row was removed in the meantime.
            except NotFoundError:
                return False


def _changed_name(old: Resource, fields: JSON) -> str:
    """Return the new name of a resource, or its old one. Raises InvokeBadRequestError
    if it is invalid or would rename a tenant."""
    name = fields.get("name", old.name)
    is_renamed_tenant = old.kind == Tenant.kind and name != old.name
    if isinstance(name, str) and _NAME.fullmatch(name) and not is_renamed_tenant:
        return name
    raise InvokeBadRequestError(
        "'name' must be 1 to 200 printable characters; a tenant cannot be renamed",
        param="name",
    )


def _key(value: KeyInput, digest: str, hint: str) -> ApiKey:
    """Return the stored form of a key."""
    return ApiKey(
        digest=digest,
        hint=hint,
        role=value.role,
        user=value.user,
        models=value.models,
        priority=value.priority,
        expires_at=value.expires_at,
        unpriced=value.unpriced,
        speaks_for_users=value.speaks_for_users,
    )


def _credential(value: CredentialInput, secret: str) -> StoredCredential:
    """Return the stored form of a credential."""
    return StoredCredential(
        provider=value.provider,
        secret=secret,
        model=value.model,
        model_type=value.model_type,
        weight=value.weight,
        priority=value.priority,
        domain=value.domain,
        is_enabled=value.is_enabled,
    )


def _dump(value: Any) -> str:
    """Return a value as JSON text."""
    return msgspec.json.encode(value).decode()


def _is_readable(resource: Resource) -> bool:
    """Return whether a row's body is a JSON object. A damaged row is omitted, and the
    directory logs it."""
    try:
        return isinstance(msgspec.json.decode(resource.body), dict)
    except msgspec.MsgspecError:
        return False


def public_view(resource: Resource) -> JSON:
    """Return a resource as JSON without its secrets."""
    body: JSON = msgspec.json.decode(resource.body)
    for field in ("digest", "secret"):
        body.pop(field, None)
    set_by = {"set_by": resource.set_by} if resource.kind in OPERATOR_MANAGED else {}
    return {
        "id": resource.id,
        "name": resource.name,
        **body,
        **set_by,
        "created_at": resource.created_at,
        "updated_at": resource.updated_at,
    }
