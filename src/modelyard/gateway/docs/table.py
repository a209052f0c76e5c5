"""/docs: the documentation of each API, as pages and as OpenAPI documents."""

import asyncio
from collections.abc import Sequence
from functools import cached_property

from modelyard.gateway.docs import pages
from modelyard.gateway.errors import OPENAI
from modelyard.gateway.http import Reply, Request, encode
from modelyard.gateway.openapi import describe
from modelyard.gateway.table import (
    NO_AUTH,
    VIEWER,
    Api,
    Content,
    NoSuchPathError,
    Row,
    Schema,
)
from modelyard.models.types import JSON

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'",  # noqa: E501
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_HTML = b"text/html; charset=utf-8"


class Documentation:
    """Routes of the API documentation. It does not depend on the caller or on the
    configuration."""

    def __init__(self, apis: Sequence[Api]) -> None:
        self._apis = {api.name: api for api in apis}

    @cached_property
    def _documents(self) -> dict[str, JSON]:
        """OpenAPI documents by API, built at the first use.

        Building takes longer than the event loop may be blocked, so it has to be called
        in a thread.
        """
        return {name: describe(api) for name, api in self._apis.items()}

    async def index(self, request: Request) -> Reply:
        """GET /docs: list the APIs."""
        del request
        return Reply(
            pages.index(self._apis.values()), content_type=_HTML, headers=_HEADERS
        )

    async def page(self, request: Request) -> Reply:
        """GET /docs/API: return the page of an API.

        Raises NoSuchPathError.
        """
        api = self._requested_api(request)
        text = await asyncio.to_thread(
            lambda: pages.page(api, self._documents[api.name])
        )
        return Reply(text, content_type=_HTML, headers=_HEADERS)

    async def document(self, request: Request) -> Reply:
        """GET /docs/API/openapi.json: return the OpenAPI document of an API.

        Raises NoSuchPathError.
        """
        return await self._document(self._requested_api(request))

    async def admin_document(self, request: Request) -> Reply:
        """GET /admin/openapi.json: return the OpenAPI document of the admin API at its
        traditional path."""
        del request
        return await self._document(self._apis["admin"])

    async def _document(self, api: Api) -> Reply:
        """Return an OpenAPI document, built and encoded in a thread."""
        return Reply(await asyncio.to_thread(lambda: encode(self._documents[api.name])))

    async def style(self, request: Request) -> Reply:
        """GET /docs/style.css: return the style sheet."""
        del request
        # A separate file, because the pages' security policy forbids inline styles.
        return Reply(
            pages.STYLE, content_type=b"text/css; charset=utf-8", headers=_HEADERS
        )

    def _requested_api(self, request: Request) -> Api:
        """Return the API of the request's path.

        Raises NoSuchPathError.
        """
        api = self._apis.get(request.names["api"])
        if api is None:
            raise NoSuchPathError(request.path, "/docs")
        return api


def api(apis: Sequence[Api]) -> Api:
    """Return the API that documents `apis`."""
    documentation = Documentation(apis)
    document, page = Schema({"type": "object"}), Content("text/html")
    rows = (
        Row(
            method="GET",
            path="/docs",
            auth=NO_AUTH,
            handler=documentation.index,
            answer=page,
            summary="List the APIs as a web page.",
        ),
        Row(
            method="GET",
            path="/docs/style.css",
            auth=NO_AUTH,
            handler=documentation.style,
            answer=Content("text/css"),
            summary="Get the style sheet.",
        ),
        Row(
            method="GET",
            path="/docs/{api}",
            auth=NO_AUTH,
            handler=documentation.page,
            answer=page,
            summary="Get the documentation of an API as a web page.",
        ),
        Row(
            method="GET",
            path="/docs/{api}/openapi.json",
            auth=NO_AUTH,
            handler=documentation.document,
            answer=document,
            summary="Get the OpenAPI document of an API.",
        ),
        Row(
            method="GET",
            path="/admin/openapi.json",
            auth=VIEWER,
            handler=documentation.admin_document,
            answer=document,
            summary="Get the OpenAPI document of the admin API.",
        ),
    )
    return Api(
        name="docs",
        title="Documentation",
        about="Documentation of each API.",
        prefixes=("/docs",),
        errors=OPENAI,
        rows=rows,
    )
