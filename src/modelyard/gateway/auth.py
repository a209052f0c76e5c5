"""Authentication of callers. Without API keys, only this machine can use the server.

Each request is checked in this order: whether the server is open and who may call an
open server; the bearer key; the browser session. Only keys that were found valid are
cached.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

import msgspec

from modelyard.base.clock import Clock, SystemClock
from modelyard.base.errors import ConfigError, ModelyardError, NotFoundError
from modelyard.gateway.speaking import GROUPS, USER, with_named_reader
from modelyard.people.account import Session
from modelyard.people.accounts import Accounts
from modelyard.people.sessions import SESSION_SECONDS
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy import api_keys
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.reader import ANYBODY


class UnauthorizedError(ModelyardError):
    """The request has no valid API key or session."""

    code = "invalid_api_key"


class OriginError(ModelyardError):
    """The request comes from a web page of another site, or from another machine while
    no key is set."""

    code = "origin_not_allowed"


Headers = Sequence[tuple[bytes, bytes]]
Scope = Mapping[str, Any]
"""A request in ASGI form: headers, method and client address."""

# A caller is small, but keys can be created without end.
_MAX_CACHED_CALLERS = 4096
_OWNER_SECONDS = 0.5
"""Seconds for which "the server has no owner" is cached: another process may create the
owner."""
TENANT = b"x-modelyard-tenant"
"""Header that names the tenant for which an operator acts."""
ACTING_HEADERS = (TENANT, USER, GROUPS)
"""Headers that name somebody else on whose behalf the caller acts. Calls with them take
the usual way, where they are checked."""
AZURE_KEY = b"api-key"
"""Header with the key of Azure's clients."""
_FORWARDED = (b"x-forwarded-for", b"x-real-ip", b"forwarded", b"via")
"""Headers that proxies add. Behind a proxy the client address does not identify the
caller."""


