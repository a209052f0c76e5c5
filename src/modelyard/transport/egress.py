"""The client for user-supplied URLs: nodes, tools, files, imports. It reaches the
public network, and private destinations only if an administrator listed them.

For each hop of each request the name is resolved once, all its addresses are checked,
and only these are connected to. No proxy is used, since it would resolve names itself;
credentials in URLs are refused; ports, redirects, time and size are bounded.
"""

import asyncio
import ipaddress
import unicodedata
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from modelyard.base.errors import (
    ConfigError,
    InvokeBadRequestError,
    InvokeError,
    InvokeTimeoutError,
    ModelyardError,
)
from modelyard.transport.http import (
    HttpClient,
    Response,
    ResponseTooLargeError,
    Timeouts,
)
from modelyard.transport.origins import Origin, check_address, parse_url
from modelyard.transport.proxies import NetworkConfig
from modelyard.transport.unpacking import is_plain

_MAX_REDIRECTS = 5
_MAX_URL_LENGTH = 8192
_MAX_HOST_LENGTH = 253
"""DNS names are no longer, and IDNA encoding takes time with the square of the length.
"""
# Special-purpose IPv4 networks (IANA registry), plus Azure's platform address.
_NON_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(cidr)
    for cidr in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        "168.63.129.16/32",
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
"""The globally routed IPv6 range. Mapped, NAT64, unique local and link-local addresses
are outside of it."""
_NON_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(cidr)
    # Teredo and 6to4 addresses contain an IPv4 address, which may be a private one.
    for cidr in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
_CROSS_ORIGIN_HEADERS = frozenset(
    {"accept", "accept-language", "content-type", "user-agent"}
)
"""Headers that are retained when a redirect leads to another origin. Headers that may
contain credentials are not."""
# Headers that the client sets itself.
_CLIENT_HEADERS = frozenset(
    {
        "host",
        "content-length",
        "connection",
        "transfer-encoding",
        "accept-encoding",
        "proxy-authorization",
        "te",
        "upgrade",
        "keep-alive",
        "trailer",
        "expect",
    }
)


class EgressError(ModelyardError):
    """A request to a user-supplied URL failed."""

    code = "egress_failed"


class EgressRefusedError(EgressError):
    """The URL must not be reached. Nothing was connected to."""

    code = "egress_refused"


class AddressRefusedError(InvokeBadRequestError):
    """EgressRefusedError for a model call: the credential's URL must not be reached.
    Another credential may work."""

    code = "egress_refused"
    failover = True


class EgressTimeoutError(EgressError):
    """The request did not finish in time."""

    code = "egress_timeout"


class EgressTooLargeError(EgressError):
    """The response exceeds the allowed size."""

    code = "egress_too_large"


