"""Tenants and what belongs to them, as each process knows it: looked up in memory, and brought up to date."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from modelyard.storage.resources import Resource
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tenancy.kinds import (
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


class Known(msgspec.Struct, frozen=True):
    """A resource with its words read."""

    id: str
    name: str
    value: Any
    set_by: str = ""
    """`operator` or `settings`; empty where the tenant itself set it."""


OPERATOR, SETTINGS = "operator", "settings"
"""Who set a row, where it was not the tenant itself: the one mark, for every kind of row and every tenant, the default
one included. A credential's mark says whether its addresses are the operator's word (`tenancy/operators.py`)."""
KEPT_BY_OPERATOR = frozenset({Limit.kind, Route.kind, CustomModel.kind, DefaultModel.kind, StoredCredential.kind})
"""Kinds of rows that a tenant may neither change nor take away nor replace where the operator set them: what it may
use, how fast, at what price, and with whose credential. Others that the operator makes for it (its keys, users, apps,
plugins) are its own from then on."""
TAKEN_BY_OPERATOR = frozenset({Limit.kind, CustomModel.kind})
"""Of these, those that are the operator's from the moment on at which it changes one of the tenant's own."""


_FROM_SETTINGS = "file:"


class Changes(Protocol):
    """Where the view comes from."""

    async def since(self, revision: int) -> Sequence[Resource]: ...


class Directory:
    """Everything that tenants have set up, in memory; `refresh` brings in what other processes changed.

    The data path looks things up here and nowhere else: a call waits for no database.
    """

    def __init__(self, source: Changes) -> None:
        self._source = source
        self.is_read = False
        """Whether it was ever filled: before that it knows of nobody, and nobody may be admitted by it."""
        self._revision = 0
        self._all: dict[tuple[str, str], dict[str, Known]] = defaultdict(dict)
        self._owner_of_key: dict[str, str] = {}
        self._gone: set[str] = set()
        """Tenants that were removed: what was theirs serves nobody."""
        self._listeners: list[Callable[[set[tuple[str, str]]], None]] = []
        self.changes = 0
        """Grows with every change: what was derived from the view before is stale."""

    def on_change(self, listener: Callable[[set[tuple[str, str]]], None]) -> None:
        """Have it told which (tenant, kind) changed."""
        self._listeners.append(listener)

    def configure(self, tenant: str, given: Mapping[str, Mapping[str, Any]]) -> None:
        """Resources from the settings, kind → name → value, in the place of those that came from there before."""
        for kind, values in given.items():
            here = self._all[tenant, kind]
            for row in [one for one in here if one.startswith(_FROM_SETTINGS)]:
                del here[row]
            for name, value in values.items():
                here[f"{_FROM_SETTINGS}{name}"] = Known(f"{_FROM_SETTINGS}{name}", name, value, SETTINGS)
        self._tell({(tenant, kind) for kind in given})

    def _tell(self, touched: set[tuple[str, str]]) -> None:
        if touched:
            self.changes += 1
            for listener in self._listeners:
                listener(touched)

    async def refresh(self) -> None:
        """Bring in what changed since the last time. Raises StorageUnavailableError."""
        self.take(await self._source.since(self._revision))
        self.is_read = True

    def take(self, changed: Sequence[Resource]) -> None:
        """Bring in these, oldest first. What another refresh brought in meanwhile stays: it may be newer."""
        known = self._revision
        touched: set[tuple[str, str]] = set()
        for one in changed:
            if one.revision <= known:
                continue
            self._revision = max(self._revision, one.revision)
            self._apply(one)
            touched.add((one.tenant, one.kind))
        self._tell(touched)

    def _apply(self, one: Resource) -> None:
        here = self._all[one.tenant, one.kind]
        here.pop(one.id, None)
        if one.kind == Tenant.kind:
            (self._gone.add if one.is_deleted else self._gone.discard)(one.tenant)
        if one.is_deleted:
            if one.kind == ApiKey.kind:
                self._owner_of_key.pop(one.id, None)
            return
        try:
            value = msgspec.json.decode(one.body, type=KINDS[one.kind])
            here[one.id] = Known(one.id, one.name, value, one.set_by)
        except (msgspec.MsgspecError, KeyError) as error:  # written by a newer version: left out, and said
            fields = {"tenant": one.tenant, "kind": one.kind, "id": one.id, "error": str(error)}
            logger.error("a stored resource cannot be read", extra={"fields": fields})
            return
        if one.kind == ApiKey.kind:
            self._owner_of_key[one.id] = one.tenant

    @property
    def revision(self) -> int:
        return self._revision

    def of(self, tenant: str, kind: type[StoredT]) -> list[tuple[Known, StoredT]]:
        """A tenant's resources of a kind."""
        known: Any = kind
        return [(one, one.value) for one in self._all.get((tenant, known.kind), {}).values()]

    def one(self, tenant: str, kind: type[StoredT], id: str) -> StoredT | None:  # noqa: A002
        known: Any = kind
        found = self._all.get((tenant, known.kind), {}).get(id)
        return found.value if found else None

    def named(self, tenant: str, kind: type[StoredT], name: str) -> StoredT | None:
        return next((value for one, value in self.of(tenant, kind) if one.name == name), None)

    def key(self, id: str) -> tuple[str, ApiKey] | None:  # noqa: A002
        """(tenant, key): whose it is follows from the key, never from what the caller says."""
        tenant = self._owner_of_key.get(id)
        found = self.one(tenant, ApiKey, id) if tenant is not None else None
        return (tenant, found) if tenant is not None and found is not None else None

    def caller_of_key(self, id: str, now: float) -> Caller | None:  # noqa: A002
        """What a key of this id may do now; None if it was revoked, has expired, or its tenant or user is disabled."""
        found = self.key(id)
        if found is None:
            return None
        tenant, key = found
        is_expired = key.expires_at is not None and key.expires_at <= now
        if key.revoked_at is not None or is_expired or not self.admits(tenant, key.user):
            return None
        return key.caller(tenant, id)

    @property
    def has_keys(self) -> bool:
        return bool(self._owner_of_key)

    def wherever(self, kind: type[StoredT], id: str) -> tuple[str, StoredT] | None:  # noqa: A002
        """(tenant, resource) by an id that is a secret of its own, as the one in a webhook's address."""
        known: Any = kind
        for (tenant, name), here in self._all.items():
            if name == known.kind and (found := here.get(id)) is not None:
                return tenant, found.value
        return None

    def anybody(self, kind: type[StoredT], fits: Callable[[StoredT], bool]) -> bool:
        """Whether any tenant has one of a kind that fits."""
        known: Any = kind
        here = [values for (_, name), values in self._all.items() if name == known.kind]
        return any(fits(one.value) for values in here for one in values.values())

    def everywhere(self, kind: type[StoredT]) -> Iterator[tuple[str, Known, StoredT]]:
        """(tenant, what is known of it, resource): for what is found by a secret that only its owner gave away."""
        known: Any = kind
        for (tenant, name), here in list(self._all.items()):
            if name == known.kind:
                yield from ((tenant, one, one.value) for one in here.values())

    def tenants(self) -> Iterator[tuple[str, Tenant]]:
        for (tenant, kind), here in list(self._all.items()):
            if kind == Tenant.kind:
                yield from ((tenant, one.value) for one in here.values())

    def is_enabled(self, tenant: str) -> bool:
        found = self.one(tenant, Tenant, tenant)
        return tenant == DEFAULT_TENANT if found is None else found.is_enabled

    def admits(self, tenant: str, user: str | None = None) -> bool:
        """Whether neither the tenant nor the user is switched off: asked on every way in, on every call."""
        return self.is_enabled(tenant) and not self.shuts_out(tenant, user)

    def shuts_out(self, tenant: str, user: str | None = None) -> bool:
        """Whether the tenant was removed or switched off, or the user was.

        Neither can be where it is no row: programs of the operator's may name tenants of their own, callers users.
        """
        found = self.one(tenant, Tenant, tenant)
        if tenant in self._gone if found is None else not found.is_enabled:
            return True
        row = self.named(tenant, User, user) if user else None
        return row is not None and not row.is_enabled
