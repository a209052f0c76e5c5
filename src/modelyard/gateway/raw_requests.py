"""Serialisation of a request as raw HTTP/1.1, for plugins that serve HTTP."""

from collections.abc import Mapping

from modelyard.gateway.http import Request
from modelyard.gateway.tenant_content import NO_CONTENT_RULES, ContentRules

# Hop-by-hop headers (RFC 9110, 7.6.1) and those that the rewritten message replaces.
_HOP_BY_HOP = frozenset(
    (
        "transfer-encoding",
        "content-length",
        "connection",
        "keep-alive",
        "upgrade",
        "te",
        "trailer",
        "proxy-connection",
    )
)
_NOT_FORWARDED = frozenset(
    {
        *_HOP_BY_HOP,
        "x-forwarded-for",
        "x-real-ip",
        "x-forwarded",
        "x-original-forwarded-for",
        "x-original-url",
        "x-original-host",
    }
)
"""Headers that are not forwarded: hop-by-hop ones, and those from which a plugin would
read a forged sender."""


def raw_request(
    request: Request,
    path: str,
    body: bytes,
    extra_headers: Mapping[str, str],
    rules: ContentRules = NO_CONTENT_RULES,
) -> bytes:
    """Return the request as HTTP/1.1 bytes, with another path, extra headers and a
    recomputed content length.

    `rules` removes the server's own credentials.
    """
    query = request.scope.get("query_string", b"")
    target = path.encode("latin-1", "replace") + (b"?" + query if query else b"")
    lines = [request.method.encode() + b" " + target + b" HTTP/1.1"]
    for name, value in rules.incoming(request.scope["headers"]):
        # Names with an underscore are dropped: CGI-style servers read them as the name
        # with a hyphen.
        if name.decode("latin-1") not in _NOT_FORWARDED and b"_" not in name:
            lines.append(name + b": " + value)
    lines += [
        f"{name}: {value}".encode("latin-1", "replace")
        for name, value in extra_headers.items()
    ]
    lines.append(b"content-length: " + str(len(body)).encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
