"""What was changed, and by whom."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.ids import new_id
from modelyard.people.account import AccountTables
from modelyard.tenancy.caller import Caller


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the audit log."""

    id: str
    at: float
    who: str
    what: str
    subject: str
    details: dict[str, Any] = {}


class Audit:
    def __init__(self, tables: AccountTables, now: Callable[[], float]) -> None:
        self._tables = tables
        self._now = now

    async def note(self, by: Caller, what: str, subject: str, details: Mapping[str, Any] | None = None) -> None:
        """Write down that something was changed. `details` hold no secrets."""
        body = msgspec.json.encode(dict(details or {})).decode()
        await self._tables.do(
            "note", new_id("log"), by.tenant, self._now(), by.user or by.key or "local", what, subject, body
        )

    async def noted(
        self, tenant: str, *, before: float = 1e15, who: str = "", what: str = "", most: int = 100
    ) -> Sequence[Change]:
        """The newest first."""
        like = f"{what}%" if what else ""
        rows = await self._tables.rows("noted", tenant=tenant, before=before, who=who, what=like, most=most)
        return [
            Change(
                id=row["id"], at=row["at"], who=row["who"], what=row["what"], subject=row["subject"],
                details=msgspec.json.decode(row["details"]),
            )
            for row in rows
        ]  # fmt: skip
