"""The audit log: what was changed, and by whom."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.ids import new_id
from modelyard.people.account import AccountTables
from modelyard.tenancy.caller import Caller


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the audit log."""

    id: str
    at: float
    who: str
    what: str
    subject: str
    details: dict[str, Any] = {}


class Audit:
    """Writes and reads the audit log."""

    def __init__(self, tables: AccountTables, get_time: Callable[[], float]) -> None:
        self._tables = tables
        self._now = get_time

    async def audit(
        self,
        by: Caller,
        action: str,
        subject: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a change. `details` must not contain secrets."""
        body = msgspec.json.encode(dict(details or {})).decode()
        await self._tables.run(
            "note",
            new_id("log"),
            by.tenant,
            self._now(),
            by.user or by.key or "local",
            action,
            subject,
            body,
        )

    async def audit_log(
        self,
        tenant: str,
        *,
        before: float = 1e15,
        who: str = "",
        action: str = "",
        limit: int = 100,
    ) -> Sequence[Change]:
        """Return entries of a tenant, newest first. `action` is a prefix; `before` is
        in seconds since 1970."""
        # Actions are hierarchical, such as `account.change`, so a prefix selects a
        # whole area.
        like = f"{action}%" if action else ""
        rows = await self._tables.rows(
            "noted", tenant=tenant, before=before, who=who, what=like, most=limit
        )
        return [
            Change(
                id=row["id"],
                at=row["at"],
                who=row["who"],
                what=row["what"],
                subject=row["subject"],
                details=msgspec.json.decode(row["details"]),
            )
            for row in rows
        ]
