"""/oauth: people let tools act for them on a provider's own page, and come back with what that is worth.

An administrator makes an address; the browser that opens it is sent to the provider, with a cookie that says who it is
when it comes back. The address is good for a quarter of an hour, and says nothing that could be changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.gateway.http import Reply, Request
from modelyard.gateway.policies import NOTHING
from modelyard.gateway.raw_requests import raw_request
from modelyard.tenant_plugins.credentials import PluginCredentials

BEGIN, BACK = "/oauth/begin/", "/oauth/callback/"
_COOKIE = "modelyard-oauth"
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><h1>{title}</h1><p>{text}</p></html>"""


@dataclass(frozen=True, slots=True)
class BrowserSteps:
    """A person's browser on its way to a provider and back."""

    credentials: PluginCredentials
    origin: Callable[[], str]

    async def begin(self, request: Request) -> Reply:
        """GET /oauth/begin/TICKET."""
        try:
            return await self._begin(request.names["ticket"])
        except ModelyardError as error:
            return _page("That did not work", str(error), status=400)

    async def back(self, request: Request) -> Reply:
        """GET /oauth/callback/PROVIDER."""
        try:
            return await self._back(request)
        except ModelyardError as error:
            return _page("That did not work", str(error), status=400)

    async def _begin(self, text: str) -> Reply:
        ticket = self.credentials.read(text)
        url = await self.credentials.page(ticket, redirect_of(self.origin(), ticket.provider))
        is_safe = self.origin().startswith("https://")
        cookie = f"{_COOKIE}={text}; Path={BACK}; Max-Age=900; HttpOnly; SameSite=Lax{'; Secure' if is_safe else ''}"
        headers = {"location": url, "set-cookie": cookie, "cache-control": "no-store", "referrer-policy": "no-referrer"}
        return Reply(b"", 302, b"text/plain", headers)

    async def _back(self, request: Request) -> Reply:
        ticket = self.credentials.read(_cookie(request))
        if request.names["provider"] != ticket.provider:
            raise InvokeBadRequestError("this is another provider's answer", param="provider")
        if refused := request.query("error"):
            raise InvokeBadRequestError(f"the provider says: {refused[:200]}")
        raw = raw_request(request, request.path, b"", {})
        await self.credentials.finish(ticket, redirect_of(self.origin(), ticket.provider), raw)
        return _page("Connected", f"{ticket.provider} may be used now. You can close this window.", is_over=True)


def redirect_of(origin: str, provider: str) -> str:
    """Where the provider sends people back to: what its client must be registered with."""
    return f"{origin}{BACK}{provider}"


def _cookie(request: Request) -> str:
    try:
        found: Any = SimpleCookie(request.header(b"cookie") or "").get(_COOKIE)
    except CookieError:
        found = None
    if found is None:
        raise InvokeBadRequestError("this browser began nothing here, or too long ago: begin anew")
    return str(found.value)


def _page(title: str, text: str, *, status: int = 200, is_over: bool = False) -> Reply:
    headers = {"content-security-policy": NOTHING, "cache-control": "no-store", "x-content-type-options": "nosniff"}
    if is_over:
        headers["set-cookie"] = f"{_COOKIE}=; Path={BACK}; Max-Age=0"
    body = _PAGE.format(title=escape(title), text=escape(text)).encode()
    return Reply(body, status, b"text/html; charset=utf-8", headers)