def is_public(address: str) -> bool:
    """Return whether an address belongs to the public network.

    Uses its own list, since the standard library's changes between releases.
    """
    try:
        # A zone such as `%eth0` is not part of the address.
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _NON_PUBLIC_V4)
    return (
        "%" not in address
        and ip in _PUBLIC_V6
        and not any(ip in network for network in _NON_PUBLIC_V6)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRules:
    """The permitted destinations and the time limit."""

    ports: frozenset[int] = frozenset({80, 443})
    private: frozenset[str] = frozenset()
    """`host:port` of private destinations that may be reached, as written in requests.
    """
    seconds: float = 600.0
    """Timeout of a complete request, including redirects."""

    def is_listed(self, origin: Origin) -> bool:
        """Return whether the administrator listed this host and port."""
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        return f"{host}:{origin.port}".lower() in self.private

    def check(self, origin: Origin, addresses: Sequence[str]) -> None:
        """Raise EgressRefusedError if the origin or one of its addresses must not be
        reached."""
        # Even a listed host must not lead to a cloud's metadata service.
        if self.is_listed(origin):
            try:
                for address in addresses:
                    check_address(origin.host, address)
            except ConfigError as error:
                raise EgressRefusedError(str(error)) from error
            return
        self.check_port(origin)
        for address in addresses:
            if not is_public(address):
                # The address is left out of the message: private DNS answers must not
                # be revealed to callers who guess names.
                raise EgressRefusedError(
                    f"Address blocked: {origin.host!r} does not resolve to a"
                    f" public address; add '{origin.host}:{origin.port}' to"
                    " egress.private to allow it"
                )

    def check_port(self, origin: Origin) -> None:
        """Raise EgressRefusedError if the port is not permitted and the origin is not
        listed."""
        if origin.port not in self.ports and not self.is_listed(origin):
            ports = ", ".join(str(port) for port in sorted(self.ports))
            raise EgressRefusedError(
                f"Port {origin.port} of {origin.host!r} is blocked; allowed are"
                f" {ports}, and addresses listed under egress.private"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedResponse:
    """A complete response with its decompressed body."""

    status: int
    headers: Mapping[str, str]
    """As joined by `transport.headers.Headers`."""
    body: bytes
    url: str
    """The final URL after redirects."""


class StreamedResponse:
    """A response whose body is read incrementally."""

    def __init__(self, response: Response, url: str, max_bytes: int) -> None:
        self.status = response.status
        self.headers = response.headers
        self.url = url
        self._response = response
        self._max_bytes = max_bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the decompressed body. Raises EgressError."""
        async for chunk in _unpacked(self._response, self.url, self._max_bytes):
            yield chunk

    async def read(self) -> bytes:
        """Return the complete decompressed body.

        Raises EgressTooLargeError beyond the limit given to `EgressClient.stream`,
        EgressTimeoutError if the server stalls, and EgressError if the body breaks off
        or cannot be decompressed.
        """
        return b"".join([chunk async for chunk in self.chunks()])


# The request of one redirect hop. `was` is the previous origin, `operators` the origin
# set by the operator.
@dataclass(slots=True)
class _RedirectHop:
    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    was: Origin | None = field(default=None)
    operators: Origin | None = field(default=None)


class GuardedClient(HttpClient):
    """The client for model calls to URLs set by a tenant. It shares no connections with
    the operator's client."""

    def __init__(
        self, rules: Callable[[], EgressRules], network: NetworkConfig | None = None
    ) -> None:
        super().__init__(
            guard=lambda origin, addresses: rules().check(origin, addresses),
            network=network,
            is_direct=True,
        )
        self._rules = rules

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Sequence[bytes] = (),
        timeouts: Timeouts | None = None,
    ) -> Response:
        """Send a request like HttpClient. Raises AddressRefusedError if the URL must
        not be reached."""
        try:
            url = normal_url(url)
            # Checked for every request, not only when connecting: the rules may have
            # changed since the connection was opened.
            self._rules().check_port(_parsed(url)[0])
            return await super().send(
                method,
                url,
                headers=headers,
                body=body,
                timeouts=timeouts,
            )
        except EgressRefusedError as error:
            raise AddressRefusedError(str(error)) from error


class EgressClient:
    """The HTTP client for user-supplied URLs."""

    def __init__(
        self, rules: EgressRules | None = None, network: NetworkConfig | None = None
    ) -> None:
        self.rules = rules or EgressRules()
        # The rules are read at each connection, so that a reload takes effect
        # immediately.
        self._clients = {
            # One client for each, so that a connection whose certificate was not
            # checked is never used for a request that wants it checked.
            verify: HttpClient(
                verify=verify,
                guard=self._guard,
                network=network,
                is_direct=True,
                keep_idle=4,
                max_connections=256,
            )
            for verify in (True, False)
        }
        self._operators = HttpClient(network=network, keep_idle=4, max_connections=256)
        """For URLs set by the operator. Its connections are not shared with others."""

    def _guard(self, origin: Origin, addresses: Sequence[str]) -> None:
        self.rules.check(origin, addresses)

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        verify: bool = True,
        connect: float = 5.0,
        read: float = 60.0,
        max_bytes: int = 10 << 20,
        max_redirects: int = _MAX_REDIRECTS,
        operators: str = "",
    ) -> FetchedResponse:
        """Send a request, follow redirects, and return the complete response. Raises
        EgressError.

        `operators` is a URL set by the operator, whose origin may be private; redirects
        from it to other origins may not be.
        """
        hop = _RedirectHop(
            method.upper(),
            url,
            [header for header in headers if header[0].lower() not in _CLIENT_HEADERS],
            body,
        )
        hop.operators = _parsed(normal_url(operators))[0] if operators else None
        timeouts = Timeouts(connect=connect, first_byte=read, between_bytes=read)
        try:
            async with asyncio.timeout(self.rules.seconds):
                # One request plus the permitted number of redirects.
                for _ in range(max_redirects + 1):
                    response = await self._send(hop, timeouts, verify=verify)
                    location = response.headers.get("location")
                    if response.status not in (301, 302, 303, 307, 308) or not location:
                        return await _read_response(response, hop.url, max_bytes)
                    response.close()
                    hop = _redirect_hop(hop, response.status, location)
        except TimeoutError:
            raise EgressTimeoutError(
                f"{_display_url(url)} timed out after {self.rules.seconds:g} s"
            ) from None
        raise EgressError(
            f"{_display_url(url)} redirected more than {max_redirects} times"
        )

    async def fetch_once(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        max_bytes: int = 10 << 20,
    ) -> FetchedResponse:
        """Send a request and return the complete response without following redirects,
        for callers that decide about each step.

        Raises EgressError.
        """
        hop = _RedirectHop(
            method.upper(),
            url,
            [header for header in headers if header[0].lower() not in _CLIENT_HEADERS],
            body,
        )
        timeouts = Timeouts(connect=5.0, first_byte=60.0, between_bytes=60.0)
        try:
            async with asyncio.timeout(self.rules.seconds):
                response = await self._send(hop, timeouts, verify=True)
                return await _read_response(response, hop.url, max_bytes)
        except TimeoutError:
            raise EgressTimeoutError(
                f"{_display_url(url)} timed out after {self.rules.seconds:g} s"
            ) from None

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        connect: float = 5.0,
        read: float = 60.0,
        max_bytes: int = 64 << 20,
    ) -> AsyncGenerator[StreamedResponse, None]:
        """Send a request and stream its response. Only redirects that keep the method
        (307, 308) are followed. Raises EgressError."""
        hop = _RedirectHop(
            method.upper(),
            url,
            [header for header in headers if header[0].lower() not in _CLIENT_HEADERS],
            body,
        )
        timeouts = Timeouts(connect=connect, first_byte=read, between_bytes=read)
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._send(hop, timeouts, verify=True)
            location = response.headers.get("location")
            if response.status in (307, 308) and location:
                response.close()
                hop = _redirect_hop(hop, response.status, location)
                continue
            try:
                # The caller may leave the context before the body has been read.
                yield StreamedResponse(response, hop.url, max_bytes)
            finally:
                response.close()
            return
        raise EgressError(
            f"{_display_url(url)} redirected more than {_MAX_REDIRECTS} times"
        )

    async def _send(
        self, hop: _RedirectHop, timeouts: Timeouts, *, verify: bool
    ) -> Response:
        """Send the request of one hop and return its response.

        Normalises the hop's URL and removes headers that may contain credentials if the
        origin has changed. Raises EgressRefusedError if the URL must not be reached,
        EgressTimeoutError, and EgressError.
        """
        hop.url = normal_url(hop.url)
        origin, _ = _parsed(hop.url)
        # Another origin must not receive credentials intended for the first.
        if hop.was is not None and hop.was != origin:
            hop.headers = [
                header
                for header in hop.headers
                if header[0].lower() in _CROSS_ORIGIN_HEADERS
            ]
        # Only the exact origin set by the operator bypasses the rules.
        is_operators = origin == hop.operators
        if not is_operators:
            self.rules.check_port(origin)
        if not any(name.lower() == "user-agent" for name, _ in hop.headers):
            hop.headers = [*hop.headers, ("user-agent", "modelyard")]
        for name, value in hop.headers:
            _check_header(name, value)
        hop.was = origin
        client = self._operators if is_operators else self._clients[verify]
        try:
            return await client.send(
                hop.method,
                hop.url,
                headers=_join_headers(hop.headers),
                body=[hop.body] if hop.body else (),
                timeouts=timeouts,
            )
        except InvokeTimeoutError as error:
            raise EgressTimeoutError(str(error)) from error
        except (InvokeError, ConfigError) as error:
            raise EgressError(str(error)) from error

    async def aclose(self) -> None:
        """Close all connections."""
        for client in (*self._clients.values(), self._operators):
            await client.aclose()


