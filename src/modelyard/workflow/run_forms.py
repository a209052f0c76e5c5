"""Human input forms of runs: published by a step, submitted by anyone with the token,
or expired."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository
from modelyard.workflow.form_mails import FormMails, NewMail
from modelyard.workflow.run_record import RunRecord


class RunForms(Repository):
    """One form for each step of a run. Asynchronous methods may raise
    StorageUnavailableError."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        super().__init__(database, "run_forms")
        self.mails = FormMails(database)
        self._now = clock

    async def of_step(self, run: str, key: str) -> Row | None:
        """Return the form of a step; None if it has none."""
        rows = await self._rows("form", run=run, key=key)
        return rows[0] if rows else None

    async def seconds_until_due(self, run: str) -> float | None:
        """Return the seconds until the first open form of a run expires, negative after
        that; None without an open form."""
        rows = await self._rows("next_deadline", run=run)
        deadline = rows[0]["deadline"]
        return deadline - self._now() if deadline is not None else None

    async def by_token(self, token: str) -> Row | None:
        """Return the form with this token; None if there is none."""
        rows = await self._rows("form_by_token", token=token)
        return rows[0] if rows else None

    async def publish(
        self,
        run: RunRecord,
        key: str,
        token: str,
        form_definition: dict[str, Any],
        expires_at: float,
        mails: Sequence[NewMail] = (),
    ) -> Row:
        """Store a step's form with its mails and return its row. An existing form is
        not replaced."""
        # Encoded before the transaction, which holds locks while it runs.
        values = (
            run.id,
            key,
            run.tenant,
            token,
            msgspec.json.encode(form_definition).decode(),
            expires_at,
        )

        def work(connection: Connection) -> Row:
            """Insert the form unless it exists, and read it."""
            # After a crash the step asks again: the token that people have received
            # must stay valid.
            self._step(connection, "ask", *values)
            self.mails.add(
                connection,
                run,
                key,
                mails,
                self._now(),
            )
            return connection.execute(self._sql["form"], {"run": run.id, "key": key})[0]

        return await self._database.transact(work)

    async def fill(self, token: str, answer: dict[str, Any]) -> tuple[str, str] | None:
        """Store the submitted values. Returns (tenant, run), or None if the form was
        already submitted or has expired."""
        document = msgspec.json.encode(answer).decode()
        # One statement with its conditions: of two people who submit at the same time,
        # only one gets a row.
        rows = await self._execute("fill", document, token, self._now())
        return (rows[0]["tenant"], rows[0]["run"]) if rows else None

    async def expired(self) -> list[tuple[str, str]]:
        """Mark forms past their deadline as expired; return (tenant, run) of the runs
        that wait for them."""
        # Sorted, so that two processes lock the rows in the same order.
        late_rows = sorted(
            await self._rows("late", now=self._now()),
            key=lambda row: (row["run"], row["key"]),
        )
        if late_rows:
            answers = [
                msgspec.json.encode({"expired": row["expires_at"]}).decode()
                for row in late_rows
            ]
            values = [
                (answer, row["run"], row["key"])
                for row, answer in zip(late_rows, answers, strict=True)
            ]
            await self._database.transact(
                lambda connection: connection.execute_many(self._sql["expire"], values)
            )
        return [(row["tenant"], row["run"]) for row in late_rows]

    def forget(self, connection: Connection, run: str) -> None:
        """Delete the forms of a run within a transaction."""
        self._step(connection, "forget_forms", run)
        self.mails.forget(connection, run)
