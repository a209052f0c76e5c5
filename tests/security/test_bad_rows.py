"""Tests for unreadable rows: they are skipped, and other rows are loaded."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.tenancy.caller import Caller
from modelyard.tenancy.resource_types import Limit

DAMAGES = [
    ("is_deleted", 7), ("body", "no JSON {"), ("body", '{"unit": 3}'), ("body", '{"unit": "requests", "amount": 1, "x": 2}'),
    ("created_at", 9e999), ("kind", "of a newer version"),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), DAMAGES)
def test_a_bad_row_blocks_neither_startup_nor_other_rows(
    tmp_path: Path, column: str, value: object, caplog: pytest.LogCaptureFixture
):
    settings = Settings(home=str(tmp_path))

    async def fill() -> str:
        async with Modelyard(settings, environ={}) as yard:
            for name in ("bad", "good"):
                limit_fields = {"unit": "requests", "amount": 5, "window": "day"}
                await yard.services.tenancy.administration.create(
                    Caller(tenant="default"), "default", "limit", name, limit_fields
                )
            return yard.services.storage.database.where

    async def names() -> set[str]:
        async with Modelyard(settings, environ={}) as yard:
            served = {
                resource.name
                for resource, _ in yard.services.tenancy.directory.of("default", Limit)
            }
            return served & {
                row["name"]
                for row in await yard.services.tenancy.administration.list(
                    "default", "limit"
                )
            }

    where = asyncio.run(fill())
    with closing(sqlite3.connect(where)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(
            f"UPDATE resources SET {column} = ? WHERE name = 'bad'", (value,)
        )
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        assert "good" in asyncio.run(names())
    if column not in ("created_at",):
        assert any("cannot be read" in record.message for record in caplog.records)
