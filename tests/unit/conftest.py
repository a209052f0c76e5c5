"""Fixtures of the unit tests."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest


class ExactRow(sqlite3.Row):
    """A row that has its columns under their exact names only.

    SQLite's own rows also take names in another case, which a row of PostgreSQL does
    not have: the code would fail there, and nowhere else.
    """

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str) and key not in self.keys():
            raise KeyError(key)
        return super().__getitem__(key)


@pytest.fixture(autouse=True, scope="session")
def columns_have_exact_names() -> Iterator[None]:
    """Let databases of this process return exact rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "Row", ExactRow)
        yield
