"""What tools keep for somebody: names and bytes within one tenant and one scope, never more than the scope may hold."""

from typing import NamedTuple

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError
from modelyard.storage.database import Database
from modelyard.storage.engine import Connection
from modelyard.storage.statements import statements

_MOST_NAME = 256


class Entry(NamedTuple):
    name: str
    size: int
    updated_at: float


class Kept:
    def __init__(self, database: Database, clock: Clock, *, most_bytes: int = 16 << 20, most_names: int = 1000) -> None:
        self._database = database
        self._clock = clock
        self._sql = statements("kept")
        self._most_bytes = most_bytes
        self._most_names = most_names

    async def get(self, tenant: str, scope: str, name: str) -> bytes | None:
        values = {"tenant": tenant, "scope": scope, "name": _checked(name)}
        rows = await self._database.fetch(self._sql["get"], values)
        return bytes(rows[0]["value"]) if rows else None

    async def put(self, tenant: str, scope: str, name: str, value: bytes) -> None:
        """Raises InvokeBadRequestError where the scope would hold too much; nothing is written then."""
        _checked(name)
        now = self._clock.time()

        def work(connection: Connection) -> None:
            others = connection.execute(self._sql["others"], (tenant, scope, name))[0]
            if int(others["held"]) + len(value) > self._most_bytes:
                raise InvokeBadRequestError(
                    f"{len(value):,} bytes do not fit: {int(others['held']):,} of {self._most_bytes:,} are taken"
                )
            if int(others["count"]) >= self._most_names:
                raise InvokeBadRequestError(f"{self._most_names:,} names are kept already: remove some first")
            connection.execute(self._sql["put"], (tenant, scope, name, value, len(value), now))

        await self._database.transact(work)

    async def list(self, tenant: str, scope: str, *, most: int = 200) -> list[Entry]:
        values = {"tenant": tenant, "scope": scope, "most": most}
        rows = await self._database.fetch(self._sql["list"], values)
        return [Entry(str(row["name"]), int(row["size"]), float(row["updated_at"])) for row in rows]

    async def values(self, tenant: str, scope: str, *, most: int = 200) -> "list[tuple[str, bytes]]":
        """(name, value), newest first."""
        values = {"tenant": tenant, "scope": scope, "most": most}
        rows = await self._database.fetch(self._sql["values"], values)
        return [(str(row["name"]), bytes(row["value"])) for row in rows]

    async def remove(self, tenant: str, scope: str, name: str) -> bool:
        values = (tenant, scope, _checked(name))
        return await self._database.transact(lambda it: bool(it.execute(self._sql["remove"], values)))

    async def forget(self, prefix: str, before: float) -> None:
        """Of all tenants: scopes that begin so, untouched since then."""
        like = prefix.replace("%", "").replace("_", "") + "%"
        await self._database.transact(lambda it: it.execute(self._sql["forget"], (like, before)))


def _checked(name: str) -> str:
    if not name or len(name) > _MOST_NAME or "\0" in name or name.startswith("/") or ".." in name.split("/"):
        raise InvokeBadRequestError(
            f"{name[:80]!r} is no name: 1 to {_MOST_NAME} characters, without .. or a leading /"
        )
    return name
