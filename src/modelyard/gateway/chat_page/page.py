"""The public page of a published app, and its static files.

The page is built with the console, from `console-ui/chat.html`; if it was not built, a
notice is served instead. Its files are also served below `/chat/-/`, so a proxy that
exposes only `/chat` exposes everything the page needs.
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
from modelyard.tenancy.resource_types import ChatPage
from modelyard.workflow.apps import Apps

_PAGE = "chat.html"
_EMBED = "embed.js"
# A wildcard may stand for a subdomain or a port, as in `frame-ancestors`.
_ORIGIN = re.compile(r"https?://[\w.*-]+(:\d{1,5}|:\*)?")
_NOT_FOUND_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<title>Page not found</title>
<h1>Page not found</h1><p>The app was unpublished, or the address is wrong.</p>
<p lang="zh">此页面不存在。</p></html>"""
_NOT_BUILT_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Page not built</title>
<h1>Page not built</h1><p>The operator of this server builds it with <code>make console</code> (Node 20 or newer).
The API of the app works without it.</p>
<p lang="zh">此服务器尚未构建这个页面。</p></html>"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class ChatPages:
    """The pages of all apps: one document, with each app's own rules for embedding."""

    apps: Apps

    async def page(self, request: Request) -> Reply:
        """GET /chat/TOKEN: return the page of an app, or a notice if it does not exist
        or was not built."""
        app_record = self.apps.get_by_page_token(request.names["token"])
        # The notice is HTML, because people follow old links to pages.
        if app_record is None:
            return _notice(_NOT_FOUND_PAGE, 404, ChatPage())
        built = built_file(_PAGE, request, _headers(app_record.stored.page))
        return built or _notice(_NOT_BUILT_PAGE, 503, app_record.stored.page)

    async def asset(self, request: Request) -> Reply:
        """GET /chat/-/NAME: return a file of the page, or the script that other sites
        embed.

        Raises NoSuchPathError.
        """
        name = request.names["asset"]
        # The embed script is part of the package, not of the console build.
        asset = await _embed() if name == _EMBED else built_asset(name, request)
        if asset is None:
            raise NoSuchPathError(request.path, None)
        return asset


async def _embed() -> Reply:
    """Return the embed script. Other sites load it, so it may be read across origins."""
    headers = {
        "cache-control": "public, max-age=300",
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "cross-origin",
    }
    return Reply(
        await asyncio.to_thread(_read_embed),
        200,
        b"text/javascript; charset=utf-8",
        headers,
    )


@lru_cache(1)
def _read_embed() -> bytes:
    """Return the content of the embed script."""
    return (files("modelyard.gateway.chat_page") / "static" / _EMBED).read_bytes()


def _notice(text: str, status: int, page: ChatPage) -> Reply:
    """Return a notice as an HTML reply."""
    return Reply(text.encode(), status, b"text/html; charset=utf-8", _headers(page))


def _headers(page: ChatPage) -> dict[str, str]:
    """Return the security headers of an app's page."""
    # Origins are checked again, because they are inserted into the policy as text.
    allowed = [
        origin for origin in page.origins if origin == "*" or _ORIGIN.fullmatch(origin)
    ]
    return {
        "content-security-policy": page_policy(
            ancestors=" ".join(["'self'", *allowed])
        ),
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
        # The chat can record speech.
        "permissions-policy": "microphone=(self)",
    }
