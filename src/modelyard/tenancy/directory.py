"""The in-memory view of the tenants and their resources that each process keeps up to
date."""

import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import msgspec

from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.resources import Resource
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tenancy.resource_types import (
    KINDS,
    ApiKey,
    CustomModel,
    DefaultModel,
    Limit,
    Route,
    StoredCredential,
    Tenant,
    User,
)

logger = logging.getLogger("modelyard.tenancy")

StoredT = TypeVar("StoredT")


class CachedResource(msgspec.Struct, frozen=True):
    """A resource with its body decoded."""

    id: str
    name: str
    value: Any
    set_by: str = ""
    """`operator` or `settings`; empty if the tenant itself set it."""
    created_at: float = 0.0
    """In seconds since 1970; 0 for a resource from the settings."""
    updated_at: float = 0.0


OPERATOR, SETTINGS = "operator", "settings"
"""Who set a row, if not the tenant itself. The same marks are used for every type of
row and every tenant, including the default one. A credential's mark decides whether its
addresses are trusted as the operator's (`tenancy/operators.py`)."""
OPERATOR_MANAGED = frozenset(
    {Limit.kind, Route.kind, CustomModel.kind, DefaultModel.kind, StoredCredential.kind}
)
"""Row types that a tenant may not change, delete or replace if the operator set them:
what it may use, how fast, at what price, and with whose credential. Other rows that the
operator creates for a tenant (keys, users, apps, plugins) belong to the tenant."""
OPERATOR_CLAIMED = frozenset({Limit.kind, CustomModel.kind})
"""Those of them that become the operator's as soon as it changes one of the tenant's
own."""


# Ids of stored rows have no colon, so the two kinds never meet.
_FROM_SETTINGS = "file:"


class Changes(Protocol):
    """The source of the view."""

    async def changed_since(self, revision: int) -> Sequence[Resource]:
        """Return the resources that changed after a revision, oldest first."""
        ...


