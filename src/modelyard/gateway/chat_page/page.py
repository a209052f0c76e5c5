"""`/chat/TOKEN`: the page on which people use a published app, and what that page asks for.

The address names the app, as a key would. Who the visitor is, the page says itself, by a number that its browser made:
whoever has that number sees that visitor's conversations, and nobody else's. It travels in a header that another site's
page cannot send.
"""

import asyncio
import re
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import ClassVar

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.gateway.auth import Gatekeeper
from modelyard.gateway.http import Reply, Request, StreamReply
from modelyard.gateway.policies import page_policy
from modelyard.gateway.service.apps import Service
from modelyard.gateway.service.calls import ServiceError, problem_reply
from modelyard.runtime.attempts import Attempts, neighbourhood
from modelyard.runtime.tenancy import ChatPage
from modelyard.workflow.apps import Apps

PREFIX = "/chat/"
_FILES = "-"
_WRITES_A_MINUTE = 300
"""What visitors from one place may send to all pages; what they read is not counted."""
_TYPES = {".js": b"text/javascript; charset=utf-8", ".css": b"text/css; charset=utf-8"}
_ASSETS = ("page.js", "page.css", "embed.js", "markdown.js", "words.js")
_VISITOR = re.compile(r"[A-Za-z0-9_-]{20,64}")
_ORIGIN = re.compile(r"https?://[\w.*-]+(:\d{1,5}|:\*)?")
_GONE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Not here</title>
<h1>This page is not here.</h1><p>Its app was taken back, or the address is wrong.</p>
<p lang="zh">\xe6\xad\xa4\xe9\xa1\xb5\xe9\x9d\xa2\xe4\xb8\x8d\xe5\xad\x98\xe5\x9c\xa8\xe3\x80\x82</p></html>"""


@dataclass(frozen=True, slots=True)
class PageRoute:
    admits_itself: ClassVar[bool] = True
    apps: Apps
    service: Service
    keeper: Gatekeeper
    writes: Attempts = field(default_factory=lambda: Attempts(_WRITES_A_MINUTE, 60.0))
    """Whoever invents visitors is counted by where they call from."""

    async def __call__(self, request: Request) -> Reply | StreamReply:
        token, _, rest = request.path.removeprefix(PREFIX).partition("/")
        if token == _FILES:
            return await self._asset(request, rest)
        found = self.apps.by_page(token)
        if rest:
            try:
                if found is None:
                    raise ServiceError(404, "not_found", "this page is not here any more")
                visitor = request.header(b"x-visitor") or ""
                if not _VISITOR.fullmatch(visitor):
                    raise ServiceError(401, "unauthorized", "x-visitor must be 20 to 64 letters and digits")
                if request.method != "GET":
                    self.writes.take(neighbourhood(self.keeper.address_of(request.scope)))
                return await self.service.visit(request, found, f"/{rest}", f"web-{visitor}")
            except ModelyardError as error:
                return problem_reply(error)
        if request.method != "GET":
            raise NotFoundError(f"{request.method} {request.path!r} is not offered here", code="method_not_allowed")
        if found is None:
            return _html(_GONE, ChatPage(), status=404)
        return _html(await asyncio.to_thread(_read, "index.html"), found.stored.page)

    @staticmethod
    async def _asset(request: Request, name: str) -> Reply:
        if request.method != "GET" or name not in _ASSETS:
            raise NotFoundError(f"there is nothing at {request.path!r}", code="unknown_url")
        data = await asyncio.to_thread(_read, name)
        headers = {"cache-control": "public, max-age=300", "x-content-type-options": "nosniff"}
        if name == "embed.js":
            headers["cross-origin-resource-policy"] = "cross-origin"
        return Reply(data, content_type=_TYPES[f".{name.rpartition('.')[2]}"], headers=headers)


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
