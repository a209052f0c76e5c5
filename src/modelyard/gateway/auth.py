"""Who is calling. Without keys everybody on this machine may, and nobody else can reach the server."""

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from modelyard.base.errors import ConfigError, ModelyardError
from modelyard.runtime.invocation import DEFAULT_TENANT


class UnauthorizedError(ModelyardError):
    code = "invalid_api_key"


class ForbiddenError(ModelyardError):
    code = "origin_not_allowed"


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    keys: Sequence[str]

    def tenant_of(self, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """The caller's tenant. Raises UnauthorizedError where a key is needed and none that fits is shown."""
        if not self.keys:
            check_origin(headers)
            return DEFAULT_TENANT
        shown = _shown(headers)
        if shown is None:
            raise UnauthorizedError("this server needs an API key: send it as 'Authorization: Bearer KEY'")
        # Every key is compared, in constant time each: how long it takes says nothing about how much fits.
        fits = [hmac.compare_digest(shown, key.encode()) for key in self.keys]
        if not any(fits):
            raise UnauthorizedError("the API key is not known here")
        return DEFAULT_TENANT


def check_origin(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raises ForbiddenError where a page of another site is calling.

    Without keys, whoever reaches the server may use it, and a browser on this machine reaches it for any page it shows:
    such a request names the page's origin, or, when the page's host name was bent to point here, that host.
    """
    for name, value in headers:
        if name in (b"origin", b"host") and not _names_loopback(value):
            caller = value.decode("latin-1")
            raise ForbiddenError(
                f"calls from {caller!r} are refused while no API key is set; set api_keys, and show one"
            )


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


def check_bind(host: str, keys: Sequence[str]) -> None:
    """Raises ConfigError for an address that others can reach, where no key is set."""
    if not keys and not is_loopback(host):
        raise ConfigError(
            f"refusing to listen on {host} without an API key: others could use your models. "
            "Set api_keys in modelyard.yaml or MODELYARD_API_KEYS, or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
