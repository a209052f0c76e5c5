"""Sessions of signed-in people.

A session is a random token that the browser holds; only its digest is stored. The token
is replaced every hour, and the old one stays valid for a minute for requests in
progress. A session ends after a fortnight without use.
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
from modelyard.people.account import (
    Account,
    AccountTables,
    Session,
    account_from,
    digest_of,
)
from modelyard.storage.database import Connection, Row

T = TypeVar("T")

logger = logging.getLogger("modelyard.accounts")

SESSION_SECONDS = 14 * 86_400.0
ROTATE_SECONDS = 3600.0
# A browser sends several requests at once; those with the old token are still on their
# way when the first one replaces it.
_GRACE_SECONDS = 60.0
_CACHE_SECONDS = 0.5
"""How long a cached session is trusted. A session that ends in any process is refused
everywhere within a second."""
_SESSION_FIELDS = ("id", "agent", "created_at", "issued_at", "expires_at")
"""The columns that people see of their sessions; the digest of the token is none."""
_MAX_CACHED = 4096
_MAX_UNKNOWN_LOOKUPS = 64
"""The maximum number of concurrent look-ups of unknown tokens."""
_MAX_UNKNOWN_QUERIES = 2
"""How many of those may query the database at a time, however slow it is. Its other
readers stay free for everybody else."""


class Sessions:
    """Opens, verifies, renews and ends sessions."""

    def __init__(
        self,
        tables: AccountTables,
        get_time: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._tables = tables
        self._now = get_time
        self._monotonic = monotonic
        self._cached_sessions: OrderedDict[str, tuple[float, Session]] = OrderedDict()
        self._invalid_digests: OrderedDict[str, float] = OrderedDict()
        """Digests that recently belonged to no session."""
        # Increases with every change, so that a look-up can tell that its result may be
        # stale.
        self._changes = 0
        self._unknown_lookups = 0
        self._unknown_slots = asyncio.Semaphore(_MAX_UNKNOWN_QUERIES)

    async def open(
        self, account: Account, agent: str = "", address: str = ""
    ) -> tuple[str, Session]:
        """Open a session for an authenticated person and return (token, session).
        `address` is the client's network address."""
        current_time = self._now()
        # 256 random bits: a token cannot be guessed, so its digest needs no salt.
        token = secrets.token_urlsafe(32)
        session = Session(
            id=new_id("sess"),
            account=account,
            agent=agent[:200],
            created_at=current_time,
            issued_at=current_time,
            expires_at=current_time + SESSION_SECONDS,
            address=address[:64],
        )

        def work(connection: Connection) -> None:
            """Delete expired sessions, add the new one and update the account's last
            visit."""
            # Expired sessions are deleted at sign-ins, which are rare enough not to
            # need a task of its own.
            connection.execute(self._tables.sql["sweep"], (current_time,))
            connection.execute(self._tables.sql["open"], _session_row(token, session))
            connection.execute(self._tables.sql["seen"], (current_time, account.id))

        await self._tables.transact(work)
        fields = {"account": account.id, "tenant": account.tenant, "address": address}
        logger.info("user signed in", extra={"fields": fields})
        return token, session

    async def of_token(self, token: str) -> Session | None:
        """Return the session of a token, at most half a second old; None if there is
        none. Raises BusyError."""
        # Obviously malformed cookies cost no look-up.
        if not 20 <= len(token) <= 100:
            return None
        digest, since = digest_of(token), self._monotonic() - _CACHE_SECONDS
        cached = self._cached_sessions.get(digest)
        if cached is not None and cached[0] > since:
            return cached[1] if cached[1].expires_at > self._now() else None
        if self._invalid_digests.get(digest, float("-inf")) > since:
            return None
        return await self._look_up(digest, is_stranger=cached is None)

    async def _look_up(self, digest: str, *, is_stranger: bool) -> Session | None:
        """Query the database for a session. Look-ups of unknown tokens are limited,
        because anybody can send invented cookies."""
        if is_stranger and self._unknown_lookups >= _MAX_UNKNOWN_LOOKUPS:
            raise passwords.BusyError(
                "Too many session lookups; try again in two seconds"
            )
        self._unknown_lookups += is_stranger
        # The result is as old as the start of the query.
        queried_at, changes = (
            self._monotonic(),
            self._changes,
        )  # what is said is as old as the question
        try:
            rows = await self._query(digest, is_stranger=is_stranger)
        finally:
            self._unknown_lookups -= is_stranger
        session = (
            _session(rows[0])
            if rows and rows[0]["is_enabled"] and rows[0]["expires_at"] > self._now()
            else None
        )
        # A session was ended or changed during the query, perhaps this one, so query
        # again.
        if changes != self._changes:  # something ended meanwhile: perhaps this one
            return await self._look_up(digest, is_stranger=is_stranger)
        if session is None:
            self._cached_sessions.pop(digest, None)
            _cache_put(self._invalid_digests, digest, queried_at)
        else:
            self._invalid_digests.pop(digest, None)
            _cache_put(self._cached_sessions, digest, (queried_at, session))
        return session

    async def _query(self, digest: str, *, is_stranger: bool) -> list[Row]:
        """Run the query; unknown tokens wait for one of their few slots."""
        if not is_stranger:
            return await self._tables.rows("session", digest=digest)
        async with self._unknown_slots:
            return await self._tables.rows("session", digest=digest)

    def forget(self) -> None:
        """Clear the caches because sessions or accounts have changed."""
        self._cached_sessions.clear()
        self._invalid_digests.clear()
        self._changes += 1

    async def renew(self, token: str) -> str | None:
        """Return a new token for the browser if the current one is due for replacement;
        None otherwise."""
        session, current_time = await self.of_token(token), self._now()
        if session is None or current_time - session.issued_at < ROTATE_SECONDS:
            return None
        new_token = secrets.token_urlsafe(32)
        later = msgspec.structs.replace(
            session, issued_at=current_time, expires_at=current_time + SESSION_SECONDS
        )

        def work(connection: Connection) -> bool:
            """Shorten the old token's life and store the new one, in one transaction."""
            short = current_time + _GRACE_SECONDS
            # The statement changes the row only if it was not shortened before, so a
            # token is replaced once.
            if not connection.execute(
                self._tables.sql["shorten"], (short, digest_of(token), short)
            ):
                return False  # another request of the same browser was quicker
            connection.execute(self._tables.sql["open"], _session_row(new_token, later))
            return True

        is_fresh = await self._tables.transact(work)
        self.forget()
        return new_token if is_fresh else None

    async def end(self, session: Session) -> None:
        """End a session at sign-out."""
        await self._tables.run("close", session.id, session.account.id)
        self.forget()

    async def of(self, account: Account) -> list[dict[str, Any]]:
        """Return the open sessions of an account, without their tokens."""
        rows = await self._tables.rows("sessions", account=account.id, now=self._now())
        return [{name: row[name] for name in _SESSION_FIELDS} for row in rows]

    async def revoke(self, account: Account, session: str) -> None:
        """End a session of an account. Raises NotFoundError if it is not this
        account's."""
        if not await self._tables.run("close", session, account.id):
            raise NotFoundError(
                f"Session {session[:60]!r} does not exist", code="session_not_found"
            )
        self.forget()


def _cache_put(cache: OrderedDict[str, T], name: str, value: T) -> None:
    """Add to a cache and drop the least recently used entry beyond the maximum."""
    cache[name] = value
    cache.move_to_end(name)
    if len(cache) > _MAX_CACHED:
        cache.popitem(last=False)


def _session_row(token: str, session: Session) -> tuple[Any, ...]:
    """Return the columns of a session's row."""
    return (
        digest_of(token),
        session.id,
        session.account.id,
        session.agent,
        session.created_at,
        session.issued_at,
        session.expires_at,
        session.address,
    )


def _session(row: Any) -> Session:
    """Return the session in a row."""
    return Session(
        id=row["session"],
        account=account_from(row),
        agent=row["agent"],
        created_at=row["began_at"],
        issued_at=row["issued_at"],
        expires_at=row["expires_at"],
        address=row["address"],
    )
