"""Accounts and invitations. Signing in is in `sign_in`, sessions are in `sessions`."""

import secrets
import time
from collections.abc import Callable

import msgspec

from modelyard.base.email_addresses import checked_email
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.people import passwords
from modelyard.people.account import (
    Account,
    AccountTables,
    Session,
    SignInError,
    account_from,
    columns_of,
    digest_of,
)
from modelyard.people.audit import Audit
from modelyard.people.sessions import Sessions
from modelyard.people.sign_in import TRIES_OF_ONE, TRY_SECONDS, IsSigned, Sign, SignIn
from modelyard.people.sign_in_limits import Attempts
from modelyard.storage.database import Connection, Database
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller, ForbiddenError, Role

_HAS_OWNER = "This server already has an owner; sign in instead"
# Over a weekend and a day off; a lost mail is no key forever.
_INVITATION_SECONDS = 7 * 86_400.0


class SetUpError(ModelyardError):
    """This server already has an owner."""

    code = "already_set_up"


class Accounts:
    """Creates, changes and invites accounts."""

    def __init__(
        self,
        database: Database,
        get_time: Callable[[], float] = time.time,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        admits: Callable[[str, str], bool] = lambda tenant, user: True,
        create_signature: Sign = lambda text: "",
        is_signed: IsSigned = lambda text, signature: False,
    ) -> None:
        """Create the service.

        `admits`: returns False if a tenant or its user is disabled. `create_signature`
        and `is_signed`: create and verify a keyed hash.
        """
        self._tables = AccountTables(database)
        self._now = get_time
        self._admits = admits
        self._create_signature = create_signature
        self._is_signed = is_signed
        self._password_tries = Attempts(TRIES_OF_ONE, TRY_SECONDS, monotonic)
        self.audit = Audit(self._tables, get_time)
        self.sessions = Sessions(self._tables, get_time, monotonic)
        self.sign_in = SignIn(
            self._tables,
            self.sessions,
            get_time,
            monotonic,
            admits=admits,
            create_signature=create_signature,
            is_signed=is_signed,
        )

    # the first one

    async def has_owner(self) -> bool:
        """Return whether the server has an owner."""
        return bool(await self._tables.rows("any_owner"))

    async def set_up(self, email: str, name: str, password: str) -> Account:
        """Create the server's owner. Only the first caller succeeds; raises SetUpError
        for all others."""
        if await self.has_owner():
            raise SetUpError(_HAS_OWNER)
        # Hashing is slow, so it happens before the transaction.
        password_hash = await passwords.hashed(passwords.checked_password(password))
        account = self._account(DEFAULT_TENANT, email, name, Role.OWNER)

        def work(connection: Connection) -> bool:
            """Claim the ownership and add the account in one transaction."""
            sql = self._tables.sql
            # The statement inserts a row that can exist only once, so of two concurrent
            # requests one fails.
            if not connection.execute(sql["claim_owner"], (account.id,)):
                return False
            connection.execute(sql["add"], columns_of(account, password_hash))
            return True

        if not await self._tables.transact(work):
            raise SetUpError(_HAS_OWNER)
        await self.audit.audit(account.caller, "account.set_up", account.email)
        return account

    def _account(self, tenant: str, email: str, name: str, role: Role) -> Account:
        """Return a new account with a validated address."""
        return Account(
            id=new_id("acct"),
            tenant=tenant,
            email=checked_email(email),
            name=name.strip()[:100] or email,
            role=role,
            created_at=self._now(),
        )

    async def sign_in_external(
        self,
        email: str,
        name: str,
        role: Role | None,
        *,
        link: str = "",
        state: str = "",
    ) -> Account:
        """Return the account of a person whom an identity provider has authenticated.
        Raises SignInError.

        With `role`, an unknown person gets a new account in the default tenant. `link`
        is what `link_signature` returned for this `state`. An invited account of another
        tenant, with a password, must be linked first by a person who is signed in to
        it. Otherwise that tenant's administrator, who can accept an invitation for any
        address, could make its owner work in an account that the administrator
        controls.
        """
        rows = await self._tables.rows("by_email", email=checked_email(email))
        if not rows:
            if role is None:
                raise SignInError(
                    f"No account exists for {email}; ask an administrator for an"
                    " invitation"
                )
            new_account = self._account(DEFAULT_TENANT, email, name, role)
            await self._tables.transact(
                lambda connection: connection.execute(
                    self._tables.sql["add"], columns_of(new_account, "")
                )
            )
            await self.audit.audit(
                new_account.caller, "account.come", new_account.email
            )
            # Read the row again: another request may have added the same address first.
            rows = await self._tables.rows("by_email", email=new_account.email)
        if not rows[0]["is_enabled"] or not self._admits(
            rows[0]["tenant"], rows[0]["email"]
        ):
            raise SignInError(f"The account of {email} is disabled")
        account = account_from(rows[0])
        if (
            account.tenant != DEFAULT_TENANT
            and rows[0]["password"]
            and not rows[0]["is_linked"]
        ):
            # The signature proves that the browser was signed in to this account when
            # it left for the identity provider.
            if not self._is_signed(_link_text(account, state), link):
                raise SignInError(
                    f"{email} has an account with a password; sign in with the password,"
                    " then open /console/api/oidc/begin in the same browser once"
                )
            await self._tables.run("link", account.id)
            await self.audit.audit(account.caller, "account.link", account.email)
        return account

    def link_signature(self, account: Account, state: str) -> str:
        """Return the signature that a browser keeps while its signed-in user visits the
        identity provider."""
        return self._create_signature(_link_text(account, state))

    async def change_own(
        self, session: Session, *, name: str = "", old: str = "", new: str = ""
    ) -> Account:
        """Change the name or the password of one's own account. A new password ends all
        other sessions.

        Raises SignInError if the old password is wrong, InvokeBadRequestError if the
        new one is not allowed.
        """
        account = session.account
        (row,) = await self._tables.rows("by_id", id=account.id)
        password_hash = row["password"]
        if new:
            # A stolen session must not be able to guess the password.
            self._password_tries.take(account.id)
            if not await passwords.verify_password(old, password_hash):
                raise SignInError("Current password is incorrect")
            self._password_tries.forget(account.id)
            password_hash = await passwords.hashed(passwords.checked_password(new))
        changed = msgspec.structs.replace(
            account, name=name.strip()[:100] or account.name
        )
        await self._write(changed, password_hash)
        if new:
            await self._tables.run("close_others", account.id, session.id)
            await self.audit.audit(account.caller, "account.password", account.email)
        # Cached sessions contain the account, so they are dropped.
        self.sessions.forget()
        return changed

    async def _write(self, record: Account, password: str) -> None:
        """Write a changed account. Raises NotFoundError if it no longer exists."""
        values = (
            record.name,
            password,
            record.role.value,
            int(record.is_enabled),
            record.tenant,
            record.id,
        )
        if not await self._tables.run("change", *values):
            raise NotFoundError(
                f"Account {record.id!r} does not exist", code="account_not_found"
            )

    # others

    async def list_accounts(self, tenant: str) -> list[Account]:
        """Return the accounts of a tenant."""
        return [
            account_from(row)
            for row in await self._tables.rows("of_tenant", tenant=tenant)
        ]

    async def find(self, tenant: str, id: str) -> Account:
        """Return an account of a tenant. Raises NotFoundError."""
        rows = await self._tables.rows("by_id", id=id)
        if not rows or rows[0]["tenant"] != tenant:
            raise NotFoundError(
                f"Account {id[:60]!r} does not exist", code="account_not_found"
            )
        return account_from(rows[0])

    async def change(
        self,
        by: Caller,
        id: str,
        *,
        role: Role | None = None,
        is_enabled: bool | None = None,
    ) -> Account:
        """Change the role of an account or disable it.

        Raises NotFoundError; ForbiddenError if the account's old or new role is above
        the caller's; InvokeBadRequestError if the tenant would have no owner left.
        """

        def work(connection: Connection) -> Account:
            """Check and write the change in one transaction."""
            # Lock the owners' rows, so that two concurrent changes cannot remove the
            # last two owners.
            connection.execute(self._tables.sql["hold_owners"])
            rows = connection.execute(self._tables.sql["account_now"], (by.tenant, id))
            if not rows:
                raise NotFoundError(
                    f"Account {id[:60]!r} does not exist", code="account_not_found"
                )
            old = account_from(rows[0])
            new = msgspec.structs.replace(
                old,
                role=role or old.role,
                is_enabled=old.is_enabled if is_enabled is None else is_enabled,
            )
            # A caller may neither change an account above its own role nor promote
            # one above it.
            for required_role in (old.role, new.role):
                _check_role(by, required_role)
            self._write_change(connection, old, new, rows[0]["password"])
            return new

        changed: Account = await self._tables.transact(work)
        self.sessions.forget()
        details = {"role": changed.role.value, "is_enabled": changed.is_enabled}
        await self.audit.audit(by, "account.change", changed.email, details)
        return changed

    def _write_change(
        self, connection: Connection, old: Account, new: Account, password: str
    ) -> None:
        """Write a changed account within a transaction. Raises InvokeBadRequestError if
        the tenant would have no owner left."""
        values = (
            new.name,
            password,
            new.role.value,
            int(new.is_enabled),
            new.tenant,
            new.id,
        )
        connection.execute(self._tables.sql["change"], values)
        if old.role is Role.OWNER:
            (owners,) = connection.execute(self._tables.sql["owners"], (new.tenant,))
            if not owners["count"]:
                raise InvokeBadRequestError("Cannot remove or disable the last owner")
        # A disabled account is signed out everywhere: no session id equals the empty
        # one.
        if not new.is_enabled:
            connection.execute(self._tables.sql["close_others"], (new.id, ""))

    async def invite(self, by: Caller, email: str, role: Role) -> str:
        """Invite a person and return the token to accept with. Raises ForbiddenError or
        InvokeBadRequestError."""
        _check_role(by, role)
        address = checked_email(email)
        if await self._tables.rows("by_email", email=address):
            raise InvokeBadRequestError(
                f"An account for {address} already exists", param="email"
            )
        token = secrets.token_urlsafe(32)
        until = self._now() + _INVITATION_SECONDS
        # Only the digest is stored, so the token cannot be read from the database.
        await self._tables.run(
            "invite",
            digest_of(token),
            by.tenant,
            address,
            role.value,
            by.user or "",
            until,
        )
        await self.audit.audit(by, "account.invite", address, {"role": role.value})
        return token

    async def accept(self, token: str, name: str, password: str) -> Account:
        """Create the account of an invited person.

        Raises NotFoundError if the invitation is unknown, used, expired, or its tenant
        is disabled; BusyError if too many passwords are being hashed.
        """
        current_time = self._now()
        passwords.checked_password(password)
        invitations = await self._tables.rows("is_invited", digest=digest_of(token))
        # Hashing is expensive, so it is done only for a valid invitation.
        if not invitations or invitations[0]["expires_at"] < current_time:
            raise NotFoundError(
                "Invitation is invalid or has expired",
                code="invitation_not_found",
            )
        password_hash = await passwords.hashed(password)

        def work(connection: Connection) -> Account:
            """Use up the invitation and add the account in one transaction."""
            # The statement deletes the invitation and returns it, so that it can be
            # used only once.
            rows = connection.execute(
                self._tables.sql["invitation"], (digest_of(token),)
            )
            if (
                not rows
                or rows[0]["expires_at"] < current_time
                or not self._admits(rows[0]["tenant"], rows[0]["email"])
            ):
                raise NotFoundError(
                    "Invitation is invalid or has expired",
                    code="invitation_not_found",
                )
            account = self._account(
                rows[0]["tenant"], rows[0]["email"], name, Role(rows[0]["role"])
            )
            by = connection.execute(
                self._tables.sql["inviter"], (rows[0]["invited_by"], account.tenant)
            )
            if by and not (
                by[0]["is_enabled"] and Role(by[0]["role"]).covers(account.role)
            ):
                # The inviter has lost the permission to give that role.
                raise NotFoundError(
                    "Invitation is invalid or has expired",
                    code="invitation_not_found",
                )
            if not connection.execute(
                self._tables.sql["add"], columns_of(account, password_hash)
            ):
                raise InvokeBadRequestError(
                    f"An account for {account.email} already exists", param="email"
                )
            return account

        created_account: Account = await self._tables.transact(work)
        await self.audit.audit(
            created_account.caller, "account.accept", created_account.email
        )
        return created_account


def _check_role(by: Caller, role: Role) -> None:
    """Raise ForbiddenError if a role is above the caller's."""
    if not by.role.covers(role):
        raise ForbiddenError(f"Your role {by.role.value!r} is below {role.value!r}")


def _link_text(account: Account, state: str) -> bytes:
    """Return the text that is signed to link an account, bound to one sign-in attempt."""
    return f"link\n{state}\n{account.id}".encode()