class Authenticator:
    """Authenticates callers by the API keys of the settings, which belong to the owner,
    and by those of tenants."""

    def __init__(
        self,
        keys: Sequence[str],
        directory: Directory | None = None,
        ring: KeyRing | None = None,
        clock: Clock | None = None,
        accounts: Accounts | None = None,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        """Set up authentication. `trusted_proxies` are the addresses and networks whose
        `X-Forwarded-For` is trusted.

        Raises ConfigError for an invalid network.
        """
        self._directory = directory
        self._ring = ring
        self._clock = clock or SystemClock()
        self.accounts = accounts
        self._cached_callers: dict[bytes, Caller] = {}
        self._cache_version: tuple[int, int] = (-1, -1)
        self._key_changes = 0
        self._keys: Sequence[str] = ()
        self.keys = keys
        self._is_owned = False
        self._owned_at = float("-inf")
        self._owner_check: asyncio.Task[None] | None = None
        # Parsed once, so that a wrong network is reported at the start.
        self._proxies = [_network(proxy) for proxy in trusted_proxies]

    @property
    def keys(self) -> Sequence[str]:
        """The API keys of the settings."""
        return self._keys

    @keys.setter
    def keys(self, keys: Sequence[str]) -> None:
        """Replace the keys of the settings; cached callers are dropped."""
        self._keys = tuple(keys)
        self._key_changes += 1

    # Open mode

    @property
    def is_open(self) -> bool:
        """Whether no key is required: there is none and, as of the last check, the
        server has no owner."""
        return not self.has_keys and not self._is_owned

    @property
    def has_keys(self) -> bool:
        """Whether any API key exists, in the settings or of a tenant."""
        return bool(self._keys) or (
            self._directory is not None and self._directory.has_keys
        )

    @property
    def has_owner(self) -> bool:
        """Whether an owner account exists, as of the last check."""
        return self._is_owned

    async def refresh_owner(self) -> None:
        """Check whether the server has an owner, if that may have changed. Concurrent
        requests share one check.

        Raises StorageUnavailableError.
        """
        # Once an owner has been found, the answer is treated as final.
        if self._is_owned or self.accounts is None:
            return
        if self._clock.monotonic() - self._owned_at <= _OWNER_SECONDS:
            return
        if self._owner_check is None:
            self._owner_check = asyncio.ensure_future(self._query_owner(self.accounts))
        # A cancelled request must not cancel the check for the others that wait for it.
        await asyncio.shield(self._owner_check)

    async def _query_owner(self, accounts: Accounts) -> None:
        """Query the accounts and store the result."""
        try:
            if await accounts.has_owner():
                self._is_owned = True
            self._owned_at = self._clock.monotonic()
        finally:
            self._owner_check = None

    def mark_owned(self) -> None:
        """Record that an owner account has just been created in this process."""
        self._is_owned = True

    async def check_open(self, scope: Scope) -> None:
        """Raise OriginError if no key is required and the call is not a local one, or
        comes from another site's page.

        This is checked first: everyone who reaches an open server has the owner's
        rights.
        """
        # Servers with keys are never open, so they need no query for the owner.
        if not self.has_keys:
            await self.refresh_owner()
        if self.is_open:
            check_origin(scope)

    # Callers

    def address_of(self, scope: Scope) -> str:
        """Return the client address: the peer of the connection, or the client that a
        trusted proxy names."""
        client = scope.get("client")
        address = str(client[0]) if client else ""
        if not self._proxies or not self._is_proxy(address):
            return address
        forwarded = ",".join(
            value.decode("latin-1")
            for name, value in scope["headers"]
            if name == b"x-forwarded-for"
        )
        # Each proxy appends an address, so the list is read from the right until an
        # untrusted hop.
        for part in reversed(forwarded.split(",")):
            hop = part.strip().strip("[]")
            # Trusted proxies write addresses; anything else comes from another hop.
            if _ip(hop) is None:
                break
            address = hop
            if not self._is_proxy(hop):
                break
        return address

    def _is_proxy(self, address: str) -> bool:
        """Return whether an address belongs to a trusted proxy."""
        ip = _ip(address)
        return ip is not None and any(
            ip in network for network in self._proxies if network.version == ip.version
        )

    async def session_of(self, scope: Scope) -> Session | None:
        """Return the session of the request's cookie; None if there is none or the
        account is disabled.

        Raises OriginError if another site's page sent the request.
        """
        token = cookie_of(scope["headers"], SESSION_COOKIE)
        session = (
            await self.accounts.sessions.of_token(token)
            if token and self.accounts is not None
            else None
        )
        if session is None:
            return None
        # Cookies are sent by the browser itself, so the origin has to be checked
        # against CSRF.
        check_same_origin(scope["headers"], scope["method"])
        return (
            session
            if self.admits(session.account.tenant, session.account.email)
            else None
        )

    def admits(self, tenant: str, user: str | None) -> bool:
        """Return whether neither the tenant nor the user is disabled."""
        return self._directory is None or self._directory.admits(tenant, user)

    def is_disabled(self, tenant: str, user: str | None = None) -> bool:
        """Return whether the tenant, or its user, was removed or disabled."""
        return self._directory is not None and self._directory.is_disabled(tenant, user)

    async def caller_of(self, scope: Scope) -> Caller:
        """Return the caller of a request.

        Raises OriginError; UnauthorizedError if a key is required and no valid one is
        presented; NotFoundError if the request names a tenant for which the caller may
        not act; ForbiddenError if it names a user for whom the caller may not read.
        """
        caller = await self._caller_of(scope)
        for name, value in scope["headers"]:
            if name == TENANT:
                tenant = value.strip(b" \t").decode("latin-1")
                caller = self._act_for(caller, tenant)
                break
        return with_named_reader(caller, scope)

    def known_caller(self, scope: Scope) -> Caller | None:
        """Return the caller of a request if nothing has to be awaited to tell.

        None for anybody else: a session, another tenant's operator, a key that is
        unknown or no longer valid. `caller_of` has to be asked then.
        """
        try:
            if not self.has_keys:
                return self._known_owner(scope)
            key = presented_key(scope)
            return self._caller_by_key(key) if key else None
        except ModelyardError:
            return None

    @property
    def version(self) -> tuple[int, int]:
        """Changes whenever keys, users or tenants do, and with them perhaps callers."""
        directory = self._directory
        return self._key_changes, directory.changes if directory is not None else 0

    def is_still_valid(self, caller: Caller, version: tuple[int, int]) -> bool:
        """Return whether the caller of a key that was identified at a version would be
        identified now."""
        if version != self.version:
            return False
        return caller.expires_at is None or caller.expires_at > self._clock.time()

    def _known_owner(self, scope: Scope) -> Caller | None:
        """Return the owner if the server is open, as of a recent check. Raises
        OriginError for a request from elsewhere."""
        if not self.is_open or not self._was_checked_recently():
            return None
        check_origin(scope)
        return _OWNER

    def _was_checked_recently(self) -> bool:
        """Return whether it need not be checked now if the server has an owner."""
        if self.accounts is None:
            return True
        return self._clock.monotonic() - self._owned_at <= _OWNER_SECONDS

    def _act_for(self, caller: Caller, tenant: str) -> Caller:
        """Return the caller acting as the owner of another tenant.

        Raises NotFoundError if the caller is not an operator or the tenant does not
        exist.
        """
        if tenant == caller.tenant:
            return caller
        # Only operators see other tenants; for everyone else the list is empty.
        tenants = (
            self._directory.tenants()
            if self._directory is not None and caller.is_operator
            else ()
        )
        if tenant not in {name for name, _ in tenants}:
            raise NotFoundError(
                f"Tenant {tenant[:80]!r} does not exist", code="tenant_not_found"
            )
        # Users of one tenant are nobody in another, whatever their names.
        return msgspec.structs.replace(
            caller, tenant=tenant, is_acting=True, reader=ANYBODY
        )

    async def _caller_of(self, scope: Scope) -> Caller:
        """Return the caller by key or session, without regard to the tenant header."""
        await self.check_open(scope)
        # Clients always send a bearer token; while the server is open, it is ignored.
        if self.is_open:
            return _OWNER
        # A presented key comes before the session, so that a wrong key is an error even
        # in a signed-in browser.
        if key := presented_key(scope):
            return self._caller_by_key(key)
        session = await self.session_of(scope)
        if session is None:
            raise UnauthorizedError(
                "API key required: send it as 'Authorization: Bearer KEY'"
            )
        return session.account.caller

    def _caller_by_key(self, presented_key: bytes) -> Caller:
        """Return the caller of an API key.

        Callers are cached by the digest of the key, so that keys are not kept in
        memory, until keys, users or tenants change.
        """
        current_version = self.version
        # Any change drops the whole cache: a revoked key must stop working at once.
        if self._cache_version != current_version:
            self._cached_callers.clear()
            self._cache_version = current_version
        digest = hashlib.sha256(presented_key).digest()
        caller = self._cached_callers.get(digest)
        if caller is None:
            caller = self._look_up_key(presented_key)
            # The cache is small enough to be rebuilt, so it is emptied instead of
            # evicting single entries.
            if len(self._cached_callers) >= _MAX_CACHED_CALLERS:
                self._cached_callers.clear()
            self._cached_callers[digest] = caller
        # The expiry is checked at each request, because it needs no change to take
        # effect.
        if caller.expires_at is not None and caller.expires_at <= self._clock.time():
            raise UnauthorizedError("The API key has expired")
        return caller

    def _look_up_key(self, presented_key: bytes) -> Caller:
        """Return the caller of an API key that is not cached.

        Raises UnauthorizedError.
        """
        # All keys are compared, each in constant time, so that the duration reveals
        # nothing about partial matches.
        if sum(hmac.compare_digest(presented_key, key.encode()) for key in self._keys):
            return _OWNER
        text = presented_key.decode("latin-1")
        if (
            self._directory is not None
            and self._ring is not None
            and (row := api_keys.id_of(text)) is not None
        ):
            return self._caller_of_stored_key(
                row, presented_key, self._directory, self._ring
            )
        raise UnauthorizedError("Invalid API key")

    def _caller_of_stored_key(
        self, row: str, presented_key: bytes, directory: Directory, ring: KeyRing
    ) -> Caller:
        """Return the caller of a tenant's API key.

        Raises UnauthorizedError if the key is unknown, revoked, or its tenant or user
        is disabled.
        """
        owner_and_key = directory.key(row)
        # An unknown key and a wrong secret give the same error.
        if owner_and_key is None or not ring.matches(
            presented_key, owner_and_key[1].digest
        ):
            raise UnauthorizedError("Invalid API key")
        tenant, key = owner_and_key
        if key.revoked_at is not None:
            raise UnauthorizedError("The API key was revoked")
        if not directory.is_enabled(tenant):
            raise UnauthorizedError(f"Tenant {tenant!r} is disabled")
        if not directory.admits(tenant, key.user):
            raise UnauthorizedError(f"User {key.user!r} is disabled")
        return key.caller(tenant, row)


_OWNER = Caller(tenant=DEFAULT_TENANT, speaks_for_users=True)
SESSION_COOKIE = "modelyard-session"
DEVICE_COOKIE = "modelyard-device"
# Browsers keep no cookie longer than about a year (400 days).
_DEVICE_SECONDS = 365 * 86_400


def session_cookie(token: str, *, is_https: bool) -> str:
    """Return the Set-Cookie value of a session. An empty token deletes the cookie.

    The cookie is invisible to scripts and is not sent from other sites' pages.
    """
    # Max-Age 0 makes the browser delete the cookie.
    age = int(SESSION_SECONDS) if token else 0
    return (
        f"{SESSION_COOKIE}={token}; Path=/; Max-Age={age}; HttpOnly;"
        f" SameSite=Strict{'; Secure' if is_https else ''}"
    )


def device_cookie(token: str, path: str, *, is_https: bool) -> str:
    """Return the Set-Cookie value that marks a browser from which a user has signed in.

    It does not authenticate, but failed sign-ins from elsewhere do not count against
    this browser.
    """
    secure = "; Secure" if is_https else ""
    return (
        f"{DEVICE_COOKIE}={token}; Path={path}; Max-Age={_DEVICE_SECONDS}; HttpOnly;"
        f" SameSite=Strict{secure}"
    )


def cookie_of(headers: Headers, cookie_name: str) -> str:
    """Return the value of a cookie, or an empty string if it was not sent."""
    for name, value in headers:
        if name == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, _, cookie_value = part.strip().partition("=")
                if key == cookie_name:
                    return cookie_value
    return ""


def check_same_origin(headers: Headers, method: str) -> None:
    """Raise OriginError if another site's page made the browser send the request.

    Browsers send the page's origin with each request that changes something and with
    each cross-site request.
    """
    origin, host = (
        _single_header(headers, b"origin"),
        _single_header(headers, b"host") or "",
    )
    if origin is not None:
        if not host or origin.partition("://")[2].lower() != host.lower():
            raise OriginError(f"Cross-site request from {origin[:100]!r} refused")
        return
    # Without an Origin header, Sec-Fetch-Site tells whether the request is safe.
    site = _single_header(headers, b"sec-fetch-site")
    if site in ("cross-site", "same-site") or (
        method not in ("GET", "HEAD") and site not in ("same-origin", "none")
    ):
        raise OriginError(
            "Request refused: it is cross-site, or its Origin header is missing"
        )


def check_origin(scope: Scope) -> None:
    """Raise OriginError unless the request is a local one and does not come from
    another site's page.

    Without keys, everyone who reaches the server may use it, and a browser on this
    machine reaches it for any page. Such a request names the page's origin or, after
    DNS rebinding, the page's host name.
    """
    headers = scope["headers"]
    client = scope.get("client")
    if client and not is_loopback(str(client[0])):
        raise OriginError(
            f"Requests from non-loopback address {str(client[0])!r} require an API key;"
            " none is configured; set api_keys"
        )
    # A proxy on this machine would make every client look local.
    if proxy_header := next((name for name, _ in headers if name in _FORWARDED), None):
        raise OriginError(
            f"Requests through a proxy ({proxy_header.decode()}) require an API key;"
            " none is configured; set api_keys"
        )
    # The Host check defends against DNS rebinding, the Origin check against other
    # sites' pages.
    host, origin = _single_header(headers, b"host"), _single_header(headers, b"origin")
    for caller in (host or "", origin):
        if caller is not None and not _names_loopback(caller):
            raise OriginError(
                f"Requests with host or origin {caller[:100]!r} require an API key;"
                " none is configured; set api_keys and send a key"
            )
    # Following a link from another site to the console is allowed; embedded requests
    # are not.
    is_navigation = (
        scope["method"] == "GET"
        and _single_header(headers, b"sec-fetch-mode") == "navigate"
    )
    if (
        origin is None
        and not is_navigation
        and _single_header(headers, b"sec-fetch-site") == "cross-site"
    ):
        raise OriginError(
            "Cross-site requests require an API key; none is configured; set api_keys"
        )


def _single_header(headers: Headers, header_name: bytes) -> str | None:
    """Return the value of a header, or None if it was not sent.

    Raises OriginError if it was sent several times: a proxy might have checked another
    one.
    """
    values = [value for name, value in headers if name == header_name]
    if len(values) > 1:
        problem = f"was sent {len(values)} times; send it once"
        raise OriginError(f"The header {header_name.decode()!r} {problem}")
    # Blanks around a value are not part of it (RFC 9110, 5.5).
    return values[0].strip(b" \t").decode("latin-1") if values else None


_HOST = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://)?(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::\d{1,5})?"
)
"""A host as in `Host` and `Origin`, with optional scheme and port, and nothing else."""


