"""Resources configured by tenants, stored as rows. Every operation is limited to one
tenant, except for synchronisation."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.storage.database import Database
from modelyard.storage.engine import Connection, DuplicateError
from modelyard.storage.statements import statements

logger = logging.getLogger("modelyard.resources")

RESOURCES_TOPIC = "resources"
"""Signalled with each change of a resource."""


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A configured object of a tenant, such as a provider, an app or an API key."""

    tenant: str
    kind: str
    id: str
    name: str
    body: str
    """JSON; secrets in it are encrypted."""
    revision: int
    created_at: float
    updated_at: float
    # Deleted rows remain for a while, so that other processes learn about the deletion.
    is_deleted: bool
    set_by: str = ""
    """`operator` if the operator created it, empty if the tenant did."""


def _to_resource(row: Any) -> Resource:
    """Return a row as a resource."""
    return msgspec.convert(dict(row), Resource, strict=False)


def _to_resource_or_none(row: Any) -> Resource | None:
    """Return a row as a resource; None if it is unreadable, which is logged.

    The log entry has only the row's tenant, kind and id, as the body may contain
    secrets.
    """
    try:
        return _to_resource(row)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
        # Only identifying columns are logged: the body may contain secrets.
        fields = {name: str(row[name])[:100] for name in ("tenant", "kind", "id")} | {
            "error": str(error)
        }
        logger.error(
            "a stored row cannot be read and is skipped", extra={"fields": fields}
        )
        return None