class Directory:
    """Everything that tenants have set up, in memory. `refresh` loads what other
    processes have changed.

    Calls look things up only here, so that no call waits for the database.
    """

    def __init__(self, source: Changes) -> None:
        self._source = source
        self.is_read = False
        """Whether the view has been loaded at least once. Before that it is empty and
        must not be used to admit anybody."""
        self._revision = 0
        self._all: dict[tuple[str, str], dict[str, CachedResource]] = defaultdict(dict)
        self._owner_of_key: dict[str, str] = {}
        self._deleted_tenants: set[str] = set()
        """Deleted tenants: their resources are not used any more."""
        self._listeners: list[Callable[[set[tuple[str, str]]], None]] = []
        self._preparations: list[Callable[[Sequence[Resource]], Awaitable[None]]] = []
        self._checked_at = float("-inf")
        self.changes = 0
        """Increases with every change. What was derived from an older view is stale."""

    def on_change(self, listener: Callable[[set[tuple[str, str]]], None]) -> None:
        """Register a callback that receives the changed (tenant, type) pairs."""
        self._listeners.append(listener)

    def before_change(
        self, listener: Callable[[Sequence[Resource]], Awaitable[None]]
    ) -> None:
        """Register a callback that receives changed resources before anybody sees them.
        It must be quick, since revoked keys wait for it too."""
        self._preparations.append(listener)

    def note_checked(self, started_at: float) -> None:
        """Note that the view had all changes at a moment of the monotonic clock."""
        self._checked_at = max(self._checked_at, started_at)

    async def ensure_fresh(self, seconds: float) -> None:
        """Refresh the view unless that was done within the last seconds. While the
        database is away, the view stays as it is."""
        if time.monotonic() - self._checked_at > seconds:
            with suppress(StorageUnavailableError):
                await self.refresh()

    def mark_changed(self, tenant: str, kind: str) -> None:
        """Call the listeners although no resource has changed, but what one stands
        for."""
        self._notify({(tenant, kind)})

    def configure(
        self, tenant: str, resources: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Set the resources from the settings, as type to name to value. They replace
        those of the settings before."""
        for kind, values in resources.items():
            resources_by_id = self._all[tenant, kind]
            # The id prefix tells resources of the settings from stored ones.
            for row in [
                row_id
                for row_id in resources_by_id
                if row_id.startswith(_FROM_SETTINGS)
            ]:
                del resources_by_id[row]
            for name, value in values.items():
                resources_by_id[f"{_FROM_SETTINGS}{name}"] = CachedResource(
                    f"{_FROM_SETTINGS}{name}", name, value, SETTINGS
                )
        self._notify({(tenant, kind) for kind in resources})

    def _notify(self, touched: set[tuple[str, str]]) -> None:
        """Call the listeners, if anything has changed."""
        if touched:
            self.changes += 1
            for listener in self._listeners:
                listener(touched)

    async def refresh(self) -> None:
        """Load what has changed since the last refresh. Raises StorageUnavailableError."""
        started_at = time.monotonic()
        changed = await self._source.changed_since(self._revision)
        for prepare in self._preparations:
            await prepare(changed)
        self.apply(changed)
        self.is_read = True
        self.note_checked(started_at)

    def apply(self, changed: Sequence[Resource]) -> None:
        """Apply changed resources, oldest first. Those that a concurrent refresh has
        applied already are skipped."""
        # Compare with the revision at the start: rows of one batch may share a
        # revision.
        start_revision = self._revision
        touched: set[tuple[str, str]] = set()
        for resource in changed:
            if resource.revision <= start_revision:
                continue
            self._revision = max(self._revision, resource.revision)
            self._apply(resource)
            touched.add((resource.tenant, resource.kind))
        # Listeners are called once, when the view is consistent.
        self._notify(touched)

    def _apply(self, resource: Resource) -> None:
        """Apply one changed or deleted resource."""
        resources_by_id = self._all[resource.tenant, resource.kind]
        # Removed first, so that a row that cannot be read does not live on with its old
        # content.
        resources_by_id.pop(resource.id, None)
        if resource.kind == Tenant.kind:
            # A tenant may be created again after it was deleted.
            (
                self._deleted_tenants.add
                if resource.is_deleted
                else self._deleted_tenants.discard
            )(resource.tenant)
        if resource.is_deleted:
            if resource.kind == ApiKey.kind:
                self._owner_of_key.pop(resource.id, None)
            return
        try:
            value = msgspec.json.decode(resource.body, type=KINDS[resource.kind])
            resources_by_id[resource.id] = CachedResource(
                resource.id,
                resource.name,
                value,
                resource.set_by,
                resource.created_at,
                resource.updated_at,
            )
        # Written by a newer version: the resource is skipped and an error is logged.
        except (msgspec.MsgspecError, KeyError) as error:
            fields = {
                "tenant": resource.tenant,
                "kind": resource.kind,
                "id": resource.id,
                "error": str(error),
            }
            logger.error("stored resource cannot be read", extra={"fields": fields})
            return
        if resource.kind == ApiKey.kind:
            self._owner_of_key[resource.id] = resource.tenant

    @property
    def revision(self) -> int:
        """The highest revision that was applied."""
        return self._revision

    def of(
        self, tenant: str, resource_class: type[StoredT]
    ) -> list[tuple[CachedResource, StoredT]]:
        """Return a tenant's resources of a type."""
        # Untyped, because `kind` is not declared on the type variable.
        stored_class: Any = resource_class
        resources = self._all.get((tenant, stored_class.kind), {})
        return [(resource, resource.value) for resource in resources.values()]

    def one(self, tenant: str, kind: type[StoredT], id: str) -> StoredT | None:
        """Return a resource by id; None if the tenant does not have it."""
        stored_class: Any = kind
        resource = self._all.get((tenant, stored_class.kind), {}).get(id)
        return resource.value if resource else None

    def get_by_name(
        self, tenant: str, resource_class: type[StoredT], name: str
    ) -> StoredT | None:
        """Return a resource by name; None if the tenant does not have it."""
        return next(
            (
                value
                for resource, value in self.of(tenant, resource_class)
                if resource.name == name
            ),
            None,
        )

    def key(self, id: str) -> tuple[str, ApiKey] | None:
        """Return (tenant, key) for a key's id. The tenant follows from the key, never
        from what the caller claims."""
        tenant = self._owner_of_key.get(id)
        api_key = self.one(tenant, ApiKey, id) if tenant is not None else None
        return (tenant, api_key) if tenant is not None and api_key is not None else None

    def caller_of_key(self, id: str, current_time: float) -> Caller | None:
        """Return the caller for a key id; None if the key is revoked or expired, or its
        tenant or user is disabled."""
        owned_key = self.key(id)
        if owned_key is None:
            return None
        tenant, key = owned_key
        is_expired = key.expires_at is not None and key.expires_at <= current_time
        if (
            key.revoked_at is not None
            or is_expired
            or not self.admits(tenant, key.user)
        ):
            return None
        return key.caller(tenant, id)

    @property
    def has_keys(self) -> bool:
        """Whether any API key exists."""
        return bool(self._owner_of_key)

    def get_any_tenant(
        self, resource_class: type[StoredT], id: str
    ) -> tuple[str, StoredT] | None:
        """Return (tenant, resource) by an id that is itself a secret, such as the one
        in a webhook's address."""
        stored_class: Any = resource_class
        for (tenant, name), resources_by_id in self._all.items():
            if (
                name == stored_class.kind
                and (resource := resources_by_id.get(id)) is not None
            ):
                return tenant, resource.value
        return None

    def find_any_tenant(
        self, resource_class: type[StoredT], predicate: Callable[[StoredT], bool]
    ) -> bool:
        """Return whether any tenant has a resource of a type that satisfies the
        predicate."""
        stored_class: Any = resource_class
        matching_maps = [
            values
            for (_, name), values in self._all.items()
            if name == stored_class.kind
        ]
        return any(
            predicate(resource.value)
            for values in matching_maps
            for resource in values.values()
        )

    def list_all_tenants(
        self, resource_class: type[StoredT]
    ) -> Iterator[tuple[str, CachedResource, StoredT]]:
        """Yield (tenant, entry, resource) over all tenants, to find a resource by a
        secret that only its owner could share."""
        stored_class: Any = resource_class
        # Copied, because a refresh may add tenants while the caller iterates.
        for (tenant, name), resources_by_id in list(self._all.items()):
            if name == stored_class.kind:
                yield from (
                    (tenant, resource, resource.value)
                    for resource in resources_by_id.values()
                )

    def tenants(self) -> Iterator[tuple[str, Tenant]]:
        """Yield (tenant, resource) for all tenants."""
        for (tenant, kind), resources_by_id in list(self._all.items()):
            if kind == Tenant.kind:
                yield from (
                    (tenant, resource.value) for resource in resources_by_id.values()
                )

    def is_enabled(self, tenant: str) -> bool:
        """Return whether the tenant is enabled. Without a row, only the default tenant
        is."""
        tenant_row = self.one(tenant, Tenant, tenant)
        return tenant == DEFAULT_TENANT if tenant_row is None else tenant_row.is_enabled

    def admits(self, tenant: str, user: str | None = None) -> bool:
        """Return whether neither the tenant nor the user is disabled. Checked on every
        call."""
        return self.is_enabled(tenant) and not self.is_disabled(tenant, user)

    def is_disabled(self, tenant: str, user: str | None = None) -> bool:
        """Return whether the tenant was deleted or disabled, or the user disabled.

        A tenant or user without a row is not shut out: the operator's own programs may
        use tenants, and callers may name users, that have no row.
        """
        tenant_row = self.one(tenant, Tenant, tenant)
        if (
            tenant in self._deleted_tenants
            if tenant_row is None
            else not tenant_row.is_enabled
        ):
            return True
        row = self.get_by_name(tenant, User, user) if user else None
        return row is not None and not row.is_enabled
