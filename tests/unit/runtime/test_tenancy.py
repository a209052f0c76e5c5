"""Tests for the directory, each process's view of tenants, under parallel refreshes."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.app import Modelyard
from modelyard.base.errors import ConfigError
from modelyard.base.settings import Settings
from modelyard.storage.database import Database
from modelyard.storage.resources import Resource, Resources
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import User
from modelyard.testing import FakeClock


class _Nothing:
    """An empty database: the test applies the changes itself."""

    async def changed_since(self, revision: int) -> Sequence[Resource]:
        return ()


def _user(revision: int, row: str, *, is_deleted: bool = False) -> Resource:
    body = "{}" if is_deleted else f'{{"email": "{revision}@example.org"}}'
    return Resource(
        tenant="acme", kind="user", id=row, name=row, body=body, revision=revision, created_at=0.0, updated_at=0.0,
        is_deleted=is_deleted,
    )  # fmt: skip


def _seen(directory: Directory) -> dict[str, str]:
    return {resource.id: user.email for resource, user in directory.of("acme", User)}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=8),
)
def test_overlapping_refreshes_end_with_the_latest_state(
    changes: Sequence[tuple[str, bool]], reads: Sequence[tuple[int, int]]
):
    """Property: in whatever order reads arrive, each row ends in its latest state."""
    rows = [
        _user(revision, row, is_deleted=is_deleted)
        for revision, (row, is_deleted) in enumerate(changes, 1)
    ]

    def read(since: int, until: int) -> list[Resource]:
        """Return the rows after revision `since` as of `until` changes.

        Each row is in its state at that time.
        """
        latest = {row.id: row for row in rows[:until]}
        return sorted(
            (row for row in latest.values() if row.revision > since),
            key=lambda row: row.revision,
        )

    directory = Directory(_Nothing())
    # A refresh asks for changes since an earlier state of the view, and its answer may
    # arrive after those of later refreshes.
    stood = [0]
    for since_at, until in reads:
        since = stood[since_at % len(stood)]
        directory.apply(read(since, min(until, len(rows))))
        stood.append(directory.revision)
    directory.apply(read(directory.revision, len(rows)))
    last = {row.id: row for row in rows}
    assert _seen(directory) == {
        row.id: f"{row.revision}@example.org"
        for row in last.values()
        if not row.is_deleted
    }


def test_concurrent_refreshes_see_every_change():
    async def work() -> None:
        database = Database(":memory:")
        resources = Resources(database, FakeClock())
        directory = Directory(resources)
        assert not directory.is_read

        async def change(name: str) -> None:
            await resources.add(
                "acme", "user", name, lambda row: '{"email": "x@example.org"}'
            )
            await directory.refresh()
            # Whoever makes a change sees it at once.
            assert directory.get_by_name("acme", User, name) is not None

        await asyncio.gather(*(change(f"u{number}") for number in range(20)))
        assert directory.is_read
        assert len(directory.of("acme", User)) == 20
        assert directory.revision == await resources.revision()
        database.close()

    asyncio.run(work())


def test_a_modelyard_that_is_not_open_refuses_calls(tmp_path: Path):
    """Before it is opened, limits and credentials from the database are not loaded."""

    async def work() -> None:
        yard = Modelyard(Settings(home=str(tmp_path)), environ={})
        try:
            with pytest.raises(ConfigError, match="not open"):
                yard.model("default")
            await yard.open()
            assert yard.services.tenancy.directory.is_read
        finally:
            await yard.aclose()

    asyncio.run(work())
