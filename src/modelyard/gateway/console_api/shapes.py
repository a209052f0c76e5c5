"""Request and response types of the console's own API. Times are in seconds since 1970."""

from typing import Any

import msgspec


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """An account; `seen_at` is its last use."""

    id: str
    email: str
    name: str
    role: str
    tenant: str
    is_enabled: bool
    created_at: float
    seen_at: float | None


class SignInState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sign-in state of the browser."""

    mode: str
    """`single`: no sign-in is needed; `setup`: the first owner has to be created;
    `accounts`: users sign in."""
    account: AccountView | None
    elsewhere: str = ""
    """Label of the button that leads to the identity provider; missing if there is
    none."""


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """The account that was signed in."""

    account: AccountView


class SignedOut(msgspec.Struct, frozen=True, kw_only=True):
    """Confirmation of a sign-out."""

    signed_out: bool


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """A session of the user."""

    id: str
    agent: str
    """The browser's User-Agent."""
    created_at: float
    issued_at: float
    expires_at: float
    is_current: bool


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """Confirmation that a session was ended."""

    id: str
    deleted: bool


class InvitationToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new invitation."""

    token: str
    """Token for the invited user. It is returned only in this response."""


class AuditEntryView(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the audit log."""

    id: str
    at: float
    who: str
    what: str
    subject: str
    details: dict[str, Any]


class SignInInput(msgspec.Struct, frozen=True, kw_only=True):
    """Email and password of a sign-in."""

    email: str
    password: str


class SetUpInput(msgspec.Struct, frozen=True, kw_only=True):
    """The first owner's account."""

    email: str
    password: str
    name: str = ""


class AcceptInput(msgspec.Struct, frozen=True, kw_only=True):
    """Acceptance of an invitation."""

    token: str
    password: str
    name: str = ""


class OwnAccountInput(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of the user's own account; empty fields stay as they are."""

    name: str = ""
    current_password: str = ""
    password: str = ""


class AccountInput(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of an account by an administrator; null fields stay as they are."""

    role: str | None = None
    is_enabled: bool | None = None


class InvitationInput(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation to be sent."""

    email: str
    role: str
