"""People: who may sign in, where they are signed in, who was invited, and what was changed by whom.

A session is a number that a browser holds; what is kept is its digest. It is replaced every hour, the old one holding a
minute longer for what is under way, and ends when it was not used for a fortnight.

Whoever signs in from where they were signed in before, or with a browser that they signed in with before, is known:
what strangers try counts against strangers, and takes a queue of its own.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.fields import whole_number
from modelyard.base.ids import new_id
from modelyard.runtime import passwords
from modelyard.runtime.attempts import Attempts, TooManyTriesError, neighbourhood
from modelyard.runtime.caller import DEFAULT_TENANT, Caller, ForbiddenError, Role
from modelyard.storage.database import Connection, Database, Row, StorageUnavailableError, statements

T = TypeVar("T")

logger = logging.getLogger("modelyard.accounts")

SESSION_SECONDS = 14 * 86_400.0
ROTATE_SECONDS = 3600.0
_GRACE_SECONDS = 60.0
_KNOWN_SECONDS = 0.5
"""For so long is believed what was last seen of a session: a session that ended anywhere is nobody's a second later."""
_INVITED_SECONDS = 7 * 86_400.0
_TRY_SECONDS = 60.0
_TRIES_OF_ONE, _TRIES_OF_PLACE, _TRIES_ON_ACCOUNT = 5, 30, 20
"""A minute, that are wrong: by one person on one account; from one place on all of them; by all strangers on one."""
_MOST_KNOWN = 4096
_MOST_UNKNOWN = 64
"""Look-ups at once of what nobody here has seen before."""
_DEVICE_SECONDS = 365 * 86_400


class SetUpError(ModelyardError):
    """This server has an owner already."""

    code = "already_set_up"


class SignInError(ModelyardError):
    """Address and password do not fit; which of them is not said."""

    code = "sign_in_failed"


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
    address: str = ""
    """Where it was opened from."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the audit log."""

    id: str
    at: float
    who: str
    what: str
    subject: str
    details: dict[str, Any] = {}


