"""Mails of forms in the database: added with their form, claimed by one process at a
time, settled after each attempt."""

import secrets
from collections.abc import Iterable
from typing import Any

import msgspec

from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository
from modelyard.workflow.run_record import RunRecord


class NewMail(msgspec.Struct, frozen=True, kw_only=True):
    """A mail for one recipient."""

    recipient: str
    subject: str
    body: list[str | None]
    error: str = ""
    """Why it cannot be sent, for the run's record."""
    is_refused: bool = False
    """Whether it can never be sent."""


class DueMail(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed mail."""

    run: str
    key: str
    recipient: str
    token: str
    subject: str
    body: list[str | None]
    attempts: int
    """This attempt's number, from 1."""


class FormMails(Repository):
    """One mail for each recipient of a form. Asynchronous methods may raise
    StorageUnavailableError."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "form_mails")

    def add(
        self,
        connection: Connection,
        run: RunRecord,
        key: str,
        mails: Iterable[NewMail],
        due_at: float,
    ) -> None:
        """Add the mails of a form within the transaction that stores the form, so that
        neither exists without the other. Existing mails are not replaced."""
        for mail in mails:
            self._step(
                connection,
                "add",
                run.id,
                key,
                mail.recipient,
                run.tenant,
                # As long as a session's token: it opens the form without a key.
                secrets.token_urlsafe(32),
                mail.subject,
                msgspec.json.encode(mail.body).decode(),
                "failed" if mail.is_refused else "waiting",
                due_at,
                mail.error,
            )

    async def of_run(self, tenant: str, run: str) -> list[dict[str, Any]]:
        """Return (key, recipient, state, attempts, error) of a run's mails."""
        rows = await self._rows("of_run", run=run, tenant=tenant)
        return [dict(row) for row in rows]

    async def form_by_token(self, token: str) -> Row | None:
        """Return the form, with `recipient`, that a mail's token opens; None if there is
        none."""
        rows = await self._rows("form_by_token", token=token)
        return rows[0] if rows else None

    async def claim_due(self, now: float, claimed_until: float) -> list[DueMail]:
        """Take the mails that are due, for this process only until `claimed_until`.
        After that another process may send them again: each mail is sent at least once.
        """
        # Read first without a lock: mostly nothing is due.
        due_mails = await self._rows("due", now=now)
        claimed: list[Row] = []
        for mail in due_mails:
            # The statement checks again that the mail is due: another process may have
            # claimed it since it was read.
            claimed += await self._execute(
                "claim",
                claimed_until,
                mail["run"],
                mail["key"],
                mail["recipient"],
                now,
            )
        return [_due_mail(row) for row in claimed]

    async def is_needed(self, mail: DueMail, now: float) -> bool:
        """Return whether the form of a mail still waits for an answer."""
        # The form may have been answered while its mail waited for an attempt.
        rows = await self._rows("form", run=mail.run, key=mail.key)
        return any(_is_open(row, now) for row in rows)

    async def settle(
        self, mail: DueMail, state: str, *, due_at: float = 0.0, error: str = ""
    ) -> None:
        """Store the result of an attempt: `sent`, `failed`, `unneeded`, or `waiting`
        for another attempt at `due_at`. A later attempt's result is not overwritten."""
        await self._execute(
            "settle",
            state,
            due_at,
            error,
            mail.run,
            mail.key,
            mail.recipient,
            mail.attempts,
        )

    def forget(self, connection: Connection, run: str) -> None:
        """Delete the mails of a run within a transaction."""
        self._step(connection, "forget", run)


def _due_mail(row: Row) -> DueMail:
    """Return the mail of a row."""
    body = msgspec.json.decode(row["body"], type=list[str | None])
    names = ("run", "key", "recipient", "token", "subject", "attempts")
    return DueMail(**{name: row[name] for name in names}, body=body)


def _is_open(row: Row, now: float) -> bool:
    """Return whether a form can still be answered."""
    if row["answer"] or row["expires_at"] <= now:
        return False
    # A run that was stopped does not read the answer any more.
    return row["status"] in ("running", "paused")
