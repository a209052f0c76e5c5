"""Proxies: what settings and variables say of them, and which of them an origin is reached by. Pure: no network.

Variables mean what they mean to curl and requests. Names are not looked up for `NO_PROXY`: networks in it are held
against addresses that stand in a URL as such.
"""

import ipaddress
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from modelyard.base.errors import ConfigError
from modelyard.base.fields import whole_number
from modelyard.transport.origins import Origin, ascii_host

NONE = "none"
"""In settings: no proxy, whatever the variables say."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, eq=False)
class Proxy:
    """Where a proxy listens. Two that were read apart are two, and share no connection."""

    origin: Origin
    authorization: str = field(default="", repr=False)
    """What `Proxy-Authorization` carries; empty where it wants none."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What no log may hold."""


@dataclass(frozen=True, slots=True)
class _Exception:
    """One entry of `NO_PROXY`: a name and all below it, or a network; with a port, on that port alone."""

    name: str = ""
    network: _Network | None = None
    port: int | None = None

    def covers(self, host: str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            address = _address(host)
            return address is not None and address.version == self.network.version and address in self.network
        return host == self.name or host.endswith(f".{self.name}")


@dataclass(frozen=True, slots=True, eq=False)
class Proxies:
    """Which proxy an origin is reached by. One of these is as good as another only where it is the same."""

    http: Proxy | None = None
    https: Proxy | None = None
    exceptions: tuple[_Exception, ...] = ()
    covers_nothing: bool = False
    """`*` stands in `NO_PROXY`."""

    def way_to(self, origin: Origin) -> "Way":
        proxy = self.https if origin.scheme == "https" else self.http
        if proxy is None or self.covers_nothing:
            return Way(origin)
        host = origin.host.rstrip(".").lower()
        if any(one.covers(host, origin.port) for one in self.exceptions):
            return Way(origin)
        return Way(origin, proxy)

    @property
    def secrets(self) -> list[str]:
        return [secret for proxy in (self.http, self.https) if proxy is not None for secret in proxy.secrets]


NO_PROXIES = Proxies()


@dataclass(slots=True)
class Network:
    """What this machine's network asks of whoever goes out. Clients share it, so that a reload reaches them all."""

    proxies: Proxies = NO_PROXIES
    ca_file: str = ""
    """Certificates that are trusted beside the system's."""


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """How an origin is reached: directly, or by a proxy."""

    origin: Origin
    proxy: Proxy | None = None
    key: tuple[str, str, int, Proxy | None] = field(init=False)
    """Connections with equal keys are interchangeable."""
    shown: str = field(init=False)
    """For messages."""

    def __post_init__(self) -> None:
        origin, proxy = self.origin, self.proxy
        object.__setattr__(self, "key", (origin.scheme, origin.host, origin.port, proxy))
        by = f" by the proxy {proxy.origin.authority}" if proxy else ""
        object.__setattr__(self, "shown", f"{origin.authority}{by}")

    @property
    def first(self) -> Origin:
        """What is connected to."""
        return self.proxy.origin if self.proxy else self.origin

    @property
    def is_tunnel(self) -> bool:
        return self.proxy is not None and self.origin.scheme == "https"

    @property
    def is_relayed(self) -> bool:
        """Whether the proxy reads each request: it wants whole addresses, and is shown who asks with each."""
        return self.proxy is not None and self.origin.scheme == "http"


def parse_proxy(text: str, named: str) -> Proxy:
    """A proxy as settings and variables write it: `http://USER:PASSWORD@HOST:PORT`, the scheme `http` where none is
    written. `named`: what it is called in an error, which never repeats it: it may hold a password.

    Raises ConfigError where it cannot be read, or speaks what we do not.
    """
    whole = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(whole)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{named} is no address of a proxy, as http://HOST:PORT") from error
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"{named} names a proxy that speaks {parts.scheme!r}; only http and https are spoken")
    if not parts.hostname:
        raise ConfigError(f"{named} is no address of a proxy, as http://HOST:PORT")
    origin = Origin(parts.scheme, ascii_host(parts.hostname), port or (443 if parts.scheme == "https" else 80))
    if parts.username is None:
        return Proxy(origin)
    user, password = unquote(parts.username), unquote(parts.password or "")
    shown = b64encode(f"{user}:{password}".encode()).decode()
    return Proxy(origin, f"Basic {shown}", (shown, password, parts.password or ""))


def parse_exceptions(entries: Iterable[str]) -> tuple[tuple[_Exception, ...], bool]:
    """What `NO_PROXY` lists, and whether `*` is among it. An entry that means nothing is passed over, as by others."""
    exceptions: list[_Exception] = []
    covers_all = False
    for entry in entries:
        word = entry.strip().lower()
        if word == "*":
            covers_all = True
        elif word:
            exceptions.append(_exception(word))
    return tuple(exceptions), covers_all


def proxies_from(environ: Mapping[str, str]) -> Proxies:
    """As the variables say: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY, and the same in lower case, which wins.

    Raises ConfigError for an address that cannot be read.
    """
    exceptions, covers_nothing = parse_exceptions(exceptions_from(environ))
    return Proxies(
        http=_proxy_from(environ, "http"),
        https=_proxy_from(environ, "https"),
        exceptions=exceptions,
        covers_nothing=covers_nothing,
    )


def exceptions_from(environ: Mapping[str, str]) -> list[str]:
    """The entries of NO_PROXY, or of `no_proxy`."""
    text = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    return text.replace(",", " ").split()


def _proxy_from(environ: Mapping[str, str], scheme: str) -> Proxy | None:
    for name in (f"{scheme}_proxy", "all_proxy"):
        # One that is set and empty in lower case switches off the other.
        spelling = name if name in environ else name.upper()
        # A web server hands its callers' `Proxy` header to CGI programs under this very name.
        is_callers = spelling == "HTTP_PROXY" and "REQUEST_METHOD" in environ
        text = environ.get(spelling, "").strip()
        if text and not is_callers:
            return parse_proxy(text, spelling)
    return None


def _exception(word: str) -> _Exception:
    network = _network(word)
    if network is not None:
        return _Exception(network=network)
    name, port = _without_port(word)
    network = _network(name)
    if network is not None:
        return _Exception(network=network, port=port)
    return _Exception(name=name.removeprefix("*").lstrip(".").rstrip("."), port=port)


def _without_port(word: str) -> tuple[str, int | None]:
    name, colon, port = word.rpartition(":")
    number = whole_number(port) if colon else None
    if number is not None and not name.endswith(":"):
        return name, number
    return word, None


def _network(word: str) -> _Network | None:
    try:
        return ipaddress.ip_network(word.strip("[]"), strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
