"""People: who may sign in, where they are signed in, who was invited, and what was changed by whom.

A session is a number that a browser holds; what is kept is its digest. It is replaced every hour, the old one holding a
minute longer for what is under way, and ends when it was not used for a fortnight.
"""

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.runtime import passwords
from modelyard.runtime.caller import DEFAULT_TENANT, Caller, ForbiddenError, Role
from modelyard.storage.database import Connection, Database, statements

SESSION_SECONDS = 14 * 86_400.0
ROTATE_SECONDS = 3600.0
_GRACE_SECONDS = 60.0
_KNOWN_SECONDS = 1.0
"""For so long is believed what was last seen of a session: as long as a revoked key may still be good."""
_INVITED_SECONDS = 7 * 86_400.0
_TRIES, _TRY_SECONDS = 5, 60.0
_MOST_KNOWN = 4096


class SetUpError(ModelyardError):
    """This server has an owner already."""

    code = "already_set_up"


class SignInError(ModelyardError):
    """Address and password do not fit; which of them is not said."""

    code = "sign_in_failed"


class TooManyTriesError(SignInError):
    code = "too_many_tries"
    retry_after = _TRY_SECONDS


class Account(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    tenant: str
    email: str
    name: str
    role: Role
    is_enabled: bool = True
    created_at: float = 0.0
    seen_at: float | None = None

    @property
    def caller(self) -> Caller:
        return Caller(tenant=self.tenant, user=self.email, role=self.role, key=f"account:{self.id}")


class Session(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    account: Account
    agent: str
    created_at: float
    issued_at: float
    expires_at: float


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the audit log."""

    id: str
    at: float
    who: str
    what: str
    subject: str
    details: dict[str, Any] = {}


class Accounts:
    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now
        self._sql = statements("accounts")
        self._known: OrderedDict[str, tuple[float, Session | None]] = OrderedDict()
        self._tries: dict[str, deque[float]] = {}

    async def _rows(self, name: str, **values: Any) -> list[Any]:
        return await asyncio.to_thread(self._database.read, self._sql[name], values)

    async def _do(self, name: str, *values: Any) -> list[Any]:
        return await self._transact(lambda it: it.execute(self._sql[name], values))

    async def _transact(self, work: Callable[[Connection], Any]) -> Any:
        return await asyncio.wrap_future(self._database.transact(work))

    # the first one

    def has_owner(self) -> bool:
        return bool(self._database.read(self._sql["any_owner"], {}))

    async def set_up(self, email: str, name: str, password: str) -> Account:
        """The server's owner. Whoever is first is it; raises SetUpError for everybody else."""
        stored = await passwords.hashed(passwords.checked_password(password))
        one = self._account(DEFAULT_TENANT, email, name, Role.OWNER)

        def work(it: Connection) -> bool:
            if not it.execute(self._sql["claim_owner"], (one.id,)):
                return False
            it.execute(self._sql["add"], _row(one, stored))
            return True

        if not await self._transact(work):
            raise SetUpError("this server has an owner already: sign in")
        await self.note(one.caller, "account.set_up", one.email)
        return one

    def _account(self, tenant: str, email: str, name: str, role: Role) -> Account:
        return Account(
            id=new_id("acct"), tenant=tenant, email=checked_email(email), name=name.strip()[:100] or email, role=role,
            created_at=self._now(),
        )  # fmt: skip

    # signing in

    async def sign_in(self, email: str, password: str, agent: str = "") -> tuple[str, Session]:
        """(what the browser is to show, the session). Raises SignInError, TooManyTriesError."""
        address = email.strip().lower()
        self._check_tries(address)
        rows = await self._rows("by_email", email=address)
        if not await passwords.fits(password, rows[0]["password"] if rows else "") or not rows[0]["is_enabled"]:
            self._tries.setdefault(address, deque(maxlen=_TRIES)).append(self._now())
            raise SignInError("address or password is wrong")
        self._tries.pop(address, None)
        return await self.open(_account(rows[0]), agent)

    async def come(self, email: str, name: str, role: Role | None) -> Account:
        """Somebody whom an identity provider vouches for; with `role`, whoever comes the first time gets an account of
        the default tenant. Raises SignInError."""
        rows = await self._rows("by_email", email=checked_email(email))
        if not rows:
            if role is None:
                raise SignInError(f"{email} has no account here: ask somebody who has one to be invited")
            one = self._account(DEFAULT_TENANT, email, name, role)
            await self._transact(lambda it: it.execute(self._sql["add"], _row(one, "")))
            await self.note(one.caller, "account.come", one.email)
            rows = await self._rows("by_email", email=one.email)
        if not rows[0]["is_enabled"]:
            raise SignInError(f"the account of {email} is switched off")
        return _account(rows[0])

    def _check_tries(self, address: str) -> None:
        now = self._now()
        if len(self._tries) > _MOST_KNOWN:
            self._tries = {
                name: tries for name, tries in self._tries.items() if tries and tries[-1] > now - _TRY_SECONDS
            }
        tries = self._tries.get(address)
        if tries is not None and len(tries) == _TRIES and tries[0] > now - _TRY_SECONDS:
            raise TooManyTriesError("too many tries: wait a minute")

    async def open(self, account: Account, agent: str = "") -> tuple[str, Session]:
        """A session of somebody who is known."""
        now = self._now()
        token = secrets.token_urlsafe(32)
        one = Session(
            id=new_id("sess"), account=account, agent=agent[:200], created_at=now, issued_at=now,
            expires_at=now + SESSION_SECONDS,
        )  # fmt: skip

        def work(it: Connection) -> None:
            it.execute(self._sql["sweep"], (now,))
            it.execute(self._sql["open"], _session_row(token, one))
            it.execute(self._sql["seen"], (now, account.id))

        await self._transact(work)
        return token, one

    def session(self, token: str) -> Session | None:
        """Whose session it is, as of a second ago at most; None where it is nobody's."""
        if not 20 <= len(token) <= 100:
            return None
        digest, now = _digest(token), self._now()
        known = self._known.get(digest)
        if known is not None and known[0] > now - _KNOWN_SECONDS:
            return known[1]
        rows = self._database.read(self._sql["session"], {"digest": digest})
        found = _session(rows[0]) if rows and rows[0]["is_enabled"] and rows[0]["expires_at"] > now else None
        self._known[digest] = (now, found)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return found

    async def renewed(self, token: str) -> str | None:
        """What the browser is to show from now on, where it is time for another; else None."""
        one, now = self.session(token), self._now()
        if one is None or now - one.issued_at < ROTATE_SECONDS:
            return None
        fresh = secrets.token_urlsafe(32)
        later = msgspec.structs.replace(one, issued_at=now, expires_at=now + SESSION_SECONDS)

        def work(it: Connection) -> bool:
            short = now + _GRACE_SECONDS
            if not it.execute(self._sql["shorten"], (short, _digest(token), short)):
                return False  # another request of the same browser was quicker
            it.execute(self._sql["open"], _session_row(fresh, later))
            return True

        return fresh if await self._transact(work) else None

    async def sign_out(self, session: Session) -> None:
        await self._do("close", session.id, session.account.id)
        self._known.clear()

    async def sessions(self, account: Account) -> list[dict[str, Any]]:
        rows = await self._rows("sessions", account=account.id, now=self._now())
        return [{name: row[name] for name in ("id", "agent", "created_at", "issued_at", "expires_at")} for row in rows]

    async def revoke(self, account: Account, session: str) -> None:
        """Raises NotFoundError for one that is not this account's."""
        if not await self._do("close", session, account.id):
            raise NotFoundError(f"session {session[:60]!r} does not exist", code="session_not_found")
        self._known.clear()

    async def change_own(self, session: Session, *, name: str = "", old: str = "", new: str = "") -> Account:
        """A name, or a password: that ends all other sessions. Raises SignInError, InvokeBadRequestError."""
        account = session.account
        (row,) = await self._rows("by_id", id=account.id)
        stored = row["password"]
        if new:
            if not await passwords.fits(old, stored):
                raise SignInError("the password that you have now is another")
            stored = await passwords.hashed(passwords.checked_password(new))
        changed = msgspec.structs.replace(account, name=name.strip()[:100] or account.name)
        await self._write(changed, stored)
        if new:
            await self._do("close_others", account.id, session.id)
            await self.note(account.caller, "account.password", account.email)
        self._known.clear()
        return changed

    async def _write(self, one: Account, password: str) -> None:
        values = (one.name, password, one.role.value, int(one.is_enabled), one.tenant, one.id)
        if not await self._do("change", *values):
            raise NotFoundError(f"account {one.id!r} does not exist", code="account_not_found")

    # others

    async def of(self, tenant: str) -> list[Account]:
        return [_account(row) for row in await self._rows("of_tenant", tenant=tenant)]

    async def find(self, tenant: str, id: str) -> Account:  # noqa: A002
        """Raises NotFoundError."""
        rows = await self._rows("by_id", id=id)
        if not rows or rows[0]["tenant"] != tenant:
            raise NotFoundError(f"account {id[:60]!r} does not exist", code="account_not_found")
        return _account(rows[0])

    async def change(
        self, by: Caller, id: str, *, role: Role | None = None, is_enabled: bool | None = None  # noqa: A002
    ) -> Account:  # fmt: skip
        """Raises NotFoundError, ForbiddenError, InvokeBadRequestError where nobody would own the tenant any more."""
        one = await self.find(by.tenant, id)
        changed = msgspec.structs.replace(
            one, role=role or one.role, is_enabled=one.is_enabled if is_enabled is None else is_enabled
        )
        for asked in (one.role, changed.role):
            if not by.role.covers(asked):
                raise ForbiddenError(f"your role {by.role.value!r} is below {asked.value!r}")

        def work(it: Connection) -> None:
            (row,) = it.execute("SELECT password FROM accounts WHERE id = ?", (one.id,))
            values = (changed.name, row["password"], changed.role.value, int(changed.is_enabled), one.tenant, one.id)
            it.execute(self._sql["change"], values)
            if not it.execute(self._sql["owners"], (one.tenant,))[0]["count"]:
                raise InvokeBadRequestError("a tenant keeps one owner who may sign in")
            if not changed.is_enabled:
                it.execute(self._sql["close_others"], (one.id, ""))

        await self._transact(work)
        self._known.clear()
        await self.note(by, "account.change", one.email, {"role": changed.role.value, "is_enabled": changed.is_enabled})
        return changed

    async def invite(self, by: Caller, email: str, role: Role) -> str:
        """What whoever was invited shows to become an account. Raises ForbiddenError, InvokeBadRequestError."""
        if not by.role.covers(role):
            raise ForbiddenError(f"your role {by.role.value!r} is below {role.value!r}")
        address = checked_email(email)
        if await self._rows("by_email", email=address):
            raise InvokeBadRequestError(f"{address} has an account already", param="email")
        token = secrets.token_urlsafe(32)
        until = self._now() + _INVITED_SECONDS
        await self._do("invite", _digest(token), by.tenant, address, role.value, by.user or "", until)
        await self.note(by, "account.invite", address, {"role": role.value})
        return token

    async def accept(self, token: str, name: str, password: str) -> Account:
        """Raises NotFoundError for an invitation that is not there, was used, or is over."""
        stored = await passwords.hashed(passwords.checked_password(password))
        now = self._now()

        def work(it: Connection) -> Account:
            rows = it.execute(self._sql["invitation"], (_digest(token),))
            if not rows or rows[0]["expires_at"] < now:
                raise NotFoundError("this invitation is not, or no longer, good", code="invitation_not_found")
            one = self._account(rows[0]["tenant"], rows[0]["email"], name, Role(rows[0]["role"]))
            if not it.execute(self._sql["add"], _row(one, stored)):
                raise InvokeBadRequestError(f"{one.email} has an account already", param="email")
            return one

        made: Account = await self._transact(work)
        await self.note(made.caller, "account.accept", made.email)
        return made

    # audit

    async def note(self, by: Caller, what: str, subject: str, details: Mapping[str, Any] | None = None) -> None:
        """Write down that something was changed. `details` hold no secrets."""
        body = msgspec.json.encode(dict(details or {})).decode()
        await self._do("note", new_id("log"), by.tenant, self._now(), by.user or by.key or "local", what, subject, body)

    async def noted(
        self, tenant: str, *, before: float = 1e15, who: str = "", what: str = "", most: int = 100
    ) -> Sequence[Change]:
        """The newest first."""
        like = f"{what}%" if what else ""
        rows = await self._rows("noted", tenant=tenant, before=before, who=who, what=like, most=most)
        return [
            Change(
                id=row["id"], at=row["at"], who=row["who"], what=row["what"], subject=row["subject"],
                details=msgspec.json.decode(row["details"]),
            )
            for row in rows
        ]  # fmt: skip


def checked_email(email: str) -> str:
    """In small letters. Raises InvokeBadRequestError."""
    address = email.strip().lower()
    name, at, host = address.rpartition("@")
    is_plain = all(sign > " " and sign not in '<>"(),;:\\' for sign in address)
    if not name or not at or not host or len(address) > 254 or not is_plain:
        raise InvokeBadRequestError(f"{email[:60]!r} is no address for mail", param="email")
    return address


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _row(one: Account, password: str) -> tuple[Any, ...]:
    return one.id, one.tenant, one.email, one.name, password, one.role.value, one.created_at


def _session_row(token: str, one: Session) -> tuple[Any, ...]:
    return _digest(token), one.id, one.account.id, one.agent, one.created_at, one.issued_at, one.expires_at


def _account(row: Any) -> Account:
    return Account(
        id=row["id"], tenant=row["tenant"], email=row["email"], name=row["name"], role=Role(row["role"]),
        is_enabled=bool(row["is_enabled"]), created_at=row["created_at"], seen_at=row["seen_at"],
    )  # fmt: skip


def _session(row: Any) -> Session:
    return Session(
        id=row["session"], account=_account(row), agent=row["agent"], created_at=row["began_at"],
        issued_at=row["issued_at"], expires_at=row["expires_at"],
    )  # fmt: skip
