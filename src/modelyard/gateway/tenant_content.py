"""Isolation of tenants' content from the server itself: request headers, response
headers, and a separate origin.

Plugin endpoints (`/e/…`, `/t/…`), webhooks and files answer with content that tenants
wrote. Credentials for this server must not reach that content, its headers must not
affect this server's origin, and in a browser it runs in an opaque origin. See
docs/how-to/run-for-others.md for the operator's options.
"""

import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from modelyard.base.errors import NotFoundError, PluginError
from modelyard.base.fields import whole_number
from modelyard.tenancy import api_keys

Headers = Sequence[tuple[bytes, bytes]]

WEBHOOK = "/triggers/webhook/"
"""Path prefix of webhooks of published apps."""
WEBHOOK_OF_DRAFT = "/triggers/webhook-debug/"
"""Path prefix of webhooks of apps that are not published yet."""
PATHS = ("/e/", "/t/", WEBHOOK, WEBHOOK_OF_DRAFT, "/files/")
"""Path prefixes under which content belongs to tenants."""
_UPLOAD = "/files/plugins/upload"

# ------------------------------------------------------------ requests

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"))
"""Headers in which callers present a key of this server."""
# These identify users or sessions of this server and never reach tenants' code.
_ALWAYS_REMOVED = frozenset(
    (
        b"cookie",
        b"cookie2",
        b"proxy-authorization",
        b"x-visitor",
        b"dify-plugin-session-id",
    )
)
# A tenant's code must not set these: other parts of the program trust them.
_INTERNAL_PREFIXES = (b"x-modelyard-", b"dify-hook-")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRules:
    """What of a request tenants' code may see, and on which host content is served."""

    origin: Callable[[], str]
    """Returns the origin of tenants' content, for example
    `https://usercontent.example`; empty if it shares the server's."""
    passes_authorization: Callable[[], bool] = lambda: False
    """Tells whether senders' own credentials are forwarded."""
    keys: Callable[[], Iterable[str]] = lambda: ()
    """Returns keys of this server that are not recognisable by their form."""

    def incoming(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Return the request headers that tenants' code may see."""
        return [
            (name, value)
            for name, value in headers
            if self._may_see(name.lower(), value)
        ]

    def _may_see(self, name: bytes, value: bytes) -> bool:
        """Tell whether tenants' code may see a header."""
        if name in CREDENTIALS:
            return self.passes_authorization() and not self._is_server_credential(value)
        return name not in _ALWAYS_REMOVED and not name.startswith(_INTERNAL_PREFIXES)

    def _is_server_credential(self, value: bytes) -> bool:
        """Tell whether a header value is, or looks like, a credential of this server."""
        # Schemes vary (`Bearer KEY`, `KEY`, lists): every token is checked.
        tokens = value.decode("latin-1").replace(",", " ").split()
        looks = any(
            api_keys.id_of(token)
            or api_keys.id_for("app", token)
            or api_keys.id_for("dataset", token)
            for token in tokens
        )
        # `sum` instead of `any` compares all keys, so timing does not reveal which one
        # matched.
        match_count = sum(
            hmac.compare_digest(token.encode(), key.encode())
            for token in tokens
            for key in self.keys()
        )
        return looks or match_count > 0

    def check_host(self, method: str, path: str, host: str | None) -> None:
        """Raise NotFoundError if content is requested on the server's own host, or
        anything else on the content host."""
        if not (origin := self.origin()):
            return
        is_content_host = _normalised_host(host or "") == _normalised_host(
            urlsplit(origin).netloc
        )
        # Plugins upload files on the server's own host too; nothing is displayed.
        if method == "POST" and path == _UPLOAD:
            return
        if path.startswith(PATHS) and not is_content_host:
            raise NotFoundError(
                f"This path is served only at {origin}", code="unknown_url"
            )
        if is_content_host and not path.startswith(PATHS):
            raise NotFoundError(
                f"Not found on this host: {path[:200]}", code="unknown_url"
            )


NO_CONTENT_RULES = ContentRules(origin=lambda: "")


def _normalised_host(netloc: str) -> str:
    """Return a host in a comparable form; default ports are dropped."""
    name, _, port = netloc.lower().rpartition(":")
    # No port, or a colon that is part of an IPv6 address.
    if not name or whole_number(port) is None:
        name, port = netloc.lower(), ""
    return name.rstrip(".") + (f":{port}" if port not in ("", "80", "443") else "")


# ------------------------------------------------------------ responses

ISOLATION_HEADERS: Mapping[str, str] = {
    # A tenant's page may run scripts, but in an opaque origin: it gets no cookie of
    # this server and can read nothing here. It cannot open dialogs, which a browser
    # would show under this server's name.
    "content-security-policy": "sandbox allow-scripts allow-forms allow-popups allow-downloads",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
FILE_HEADERS: Mapping[str, str] = {
    **ISOLATION_HEADERS,
    "content-security-policy": "default-src 'none'; sandbox",
}
"""Headers for stored files: they are data and must not execute anything."""
# An allow list: headers not named here are dropped, so new browser features cannot be
# abused.
_ALLOWED = frozenset(
    (
        "accept-ranges",
        "access-control-allow-headers",
        "access-control-allow-methods",
        "access-control-allow-origin",
        "access-control-expose-headers",
        "access-control-max-age",
        "age",
        "allow",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-location",
        "content-range",
        "content-type",
        "deprecation",
        "etag",
        "expires",
        "last-modified",
        "location",
        "pragma",
        "retry-after",
        "sunset",
        "vary",
    )
)
# Vendors' and users' own headers, which have no effect in a browser.
_ALLOWED_PREFIXES = ("x-", "mcp-", "webhook-", "ratelimit-", "openai-", "anthropic-")
_DENIED_PREFIXES = (
    "x-accel-",
    "x-sendfile",
    "x-lighttpd-",
    "x-litespeed-",
    "x-reproxy-",
    "x-modelyard-",
    "x-request-id",
    "x-content-type-options",
    "x-dns-prefetch-control",
    "x-xss-protection",
    "x-permitted-cross-domain-policies",
    "x-sourcemap",
    "x-forwarded-",
)
"""Headers of these families that browsers or reverse proxies act on. They are never
forwarded."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Control characters, except the tab, could split a header.
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MEDIA_TYPE = re.compile(
    r"[\w.+-]{1,100}/[\w.+-]{1,100}(; ?charset=[\w-]{1,40})?", re.ASCII
)


def outgoing(
    headers: Iterable[tuple[str, str]], plugin: str = ""
) -> list[tuple[bytes, bytes]]:
    """Return the headers of a tenant's response that are forwarded, plus those that
    isolate it.

    Adds a content type if there is none. Raises PluginError for invalid names or
    values.
    """
    sent_headers: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if not _NAME.fullmatch(name) or _NOT_IN_VALUE.search(value):
            raise PluginError(
                f"Response has an invalid header: {name[:80]!r}", plugin=plugin
            )
        if _is_allowed(name.lower()):
            sent_headers.append(
                (name.lower().encode(), value.encode("latin-1", "replace"))
            )
    if not any(name == b"content-type" for name, _ in sent_headers):
        sent_headers.append((b"content-type", b"text/plain; charset=utf-8"))
    return [
        *sent_headers,
        *((name.encode(), value.encode()) for name, value in ISOLATION_HEADERS.items()),
    ]


def _is_allowed(name: str) -> bool:
    """Return whether a response header is forwarded."""
    if name in ISOLATION_HEADERS or name.startswith(_DENIED_PREFIXES):
        return False
    return name in _ALLOWED or name.startswith(_ALLOWED_PREFIXES)


def response_status(value: object, plugin: str = "") -> int:
    """Return the status of a tenant's response; 200 if there is none. Raises
    PluginError unless it is from 200 to 599."""
    try:
        status = int(str(value or 200))
    except ValueError:
        status = 0
    if not 200 <= status <= 599:
        raise PluginError(
            f"Response has an invalid status {str(value)[:40]!r}; expected 200 to 599",
            plugin=plugin,
        )
    return status


def media_type(text: str) -> bytes:
    """Return a stored file's media type as a header value; `application/octet-stream`
    if it is invalid."""
    return text.encode() if _MEDIA_TYPE.fullmatch(text) else b"application/octet-stream"


def disposition(disposition_type: str, name: str) -> str:
    """Return a Content-Disposition value; the type is `attachment` or `inline`."""
    # The quoted name is restricted to safe characters: it comes from users.
    return f'{disposition_type}; filename="{re.sub(r"[^A-Za-z0-9._-]", "_", name)}"'
