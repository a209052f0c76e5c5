"""Proxy configuration from settings and environment variables, and selection of the
proxy for an origin. No I/O.

Variables have the same meaning as for curl and requests. Names are not resolved for
`NO_PROXY`: its networks only match literal addresses in URLs.
"""

import ipaddress
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from modelyard.base.errors import ConfigError
from modelyard.base.fields import whole_number
from modelyard.transport.origins import Origin, ascii_host

NO_PROXY_SETTING = "none"
"""Settings value for no proxy, regardless of environment variables."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, eq=False)
class Proxy:
    """The address and credentials of a proxy. Compared by identity: two separately
    parsed proxies share no connections."""

    origin: Origin
    authorization: str = field(default="", repr=False)
    """Value of the `Proxy-Authorization` header; empty if the proxy needs none."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Values to redact from logs."""


@dataclass(frozen=True, slots=True)
class _Bypass:
    """An entry of `NO_PROXY`: a name including its subdomains, or a network; with a
    port, for that port only."""

    name: str = ""
    network: _Network | None = None
    port: int | None = None

    def covers(self, host: str, port: int) -> bool:
        """Return whether the entry covers a host and port."""
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            address = _address(host)
            return (
                address is not None
                and address.version == self.network.version
                and address in self.network
            )
        return host == self.name or host.endswith(f".{self.name}")


@dataclass(frozen=True, slots=True, eq=False)
class Proxies:
    """The proxy for each scheme, and the exceptions. Compared by identity, so that it
    can be a cache key."""

    http: Proxy | None = None
    https: Proxy | None = None
    exceptions: tuple[_Bypass, ...] = ()
    is_disabled: bool = False
    """Whether `NO_PROXY` contains `*`, which disables all proxies."""

    def route_to(self, origin: Origin) -> "Route":
        """Return the route to an origin: direct, or through the proxy for its scheme."""
        proxy = self.https if origin.scheme == "https" else self.http
        if proxy is None or self.is_disabled:
            return Route(origin)
        # The trailing dot of a fully qualified name is not part of `NO_PROXY` entries.
        host = origin.host.rstrip(".").lower()
        if any(exception.covers(host, origin.port) for exception in self.exceptions):
            return Route(origin)
        return Route(origin, proxy)

    @property
    def secrets(self) -> list[str]:
        """Return all values to redact from logs."""
        return [
            secret
            for proxy in (self.http, self.https)
            if proxy is not None
            for secret in proxy.secrets
        ]


NO_PROXIES = Proxies()


