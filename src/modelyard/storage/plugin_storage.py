"""What plugins keep for themselves: names and bytes, within one tenant and one plugin, never more than it was given."""

from modelyard.base.errors import PluginError
from modelyard.storage.database import Database
from modelyard.storage.engine import Connection
from modelyard.storage.statements import statements

_MOST_NAME = 256


class PluginStorage:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("plugin_storage")

    async def get(self, tenant: str, plugin: str, name: str) -> bytes | None:
        values = {"tenant": tenant, "plugin": plugin, "name": _checked(name)}
        rows = await self._database.fetch(self._sql["get"], values)
        return bytes(rows[0]["value"]) if rows else None

    async def put(self, tenant: str, plugin: str, name: str, value: bytes, *, most: int) -> None:
        """Raises PluginError where the plugin would then hold more than `most` bytes; nothing is written then."""
        _checked(name)

        def work(connection: Connection) -> None:
            held = int(connection.execute(self._sql["others"], (tenant, plugin, name))[0]["held"])
            if held + len(value) > most:
                raise PluginError(f"it would keep {held + len(value):,} bytes; {most:,} are allowed", plugin=plugin)
            connection.execute(self._sql["put"], (tenant, plugin, name, value, len(value)))

        await self._database.transact(work)

    async def remove(self, tenant: str, plugin: str, name: str) -> int:
        """How many there were: one, or none."""
        values = (tenant, plugin, _checked(name))
        return await self._database.transact(lambda it: len(it.execute(self._sql["remove"], values)))

    async def clear(self, tenant: str, plugin: str) -> None:
        await self._database.transact(lambda it: it.execute(self._sql["clear"], (tenant, plugin)))


def _checked(name: str) -> str:
    if not name or len(name) > _MOST_NAME or ".." in name or "//" in name or "\\" in name or "\0" in name:
        raise PluginError(
            f"{name[:80]!r} is no name to keep something under: 1 to 256 characters, without .., // or \\"
        )
    return name
