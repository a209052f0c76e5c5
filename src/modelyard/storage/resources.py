"""What tenants have set up, as rows: every call names a tenant, and reaches its rows alone."""

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


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    kind: str
    id: str
    name: str
    body: str
    """JSON; secrets in it are encrypted."""
    revision: int
    created_at: float
    updated_at: float
    is_deleted: bool
    set_by: str = ""
    """`operator` where the operator set it; empty where it is the tenant's own."""


def _from(row: Any) -> Resource:
    return msgspec.convert(dict(row), Resource, strict=False)


def _readable(row: Any) -> Resource | None:
    try:
        return _from(row)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
        fields = {name: str(row[name])[:100] for name in ("tenant", "kind", "id")} | {"error": str(error)}
        logger.error("a stored row cannot be read, and is left out", extra={"fields": fields})
        return None


class Resources:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._sql = statements("resources")

    # the view that each process keeps

    async def revision(self) -> int:
        """The number of the latest change, by any tenant."""
        rows = await self._database.fetch(self._sql["revision"])
        return int(rows[0]["value"])

    async def since(self, revision: int) -> list[Resource]:
        """Changes of all tenants, removals too, oldest first. A row that cannot be read is left out, and said: the
        others serve."""
        rows = await self._database.fetch(self._sql["since"], {"revision": revision})
        return [one for row in rows if (one := _readable(row)) is not None]

    # one tenant's

    async def all(self, tenant: str, kind: str, *, after: str = "", most: int = 1000) -> list[Resource]:
        values = {"tenant": tenant, "kind": kind, "after": after, "most": most}
        return [_from(row) for row in await self._database.fetch(self._sql["all"], values)]

    async def one(self, tenant: str, kind: str, id: str) -> Resource:  # noqa: A002  the field's word
        """Raises NotFoundError where this tenant has no such thing."""
        rows = await self._database.fetch(self._sql["one"], {"tenant": tenant, "kind": kind, "id": id})
        if not rows:
            raise missing(kind, id)
        return _from(rows[0])

    async def add(
        self, tenant: str, kind: str, name: str, body: Callable[[str], str], *, id: str = "", set_by: str = ""  # noqa: A002
    ) -> Resource:  # fmt: skip
        """`body` is given the new row's id. Raises InvokeBadRequestError where the tenant has one of that name."""
        row = id or new_id(kind)
        text, now = body(row), self._clock.time()

        def work(connection: Connection) -> Resource:
            revision = self._raise(connection)
            values = (tenant, kind, row, name, text, revision, now, now, set_by)
            self._unique(kind, name, lambda: connection.execute(self._sql["add"], values))
            return Resource(
                tenant=tenant, kind=kind, id=row, name=name, body=text, revision=revision, created_at=now,
                updated_at=now, is_deleted=False, set_by=set_by,
            )  # fmt: skip

        return await self._database.transact(work)

    async def change(self, old: Resource, *, name: str, body: str, set_by: str | None = None) -> Resource:
        """Who set it stays where nobody else is named. Raises NotFoundError where it is gone, InvokeBadRequestError
        where the name is taken."""
        now, who = self._clock.time(), old.set_by if set_by is None else set_by

        def work(connection: Connection) -> Resource:
            revision = self._raise(connection)
            values = (name, body, revision, now, who, old.tenant, old.kind, old.id)
            if not self._unique(old.kind, name, lambda: connection.execute(self._sql["change"], values)):
                raise missing(old.kind, old.id)
            return msgspec.structs.replace(old, name=name, body=body, revision=revision, updated_at=now, set_by=who)

        return await self._database.transact(work)

    async def swap(self, old: Resource, body: str) -> bool:
        """Put `body` in the place of `old`'s; False, and nothing is done, where somebody else changed it meanwhile."""
        now = self._clock.time()

        def work(connection: Connection) -> bool:
            revision = self._raise(connection)
            values = (body, revision, now, old.tenant, old.kind, old.id, old.revision)
            return bool(connection.execute(self._sql["swap"], values))

        return await self._database.transact(work)

    async def remove(self, tenant: str, kind: str, id: str) -> int:  # noqa: A002
        """Raises NotFoundError where there is no such thing. The revision it went with."""

        def work(connection: Connection) -> int:
            revision = self._raise(connection)
            if not connection.execute(self._sql["remove"], (revision, self._clock.time(), tenant, kind, id)):
                raise missing(kind, id)
            return revision

        return await self._database.transact(work)

    def forget(self, before: float) -> None:
        """Have what was removed before then dropped some time: nobody waits for it."""
        self._database.submit(lambda it: it.execute(self._sql["forget"], (before,)), may_gather=True)

    def _raise(self, connection: Connection) -> int:
        return int(connection.execute(self._sql["raise"])[0]["value"])

    def _unique(self, kind: str, name: str, act: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        try:
            return act()
        except DuplicateError as error:
            raise InvokeBadRequestError(f"there is a {kind} named {name!r} already", param="name") from error


def missing(kind: str, id: str) -> NotFoundError:  # noqa: A002
    """The same words whether it never was, is gone, or is another tenant's."""
    return NotFoundError(f"{kind} {id!r} does not exist", code=f"{kind}_not_found")
