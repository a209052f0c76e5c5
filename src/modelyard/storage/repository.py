"""Common base of repositories: access to the statements of one SQL file."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.storage.database import Database
from modelyard.storage.engine import Connection, Row

_MAX_LIST_VALUES = 400
"""Maximum number of values in one list of a statement; engines limit the number of
parameters."""


class Repository:
    """Access to the tables of one concept through the statements of `sql/<name>.sql`,
    which no other class uses.

    Methods that take a Connection are steps of a transaction or read that the caller
    started.
    """

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._sql = database.statements(name)

    async def _rows(self, name: str, /, **values: Any) -> list[Row]:
        """Run a query with named values. Raises StorageUnavailableError."""
        return await self._database.fetch(self._sql[name], values)

    async def _execute(self, name: str, /, *values: Any) -> list[Row]:
        """Run one statement as its own transaction and return its rows. Raises
        StorageUnavailableError."""
        return await self._database.transact(
            lambda connection: connection.execute(self._sql[name], values)
        )

    def _step(self, connection: Connection, name: str, /, *values: Any) -> list[Row]:
        """Run one statement within the caller's transaction."""
        return connection.execute(self._sql[name], values)

    def _with_list(
        self,
        connection: Connection,
        name: str,
        listed: Sequence[Any],
        /,
        *leading_values: Any,
    ) -> list[Row]:
        """Run a statement with a list in place of its `(*)`, in batches, and return all
        rows.

        The list must be the statement's last value. Its other conditions should be
        expressions (`tenant || ''`); otherwise SQLite uses an index on them and reads
        all rows of the tenant.
        """
        rows: list[Row] = []
        for start in range(0, len(listed), _MAX_LIST_VALUES):
            batch = listed[start : start + _MAX_LIST_VALUES]
            placeholders = ",".join("?" * len(batch))
            rows += connection.execute(
                self._sql[name].replace("(*)", f"({placeholders})"),
                [*leading_values, *batch],
            )
        return rows


def by_name(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Convert rows with many columns to dictionaries.

    SQLite's own rows look up column names linearly, so reading all thirty columns takes
    three times as long.
    """
    # PostgreSQL's rows are dictionaries already.
    if not rows or isinstance(rows[0], dict):
        return list(rows)
    names = tuple(rows[0].keys())
    return [dict(zip(names, row, strict=True)) for row in rows]
