"""People: who has an account, and who was invited. How they sign in is in `sign_in`, where they are in `sessions`."""

import secrets
import time
from collections.abc import Callable

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.people import passwords
from modelyard.people.account import (
    Account,
    AccountTables,
    Session,
    SignInError,
    account_from,
    checked_email,
    columns_of,
    digest_of,
)
from modelyard.people.attempts import Attempts
from modelyard.people.audit import Audit
from modelyard.people.sessions import Sessions
from modelyard.people.sign_in import TRIES_OF_ONE, TRY_SECONDS, IsSigned, Sign, SignIn
from modelyard.storage.database import Connection, Database
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller, ForbiddenError, Role

_INVITED_SECONDS = 7 * 86_400.0


class SetUpError(ModelyardError):
    """This server has an owner already."""

    code = "already_set_up"


class Accounts:
    def __init__(
        self,
        database: Database,
        now: Callable[[], float] = time.time,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        admits: Callable[[str, str], bool] = lambda tenant, user: True,
        sign: Sign = lambda text: "",
        is_signed: IsSigned = lambda text, signature: False,
    ) -> None:
        """`admits`: whether neither a tenant nor a user of it is switched off. `sign` and `is_signed`: a keyed hash."""
        self._tables = AccountTables(database)
        self._now = now
        self._admits = admits
        self._sign = sign
        self._is_signed = is_signed
        self._own_tries = Attempts(TRIES_OF_ONE, TRY_SECONDS, monotonic)
        self.audit = Audit(self._tables, now)
        self.sessions = Sessions(self._tables, now, monotonic)
        self.sign_in = SignIn(
            self._tables, self.sessions, now, monotonic, admits=admits, sign=sign, is_signed=is_signed
        )  # fmt: skip

    # the first one

    async def has_owner(self) -> bool:
        return bool(await self._tables.rows("any_owner"))

    async def set_up(self, email: str, name: str, password: str) -> Account:
        """The server's owner. Whoever is first is it; raises SetUpError for everybody else."""
        if await self.has_owner():
            raise SetUpError("this server has an owner already: sign in")
        stored = await passwords.hashed(passwords.checked_password(password))
        one = self._account(DEFAULT_TENANT, email, name, Role.OWNER)

        def work(it: Connection) -> bool:
            if not it.execute(self._tables.sql["claim_owner"], (one.id,)):
                return False
            it.execute(self._tables.sql["add"], columns_of(one, stored))
            return True

        if not await self._tables.transact(work):
            raise SetUpError("this server has an owner already: sign in")
        await self.audit.note(one.caller, "account.set_up", one.email)
        return one

    def _account(self, tenant: str, email: str, name: str, role: Role) -> Account:
        return Account(
            id=new_id("acct"), tenant=tenant, email=checked_email(email), name=name.strip()[:100] or email, role=role,
            created_at=self._now(),
        )  # fmt: skip

    async def come(self, email: str, name: str, role: Role | None, *, link: str = "", state: str = "") -> Account:
        """Somebody whom an identity provider vouches for; with `role`, whoever comes the first time gets an account of
        the default tenant. `link`: what `link_of` gave for this `state`. Raises SignInError.

        An account that a tenant other than the default one invited, with a password, is not the address's owner's until
        somebody who is signed in to it comes from the provider too: else the tenant's administrator, who may accept an
        invitation of any address, would have that person work in an account of theirs.
        """
        rows = await self._tables.rows("by_email", email=checked_email(email))
        if not rows:
            if role is None:
                raise SignInError(f"{email} has no account here: ask somebody who has one to be invited")
            one = self._account(DEFAULT_TENANT, email, name, role)
            await self._tables.transact(lambda it: it.execute(self._tables.sql["add"], columns_of(one, "")))
            await self.audit.note(one.caller, "account.come", one.email)
            rows = await self._tables.rows("by_email", email=one.email)
        if not rows[0]["is_enabled"] or not self._admits(rows[0]["tenant"], rows[0]["email"]):
            raise SignInError(f"the account of {email} is switched off")
        account = account_from(rows[0])
        if account.tenant != DEFAULT_TENANT and rows[0]["password"] and not rows[0]["is_linked"]:
            if not self._is_signed(_linking(account, state), link):
                raise SignInError(
                    f"{email} has an account with a password here: sign in with that, and then open "
                    "/console/api/oidc/begin in the same browser once"
                )
            await self._tables.do("link", account.id)
            await self.audit.note(account.caller, "account.link", account.email)
        return account

    def link_of(self, account: Account, state: str) -> str:
        """What a browser keeps that is signed in to an account while somebody is at the identity provider."""
        return self._sign(_linking(account, state))

    async def change_own(self, session: Session, *, name: str = "", old: str = "", new: str = "") -> Account:
        """A name, or a password: that ends all other sessions. Raises SignInError, InvokeBadRequestError."""
        account = session.account
        (row,) = await self._tables.rows("by_id", id=account.id)
        stored = row["password"]
        if new:
            self._own_tries.take(account.id)
            if not await passwords.fits(old, stored):
                raise SignInError("the password that you have now is another")
            self._own_tries.forget(account.id)
            stored = await passwords.hashed(passwords.checked_password(new))
        changed = msgspec.structs.replace(account, name=name.strip()[:100] or account.name)
        await self._write(changed, stored)
        if new:
            await self._tables.do("close_others", account.id, session.id)
            await self.audit.note(account.caller, "account.password", account.email)
        self.sessions.forget()
        return changed

    async def _write(self, one: Account, password: str) -> None:
        values = (one.name, password, one.role.value, int(one.is_enabled), one.tenant, one.id)
        if not await self._tables.do("change", *values):
            raise NotFoundError(f"account {one.id!r} does not exist", code="account_not_found")

    # others

    async def of(self, tenant: str) -> list[Account]:
        return [account_from(row) for row in await self._tables.rows("of_tenant", tenant=tenant)]

    async def find(self, tenant: str, id: str) -> Account:  # noqa: A002
        """Raises NotFoundError."""
        rows = await self._tables.rows("by_id", id=id)
        if not rows or rows[0]["tenant"] != tenant:
            raise NotFoundError(f"account {id[:60]!r} does not exist", code="account_not_found")
        return account_from(rows[0])

    async def change(
        self, by: Caller, id: str, *, role: Role | None = None, is_enabled: bool | None = None  # noqa: A002
    ) -> Account:  # fmt: skip
        """Raises NotFoundError, ForbiddenError for whoever is above the caller, before or after; InvokeBadRequestError
        where nobody would own the tenant any more."""

        def work(it: Connection) -> Account:
            it.execute(self._tables.sql["hold_owners"])
            rows = it.execute(self._tables.sql["account_now"], (by.tenant, id))
            if not rows:
                raise NotFoundError(f"account {id[:60]!r} does not exist", code="account_not_found")
            old = account_from(rows[0])
            new = msgspec.structs.replace(
                old, role=role or old.role, is_enabled=old.is_enabled if is_enabled is None else is_enabled
            )
            for needed in (old.role, new.role):
                if not by.role.covers(needed):
                    raise ForbiddenError(f"your role {by.role.value!r} is below {needed.value!r}")
            values = (new.name, rows[0]["password"], new.role.value, int(new.is_enabled), new.tenant, new.id)
            it.execute(self._tables.sql["change"], values)
            if old.role is Role.OWNER and not it.execute(self._tables.sql["owners"], (new.tenant,))[0]["count"]:
                raise InvokeBadRequestError("a tenant keeps one owner who may sign in")
            if not new.is_enabled:
                it.execute(self._tables.sql["close_others"], (new.id, ""))
            return new

        changed: Account = await self._tables.transact(work)
        self.sessions.forget()
        details = {"role": changed.role.value, "is_enabled": changed.is_enabled}
        await self.audit.note(by, "account.change", changed.email, details)
        return changed

    async def invite(self, by: Caller, email: str, role: Role) -> str:
        """What whoever was invited shows to become an account. Raises ForbiddenError, InvokeBadRequestError."""
        if not by.role.covers(role):
            raise ForbiddenError(f"your role {by.role.value!r} is below {role.value!r}")
        address = checked_email(email)
        if await self._tables.rows("by_email", email=address):
            raise InvokeBadRequestError(f"{address} has an account already", param="email")
        token = secrets.token_urlsafe(32)
        until = self._now() + _INVITED_SECONDS
        await self._tables.do("invite", digest_of(token), by.tenant, address, role.value, by.user or "", until)
        await self.audit.note(by, "account.invite", address, {"role": role.value})
        return token

    async def accept(self, token: str, name: str, password: str) -> Account:
        """Raises NotFoundError for an invitation that is not there, was used, is over, or is a tenant's that is
        switched off; BusyError."""
        now = self._now()
        passwords.checked_password(password)
        known = await self._tables.rows("is_invited", digest=digest_of(token))
        if not known or known[0]["expires_at"] < now:  # nobody has a password hashed who was not invited
            raise NotFoundError("this invitation is not, or no longer, good", code="invitation_not_found")
        stored = await passwords.hashed(password)

        def work(it: Connection) -> Account:
            rows = it.execute(self._tables.sql["invitation"], (digest_of(token),))
            if not rows or rows[0]["expires_at"] < now or not self._admits(rows[0]["tenant"], rows[0]["email"]):
                raise NotFoundError("this invitation is not, or no longer, good", code="invitation_not_found")
            one = self._account(rows[0]["tenant"], rows[0]["email"], name, Role(rows[0]["role"]))
            by = it.execute(self._tables.sql["inviter"], (rows[0]["invited_by"], one.tenant))
            if by and not (by[0]["is_enabled"] and Role(by[0]["role"]).covers(one.role)):
                # Whoever invited may not give that role any more.
                raise NotFoundError("this invitation is not, or no longer, good", code="invitation_not_found")
            if not it.execute(self._tables.sql["add"], columns_of(one, stored)):
                raise InvokeBadRequestError(f"{one.email} has an account already", param="email")
            return one

        made: Account = await self._tables.transact(work)
        await self.audit.note(made.caller, "account.accept", made.email)
        return made


def _linking(account: Account, state: str) -> bytes:
    return f"link\n{state}\n{account.id}".encode()
