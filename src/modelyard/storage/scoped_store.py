"""A key-value store for tools: bytes by name within a tenant and a scope, with a limit
per scope."""

from typing import NamedTuple

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError
from modelyard.storage.database import Database
from modelyard.storage.engine import Connection
from modelyard.storage.statements import statements

# The name is part of the primary key.
_MAX_NAME_LENGTH = 256


class Entry(NamedTuple):
    """Metadata of a stored value."""

    name: str
    size: int
    updated_at: float


class ScopedStore:
    """The store. Names are unique within a tenant and a scope."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        max_bytes: int = 16 << 20,
        max_names: int = 1000,
    ) -> None:
        self._database = database
        self._clock = clock
        self._sql = statements("kept")
        self._most_bytes = max_bytes
        self._most_names = max_names

    async def get(self, tenant: str, scope: str, name: str) -> bytes | None:
        """Return a value, or None if the name is not stored."""
        values = {
            "tenant": tenant,
            "scope": scope,
            "name": _valid_name(name),
        }
        rows = await self._database.fetch(self._sql["get"], values)
        return bytes(rows[0]["value"]) if rows else None

    async def put(self, tenant: str, scope: str, name: str, value: bytes) -> None:
        """Store a value, replacing an existing one of the same name.

        Raises InvokeBadRequestError, without storing it, if the name is invalid or the
        scope would exceed its limit of bytes or names.
        """
        _valid_name(name)
        current_time = self._clock.time()

        def work(connection: Connection) -> None:
            """Check the limits and write the value within the transaction.

            Only the other names are counted: the new value replaces an old one of the
            same name.
            """
            usage_row = connection.execute(self._sql["others"], (tenant, scope, name))[
                0
            ]
            # Checked within the transaction: of two calls at the same time, the second
            # sees what the first has stored.
            if int(usage_row["held"]) + len(value) > self._most_bytes:
                raise InvokeBadRequestError(
                    f"{len(value):,} bytes exceed the storage limit:"
                    f" {int(usage_row['held']):,} of {self._most_bytes:,} are used"
                )
            if int(usage_row["count"]) >= self._most_names:
                raise InvokeBadRequestError(
                    f"The limit of {self._most_names:,} names is reached: remove some"
                    " first"
                )
            connection.execute(
                self._sql["put"], (tenant, scope, name, value, len(value), current_time)
            )

        await self._database.transact(work)

    async def put_newest(
        self, tenant: str, scope: str, name: str, value: bytes, *, keep: int
    ) -> None:
        """Store a value, and delete the oldest other ones of its scope so that at most
        `keep` remain. Raises like `put`."""
        entries = await self.list(tenant, scope, limit=2 * keep)
        # Newest first.
        others = [entry.name for entry in entries if entry.name != name]
        for other in others[keep - 1 :]:
            await self.remove(tenant, scope, other)
        await self.put(tenant, scope, name, value)

    async def list(self, tenant: str, scope: str, *, limit: int = 200) -> list[Entry]:
        """Return the metadata of the values in a scope, at most `limit`."""
        values = {"tenant": tenant, "scope": scope, "most": limit}
        rows = await self._database.fetch(self._sql["list"], values)
        return [
            Entry(str(row["name"]), int(row["size"]), float(row["updated_at"]))
            for row in rows
        ]

    async def values(
        self, tenant: str, scope: str, *, limit: int = 200
    ) -> "list[tuple[str, bytes]]":
        """Return (name, value) pairs, newest first, at most `limit`."""
        values = {"tenant": tenant, "scope": scope, "most": limit}
        rows = await self._database.fetch(self._sql["values"], values)
        return [(str(row["name"]), bytes(row["value"])) for row in rows]

    async def remove(self, tenant: str, scope: str, name: str) -> bool:
        """Delete a value; return whether it existed."""
        values = (tenant, scope, _valid_name(name))
        return await self._database.transact(
            lambda connection: bool(connection.execute(self._sql["remove"], values))
        )

    async def forget(self, prefix: str, cutoff: float) -> None:
        """Delete the scopes of all tenants that start with `prefix` and were not
        changed since `cutoff`."""
        # `%` and `_` are wildcards of LIKE.
        like = prefix.replace("%", "").replace("_", "") + "%"
        await self._database.transact(
            lambda connection: connection.execute(self._sql["forget"], (like, cutoff))
        )


def _valid_name(name: str) -> str:
    """Return a name unchanged if it is valid; raise InvokeBadRequestError otherwise.

    It must have 1 to 256 characters, without NUL, a leading slash, or two dots as a
    path component.
    """
    # Names look like relative paths, so that tools may show them as files.
    if (
        not name
        or len(name) > _MAX_NAME_LENGTH
        or "\0" in name
        or name.startswith("/")
        or ".." in name.split("/")
    ):
        raise InvokeBadRequestError(
            f"{name[:80]!r} is not a valid name: expected 1 to {_MAX_NAME_LENGTH}"
            " characters, without .. or a leading /"
        )
    return name