def _check_header(name: str, value: str) -> None:
    """Raise EgressError if a header's name or value may not be sent.

    Names must be ASCII without spaces, colons and line breaks; values must be
    printable.
    """
    if (
        not name.isascii()
        or any(char in name for char in " :\r\n\0")
        or not value.isprintable()
    ):
        raise EgressError(
            f"Header {name!r} contains characters that HTTP does not allow"
        )


def _join_headers(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Combine repeated headers into one value each, joined with a comma (RFC 9110,
    section 5.3)."""
    joined: dict[str, str] = {}
    names: dict[str, str] = {}
    for name, value in headers:
        first_spelling = names.setdefault(name.lower(), name)
        joined[first_spelling] = (
            f"{joined[first_spelling]}, {value}" if first_spelling in joined else value
        )
    return joined


def normal_url(url: str) -> str:
    """Normalise a URL so that every parser reads it the same way. Raises
    EgressRefusedError for an ambiguous URL."""
    url = url.strip()
    _check_characters(url)
    parts = _split_url(url)
    # The fragment is dropped: it is never sent.
    return urlunsplit(
        (
            parts.scheme,
            _ascii_authority(parts, url),
            _percent_encode(parts.path) or "/",
            _percent_encode(parts.query),
            "",
        )
    )


def _check_characters(url: str) -> None:
    """Raise EgressRefusedError if a URL is too long or holds characters that parsers
    treat differently."""
    if len(url) > _MAX_URL_LENGTH:
        raise EgressRefusedError(
            f"URL of {len(url):,} characters is too long; the limit is"
            f" {_MAX_URL_LENGTH:,}"
        )
    # Browsers treat a backslash as a slash and drop tabs and newlines; other parsers do
    # not.
    if any(char in url for char in "\\\t\r\n\0 ") or any(
        unicodedata.category(char) == "Cc" for char in url
    ):
        raise EgressRefusedError(
            f"URL {_display_url(url)} contains characters that must be percent-encoded"
        )


def _split_url(url: str) -> SplitResult:
    """Split a URL. Raises EgressRefusedError unless it is HTTP or HTTPS, names a host,
    and has no user name or password."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise EgressRefusedError(f"Invalid URL {_display_url(url)}: {error}") from error
    if (
        parts.scheme not in ("http", "https")
        or not url.lower().startswith(f"{parts.scheme}://")
        or not parts.netloc
    ):
        raise EgressRefusedError(
            f"URL {_display_url(url)} must start with http:// or https:// and name a"
            " host"
        )
    # `http://trusted@evil/` is a common way to disguise the real host.
    if "@" in parts.netloc:
        raise EgressRefusedError(
            "A URL must not contain a user name or password; use a header"
        )
    return parts


def _ascii_authority(parts: SplitResult, url: str) -> str:
    """Return host and port with the host in ASCII. Raises EgressRefusedError for an
    invalid host or port."""
    host = parts.hostname or ""
    # Some parsers decode percent signs in a host, and an IPv6 zone names an interface
    # of this machine.
    if "%" in host or not host or len(host) > _MAX_HOST_LENGTH:
        raise EgressRefusedError(f"URL {_display_url(url)} has an invalid host")
    try:
        port = parts.port
        # Python's idna codec resolves lookalike dots and digits before the host is
        # checked.
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError) as error:
        raise EgressRefusedError(
            f"URL {_display_url(url)} has an invalid host or port: {error}"
        ) from error
    netloc_host = f"[{ascii_host}]" if ":" in ascii_host else ascii_host
    return netloc_host if port is None else f"{netloc_host}:{port}"


