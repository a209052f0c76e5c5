"""The principals of readers: their names, and the groups that they belong to now.

Groups come from the users of the directory, which administrators set, and from the
identity provider's claims at the last sign-in. They are looked up at each search, so
that a change applies to the next one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.storage.resources import Resources
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.reader import (
    MAX_PRINCIPALS,
    Reader,
    group_principal,
    normal_name,
    own_principals,
    user_principal,
)
from modelyard.tenancy.resource_types import GroupClaims, User

_NOBODY: frozenset[str] = frozenset()


class _TenantView(msgspec.Struct, frozen=True):
    """The users and claims of a tenant, at one state of the directory."""

    changes: int
    users: Mapping[str, Sequence[tuple[str, User]]]
    """Name or email address to the users that have it, each with its name."""
    claims: Mapping[str, GroupClaims]


class Memberships:
    """Looks up the groups of users, and stores what an identity provider says of them."""

    def __init__(
        self, directory: Directory, resources: Resources, get_time: Callable[[], float]
    ) -> None:
        self._directory = directory
        self._resources = resources
        self._now = get_time
        self._views: dict[str, _TenantView] = {}

    def principals_of(
        self,
        tenant: str,
        reader: Reader,
    ) -> frozenset[str] | None:
        """Return the principals of a reader in a tenant; None if access lists do not
        apply. A disabled user has none and reads nothing."""
        own = own_principals(tenant, reader)
        if own is None:
            return None
        principals = set(own)
        view = self._view(tenant)
        # A trusted caller names one user; a key has a name and perhaps an address.
        for name in map(normal_name, reader.users):
            entries = view.users.get(name, ())
            if not all(user.is_enabled for _, user in entries):
                return _NOBODY
            for entry_name, user in entries:
                principals.update(_principals_of_entry(entry_name, user))
            claims = view.claims.get(name)
            # Claims are never confirmed between two sign-ins, so they end.
            if claims is not None and claims.valid_until > self._now():
                principals.update(map(group_principal, claims.groups))
        return frozenset(principals)

    def _view(
        self,
        tenant: str,
    ) -> _TenantView:
        """Return the tenant's users and claims by name. Built again only after the
        directory has changed: searches must not read through all users."""
        view = self._views.get(tenant)
        changes = self._directory.changes
        if view is None or view.changes != changes:
            users: dict[str, list[tuple[str, User]]] = defaultdict(list)
            for entry, user in self._directory.of(tenant, User):
                for name in {normal_name(entry.name), normal_name(user.email)} - {""}:
                    users[name].append((entry.name, user))
            claims = {
                normal_name(entry.name): claim
                for entry, claim in self._directory.of(tenant, GroupClaims)
            }
            view = self._views[tenant] = _TenantView(changes, dict(users), claims)
        return view

    async def record_claims(
        self, tenant: str, user: str, groups: Sequence[str], valid_seconds: float
    ) -> None:
        """Store the groups that the identity provider names for a person who signs in;
        they replace those of the last time. Raises StorageUnavailableError."""
        names = [normal_name(group) for group in groups[:MAX_PRINCIPALS]]
        claims = GroupClaims(
            groups=sorted({name for name in names if name}),
            valid_until=self._now() + valid_seconds,
        )
        body = msgspec.json.encode(claims).decode()
        name = normal_name(user)
        # Another process may have stored the first claims of this person.
        await self._directory.refresh()
        rows = self._directory.of(tenant, GroupClaims)
        row = next((entry.id for entry, _ in rows if entry.name == name), None)
        if row is None and not claims.groups:
            return
        if row is None:
            # Two sign-ins of one person at a time: the other one has stored the same.
            with suppress(InvokeBadRequestError):
                await self._resources.add(
                    tenant, GroupClaims.kind, name, lambda _: body
                )
        else:
            old = await self._resources.get(tenant, GroupClaims.kind, row)
            await self._resources.change(old, name=name, body=body)
        await self._directory.refresh()


def _principals_of_entry(
    name: str,
    user: User,
) -> Iterator[str]:
    """Yield the principals of a user's entry: its name, its email address, which is the
    same person in the lists of other systems, and its groups."""
    yield user_principal(name)
    if user.email:
        yield user_principal(user.email)
    yield from map(group_principal, user.groups)