@lru_cache(256)
def _names_loopback(text: str) -> bool:
    """Return whether a Host or Origin value names this machine."""
    match = _HOST.fullmatch(text.lower())
    return match is not None and is_loopback(match[1] or match[2])


_KEY_HEADERS = (b"authorization", b"x-api-key", b"x-goog-api-key", AZURE_KEY)
"""Headers with a key, in the order in which they are looked at."""
# Paths on which Google's clients put the key into the URL.
_GOOGLE_PATHS = ("/v1beta/", "/v1/models")
_AZURE_PATHS = "/openai/"


def presented_key(scope: Scope) -> bytes | None:
    """Return the API key of a request, or None.

    The first of these that is not empty counts, whatever the others contain:
    `Authorization: Bearer`, `x-api-key`, `x-goog-api-key`, `api-key` (on Azure's paths
    only) and `?key=` (on Google's paths only).
    """
    path: str = scope["path"]
    keys = _keys_in_headers(scope["headers"])
    if not path.startswith(_AZURE_PATHS):
        keys.pop(AZURE_KEY, None)
    for name in _KEY_HEADERS:
        if key := keys.get(name):
            return key
    query: bytes = scope.get("query_string", b"")
    if b"key=" in query and path.startswith(_GOOGLE_PATHS):
        return _key_in(query)
    return None


