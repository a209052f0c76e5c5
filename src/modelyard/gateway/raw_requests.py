"""A request as it would be on the wire: what plugins that serve HTTP are given."""

from collections.abc import Mapping

from modelyard.gateway.http import Request
from modelyard.gateway.tenant_content import NO_CONTENT_RULES, ContentRules

_HOP = frozenset((
    "transfer-encoding", "content-length", "connection", "keep-alive", "upgrade", "te", "trailer", "proxy-connection",
))  # fmt: skip
_NOT_SENT = frozenset({
    *_HOP, "x-forwarded-for", "x-real-ip", "x-forwarded", "x-original-forwarded-for", "x-original-url",
    "x-original-host",
})  # fmt: skip
"""Headers that are about the way here, or that a plugin would read a false sender from."""


def raw_request(
    request: Request, path: str, body: bytes, more: Mapping[str, str], rules: ContentRules = NO_CONTENT_RULES
) -> bytes:
    """The request as it would be on the wire, at another path, without what is between its sender and us."""
    query = request.scope.get("query_string", b"")
    target = path.encode("latin-1", "replace") + (b"?" + query if query else b"")
    lines = [request.method.encode() + b" " + target + b" HTTP/1.1"]
    for name, value in rules.incoming(request.scope["headers"]):
        if name.decode("latin-1") not in _NOT_SENT and b"_" not in name:
            lines.append(name + b": " + value)
    lines += [f"{name}: {value}".encode("latin-1", "replace") for name, value in more.items()]
    lines.append(b"content-length: " + str(len(body)).encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
