"""Accounts and sessions: the data types, their rows and their SQL statements.

The operations on them are in `accounts`, `sessions`, `sign_in` and `audit`.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.storage.database import Connection, Database, Row, statements
from modelyard.tenancy.caller import Caller, Role
from modelyard.tenancy.reader import Reader

T = TypeVar("T")


class SignInError(ModelyardError):
    """The address and the password do not match. The message does not say which of them
    is wrong."""

    code = "sign_in_failed"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A person's account in a tenant."""

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
        """The caller that this account acts as."""
        return Caller(
            tenant=self.tenant,
            user=self.email,
            role=self.role,
            key=f"account:{self.id}",
            reader=Reader(users=(self.email,)),
            # Administrators manage all documents, and check what others find.
            speaks_for_users=self.role.covers(Role.ADMIN),
        )


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A signed-in browser session."""

    id: str
    account: Account
    agent: str
    created_at: float
    issued_at: float
    expires_at: float
    address: str = ""
    """The network address from which it was opened."""


class AccountTables:
    """The tables of accounts, sessions, invitations and the audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sql: Mapping[str, str] = statements("accounts")
        """The statements by name, for use within a transaction."""

    async def rows(self, name: str, **values: Any) -> list[Row]:
        """Run a read-only statement and return its rows. Raises
        StorageUnavailableError."""
        return await self._database.fetch(self.sql[name], values)

    async def run(self, name: str, *values: Any) -> list[Row]:
        """Run a statement and return its rows once it is committed. Raises
        StorageUnavailableError."""
        return await self._database.transact(
            lambda connection: connection.execute(self.sql[name], values)
        )

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction. Raises StorageUnavailableError and whatever
        `work` raises."""
        return await self._database.transact(work)


def digest_of(token: str) -> str:
    """Return the digest under which the token of a session or an invitation is stored."""
    # No salt and no slow hash: a random token cannot be guessed like a password.
    return hashlib.sha256(token.encode()).hexdigest()


def columns_of(account: Account, password: str) -> tuple[Any, ...]:
    """Return the columns of a new account's row. `password` is the hash, empty for
    none."""
    # In the order of the columns in the statement that inserts them.
    return (
        account.id,
        account.tenant,
        account.email,
        account.name,
        password,
        account.role.value,
        account.created_at,
    )


def account_from(row: Row) -> Account:
    """Return the account in a row."""
    return Account(
        id=row["id"],
        tenant=row["tenant"],
        email=row["email"],
        name=row["name"],
        role=Role(row["role"]),
        # SQLite has no booleans: it returns 0 or 1.
        is_enabled=bool(row["is_enabled"]),
        created_at=row["created_at"],
        seen_at=row["seen_at"],
    )