def _keys_in_headers(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the keys in header lines, by the header's name."""
    keys: dict[bytes, bytes] = {}
    for name, value in lines:
        # Several lines of one header: the first that is not empty.
        if name not in _KEY_HEADERS or keys.get(name):
            continue
        is_bearer = name == b"authorization"
        keys[name] = _bearer_key(value) if is_bearer else value.strip()
    return keys


def _bearer_key(authorization: bytes) -> bytes:
    """Return the key of an `Authorization` header; empty for another scheme."""
    scheme, _, key = authorization.strip().partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def _key_in(query: bytes) -> bytes | None:
    """Return the key in a URL's query, or None."""
    try:
        parameters = parse_qs(query.decode("latin-1"), max_num_fields=100)
    except ValueError:
        return None
    keys = [key.strip() for key in parameters.get("key", ()) if key.strip()]
    return keys[0].encode() if keys else None


def check_bind(host: str, *, is_open: bool) -> None:
    """Raise ConfigError for a listen address that others can reach, if no key is
    required."""
    if is_open and not is_loopback(host):
        raise ConfigError(
            f"Refusing to listen on {host} without an API key: others could use your"
            " models. Create one with `modelyard keys create NAME --role owner`, set"
            " MODELYARD_API_KEYS, or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    ip = _ip(host)
    if ip is None:
        return host in ("localhost", "localhost.")
    return ip.is_loopback


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an IP address, or return None. An IPv4-mapped IPv6 address is returned as
    IPv4."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    # Dual-stack sockets report IPv4 clients in this form.
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Parse a network.

    Raises ConfigError.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(
            f"trusted_proxies: {text[:60]!r} is not an IP address or network, for"
            " example 10.0.0.0/8"
        ) from error
