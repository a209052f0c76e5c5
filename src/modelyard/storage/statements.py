"""Statements: those with names in `sql/*.sql`, and one made for many rows."""

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from itertools import chain
from typing import Any

from modelyard.storage.engine import Connection, Row

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_ROW = re.compile(r"(?s)(.*\bVALUES\s*)(\([^()]*\))(.*)")
_ROWS_AT_ONCE = (50, 10)
"""So many rows a statement, while there are as many."""


def statements(name: str) -> dict[str, str]:
    """The named statements of `sql/<name>.sql`."""
    text = (resources.files("modelyard.storage") / "sql" / f"{name}.sql").read_text("utf-8")
    parts = _NAME.split(text)[1:]
    return {key: _bare(body) for key, body in zip(parts[::2], parts[1::2], strict=True)}


def _bare(body: str) -> str:
    """Without its description."""
    return "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip().rstrip(";")


def insert(connection: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Write rows by a statement with one `VALUES (?, …)`: many at once, while there are as many."""
    for count in _ROWS_AT_ONCE:
        many = _for_many(statement, count)
        while many and len(rows) >= count:
            some, rows = rows[:count], rows[count:]
            connection.execute(many, list(chain.from_iterable(some)))
    if rows:
        connection.execute_many(statement, rows)


def insert_new(connection: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> list[Row]:
    """As `insert`, by a statement that ends with RETURNING: what it returns of the rows that were not there.

    Raises ValueError for a statement without `VALUES (…)`.
    """
    returned: list[Row] = []
    for count in (*_ROWS_AT_ONCE, 1):
        many = _for_many(statement, count)
        if many is None:
            raise ValueError(f"no statement with VALUES (…): {statement[:80]!r}")
        while len(rows) >= count:
            some, rows = rows[:count], rows[count:]
            returned += connection.execute(many, list(chain.from_iterable(some)))
    return returned


@lru_cache(64)
def _for_many(statement: str, count: int) -> str | None:
    """The statement for so many rows.

    SQLite's driver lets go of the interpreter's lock at every statement: row by row, the two threads would spend more
    on passing it to and fro than on the rows.
    """
    match = _ROW.fullmatch(statement)
    return f"{match[1]}{','.join([match[2]] * count)}{match[3]}" if match else None
