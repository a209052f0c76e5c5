"""SQL statements: named ones from `sql/*.sql`, and multi-row versions of INSERT
statements."""

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
"""Numbers of rows per multi-row statement; the largest that the remaining rows fill is
used."""


def statements(name: str) -> dict[str, str]:
    """Return the statements of `sql/<name>.sql` by name."""
    text = (resources.files("modelyard.storage") / "sql" / f"{name}.sql").read_text(
        "utf-8"
    )
    # The split alternates names and bodies; text before the first name is ignored.
    parts = _NAME.split(text)[1:]
    return {
        key: _without_comments(body)
        for key, body in zip(parts[::2], parts[1::2], strict=True)
    }


def _without_comments(body: str) -> str:
    """Return a statement without its comment lines."""
    return (
        "\n".join(line for line in body.splitlines() if not line.startswith("--"))
        .strip()
        .rstrip(";")
    )


def insert(
    connection: Connection, statement: str, rows: Sequence[Sequence[Any]]
) -> None:
    """Insert rows with a statement that has one `VALUES (?, …)`, many rows per
    execution if possible."""
    for count in _ROWS_AT_ONCE:
        batch_statement = _multi_row_statement(statement, count)
        while batch_statement and len(rows) >= count:
            batch, rows = rows[:count], rows[count:]
            connection.execute(batch_statement, list(chain.from_iterable(batch)))
    # Rows left over, or a statement without a VALUES list to multiply.
    if rows:
        connection.execute_many(statement, rows)


def insert_new(
    connection: Connection, statement: str, rows: Sequence[Sequence[Any]]
) -> list[Row]:
    """Insert rows with a statement that ends in RETURNING, and return the rows that
    were actually inserted.

    Raises ValueError for a statement without `VALUES (…)`.
    """
    returned: list[Row] = []
    for count in (*_ROWS_AT_ONCE, 1):
        batch_statement = _multi_row_statement(statement, count)
        if batch_statement is None:
            raise ValueError(f"No statement with VALUES (…): {statement[:80]!r}")
        while len(rows) >= count:
            batch, rows = rows[:count], rows[count:]
            returned += connection.execute(
                batch_statement, list(chain.from_iterable(batch))
            )
    return returned


@lru_cache(64)
def _multi_row_statement(statement: str, count: int) -> str | None:
    """Return the statement extended to `count` rows, or None if it has no VALUES list.

    SQLite's driver releases the interpreter lock at every statement. Row by row, two
    threads would spend more time on passing it back and forth than on the rows.
    """
    match = _ROW.fullmatch(statement)
    return f"{match[1]}{','.join([match[2]] * count)}{match[3]}" if match else None
