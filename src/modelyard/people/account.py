"""An account and its sessions, as values, as rows, and the statements on them. What may be done with them stands in
`accounts`, `sessions`, `sign_in` and `audit`.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.storage.database import Connection, Database, Row, statements
from modelyard.tenancy.caller import Caller, Role

T = TypeVar("T")


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


class AccountTables:
    """The tables that accounts, their sessions, invitations and what was changed stand in."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sql: Mapping[str, str] = statements("accounts")
        """For work within a transaction."""

    async def rows(self, name: str, **values: Any) -> list[Row]:
        """What a statement that only reads returns. Raises StorageUnavailableError."""
        return await self._database.fetch(self.sql[name], values)

    async def do(self, name: str, *values: Any) -> list[Row]:
        """What a statement returns, once it is committed. Raises StorageUnavailableError."""
        return await self._database.transact(lambda it: it.execute(self.sql[name], values))

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """As the database's. Raises StorageUnavailableError, and whatever `work` raises."""
        return await self._database.transact(work)


def checked_email(email: str) -> str:
    """In small letters. Raises InvokeBadRequestError."""
    address = email.strip().lower()
    name, at, host = address.rpartition("@")
    is_plain = all(sign > " " and sign not in '<>"(),;:\\' for sign in address)
    if not name or not at or not host or len(address) > 254 or not is_plain:
        raise InvokeBadRequestError(f"{email[:60]!r} is no address for mail", param="email")
    return address


def digest_of(token: str) -> str:
    """What is kept of a session's or an invitation's number."""
    return hashlib.sha256(token.encode()).hexdigest()


def columns_of(one: Account, password: str) -> tuple[Any, ...]:
    return one.id, one.tenant, one.email, one.name, password, one.role.value, one.created_at


def account_from(row: Row) -> Account:
    return Account(
        id=row["id"], tenant=row["tenant"], email=row["email"], name=row["name"], role=Role(row["role"]),
        is_enabled=bool(row["is_enabled"]), created_at=row["created_at"], seen_at=row["seen_at"],
    )  # fmt: skip
