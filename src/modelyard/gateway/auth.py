"""Who is calling. Without keys everybody on this machine may, and nobody else can reach the server.

What decides is looked at in this order, on every request: whether the server is open, and then who may call an open
server; the bearer; the browser's session. Only bearers that were issued are ever remembered.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from modelyard.base.clock import Clock, SystemClock
from modelyard.base.errors import ConfigError, ModelyardError, NotFoundError
from modelyard.people.account import Session
from modelyard.people.accounts import Accounts
from modelyard.people.sessions import SESSION_SECONDS
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy import api_keys
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tenancy.directory import Directory


class UnauthorizedError(ModelyardError):
    code = "invalid_api_key"


class OriginError(ModelyardError):
    code = "origin_not_allowed"


Headers = Sequence[tuple[bytes, bytes]]
Scope = Mapping[str, Any]
"""A request as ASGI describes it: headers, method, and the client's address."""

_MOST_KNOWN = 4096
_OWNER_SECONDS = 0.5
"""For so long is believed that nobody owns the server: somebody may have set it up in another process."""
TENANT = b"x-modelyard-tenant"
"""Whom the operator acts for in a call."""
_FORWARDED = (b"x-forwarded-for", b"x-real-ip", b"forwarded", b"via")
"""What proxies add: behind one, the client's address says nothing about who calls."""


