"""Forms that runs wait for: asked by a step, filled in by whoever has its token, or over in time."""

from collections.abc import Callable
from typing import Any

import msgspec

from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository
from modelyard.workflow.run_record import RunRecord


class RunForms(Repository):
    """One a step of a run. All that is awaited here may raise StorageUnavailableError."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        super().__init__(database, "run_forms")
        self._now = now

    async def of_step(self, run: str, key: str) -> Row | None:
        rows = await self._rows("form", run=run, key=key)
        return rows[0] if rows else None

    async def by_token(self, token: str) -> Row | None:
        rows = await self._rows("form_by_token", token=token)
        return rows[0] if rows else None

    async def ask(self, run: RunRecord, key: str, token: str, form: dict[str, Any], expires_at: float) -> Row:
        """A step's form as it is kept: this one, or the one that was asked before."""
        values = (run.id, key, run.tenant, token, msgspec.json.encode(form).decode(), expires_at)

        def work(connection: Connection) -> Row:
            self._step(connection, "ask", *values)
            return connection.execute(self._sql["form"], {"run": run.id, "key": key})[0]

        return await self._database.transact(work)

    async def fill(self, token: str, answer: dict[str, Any]) -> tuple[str, str] | None:
        """(tenant, run); None where it was filled in before."""
        rows = await self._do("fill", msgspec.json.encode(answer).decode(), token)
        return (rows[0]["tenant"], rows[0]["run"]) if rows else None

    async def expired(self) -> list[tuple[str, str]]:
        """(tenant, run) of those that waited for forms whose time is over; they say so from now on."""
        late = sorted(await self._rows("late", now=self._now()), key=lambda row: (row["run"], row["key"]))
        if late:
            answers = [msgspec.json.encode({"expired": row["expires_at"]}).decode() for row in late]
            values = [(answer, row["run"], row["key"]) for row, answer in zip(late, answers, strict=True)]
            await self._database.transact(lambda connection: connection.execute_many(self._sql["expire"], values))
        return [(row["tenant"], row["run"]) for row in late]

    def forget(self, connection: Connection, run: str) -> None:
        self._step(connection, "forget_forms", run)
