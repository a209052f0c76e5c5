"""What stands between tenants' content and this server's own voice: headers in, headers out, and an origin of its own.

Plugins' addresses (`/e/…`, `/t/…`), webhooks and files answer with what tenants wrote. Nothing that a browser or a
client shows *us* may reach them, nothing of theirs may set or change what belongs to our origin, and what they show in
a browser is shut into an origin that is nobody's. docs/how-to/run-for-others.md says what an operator chooses.
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
"""Webhooks of published apps have addresses below it."""
WEBHOOK_OF_DRAFT = "/triggers/webhook-debug/"
"""As above, for apps that are not published yet."""
PATHS = ("/e/", "/t/", WEBHOOK, WEBHOOK_OF_DRAFT, "/files/")
"""Below these, content is tenants'."""
_UPLOAD = "/files/plugins/upload"

# ------------------------------------------------------------------------------------------------ on the way in

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"x-goog-api-key"))
"""How callers show this server a key."""
_NEVER = frozenset((b"cookie", b"cookie2", b"proxy-authorization", b"x-visitor", b"dify-plugin-session-id"))
_OURS = (b"x-modelyard-", b"dify-hook-")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRules:
    origin: Callable[[], str]
    """Where content is served, as `https://usercontent.example`; empty for where everything is."""
    passes_authorization: Callable[[], bool] = lambda: False
    """Whether senders' own credentials are handed on."""
    keys: Callable[[], Iterable[str]] = lambda: ()
    """What this server takes as keys, beside those that its form tells."""

    def incoming(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """What a tenant's code may see of a request's headers."""
        return [(name, value) for name, value in headers if self._may_see(name.lower(), value)]

    def _may_see(self, name: bytes, value: bytes) -> bool:
        if name in CREDENTIALS:
            return self.passes_authorization() and not self._is_own(value)
        return name not in _NEVER and not name.startswith(_OURS)

    def _is_own(self, value: bytes) -> bool:
        """Whether this is, or looks like, a credential of this server."""
        words = value.decode("latin-1").replace(",", " ").split()
        looks = any(
            api_keys.id_of(word) or api_keys.id_for("app", word) or api_keys.id_for("dataset", word) for word in words
        )
        known = sum(hmac.compare_digest(word.encode(), key.encode()) for word in words for key in self.keys())
        return looks or known > 0

    def check_host(self, method: str, path: str, host: str | None) -> None:
        """Raises NotFoundError where content is asked of the server's own origin, or anything else of content's."""
        if not (origin := self.origin()):
            return
        is_there = _place(host or "") == _place(urlsplit(origin).netloc)
        if method == "POST" and path == _UPLOAD:
            return  # plugins hand files in here; nothing is shown
        if path.startswith(PATHS) and not is_there:
            raise NotFoundError(f"this is served at {origin} alone", code="unknown_url")
        if is_there and not path.startswith(PATHS):
            raise NotFoundError(f"there is nothing at {path[:200]!r} on this host", code="unknown_url")


NO_CONTENT_RULES = ContentRules(origin=lambda: "")


def _place(netloc: str) -> str:
    """A host, with its port where that is none of the usual ones."""
    name, _, port = netloc.lower().rpartition(":")
    if not name or whole_number(port) is None:
        name, port = netloc.lower(), ""
    return name.rstrip(".") + (f":{port}" if port not in ("", "80", "443") else "")


# ------------------------------------------------------------------------------------------------ on the way out

SHUT_IN: Mapping[str, str] = {
    # A page of a tenant's may run its scripts, in an origin that is its alone: it has no cookie of ours, and can read
    # nothing here. It opens no dialogs, which a browser would show under this server's name.
    "content-security-policy": "sandbox allow-scripts allow-forms allow-popups allow-downloads",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
FILE: Mapping[str, str] = {**SHUT_IN, "content-security-policy": "default-src 'none'; sandbox"}
"""For what is stored: it is data, and runs nothing."""
_ALLOWED = frozenset((
    "accept-ranges", "access-control-allow-headers", "access-control-allow-methods", "access-control-allow-origin",
    "access-control-expose-headers", "access-control-max-age", "age", "allow", "cache-control", "content-disposition",
    "content-encoding", "content-language", "content-location", "content-range", "content-type", "deprecation", "etag",
    "expires", "last-modified", "location", "pragma", "retry-after", "sunset", "vary",
))  # fmt: skip
_FAMILIES = ("x-", "mcp-", "webhook-", "ratelimit-", "openai-", "anthropic-")
_NOT_OF_FAMILIES = (
    "x-accel-", "x-sendfile", "x-lighttpd-", "x-litespeed-", "x-reproxy-", "x-modelyard-", "x-request-id",
    "x-content-type-options", "x-dns-prefetch-control", "x-xss-protection", "x-permitted-cross-domain-policies",
    "x-sourcemap", "x-forwarded-",
)  # fmt: skip
"""What a browser, or a proxy before this server, obeys."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}(; ?charset=[\w-]{1,40})?", re.ASCII)


def outgoing(headers: Iterable[tuple[str, str]], plugin: str = "") -> list[tuple[bytes, bytes]]:
    """The headers of a tenant's answer that are sent on, and ours that shut it in. Raises PluginError where one holds
    what would end it."""
    found: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if not _NAME.fullmatch(name) or _NOT_IN_VALUE.search(value):
            raise PluginError(f"its answer has a header that is none: {name[:80]!r}", plugin=plugin)
        if _is_allowed(name.lower()):
            found.append((name.lower().encode(), value.encode("latin-1", "replace")))
    if not any(name == b"content-type" for name, _ in found):
        found.append((b"content-type", b"text/plain; charset=utf-8"))
    return [*found, *((name.encode(), value.encode()) for name, value in SHUT_IN.items())]


def _is_allowed(name: str) -> bool:
    if name in SHUT_IN or name.startswith(_NOT_OF_FAMILIES):
        return False
    return name in _ALLOWED or name.startswith(_FAMILIES)


def status_of(value: object, plugin: str = "") -> int:
    """The status of a tenant's answer. Raises PluginError where that is none that can be sent."""
    try:
        status = int(str(value or 200))
    except ValueError:
        status = 0
    if not 200 <= status <= 599:
        raise PluginError(f"its answer has the status {str(value)[:40]!r}; 200 to 599 can be sent", plugin=plugin)
    return status


def media_type(text: str) -> bytes:
    """A stored file's type as a header says it; what is none is bytes."""
    return text.encode() if _MEDIA_TYPE.fullmatch(text) else b"application/octet-stream"


def disposition(how: str, name: str) -> str:
    """`attachment` or `inline`, under a name that cannot end the header."""
    return f'{how}; filename="{re.sub(r"[^A-Za-z0-9._-]", "_", name)}"'