def _percent_encode(text: str) -> str:
    """Percent-encode the non-ASCII characters of a path or query as UTF-8."""
    if text.isascii():
        return text
    return "".join(
        char if char.isascii() else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in text
    )


def _parsed(url: str) -> tuple[Origin, str]:
    """Return the origin and the request target of a URL.

    Raises EgressRefusedError if it cannot be called.
    """
    try:
        return parse_url(url)
    except ConfigError as error:
        raise EgressRefusedError(str(error)) from error


def _redirect_hop(hop: _RedirectHop, status: int, location: str) -> _RedirectHop:
    """Return the request that follows a redirect.

    `location` may be relative. 303, and 301 or 302 after POST, change to GET without a
    body; HEAD stays. Raises EgressRefusedError if the location is malformed.
    """
    try:
        url = urljoin(hop.url, location)
    except ValueError as error:
        raise EgressRefusedError(
            f"{_display_url(hop.url)} redirects to an invalid URL: {error}"
        ) from error
    # Browsers change POST to GET for 301 and 302, and any method for 303 (RFC 9110,
    # section 15.4).
    if status == 303 or (status in (301, 302) and hop.method == "POST"):
        headers = [
            header for header in hop.headers if header[0].lower() != "content-type"
        ]
        return _RedirectHop(
            "HEAD" if hop.method == "HEAD" else "GET",
            url,
            headers,
            b"",
            hop.was,
            hop.operators,
        )
    return _RedirectHop(hop.method, url, hop.headers, hop.body, hop.was, hop.operators)


async def _read_response(
    response: Response, url: str, max_bytes: int
) -> FetchedResponse:
    """Read the body of a response, and close it.

    `content-encoding` is removed if the body was compressed. Raises EgressTooLargeError
    beyond `max_bytes` of unpacked body, EgressTimeoutError, and EgressError.
    """
    try:
        body = b"".join([chunk async for chunk in _unpacked(response, url, max_bytes)])
    finally:
        response.close()
    headers = response.headers
    # The body is already decompressed, so the header would be wrong.
    if not is_plain(headers.get("content-encoding", "")):
        headers = headers.without("content-encoding")
    return FetchedResponse(
        status=response.status,
        headers=headers,
        body=body,
        url=url,
    )


async def _unpacked(
    response: Response, url: str, max_bytes: int
) -> AsyncGenerator[bytes, None]:
    """Yield the decompressed body, with errors translated. Raises EgressError."""
    try:
        async with aclosing(response.chunks(max_bytes=max_bytes)) as chunks:
            async for chunk in chunks:
                yield chunk
    except InvokeTimeoutError as error:
        raise EgressTimeoutError(str(error)) from error
    except ResponseTooLargeError as error:
        raise EgressTooLargeError(f"{_display_url(url)}: {error}") from error
    except InvokeError as error:
        raise EgressError(str(error)) from error


def _display_url(url: str) -> str:
    """Return a URL for a message, without its query, which may contain secrets."""
    return repr(url.partition("?")[0][:200])