class Resources:
    """The resource table. Each change increments a global revision, by which processes
    update their views."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._sql = statements("resources")

    # Synchronisation of the view that each process holds in memory.

    async def revision(self) -> int:
        """Return the revision of the latest change by any tenant."""
        rows = await self._database.fetch(self._sql["revision"])
        return int(rows[0]["value"])

    async def changed_since(self, revision: int) -> list[Resource]:
        """Return the changes of all tenants after a revision, including deletions,
        oldest first.

        An unreadable row is logged and left out, so that the others remain usable.
        """
        rows = await self._database.fetch(self._sql["since"], {"revision": revision})
        return [
            resource
            for row in rows
            if (resource := _to_resource_or_none(row)) is not None
        ]

    # Operations on one tenant's resources.

    async def list(
        self, tenant: str, kind: str, *, after: str = "", limit: int = 1000
    ) -> list[Resource]:
        """Return the tenant's resources of a kind, one page at a time.

        At most `limit` that follow the position `after` are returned; an empty position
        means the beginning.
        """
        values = {"tenant": tenant, "kind": kind, "after": after, "most": limit}
        return [
            _to_resource(row)
            for row in await self._database.fetch(self._sql["all"], values)
        ]

    async def get(self, tenant: str, kind: str, id: str) -> Resource:
        """Return a resource. Raises NotFoundError if this tenant has none with this id."""
        rows = await self._database.fetch(
            self._sql["one"], {"tenant": tenant, "kind": kind, "id": id}
        )
        if not rows:
            raise not_found(kind, id)
        return _to_resource(rows[0])

    async def add(
        self,
        tenant: str,
        kind: str,
        name: str,
        body: Callable[[str], str],
        *,
        id: str = "",
        set_by: str = "",
    ) -> Resource:
        """Create a resource and return it. `body` is called with the new id and returns
        the JSON.

        Raises InvokeBadRequestError if the tenant already has one of that name.
        """
        row = id or new_id(kind)
        # The id comes first because encrypted secrets in the body are bound to it.
        text, current_time = body(row), self._clock.time()

        def work(connection: Connection) -> Resource:
            """Insert the row within the transaction."""
            revision = self._next_revision(connection)
            values = (
                tenant,
                kind,
                row,
                name,
                text,
                revision,
                current_time,
                current_time,
                set_by,
            )
            self._unique(
                kind, name, lambda: connection.execute(self._sql["add"], values)
            )
            return Resource(
                tenant=tenant,
                kind=kind,
                id=row,
                name=name,
                body=text,
                revision=revision,
                created_at=current_time,
                updated_at=current_time,
                is_deleted=False,
                set_by=set_by,
            )

        return await self._database.transact(work)

    async def change(
        self, old: Resource, *, name: str, body: str, set_by: str | None = None
    ) -> Resource:
        """Change a resource and return its new state. Without `set_by`, its origin is
        unchanged.

        Raises NotFoundError if it was deleted, InvokeBadRequestError if the name is in
        use.
        """
        current_time, who = self._clock.time(), old.set_by if set_by is None else set_by

        def work(connection: Connection) -> Resource:
            """Update the row within the transaction."""
            revision = self._next_revision(connection)
            values = (
                name,
                body,
                revision,
                current_time,
                who,
                old.tenant,
                old.kind,
                old.id,
            )
            # The statement changes no row if the resource was deleted in the meantime.
            if not self._unique(
                old.kind, name, lambda: connection.execute(self._sql["change"], values)
            ):
                raise not_found(old.kind, old.id)
            return msgspec.structs.replace(
                old,
                name=name,
                body=body,
                revision=revision,
                updated_at=current_time,
                set_by=who,
            )

        return await self._database.transact(work)

    async def swap(self, old: Resource, body: str) -> bool:
        """Replace a resource's body if it is unchanged since `old` was read.

        Returns whether it was replaced; False also means that it was deleted meanwhile.
        """
        current_time = self._clock.time()

        def work(connection: Connection) -> bool:
            """Update the row within the transaction, conditional on its revision."""
            revision = self._next_revision(connection)
            values = (
                body,
                revision,
                current_time,
                old.tenant,
                old.kind,
                old.id,
                old.revision,
            )
            return bool(connection.execute(self._sql["swap"], values))

        return await self._database.transact(work)

    async def remove(self, tenant: str, kind: str, id: str) -> int:
        """Delete a resource and return the revision of the deletion. Raises
        NotFoundError if it does not exist."""

        def work(connection: Connection) -> int:
            """Mark the row as deleted within the transaction."""
            revision = self._next_revision(connection)
            if not connection.execute(
                self._sql["remove"], (revision, self._clock.time(), tenant, kind, id)
            ):
                raise not_found(kind, id)
            return revision

        return await self._database.transact(work)

    def forget(self, cutoff: float) -> None:
        """Queue the removal of rows that were deleted before `cutoff`. Returns
        immediately."""
        self._database.submit(
            lambda connection: connection.execute(self._sql["forget"], (cutoff,)),
            may_gather=True,
        )

    def _next_revision(self, connection: Connection) -> int:
        """Return the number of the next change."""
        # Incremented first in each transaction, so concurrent changes are serialised by
        # this row.
        revision = int(connection.execute(self._sql["raise"])[0]["value"])
        self._database.signals.send(connection, RESOURCES_TOPIC)
        return revision

    def _unique(
        self, kind: str, name: str, act: Callable[[], Sequence[Any]]
    ) -> Sequence[Any]:
        """Run a statement that may use a taken name, and return its rows.

        Raises InvokeBadRequestError if the tenant already has a `kind` of this name.
        """
        try:
            return act()
        except DuplicateError as error:
            problem = f"{kind_label(kind)} {name!r} already exists"
            raise InvokeBadRequestError(problem, param="name") from error


def not_found(kind: str, id: str) -> NotFoundError:
    """Return the error for a missing resource. The wording does not reveal whether it
    exists for another tenant."""
    return NotFoundError(
        f"{kind_label(kind)} {id!r} does not exist", code=f"{kind}_not_found"
    )


def kind_label(kind: str) -> str:
    """Return a resource type as it begins a message: "Tool credential" for
    `tool_credential`."""
    return kind.replace("_", " ").capitalize().replace("Oauth", "OAuth")