class Gatekeeper:
    """Knows callers by their API keys: those in the settings, which are the owner's, and those that tenants made."""

    def __init__(
        self,
        keys: Sequence[str],
        directory: Directory | None = None,
        ring: KeyRing | None = None,
        clock: Clock | None = None,
        accounts: Accounts | None = None,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        """`trusted_proxies`: addresses and networks whose `X-Forwarded-For` is believed. Raises ConfigError."""
        self._directory = directory
        self._ring = ring
        self._clock = clock or SystemClock()
        self.accounts = accounts
        self._known: dict[bytes, Caller] = {}
        self._known_at: tuple[int, int] = (-1, -1)
        self._key_changes = 0
        self._keys: Sequence[str] = ()
        self.keys = keys
        self._is_owned = False
        self._owned_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._proxies = [_network(one) for one in trusted_proxies]

    @property
    def keys(self) -> Sequence[str]:
        """Those of the settings."""
        return self._keys

    @keys.setter
    def keys(self, keys: Sequence[str]) -> None:
        self._keys = tuple(keys)
        self._key_changes += 1

    # the mode

    @property
    def is_open(self) -> bool:
        """Whether no key is needed: there is none, and nobody owns the server, as of the last look."""
        return not self.has_keys and not self._is_owned

    @property
    def has_keys(self) -> bool:
        return bool(self._keys) or (self._directory is not None and self._directory.has_keys)

    @property
    def has_owner(self) -> bool:
        """Whether somebody has an account as owner, as of the last look."""
        return self._is_owned

    async def look(self) -> None:
        """Learn whether somebody owns the server, where that may have changed. Who comes meanwhile waits for it.

        Raises StorageUnavailableError.
        """
        if self._is_owned or self.accounts is None:
            return
        if self._clock.monotonic() - self._owned_at <= _OWNER_SECONDS:
            return
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look(self.accounts))
        await asyncio.shield(self._looking)

    async def _look(self, accounts: Accounts) -> None:
        try:
            if await accounts.has_owner():
                self._is_owned = True
            self._owned_at = self._clock.monotonic()
        finally:
            self._looking = None

    def learn_owner(self) -> None:
        """Somebody has become the owner just now."""
        self._is_owned = True

    async def check_open(self, scope: Scope) -> None:
        """Raises OriginError while no key is needed, unless somebody at this machine calls, and no other site's page.

        Before anything else is looked at: an open server makes its owner of whoever passes.
        """
        if not self.has_keys:
            await self.look()
        if self.is_open:
            check_origin(scope)

    # callers

    def address_of(self, scope: Scope) -> str:
        """Where a call comes from: the connection's other end, or whom a trusted proxy names."""
        client = scope.get("client")
        address = str(client[0]) if client else ""
        if not self._proxies or not self._is_proxy(address):
            return address
        named = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for")
        for part in reversed(named.split(",")):
            hop = part.strip().strip("[]")
            if _ip(hop) is None:  # a proxy that we trust writes addresses: what is none, somebody else wrote
                break
            address = hop
            if not self._is_proxy(hop):
                break
        return address

    def _is_proxy(self, address: str) -> bool:
        ip = _ip(address)
        return ip is not None and any(ip in network for network in self._proxies if network.version == ip.version)

    async def session_of(self, scope: Scope) -> Session | None:
        """Whose browser is calling, by its cookie; None for those that are switched off.

        Raises OriginError where another site's page made it call.
        """
        token = cookie_of(scope["headers"], SESSION_COOKIE)
        session = await self.accounts.sessions.of_token(token) if token and self.accounts is not None else None
        if session is None:
            return None
        check_same_origin(scope["headers"], scope["method"])
        return session if self.admits(session.account.tenant, session.account.email) else None

    def admits(self, tenant: str, user: str | None) -> bool:
        """Whether neither the tenant nor the user is switched off."""
        return self._directory is None or self._directory.admits(tenant, user)

    def shuts_out(self, tenant: str, user: str | None = None) -> bool:
        """Whether a tenant was removed or switched off, or a user of it was."""
        return self._directory is not None and self._directory.shuts_out(tenant, user)

    async def caller_of(self, scope: Scope) -> Caller:
        """Raises OriginError, UnauthorizedError where a key is needed and none that fits is shown, NotFoundError where
        a tenant is named that is not the caller's to act for."""
        caller = await self._caller_of(scope)
        for name, value in scope["headers"]:
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
        return msgspec.structs.replace(caller, tenant=tenant, is_acting=True)

    async def _caller_of(self, scope: Scope) -> Caller:
        await self.check_open(scope)
        if self.is_open:  # clients insist on sending a bearer; whatever it is, it says nothing about who calls
            return _OWNER
        shown = _shown(scope["headers"])
        if shown:
            return self._by_key(shown)
        session = await self.session_of(scope)
        if session is None:
            raise UnauthorizedError("this server needs an API key: send it as 'Authorization: Bearer KEY'")
        return session.account.caller

    def _by_key(self, shown: bytes) -> Caller:
        """Remembered by the digest of all of it (keys themselves do not stay in memory), until keys, users or tenants
        change."""
        now = (self._key_changes, self._directory.changes if self._directory is not None else 0)
        if self._known_at != now:
            self._known.clear()
            self._known_at = now
        digest = hashlib.sha256(shown).digest()
        caller = self._known.get(digest)
        if caller is None:
            caller = self._looked_up(shown)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[digest] = caller
        if caller.expires_at is not None and caller.expires_at <= self._clock.time():
            raise UnauthorizedError("this API key has expired")
        return caller

    def _looked_up(self, shown: bytes) -> Caller:
        # Every key is compared, in constant time each: how long it takes says nothing about how much fits.
        if sum(hmac.compare_digest(shown, key.encode()) for key in self._keys):
            return _OWNER
        text = shown.decode("latin-1")
        if self._directory is not None and self._ring is not None and (row := api_keys.id_of(text)) is not None:
            return self._stored(row, shown, self._directory, self._ring)
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
        if not directory.admits(tenant, key.user):
            raise UnauthorizedError(f"user {key.user!r} is switched off")
        return key.caller(tenant, row)


_OWNER = Caller(tenant=DEFAULT_TENANT)
SESSION_COOKIE = "modelyard-session"
DEVICE_COOKIE = "modelyard-device"
_DEVICE_SECONDS = 365 * 86_400


