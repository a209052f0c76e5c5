"""Where people are signed in.

A session is a number that a browser holds; what is kept is its digest. It is replaced every hour, the old one holding a
minute longer for what is under way, and ends when it was not used for a fortnight.
"""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.base.ids import new_id
from modelyard.people import passwords
from modelyard.people.account import Account, AccountTables, Session, account_from, digest_of
from modelyard.storage.database import Connection, Row

T = TypeVar("T")

logger = logging.getLogger("modelyard.accounts")

SESSION_SECONDS = 14 * 86_400.0
ROTATE_SECONDS = 3600.0
_GRACE_SECONDS = 60.0
_KNOWN_SECONDS = 0.5
"""For so long is believed what was last seen of a session: a session that ended anywhere is nobody's a second later."""
_MOST_KNOWN = 4096
_MOST_UNKNOWN = 64
"""Look-ups at once of what nobody here has seen before."""
_STRANGERS_AT_ONCE = 2
"""So many of these ask the database, however slow it is: its other readers are left to everybody else."""


class Sessions:
    def __init__(self, tables: AccountTables, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._tables = tables
        self._now = now
        self._monotonic = monotonic
        self._known: OrderedDict[str, tuple[float, Session]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        """Digests that were nobody's a moment ago."""
        self._changes = 0
        self._looking = 0
        self._strangers = asyncio.Semaphore(_STRANGERS_AT_ONCE)

    async def open(self, account: Account, agent: str = "", address: str = "") -> tuple[str, Session]:
        """A session of somebody who is known. `address`: where it is opened from."""
        now = self._now()
        token = secrets.token_urlsafe(32)
        one = Session(
            id=new_id("sess"), account=account, agent=agent[:200], created_at=now, issued_at=now,
            expires_at=now + SESSION_SECONDS, address=address[:64],
        )  # fmt: skip

        def work(it: Connection) -> None:
            it.execute(self._tables.sql["sweep"], (now,))
            it.execute(self._tables.sql["open"], _session_row(token, one))
            it.execute(self._tables.sql["seen"], (now, account.id))

        await self._tables.transact(work)
        fields = {"account": account.id, "tenant": account.tenant, "address": address}
        logger.info("somebody signed in", extra={"fields": fields})
        return token, one

    async def of_token(self, token: str) -> Session | None:
        """Whose session it is, as of half a second ago at most; None where it is nobody's. Raises BusyError."""
        if not 20 <= len(token) <= 100:
            return None
        digest, since = digest_of(token), self._monotonic() - _KNOWN_SECONDS
        known = self._known.get(digest)
        if known is not None and known[0] > since:
            return known[1] if known[1].expires_at > self._now() else None
        if self._unknown.get(digest, float("-inf")) > since:
            return None
        return await self._looked_up(digest, is_stranger=known is None)

    async def _looked_up(self, digest: str, *, is_stranger: bool) -> Session | None:
        """What the database says, asked off the loop. Strangers' look-ups are bounded: cookies cost nothing to make."""
        if is_stranger and self._looking >= _MOST_UNKNOWN:
            raise passwords.BusyError("too many sessions are looked up at the moment: try again in two seconds")
        self._looking += is_stranger
        asked, changes = self._monotonic(), self._changes  # what is said is as old as the question
        try:
            rows = await self._asked(digest, is_stranger=is_stranger)
        finally:
            self._looking -= is_stranger
        session = _session(rows[0]) if rows and rows[0]["is_enabled"] and rows[0]["expires_at"] > self._now() else None
        if changes != self._changes:  # something ended meanwhile: perhaps this one
            return await self._looked_up(digest, is_stranger=is_stranger)
        if session is None:
            self._known.pop(digest, None)
            _keep(self._unknown, digest, asked)
        else:
            self._unknown.pop(digest, None)
            _keep(self._known, digest, (asked, session))
        return session

    async def _asked(self, digest: str, *, is_stranger: bool) -> list[Row]:
        if not is_stranger:
            return await self._tables.rows("session", digest=digest)
        async with self._strangers:
            return await self._tables.rows("session", digest=digest)

    def forget(self) -> None:
        """Sessions or accounts were changed here: what was known of them is asked anew."""
        self._known.clear()
        self._unknown.clear()
        self._changes += 1

    async def renewed(self, token: str) -> str | None:
        """What the browser is to show from now on, where it is time for another; else None."""
        one, now = await self.of_token(token), self._now()
        if one is None or now - one.issued_at < ROTATE_SECONDS:
            return None
        fresh = secrets.token_urlsafe(32)
        later = msgspec.structs.replace(one, issued_at=now, expires_at=now + SESSION_SECONDS)

        def work(it: Connection) -> bool:
            short = now + _GRACE_SECONDS
            if not it.execute(self._tables.sql["shorten"], (short, digest_of(token), short)):
                return False  # another request of the same browser was quicker
            it.execute(self._tables.sql["open"], _session_row(fresh, later))
            return True

        is_fresh = await self._tables.transact(work)
        self.forget()
        return fresh if is_fresh else None

    async def end(self, session: Session) -> None:
        """Somebody signs out."""
        await self._tables.do("close", session.id, session.account.id)
        self.forget()

    async def of(self, account: Account) -> list[dict[str, Any]]:
        rows = await self._tables.rows("sessions", account=account.id, now=self._now())
        return [{name: row[name] for name in ("id", "agent", "created_at", "issued_at", "expires_at")} for row in rows]

    async def revoke(self, account: Account, session: str) -> None:
        """Raises NotFoundError for one that is not this account's."""
        if not await self._tables.do("close", session, account.id):
            raise NotFoundError(f"session {session[:60]!r} does not exist", code="session_not_found")
        self.forget()


def _keep(known: OrderedDict[str, T], name: str, value: T) -> None:
    known[name] = value
    known.move_to_end(name)
    if len(known) > _MOST_KNOWN:
        known.popitem(last=False)


def _session_row(token: str, one: Session) -> tuple[Any, ...]:
    return (
        digest_of(token),
        one.id,
        one.account.id,
        one.agent,
        one.created_at,
        one.issued_at,
        one.expires_at,
        one.address,
    )


def _session(row: Any) -> Session:
    return Session(
        id=row["session"], account=account_from(row), agent=row["agent"], created_at=row["began_at"],
        issued_at=row["issued_at"], expires_at=row["expires_at"], address=row["address"],
    )  # fmt: skip