@dataclass(slots=True)
class NetworkConfig:
    """The network environment. Clients share one instance, so that a reload reaches all
    of them."""

    proxies: Proxies = NO_PROXIES
    ca_file: str = ""
    """File with certificates to trust in addition to the system's."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """The route to an origin: direct, or through a proxy."""

    origin: Origin
    proxy: Proxy | None = None
    key: tuple[str, str, int, Proxy | None] = field(init=False)
    """Connections with equal keys are interchangeable."""
    description: str = field(init=False)
    """Description for messages."""

    def __post_init__(self) -> None:
        # The class is frozen, so derived fields are set through `object`.
        origin, proxy = self.origin, self.proxy
        object.__setattr__(
            self, "key", (origin.scheme, origin.host, origin.port, proxy)
        )
        by = f" via the proxy {proxy.origin.authority}" if proxy else ""
        object.__setattr__(self, "description", f"{origin.authority}{by}")

    @property
    def first_hop(self) -> Origin:
        """Return the host to which the TCP connection is made."""
        return self.proxy.origin if self.proxy else self.origin

    @property
    def is_tunnel(self) -> bool:
        """Return whether the proxy opens a tunnel with CONNECT."""
        return self.proxy is not None and self.origin.scheme == "https"

    @property
    def is_relayed(self) -> bool:
        """Return whether the proxy forwards individual requests: it needs absolute
        URLs, and its credentials in each request."""
        return self.proxy is not None and self.origin.scheme == "http"


def parse_proxy(text: str, label: str) -> Proxy:
    """Parse a proxy URL such as `http://USER:PASSWORD@HOST:PORT`; the default scheme is
    `http`.

    `label` names the setting in error messages, which never contain the URL since it
    may hold a password. Raises ConfigError if it is invalid or has an unsupported
    scheme.
    """
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(
            f"{label} is not a proxy URL; expected http://HOST:PORT"
        ) from error
    if parts.scheme not in ("http", "https"):
        raise ConfigError(
            f"{label}: unsupported proxy scheme {parts.scheme!r}; expected http"
            " or https"
        )
    if not parts.hostname:
        raise ConfigError(f"{label} is not a proxy URL; expected http://HOST:PORT")
    origin = Origin(
        parts.scheme,
        ascii_host(parts.hostname),
        port or (443 if parts.scheme == "https" else 80),
    )
    if parts.username is None:
        return Proxy(origin)
    # User and password are percent-encoded in URLs.
    user, password = unquote(parts.username), unquote(parts.password or "")
    encoded_credentials = b64encode(f"{user}:{password}".encode()).decode()
    # All forms in which the password could appear in a log.
    return Proxy(
        origin,
        f"Basic {encoded_credentials}",
        (encoded_credentials, password, parts.password or ""),
    )


def parse_exceptions(entries: Iterable[str]) -> tuple[tuple[_Bypass, ...], bool]:
    """Parse the entries of `NO_PROXY`; return the exceptions and whether `*` is among
    them."""
    exceptions: list[_Bypass] = []
    covers_all = False
    for entry in entries:
        entry_text = entry.strip().lower()
        if entry_text == "*":
            covers_all = True
        elif entry_text:
            exceptions.append(_exception(entry_text))
    return tuple(exceptions), covers_all


def proxies_from(environ: Mapping[str, str]) -> Proxies:
    """Return the proxies from HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY;
    lower-case names take precedence.

    Raises ConfigError for an invalid URL.
    """
    exceptions, covers_nothing = parse_exceptions(exceptions_from(environ))
    return Proxies(
        http=_proxy_from(environ, "http"),
        https=_proxy_from(environ, "https"),
        exceptions=exceptions,
        is_disabled=covers_nothing,
    )


def exceptions_from(environ: Mapping[str, str]) -> list[str]:
    """Return the entries of `no_proxy` or NO_PROXY."""
    text = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    return text.replace(",", " ").split()


def _proxy_from(environ: Mapping[str, str], scheme: str) -> Proxy | None:
    """Return the proxy for a scheme from environment variables, or None.

    `SCHEME_proxy` precedes `all_proxy`, and lower case upper case. HTTP_PROXY is
    ignored in a CGI process. Raises ConfigError for an invalid URL.
    """
    for name in (f"{scheme}_proxy", "all_proxy"):
        # A lower-case variable that is set but empty disables the upper-case one.
        spelling = name if name in environ else name.upper()
        # CGI servers pass the client's `Proxy` header under this very name (httpoxy).
        is_callers = spelling == "HTTP_PROXY" and "REQUEST_METHOD" in environ
        text = environ.get(spelling, "").strip()
        if text and not is_callers:
            return parse_proxy(text, spelling)
    return None


def _exception(text: str) -> _Bypass:
    """Parse an entry of `NO_PROXY`, given in lower case.

    A host name, an address or a network, each with an optional port.
    """
    # Networks are tried first with the entire entry, since IPv6 addresses contain
    # colons.
    network = _network(text)
    if network is not None:
        return _Bypass(network=network)
    name, port = _without_port(text)
    network = _network(name)
    if network is not None:
        return _Bypass(network=network, port=port)
    # `*.example.com`, `.example.com` and `example.com` are equivalent.
    return _Bypass(name=name.removeprefix("*").lstrip(".").rstrip("."), port=port)


def _without_port(text: str) -> tuple[str, int | None]:
    """Split a port off an entry; None if it has none.

    A bare IPv6 address is returned whole.
    """
    name, colon, port = text.rpartition(":")
    number = whole_number(port) if colon else None
    # A second colon before the last one means an IPv6 address without a port.
    if number is not None and not name.endswith(":"):
        return name, number
    return text, None


def _network(text: str) -> _Network | None:
    """Return the text as an IP network; None if it is none.

    A single address is a network of one; brackets are removed.
    """
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host as an IP address; None if it is a name.

    A zone is dropped, and an IPv4 address mapped into IPv6 is returned as IPv4.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
