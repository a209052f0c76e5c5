"""The page on which people use a published app, and the files that it is made of."""

import asyncio
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import PurePosixPath

from modelyard.gateway.http import Reply, Request
from modelyard.gateway.policies import page_policy
from modelyard.gateway.table import NoSuchPathError
from modelyard.tenancy.kinds import ChatPage
from modelyard.workflow.apps import Apps

_TYPES = {".js": b"text/javascript; charset=utf-8", ".css": b"text/css; charset=utf-8"}
_ASSETS = ("page.js", "page.css", "embed.js", "markdown.js", "words.js")
_ORIGIN = re.compile(r"https?://[\w.*-]+(:\d{1,5}|:\*)?")
_GONE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Not here</title>
<h1>This page is not here.</h1><p>Its app was taken back, or the address is wrong.</p>
<p lang="zh">\xe6\xad\xa4\xe9\xa1\xb5\xe9\x9d\xa2\xe4\xb8\x8d\xe5\xad\x98\xe5\x9c\xa8\xe3\x80\x82</p></html>"""


@dataclass(frozen=True, slots=True)
class ChatPages:
    """The pages of all apps: one document, with the app's own rules for who may frame it."""

    apps: Apps

    async def page(self, request: Request) -> Reply:
        """GET /chat/TOKEN. A page that is gone says so to people."""
        found = self.apps.by_page(request.names["token"])
        if found is None:
            return _html(_GONE, ChatPage(), status=404)
        return _html(await asyncio.to_thread(_read, "index.html"), found.stored.page)

    async def asset(self, request: Request) -> Reply:
        """GET /chat/-/NAME. Raises NoSuchPathError."""
        name = request.names["asset"]
        if name not in _ASSETS:
            raise NoSuchPathError(request.path, None)
        headers = {"cache-control": "public, max-age=300", "x-content-type-options": "nosniff"}
        if name == "embed.js":
            headers["cross-origin-resource-policy"] = "cross-origin"
        content = await asyncio.to_thread(_read, name)
        return Reply(content, content_type=_TYPES[PurePosixPath(name).suffix], headers=headers)


@lru_cache(8)
def _read(name: str) -> bytes:
    return (files("modelyard.gateway.chat_page") / "static" / name).read_bytes()


def _html(data: bytes, page: ChatPage, *, status: int = 200) -> Reply:
    allowed = [one for one in page.origins if one == "*" or _ORIGIN.fullmatch(one)]
    headers = {
        "content-security-policy": page_policy(ancestors=" ".join(["'self'", *allowed])),
        "referrer-policy": "no-referrer", "x-content-type-options": "nosniff", "cache-control": "no-cache",
        "permissions-policy": "microphone=(self)",
    }  # fmt: skip
    return Reply(data, status, b"text/html; charset=utf-8", headers)
