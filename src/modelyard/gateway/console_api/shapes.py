"""What the console's own API takes and answers. Times are seconds since 1970."""

from typing import Any

import msgspec


class AccountShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    email: str
    name: str
    role: str
    tenant: str
    is_enabled: bool
    created_at: float
    seen_at: float | None


class WhoIsSignedIn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    mode: str
    """`single`: nobody signs in here; `setup`: the first owner is to be set up; `accounts`: people sign in."""
    account: AccountShown | None
    elsewhere: str = ""
    """What the button says that leads to an identity provider; missing where there is none."""


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    account: AccountShown


class SignedOut(msgspec.Struct, frozen=True, kw_only=True):
    signed_out: bool


class SessionShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    agent: str
    """The browser, as it names itself."""
    created_at: float
    issued_at: float
    expires_at: float
    is_current: bool


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    deleted: bool


class Invited(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    """What the invited person shows; it is told once."""


class ChangeShown(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the log of changes."""

    id: str
    at: float
    who: str
    what: str
    subject: str
    details: dict[str, Any]


class SignInInput(msgspec.Struct, frozen=True, kw_only=True):
    email: str
    password: str


class SetUpInput(msgspec.Struct, frozen=True, kw_only=True):
    email: str
    password: str
    name: str = ""


class AcceptInput(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    password: str
    name: str = ""


class OwnAccountInput(msgspec.Struct, frozen=True, kw_only=True):
    name: str = ""
    current_password: str = ""
    password: str = ""


class AccountInput(msgspec.Struct, frozen=True, kw_only=True):
    role: str | None = None
    is_enabled: bool | None = None


class InvitationInput(msgspec.Struct, frozen=True, kw_only=True):
    email: str
    role: str
