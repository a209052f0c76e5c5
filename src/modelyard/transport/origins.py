"""Where connections go, and what is never called: a cloud's metadata. Every outgoing connection asks here, with the
addresses that it may be about to connect to. What untrusted people name goes through `egress.py`, which allows less."""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from modelyard.base.errors import ConfigError

# What clouds answer on with the machine's own credentials: nothing that we call lives there.
_METADATA = (
    ipaddress.ip_network("169.254.0.0/16"),
    ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_network("fd00:ec2::/32"),
    ipaddress.ip_network("100.100.100.200/32"),
    ipaddress.ip_network("192.0.0.192/32"),
)
_MOST_HOST = 253


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection goes: connections to the same origin are interchangeable."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


@lru_cache(1024)  # a call's address is one of a few, and taking it apart costs as much as parsing the answer
def parse_url(url: str) -> tuple[Origin, str]:
    """Origin and target of an address. Raises ConfigError where it is none that can be called."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"address {url!r} cannot be read: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"address {url!r} must start with http:// or https:// and name a host")
    if parts.username or parts.password:
        raise ConfigError("an address must not carry a user name or password; use the provider's credential form")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or any(ord(sign) <= 32 or ord(sign) == 127 for sign in target):
        raise ConfigError(f"address {url!r} holds characters that must be percent-encoded")
    host = ascii_host(parts.hostname)
    return Origin(parts.scheme, host, port or (443 if parts.scheme == "https" else 80)), target


def ascii_host(host: str) -> str:
    """A host as name servers, certificates and `Host` headers know it. Raises ConfigError where it cannot be one."""
    if host.isascii():
        return host
    if len(host) > _MOST_HOST:  # preparing a longer one takes time with the square of its length
        raise ConfigError(f"host {host[:50]!r}… is longer than any name")
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ConfigError(f"host {host!r} is no name that can be looked up: {error}") from error


def check_address(host: str, address: str) -> None:
    """Raises ConfigError where `address`, which `host` stands for, must not be reached."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if any(ip.version == network.version and ip in network for network in _METADATA):
        raise ConfigError(f"host {host!r} stands for {ip}, a cloud's metadata address, which is never called")


Guard = Callable[[Origin, Sequence[str]], None]
"""Is asked with all the addresses that an origin's host stands for. Raises where one must not be reached."""


def check_addresses(origin: Origin, addresses: Sequence[str]) -> None:
    for address in addresses:
        check_address(origin.host, address)
