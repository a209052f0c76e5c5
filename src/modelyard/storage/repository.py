"""What repositories share: the statements of a noun's file, and the ways in."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.storage.database import Database
from modelyard.storage.engine import Connection, Row
from modelyard.storage.statements import statements

_LISTED = 400
"""Values in one list of a statement, at most: engines have an end to them."""


class Repository:
    """The tables of one noun, reached by the statements of `sql/<name>.sql`, which nobody else has.

    Methods that take a Connection are steps of a transaction, or of a trip to a reader, that somebody else began.
    """

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._sql = statements(name)

    async def _rows(self, name: str, /, **values: Any) -> list[Row]:
        """Raises StorageUnavailableError."""
        return await self._database.fetch(self._sql[name], values)

    async def _do(self, name: str, /, *values: Any) -> list[Row]:
        """One statement as a transaction. Raises StorageUnavailableError."""
        return await self._database.transact(lambda connection: connection.execute(self._sql[name], values))

    def _step(self, connection: Connection, name: str, /, *values: Any) -> list[Row]:
        """One statement among others."""
        return connection.execute(self._sql[name], values)

    def _listed(self, connection: Connection, name: str, listed: Sequence[Any], /, *before: Any) -> list[Row]:
        """A statement with a list in the place of its `(*)`, which is its last value; some of a long list at a time.

        Its other conditions are written as expressions (`tenant || ''`), or SQLite takes an index on them and reads
        all that a tenant has.
        """
        rows: list[Row] = []
        for begin in range(0, len(listed), _LISTED):
            some = listed[begin : begin + _LISTED]
            places = ",".join("?" * len(some))
            rows += connection.execute(self._sql[name].replace("(*)", f"({places})"), [*before, *some])
        return rows


def by_name(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Rows of many columns as dictionaries. SQLite's own rows compare the names of columns one after another: to read
    all thirty of a row takes three times as long."""
    if not rows or isinstance(rows[0], dict):
        return list(rows)
    names = tuple(rows[0].keys())
    return [dict(zip(names, row, strict=True)) for row in rows]