class Accounts:
    def __init__(
        self,
        database: Database,
        now: Callable[[], float] = time.time,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        admits: Callable[[str, str], bool] = lambda tenant, user: True,
        sign: Callable[[bytes], str] = lambda text: "",
        is_signed: Callable[[bytes, str], bool] = lambda text, signature: False,
    ) -> None:
        """`admits`: whether neither a tenant nor a user of it is switched off. `sign` and `is_signed`: a keyed hash."""
        self._database = database
        self._now = now
        self._monotonic = monotonic
        self._admits = admits
        self._sign = sign
        self._is_signed = is_signed
        self._sql = statements("accounts")
        self._known: OrderedDict[str, tuple[float, Session]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        """Digests that were nobody's a moment ago."""
        self._changes = 0
        self._looking = 0
        # Sessions are looked up by threads of their own: what others read for long does not keep anybody out.
        self._lookers = ThreadPoolExecutor(2, thread_name_prefix="sessions")
        self._by_one = Attempts(_TRIES_OF_ONE, _TRY_SECONDS, monotonic)
        self._by_place = Attempts(_TRIES_OF_PLACE, _TRY_SECONDS, monotonic)
        self._on_account = Attempts(_TRIES_ON_ACCOUNT, _TRY_SECONDS, monotonic)

    async def _rows(self, name: str, **values: Any) -> list[Any]:
        return await asyncio.to_thread(self._database.read, self._sql[name], values)

    async def _do(self, name: str, *values: Any) -> list[Any]:
        return await self._database.transact(lambda it: it.execute(self._sql[name], values))

    # the first one

    async def has_owner(self) -> bool:
        return bool(await self._rows("any_owner"))

    async def set_up(self, email: str, name: str, password: str) -> Account:
        """The server's owner. Whoever is first is it; raises SetUpError for everybody else."""
        if await self.has_owner():
            raise SetUpError("this server has an owner already: sign in")
        stored = await passwords.hashed(passwords.checked_password(password))
        one = self._account(DEFAULT_TENANT, email, name, Role.OWNER)

        def work(it: Connection) -> bool:
            if not it.execute(self._sql["claim_owner"], (one.id,)):
                return False
            it.execute(self._sql["add"], _row(one, stored))
            return True

        if not await self._database.transact(work):
            raise SetUpError("this server has an owner already: sign in")
        await self.note(one.caller, "account.set_up", one.email)
        return one

    def _account(self, tenant: str, email: str, name: str, role: Role) -> Account:
        return Account(
            id=new_id("acct"), tenant=tenant, email=checked_email(email), name=name.strip()[:100] or email, role=role,
            created_at=self._now(),
        )  # fmt: skip

    # signing in

    async def sign_in(
        self, email: str, password: str, agent: str = "", *, address: str = "", device: str = ""
    ) -> tuple[str, Session]:
        """(what the browser is to show, the session). `address`: where the call comes from; `device`: what `device_of`
        gave this browser before. Raises SignInError, TooManyTriesError, BusyError."""
        email, place = email.strip().lower()[:254], neighbourhood(address)
        known_device = self._is_device(device, email)
        one = f"device {device} {email}" if known_device else f"{place} {email}"
        if not known_device:
            self._by_place.take(place)
        try:
            self._by_one.take(one)
        except TooManyTriesError:
            self._by_place.give_back(place)
            raise
        try:
            account = await self._checked(email, password, address, place, is_known=known_device)
        except (TooManyTriesError, passwords.BusyError, StorageUnavailableError):
            self._by_one.give_back(one)  # nobody looked whether it is right
            raise
        except SignInError:
            # Not what was typed for an address: now and then that is a password.
            logger.warning("a sign-in failed", extra={"fields": {"address": address}})
            raise
        self._by_one.forget(one)
        self._by_place.give_back(place)
        return await self.open(account, agent, address)

    async def _checked(self, email: str, password: str, address: str, place: str, *, is_known: bool) -> Account:
        """Whose password it is. Raises SignInError, TooManyTriesError, BusyError."""
        rows = await self._rows("by_email", email=email)
        if rows and not is_known:
            is_known = await self._came_from(rows[0]["id"], address)
        if not is_known:
            self._on_account.take(email)
        try:
            fitting = await passwords.fits(password, rows[0]["password"] if rows else "", is_known=is_known, who=place)
        except passwords.BusyError:
            if not is_known:
                self._on_account.give_back(email)
            raise
        if not fitting or not rows[0]["is_enabled"] or not self._admits(rows[0]["tenant"], email):
            raise SignInError("address or password is wrong")
        if not is_known:
            self._on_account.give_back(email)
        await self._hash_again(rows[0], password)
        return _account(rows[0])

    async def _hash_again(self, row: Row, password: str) -> None:
        """Keep a password by the parameters of today; where many sign in now, another time."""
        if passwords.is_dated(row["password"]):
            with suppress(passwords.BusyError):
                await self._do("rehash", await passwords.hashed(password), row["id"], row["password"])

    async def _came_from(self, account: str, address: str) -> bool:
        """Whether somebody is signed in to an account from an address."""
        return bool(address and await self._rows("came_from", account=account, address=address, now=self._now()))

    def device_of(self, account: Account) -> str:
        """What a browser may keep that somebody signed in with: a sign of that, and of nothing else."""
        body = f"{int(self._now())}.{secrets.token_urlsafe(12)}"
        return f"{body}.{self._sign(_device(body, account.email))}"

    def _is_device(self, text: str, email: str) -> bool:
        body, _, signature = text[:300].rpartition(".")
        made = whole_number(body.partition(".")[0])
        if made is None or made <= self._now() - _DEVICE_SECONDS:
            return False
        return self._is_signed(_device(body, email), signature)

    def count_stranger(self, address: str) -> None:
        """Count what anybody may try: invitations, and ways back from an identity provider. Raises
        TooManyTriesError."""
        self._by_place.take(neighbourhood(address))

    def welcome_stranger(self, address: str) -> None:
        """It was right: it does not count."""
        self._by_place.give_back(neighbourhood(address))

    async def come(self, email: str, name: str, role: Role | None, *, link: str = "", state: str = "") -> Account:
        """Somebody whom an identity provider vouches for; with `role`, whoever comes the first time gets an account of
        the default tenant. `link`: what `link_of` gave for this `state`. Raises SignInError.

        An account that a tenant other than the default one invited, with a password, is not the address's owner's until
        somebody who is signed in to it comes from the provider too: else the tenant's administrator, who may accept an
        invitation of any address, would have that person work in an account of theirs.
        """
        rows = await self._rows("by_email", email=checked_email(email))
        if not rows:
            if role is None:
                raise SignInError(f"{email} has no account here: ask somebody who has one to be invited")
            one = self._account(DEFAULT_TENANT, email, name, role)
            await self._database.transact(lambda it: it.execute(self._sql["add"], _row(one, "")))
            await self.note(one.caller, "account.come", one.email)
            rows = await self._rows("by_email", email=one.email)
        if not rows[0]["is_enabled"] or not self._admits(rows[0]["tenant"], rows[0]["email"]):
            raise SignInError(f"the account of {email} is switched off")
        account = _account(rows[0])
        if account.tenant != DEFAULT_TENANT and rows[0]["password"] and not rows[0]["is_linked"]:
            if not self._is_signed(_linking(account, state), link):
                raise SignInError(
                    f"{email} has an account with a password here: sign in with that, and then open "
                    "/console/api/oidc/begin in the same browser once"
                )
            await self._do("link", account.id)
            await self.note(account.caller, "account.link", account.email)
        return account

    def link_of(self, account: Account, state: str) -> str:
        """What a browser keeps that is signed in to an account while somebody is at the identity provider."""
        return self._sign(_linking(account, state))

    async def open(self, account: Account, agent: str = "", address: str = "") -> tuple[str, Session]:
        """A session of somebody who is known. `address`: where it is opened from."""
        now = self._now()
        token = secrets.token_urlsafe(32)
        one = Session(
            id=new_id("sess"), account=account, agent=agent[:200], created_at=now, issued_at=now,
            expires_at=now + SESSION_SECONDS, address=address[:64],
        )  # fmt: skip

        def work(it: Connection) -> None:
            it.execute(self._sql["sweep"], (now,))
            it.execute(self._sql["open"], _session_row(token, one))
            it.execute(self._sql["seen"], (now, account.id))

        await self._database.transact(work)
        fields = {"account": account.id, "tenant": account.tenant, "address": address}
        logger.info("somebody signed in", extra={"fields": fields})
        return token, one

    async def session(self, token: str) -> Session | None:
        """Whose session it is, as of half a second ago at most; None where it is nobody's. Raises BusyError."""
        if not 20 <= len(token) <= 100:
            return None
        digest, since = _digest(token), self._monotonic() - _KNOWN_SECONDS
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
            read = partial(self._database.read, self._sql["session"], {"digest": digest})
            rows = await asyncio.get_running_loop().run_in_executor(self._lookers, read)
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

    def _forget(self) -> None:
        """Sessions or accounts were changed here: what was known of them is asked anew."""
        self._known.clear()
        self._unknown.clear()
        self._changes += 1

    async def renewed(self, token: str) -> str | None:
        """What the browser is to show from now on, where it is time for another; else None."""
        one, now = await self.session(token), self._now()
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

        is_fresh = await self._database.transact(work)
        self._forget()
        return fresh if is_fresh else None

    async def sign_out(self, session: Session) -> None:
        await self._do("close", session.id, session.account.id)
        self._forget()

    async def sessions(self, account: Account) -> list[dict[str, Any]]:
        rows = await self._rows("sessions", account=account.id, now=self._now())
        return [{name: row[name] for name in ("id", "agent", "created_at", "issued_at", "expires_at")} for row in rows]

    async def revoke(self, account: Account, session: str) -> None:
        """Raises NotFoundError for one that is not this account's."""
        if not await self._do("close", session, account.id):
            raise NotFoundError(f"session {session[:60]!r} does not exist", code="session_not_found")
        self._forget()

    async def change_own(self, session: Session, *, name: str = "", old: str = "", new: str = "") -> Account:
        """A name, or a password: that ends all other sessions. Raises SignInError, InvokeBadRequestError."""
        account = session.account
        (row,) = await self._rows("by_id", id=account.id)
        stored = row["password"]
        if new:
            self._by_one.take(f"own {account.id}")
            if not await passwords.fits(old, stored):
                raise SignInError("the password that you have now is another")
            self._by_one.forget(f"own {account.id}")
            stored = await passwords.hashed(passwords.checked_password(new))
        changed = msgspec.structs.replace(account, name=name.strip()[:100] or account.name)
        await self._write(changed, stored)
        if new:
            await self._do("close_others", account.id, session.id)
            await self.note(account.caller, "account.password", account.email)
        self._forget()
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
        """Raises NotFoundError, ForbiddenError for whoever is above the caller, before or after; InvokeBadRequestError
        where nobody would own the tenant any more."""

        def work(it: Connection) -> Account:
            it.execute(self._sql["hold_owners"])
            rows = it.execute(self._sql["account_now"], (by.tenant, id))
            if not rows:
                raise NotFoundError(f"account {id[:60]!r} does not exist", code="account_not_found")
            old = _account(rows[0])
            new = msgspec.structs.replace(
                old, role=role or old.role, is_enabled=old.is_enabled if is_enabled is None else is_enabled
            )
            for needed in (old.role, new.role):
                if not by.role.covers(needed):
                    raise ForbiddenError(f"your role {by.role.value!r} is below {needed.value!r}")
            values = (new.name, rows[0]["password"], new.role.value, int(new.is_enabled), new.tenant, new.id)
            it.execute(self._sql["change"], values)
            if old.role is Role.OWNER and not it.execute(self._sql["owners"], (new.tenant,))[0]["count"]:
                raise InvokeBadRequestError("a tenant keeps one owner who may sign in")
            if not new.is_enabled:
                it.execute(self._sql["close_others"], (new.id, ""))
            return new

        changed: Account = await self._database.transact(work)
        self._forget()
        details = {"role": changed.role.value, "is_enabled": changed.is_enabled}
        await self.note(by, "account.change", changed.email, details)
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
        """Raises NotFoundError for an invitation that is not there, was used, is over, or is a tenant's that is
        switched off; BusyError."""
        now = self._now()
        passwords.checked_password(password)
        known = await self._rows("is_invited", digest=_digest(token))
        if not known or known[0]["expires_at"] < now:  # nobody has a password hashed who was not invited
            raise NotFoundError("this invitation is not, or no longer, good", code="invitation_not_found")
        stored = await passwords.hashed(password)

        def work(it: Connection) -> Account:
            rows = it.execute(self._sql["invitation"], (_digest(token),))
            if not rows or rows[0]["expires_at"] < now or not self._admits(rows[0]["tenant"], rows[0]["email"]):
                raise NotFoundError("this invitation is not, or no longer, good", code="invitation_not_found")
            one = self._account(rows[0]["tenant"], rows[0]["email"], name, Role(rows[0]["role"]))
            by = it.execute(self._sql["inviter"], (rows[0]["invited_by"], one.tenant))
            if by and not (by[0]["is_enabled"] and Role(by[0]["role"]).covers(one.role)):
                # Whoever invited may not give that role any more.
                raise NotFoundError("this invitation is not, or no longer, good", code="invitation_not_found")
            if not it.execute(self._sql["add"], _row(one, stored)):
                raise InvokeBadRequestError(f"{one.email} has an account already", param="email")
            return one

        made: Account = await self._database.transact(work)
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


def _keep(known: OrderedDict[str, T], name: str, value: T) -> None:
    known[name] = value
    known.move_to_end(name)
    if len(known) > _MOST_KNOWN:
        known.popitem(last=False)


def _device(body: str, email: str) -> bytes:
    return f"device\n{body}\n{email}".encode()


def _linking(account: Account, state: str) -> bytes:
    return f"link\n{state}\n{account.id}".encode()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _row(one: Account, password: str) -> tuple[Any, ...]:
    return one.id, one.tenant, one.email, one.name, password, one.role.value, one.created_at


def _session_row(token: str, one: Session) -> tuple[Any, ...]:
    return _digest(token), one.id, one.account.id, one.agent, one.created_at, one.issued_at, one.expires_at, one.address


def _account(row: Any) -> Account:
    return Account(
        id=row["id"], tenant=row["tenant"], email=row["email"], name=row["name"], role=Role(row["role"]),
        is_enabled=bool(row["is_enabled"]), created_at=row["created_at"], seen_at=row["seen_at"],
    )  # fmt: skip


def _session(row: Any) -> Session:
    return Session(
        id=row["session"], account=_account(row), agent=row["agent"], created_at=row["began_at"],
        issued_at=row["issued_at"], expires_at=row["expires_at"], address=row["address"],
    )  # fmt: skip