def session_cookie(token: str, *, is_https: bool) -> str:
    """A cookie that no script reads, and that no other site's page sends; an empty one is taken away."""
    age = int(SESSION_SECONDS) if token else 0
    return f"{SESSION_COOKIE}={token}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{'; Secure' if is_https else ''}"


def device_cookie(token: str, path: str, *, is_https: bool) -> str:
    """What a browser that somebody signed in with shows the next time: it is no sign-in, others' tries do not count
    against it."""
    secure = "; Secure" if is_https else ""
    return f"{DEVICE_COOKIE}={token}; Path={path}; Max-Age={_DEVICE_SECONDS}; HttpOnly; SameSite=Strict{secure}"


def cookie_of(headers: Headers, wanted: str) -> str:
    """Empty where there is none."""
    for name, value in headers:
        if name == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, _, said = part.strip().partition("=")
                if key == wanted:
                    return said
    return ""


def check_same_origin(headers: Headers, method: str) -> None:
    """Raises OriginError where a browser's call comes from another site's page.

    Browsers name the page's origin with every call that changes something, and with every call across sites.
    """
    origin, host = _only(headers, b"origin"), _only(headers, b"host") or ""
    if origin is not None:
        if not host or origin.partition("://")[2].lower() != host.lower():
            raise OriginError(f"calls from {origin[:100]!r} are refused: they come from another site")
        return
    site = _only(headers, b"sec-fetch-site")
    if site in ("cross-site", "same-site") or (method not in ("GET", "HEAD") and site not in ("same-origin", "none")):
        raise OriginError("this call does not say which page it comes from: it is refused")


def check_origin(scope: Scope) -> None:
    """Raises OriginError unless somebody at this machine calls, and no page of another site.

    Without keys, whoever reaches the server may use it, and a browser on this machine reaches it for any page it shows:
    such a request names the page's origin, or, when the page's host name was bent to point here, that host.
    """
    headers = scope["headers"]
    client = scope.get("client")
    if client and not is_loopback(str(client[0])):
        raise OriginError(f"calls from {str(client[0])!r} are refused while no API key is set; set api_keys")
    if through := next((name for name, _ in headers if name in _FORWARDED), None):
        raise OriginError(
            f"calls through a proxy ({through.decode()}) are refused while no API key is set; set api_keys"
        )
    host, origin = _only(headers, b"host"), _only(headers, b"origin")
    for caller in (host or "", origin):
        if caller is not None and not _names_loopback(caller):
            raise OriginError(
                f"calls from {caller[:100]!r} are refused while no API key is set; set api_keys, and show one"
            )
    is_navigation = scope["method"] == "GET" and _only(headers, b"sec-fetch-mode") == "navigate"
    if origin is None and not is_navigation and _only(headers, b"sec-fetch-site") == "cross-site":
        raise OriginError("calls from other sites' pages are refused while no API key is set; set api_keys")


def _only(headers: Headers, wanted: bytes) -> str | None:
    """A header's value; None where it was not sent. Raises OriginError for several: which of them holds?"""
    values = [value for name, value in headers if name == wanted]
    if len(values) > 1:
        raise OriginError(f"the header {wanted.decode()!r} was sent {len(values)} times; send it once")
    return values[0].decode("latin-1") if values else None


_HOST = re.compile(r"(?:[a-z][a-z0-9+.-]*://)?(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::\d{1,5})?")
"""A host as `Host` and `Origin` name one, with its port and scheme; nothing else may stand in it."""


@lru_cache(256)
def _names_loopback(text: str) -> bool:
    match = _HOST.fullmatch(text.lower())
    return match is not None and is_loopback(match[1] or match[2])


def _shown(headers: Headers) -> bytes | None:
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
    ip = _ip(host)
    if ip is None:
        return host in ("localhost", "localhost.")
    return ip.is_loopback


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address; an IPv4 one that is written as IPv6 is that. None for what is none."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"trusted_proxies: {text[:60]!r} is no address and no network, as 10.0.0.0/8") from error
