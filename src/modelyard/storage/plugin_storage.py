"""The key-value store of plugins: bytes by name within a tenant and a plugin, up to the
plugin's quota."""

from modelyard.base.errors import PluginError
from modelyard.storage.database import Database
from modelyard.storage.engine import Connection
from modelyard.storage.statements import statements

# The name is part of the primary key.
_MAX_NAME_LENGTH = 256


class PluginStorage:
    """The store. Names are unique within a tenant and a plugin."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("plugin_storage")

    async def get(self, tenant: str, plugin: str, name: str) -> bytes | None:
        """Return a value, or None if the name is not stored."""
        values = {"tenant": tenant, "plugin": plugin, "name": _valid_name(name)}
        rows = await self._database.fetch(self._sql["get"], values)
        return bytes(rows[0]["value"]) if rows else None

    async def put(
        self, tenant: str, plugin: str, name: str, value: bytes, *, max_bytes: int
    ) -> None:
        """Store a value, replacing an existing one of the same name.

        `max_bytes` limits all values of the plugin for this tenant. Raises PluginError,
        without storing the value, if that is exceeded or the name is invalid.
        """
        _valid_name(name)

        def work(connection: Connection) -> None:
            """Check the quota and write the value within the transaction.

            Only the other names are counted: the new value replaces an old one of the
            same name.
            """
            stored_bytes = int(
                connection.execute(self._sql["others"], (tenant, plugin, name))[0][
                    "held"
                ]
            )
            # Checked within the transaction, so that calls at the same time cannot
            # exceed it together.
            if stored_bytes + len(value) > max_bytes:
                raise PluginError(
                    f"Plugin storage would hold {stored_bytes + len(value):,} bytes; {max_bytes:,}"
                    " are allowed",
                    plugin=plugin,
                )
            connection.execute(
                self._sql["put"], (tenant, plugin, name, value, len(value))
            )

        await self._database.transact(work)

    async def remove(self, tenant: str, plugin: str, name: str) -> int:
        """Delete a value; return how many were deleted, 1 or 0."""
        values = (tenant, plugin, _valid_name(name))
        return await self._database.transact(
            lambda connection: len(connection.execute(self._sql["remove"], values))
        )

    async def clear(self, tenant: str, plugin: str) -> None:
        """Delete all values of a plugin for a tenant."""
        await self._database.transact(
            lambda connection: connection.execute(self._sql["clear"], (tenant, plugin))
        )


def _valid_name(name: str) -> str:
    """Return a key unchanged if a plugin may use it; raise PluginError otherwise.

    It must have 1 to 256 characters, without two dots or two slashes in a row,
    backslashes or NUL.
    """
    if (
        not name
        or len(name) > _MAX_NAME_LENGTH
        or ".." in name
        or "//" in name
        or "\\" in name
        or "\0" in name
    ):
        raise PluginError(
            f"{name[:80]!r} is not a valid key: expected 1 to 256 characters,"
            " without .., // or \\"
        )
    return name
