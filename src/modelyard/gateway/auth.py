"""Who is calling. Without keys everybody on this machine may, and nobody else can reach the server."""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec

from modelyard.base.clock import Clock, SystemClock
from modelyard.base.errors import ConfigError, ModelyardError, NotFoundError
from modelyard.runtime import api_keys
from modelyard.runtime.accounts import SESSION_SECONDS, Accounts, Session
from modelyard.runtime.caller import DEFAULT_TENANT, Caller
from modelyard.runtime.tenancy import Directory, User
from modelyard.storage.secrets import KeyRing


class UnauthorizedError(ModelyardError):
    code = "invalid_api_key"


class OriginError(ModelyardError):
    code = "origin_not_allowed"


_MOST_KNOWN = 4096
TENANT = b"x-modelyard-tenant"
"""Whom the operator acts for in a call."""


class Gatekeeper:
    """Knows callers by their API keys: those in the settings, which are the owner's, and those that tenants made."""

    def __init__(
        self,
        keys: Sequence[str],
        directory: Directory | None = None,
        ring: KeyRing | None = None,
        clock: Clock | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        self.keys = keys
        self.accounts = accounts
        self._owned_at = float("-inf")
        self._is_owned = False
        self._directory = directory
        self._ring = ring
        self._clock = clock or SystemClock()
        self._known: dict[bytes, Caller] = {}
        self._changes = -1

    @property
    def is_open(self) -> bool:
        """Whether no key is needed: there is none, nobody owns the server, and it listens to this machine alone."""
        return not self.keys and not (self._directory and self._directory.has_keys) and not self.has_owner

    @property
    def has_owner(self) -> bool:
        """Whether somebody has an account as owner, as of a second ago."""
        if self.accounts is not None and not self._is_owned and self._clock.monotonic() - self._owned_at > 1.0:
            self._owned_at = self._clock.monotonic()
            self._is_owned = self.accounts.has_owner()
        return self._is_owned

    def learn_owner(self) -> None:
        """Somebody has become the owner just now."""
        self._is_owned = True

    def session_of(self, headers: Sequence[tuple[bytes, bytes]], method: str) -> Session | None:
        """Whose browser is calling, by its cookie. Raises OriginError where another site's page made it call."""
        token = cookie_of(headers, SESSION_COOKIE)
        found = self.accounts.session(token) if token and self.accounts is not None else None
        if found is not None:
            check_same_origin(headers, method)
        return found

    def caller_of(self, headers: Sequence[tuple[bytes, bytes]], method: str = "GET") -> Caller:
        """Raises UnauthorizedError where a key is needed and none that fits is shown, NotFoundError where a tenant is
        named that is not the caller's to act for."""
        caller = self._caller_of(headers, method)
        for name, value in headers:
            if name == TENANT:
                return self._within(caller, value.decode("latin-1"))
        return caller

    def _within(self, caller: Caller, tenant: str) -> Caller:
        """The operator, as the owner of another tenant."""
        if tenant == caller.tenant:
            return caller
        known = self._directory.tenants() if self._directory is not None and caller.is_operator else ()
        if tenant not in {name for name, _ in known}:
            raise NotFoundError(f"tenant {tenant[:80]!r} does not exist", code="tenant_not_found")
        return msgspec.structs.replace(caller, tenant=tenant)

    def _caller_of(self, headers: Sequence[tuple[bytes, bytes]], method: str) -> Caller:
        shown = _shown(headers)
        if shown is None or not shown:
            if (session := self.session_of(headers, method)) is not None:
                return session.account.caller
            if self.is_open:
                check_origin(headers)
                return _OWNER
            raise UnauthorizedError("this server needs an API key: send it as 'Authorization: Bearer KEY'")
        # Remembered by the digest of all of it: keys themselves do not stay in memory.
        digest = hashlib.sha256(shown).digest()
        if self._directory is not None and self._changes != self._directory.changes:
            self._known.clear()
            self._changes = self._directory.changes
        caller = self._known.get(digest)
        if caller is None:
            caller = self._looked_up(shown, headers)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[digest] = caller
        if caller.expires_at is not None and caller.expires_at <= self._clock.time():
            raise UnauthorizedError("this API key has expired")
        return caller

    def _looked_up(self, shown: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Caller:
        # Every key is compared, in constant time each: how long it takes says nothing about how much fits.
        if sum(hmac.compare_digest(shown, key.encode()) for key in self.keys):
            return _OWNER
        text = shown.decode("latin-1")
        if self._directory is not None and self._ring is not None and (row := api_keys.id_of(text)) is not None:
            return self._stored(row, shown, self._directory, self._ring)
        if self.is_open:  # clients insist on sending one; without keys, any will do
            check_origin(headers)
            return _OWNER
        raise UnauthorizedError("the API key is not known here")

    def _stored(self, row: str, shown: bytes, directory: Directory, ring: KeyRing) -> Caller:
        found = directory.key(row)
        if found is None or not ring.matches(shown, found[1].digest):
            raise UnauthorizedError("the API key is not known here")
        tenant, key = found
        if key.revoked_at is not None:
            raise UnauthorizedError("this API key was revoked")
        if not directory.is_enabled(tenant):
            raise UnauthorizedError(f"tenant {tenant!r} is switched off")
        user = directory.named(tenant, User, key.user) if key.user else None
        if user is not None and not user.is_enabled:
            raise UnauthorizedError(f"user {key.user!r} is switched off")
        return Caller(
            tenant=tenant, key=row, user=key.user, role=key.role, models=tuple(key.models), priority=key.priority,
            expires_at=key.expires_at,
        )  # fmt: skip


_OWNER = Caller(tenant=DEFAULT_TENANT)
SESSION_COOKIE = "modelyard-session"


def session_cookie(token: str, *, is_https: bool) -> str:
    """A cookie that no script reads, and that no other site's page sends; an empty one is taken away."""
    age = int(SESSION_SECONDS) if token else 0
    return f"{SESSION_COOKIE}={token}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{'; Secure' if is_https else ''}"


def cookie_of(headers: Sequence[tuple[bytes, bytes]], wanted: str) -> str:
    """Empty where there is none."""
    for name, value in headers:
        if name == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, _, said = part.strip().partition("=")
                if key == wanted:
                    return said
    return ""


def check_same_origin(headers: Sequence[tuple[bytes, bytes]], method: str) -> None:
    """Raises OriginError where a browser's call comes from another site's page.

    Browsers name the page's origin with every call that changes something, and with every call across sites.
    """
    said = {name: value.decode("latin-1") for name, value in headers if name in (b"origin", b"host", b"sec-fetch-site")}
    origin, host = said.get(b"origin"), said.get(b"host", "")
    if origin is not None:
        if urlsplit(origin).netloc.lower() != host.lower():
            raise OriginError(f"calls from {origin[:100]!r} are refused: they come from another site")
        return
    site = said.get(b"sec-fetch-site")
    if site in ("cross-site", "same-site") or (method not in ("GET", "HEAD") and site not in ("same-origin", "none")):
        raise OriginError("this call does not say which page it comes from: it is refused")


def check_origin(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raises OriginError where a page of another site is calling.

    Without keys, whoever reaches the server may use it, and a browser on this machine reaches it for any page it shows:
    such a request names the page's origin, or, when the page's host name was bent to point here, that host.
    """
    for name, value in headers:
        if name in (b"origin", b"host") and not _names_loopback(value):
            caller = value.decode("latin-1")
            raise OriginError(f"calls from {caller!r} are refused while no API key is set; set api_keys, and show one")


@lru_cache(256)
def _names_loopback(value: bytes) -> bool:
    text = value.decode("latin-1")
    try:
        host = urlsplit(text if "//" in text else f"//{text}").hostname
    except ValueError:
        return False
    return bool(host) and is_loopback(host)


def _shown(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            return key.strip() if scheme.lower() == b"bearer" else None
        if name in (b"x-api-key", b"x-goog-api-key"):  # how Anthropic's and Google's clients show theirs
            return value.strip()
    return None


def check_bind(host: str, *, is_open: bool) -> None:
    """Raises ConfigError for an address that others can reach, where no key is needed."""
    if is_open and not is_loopback(host):
        raise ConfigError(
            f"refusing to listen on {host} without an API key: others could use your models. "
            "Make one with `modelyard keys create NAME --role owner`, set MODELYARD_API_KEYS, or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
