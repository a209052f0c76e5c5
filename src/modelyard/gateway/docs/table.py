"""/docs: what each API offers, as pages and as OpenAPI documents."""

import asyncio
from collections.abc import Sequence
from functools import cached_property

from modelyard.gateway.docs import pages
from modelyard.gateway.errors import OPENAI
from modelyard.gateway.http import Reply, Request, encode
from modelyard.gateway.openapi import describe
from modelyard.gateway.table import NOBODY_IN_PARTICULAR, VIEWER, Api, Content, NoSuchPathError, Row, Schema
from modelyard.models.types import JSON

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-cache",
}  # fmt: skip
_HTML = b"text/html; charset=utf-8"


class Documentation:
    """What is told of the APIs. Nothing of it depends on who asks, or on what is set up here."""

    def __init__(self, apis: Sequence[Api]) -> None:
        self._apis = {api.name: api for api in apis}

    @cached_property
    def _documents(self) -> dict[str, JSON]:
        """API → its OpenAPI document; made when somebody asks for the first time, which takes longer than a loop may
        be held."""
        return {name: describe(api) for name, api in self._apis.items()}

    async def index(self, request: Request) -> Reply:
        """GET /docs."""
        del request
        return Reply(pages.index(self._apis.values()), content_type=_HTML, headers=_HEADERS)

    async def page(self, request: Request) -> Reply:
        """GET /docs/API. Raises NoSuchPathError."""
        api = self._named(request)
        text = await asyncio.to_thread(lambda: pages.page(api, self._documents[api.name]))
        return Reply(text, content_type=_HTML, headers=_HEADERS)

    async def document(self, request: Request) -> Reply:
        """GET /docs/API/openapi.json. Raises NoSuchPathError."""
        return await self._document(self._named(request))

    async def admin_document(self, request: Request) -> Reply:
        """GET /admin/openapi.json: where the admin API has always described itself."""
        del request
        return await self._document(self._apis["admin"])

    async def _document(self, api: Api) -> Reply:
        return Reply(await asyncio.to_thread(lambda: encode(self._documents[api.name])))

    async def style(self, request: Request) -> Reply:
        """GET /docs/style.css."""
        del request
        return Reply(pages.STYLE, content_type=b"text/css; charset=utf-8", headers=_HEADERS)

    def _named(self, request: Request) -> Api:
        api = self._apis.get(request.names["api"])
        if api is None:
            raise NoSuchPathError(request.path, "/docs")
        return api


def api(apis: Sequence[Api]) -> Api:
    """The pages about these APIs."""
    documentation = Documentation(apis)
    document, page = Schema({"type": "object"}), Content("text/html")
    rows = (
        Row(method="GET", path="/docs", auth=NOBODY_IN_PARTICULAR, handler=documentation.index, answer=page,
            summary="List the APIs, for people."),
        Row(method="GET", path="/docs/style.css", auth=NOBODY_IN_PARTICULAR, handler=documentation.style,
            answer=Content("text/css"), summary="Get the pages' style."),
        Row(method="GET", path="/docs/{api}", auth=NOBODY_IN_PARTICULAR, handler=documentation.page, answer=page,
            summary="Describe an API, for people."),
        Row(method="GET", path="/docs/{api}/openapi.json", auth=NOBODY_IN_PARTICULAR, handler=documentation.document,
            answer=document, summary="Describe an API, for programs."),
        Row(method="GET", path="/admin/openapi.json", auth=VIEWER, handler=documentation.admin_document,
            answer=document, summary="Describe the admin API, for programs."),
    )  # fmt: skip
    return Api(
        name="docs", title="Descriptions", about="What each API offers.", prefixes=("/docs",), errors=OPENAI, rows=rows
    )
