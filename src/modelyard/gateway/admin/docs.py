"""/admin/openapi.json and /console/api/docs: the admin API described, for programs and for people."""

from functools import lru_cache

from modelyard.gateway.admin import description as admin_description
from modelyard.gateway.http import Reply, Request, encode

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-cache",
}  # fmt: skip


async def description(request: Request) -> Reply:
    del request
    return Reply(_description())


async def page(request: Request) -> Reply:
    if request.path.endswith("/style.css"):
        return Reply(admin_description.STYLE, content_type=b"text/css; charset=utf-8", headers=_HEADERS)
    return Reply(_page(), content_type=b"text/html; charset=utf-8", headers=_HEADERS)


@lru_cache(1)
def _description() -> bytes:
    return encode(admin_description.described())


@lru_cache(1)
def _page() -> bytes:
    return admin_description.page()
