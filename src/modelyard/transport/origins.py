"""Destinations of connections, and addresses that are never called: cloud metadata
services.

Every outgoing connection is checked here with its resolved addresses. User-supplied
URLs go through `egress.py`, which is stricter.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from modelyard.base.errors import ConfigError

# Addresses of cloud metadata services, which hand out the machine's own credentials. No
# legitimate destination is there.
_METADATA = (
    ipaddress.ip_network("169.254.0.0/16"),
    ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_network("fd00:ec2::/32"),
    ipaddress.ip_network("100.100.100.200/32"),
    ipaddress.ip_network("192.0.0.192/32"),
)
_MAX_HOST_LENGTH = 253


@dataclass(frozen=True, slots=True)
class Origin:
    """The destination of a connection. Connections to the same origin are
    interchangeable."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Return `host` or `host:port` as in the Host header; the default port is
        omitted."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            host
            if self.port == (443 if self.scheme == "https" else 80)
            else f"{host}:{self.port}"
        )


# The URLs of calls are few, and parsing one costs as much as parsing the response.
@lru_cache(1024)
def parse_url(url: str) -> tuple[Origin, str]:
    """Return the origin and request target of a URL. Raises ConfigError if it cannot be
    called."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"Invalid URL {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"URL {url!r} must start with http:// or https:// and name a host"
        )
    if parts.username or parts.password:
        raise ConfigError(
            "A URL must not contain a user name or password; use the provider's"
            " credential form"
        )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # Control characters and spaces could split the request line.
    if not target.isascii() or any(
        ord(char) <= 32 or ord(char) == 127 for char in target
    ):
        raise ConfigError(
            f"URL {url!r} contains characters that must be percent-encoded"
        )
    host = ascii_host(parts.hostname)
    return Origin(
        parts.scheme, host, port or (443 if parts.scheme == "https" else 80)
    ), target


def ascii_host(host: str) -> str:
    """Return a host name in ASCII (IDNA), as used by DNS, certificates and `Host`
    headers. Raises ConfigError if it is invalid."""
    if host.isascii():
        return host
    # The codec takes time with the square of the length.
    if len(host) > _MAX_HOST_LENGTH:
        raise ConfigError(f"Host {host[:50]!r}… is too long")
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ConfigError(f"Host {host!r} is not a valid host name: {error}") from error


def check_address(host: str, address: str) -> None:
    """Raise ConfigError if `address`, to which `host` resolves, must not be reached."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    # An IPv4 address mapped into IPv6 reaches the IPv4 service.
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if any(ip.version == network.version and ip in network for network in _METADATA):
        raise ConfigError(
            f"Address blocked: {host!r} resolves to {ip}, a cloud metadata address"
        )


Guard = Callable[[Origin, Sequence[str]], None]
"""Called with all addresses to which an origin's host resolves. Raises if one must not
be reached."""


def check_addresses(origin: Origin, addresses: Sequence[str]) -> None:
    """Raise ConfigError if one of the addresses is a metadata service."""
    for address in addresses:
        check_address(origin.host, address)
