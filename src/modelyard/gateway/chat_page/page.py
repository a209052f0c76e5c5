"""The page on which people use a published app, and the files that it is made of.

It is built with the console, from `console-ui/chat.html`; where it was not built, it says so. What it is made of lies
below `/chat/-/` too: whoever lets the world reach `/chat` alone has let it reach all that the page needs.
"""

import asyncio
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from modelyard.gateway.console_api.static import built_asset, built_file
from modelyard.gateway.http import Reply, Request
from modelyard.gateway.policies import page_policy
from modelyard.gateway.table import NoSuchPathError
from modelyard.tenancy.kinds import ChatPage
from modelyard.workflow.apps import Apps

_PAGE = "chat.html"
_EMBED = "embed.js"
_ORIGIN = re.compile(r"https?://[\w.*-]+(:\d{1,5}|:\*)?")
_GONE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Not here</title>
<h1>This page is not here.</h1><p>Its app was taken back, or the address is wrong.</p>
<p lang="zh">此页面不存在。</p></html>"""
_MISSING = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Not built</title>
<h1>This page is not built here.</h1><p>Whoever runs this server builds it once by <code>make console</code>, with
Node 20 or newer. Programs reach the app without it.</p>
<p lang="zh">此服务器尚未构建这个页面。</p></html>"""


@dataclass(frozen=True, slots=True)
class ChatPages:
    """The pages of all apps: one document, with the app's own rules for who may frame it."""

    apps: Apps

    async def page(self, request: Request) -> Reply:
        """GET /chat/TOKEN. A page that is gone, or that was not built, says so to people."""
        found = self.apps.by_page(request.names["token"])
        if found is None:
            return _words(_GONE, 404, ChatPage())
        built = built_file(_PAGE, request, _headers(found.stored.page))
        return built or _words(_MISSING, 503, found.stored.page)

    async def asset(self, request: Request) -> Reply:
        """GET /chat/-/NAME: what the page is made of, or what other people's sites take. Raises NoSuchPathError."""
        name = request.names["asset"]
        if name == _EMBED:
            return await _embed()
        asset = built_asset(name, request)
        if asset is None:
            raise NoSuchPathError(request.path, None)
        return asset


async def _embed() -> Reply:
    headers = {
        "cache-control": "public, max-age=300", "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "cross-origin",
    }  # fmt: skip
    return Reply(await asyncio.to_thread(_read_embed), 200, b"text/javascript; charset=utf-8", headers)


@lru_cache(1)
def _read_embed() -> bytes:
    return (files("modelyard.gateway.chat_page") / "static" / _EMBED).read_bytes()


def _words(text: str, status: int, page: ChatPage) -> Reply:
    return Reply(text.encode(), status, b"text/html; charset=utf-8", _headers(page))


def _headers(page: ChatPage) -> dict[str, str]:
    allowed = [one for one in page.origins if one == "*" or _ORIGIN.fullmatch(one)]
    return {
        "content-security-policy": page_policy(ancestors=" ".join(["'self'", *allowed])),
        "referrer-policy": "no-referrer", "x-content-type-options": "nosniff", "cache-control": "no-cache",
        "permissions-policy": "microphone=(self)",
    }  # fmt: skip
