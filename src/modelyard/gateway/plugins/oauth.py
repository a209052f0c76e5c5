"""/oauth: the browser steps of OAuth authorisation for a plugin's tool provider.

An administrator creates an address with a signed ticket. The browser that opens it is
redirected to the provider, with a cookie that carries the ticket back to the callback.
A ticket is valid for 15 minutes and cannot be altered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from http.cookies import CookieError, SimpleCookie

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.gateway.http import Reply, Request
from modelyard.gateway.policies import DENY_ALL
from modelyard.gateway.raw_requests import raw_request
from modelyard.tenant_plugins.credentials import PluginCredentials

BEGIN, BACK = "/oauth/begin/", "/oauth/callback/"
_COOKIE = "modelyard-oauth"
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><h1>{title}</h1><p>{text}</p></html>"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class BrowserSteps:
    """The two browser-facing steps of an OAuth authorisation: redirect to the provider,
    and its callback."""

    credentials: PluginCredentials
    origin: Callable[[], str]

    async def begin(self, request: Request) -> Reply:
        """GET /oauth/begin/TICKET: redirect to the provider's consent page. Errors are
        shown as an HTML page."""
        try:
            return await self._begin(request.names["ticket"])
        except ModelyardError as error:
            return _page("Authorization failed", error.public_text, status=400)

    async def back(self, request: Request) -> Reply:
        """GET /oauth/callback/PROVIDER: exchange the provider's answer for credentials.
        Errors are shown as an HTML page."""
        try:
            return await self._back(request)
        except ModelyardError as error:
            return _page("Authorization failed", error.public_text, status=400)

    async def _begin(self, text: str) -> Reply:
        """Redirect the browser to the provider's consent page.

        A cookie carries the ticket to the callback. Raises ModelyardError if the ticket
        is invalid or expired, or if the plugin gives no address.
        """
        ticket = self.credentials.read(text)
        url = await self.credentials.page(
            ticket, redirect_uri(self.origin(), ticket.provider)
        )
        # Behind plain HTTP (a local installation) a Secure cookie would not be sent
        # back.
        is_safe = self.origin().startswith("https://")
        # SameSite=Lax: the provider's redirect is a top-level navigation from another
        # site.
        cookie = (
            f"{_COOKIE}={text}; Path={BACK}; Max-Age=900; HttpOnly;"
            f" SameSite=Lax{'; Secure' if is_safe else ''}"
        )
        headers = {
            "location": url,
            "set-cookie": cookie,
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
        }
        return Reply(b"", 302, b"text/plain", headers)

    async def _back(self, request: Request) -> Reply:
        """Have the plugin exchange the provider's answer, and return the closing page.

        The ticket comes from the browser's cookie. Raises InvokeBadRequestError if it
        is for another provider or the provider reports an error, ModelyardError if the
        exchange fails.
        """
        ticket = self.credentials.read(_cookie(request))
        # The cookie's ticket and the callback's path must name the same provider.
        if request.names["provider"] != ticket.provider:
            raise InvokeBadRequestError(
                "The response is from another provider", param="provider"
            )
        if refused := request.query("error"):
            raise InvokeBadRequestError(f"The provider reports: {refused[:200]}")
        # The plugin does the code exchange, so it gets the callback as a raw HTTP
        # request.
        raw = raw_request(request, request.path, b"", {})
        await self.credentials.finish(
            ticket, redirect_uri(self.origin(), ticket.provider), raw
        )
        return _page(
            "Connected",
            f"{ticket.provider} is connected. You can close this window.",
            is_over=True,
        )


def redirect_uri(origin: str, provider: str) -> str:
    """Return the redirect URI to register with the provider's OAuth client."""
    return f"{origin}{BACK}{provider}"


def _cookie(request: Request) -> str:
    """Return the ticket in the request's cookie. Raises InvokeBadRequestError if there
    is none."""
    try:
        morsel = SimpleCookie(request.header(b"cookie") or "").get(_COOKIE)
    except CookieError:
        morsel = None
    if morsel is None:
        raise InvokeBadRequestError(
            "Authorization session not found or expired. Start again."
        )
    return str(morsel.value)


def _page(title: str, text: str, *, status: int = 200, is_over: bool = False) -> Reply:
    """Return a small HTML page. `is_over` also deletes the ticket's cookie."""
    headers = {
        "content-security-policy": DENY_ALL,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    if is_over:
        headers["set-cookie"] = f"{_COOKIE}=; Path={BACK}; Max-Age=0"
    # Error texts may contain what the provider sent: everything is escaped.
    body = _PAGE.format(title=escape(title), text=escape(text)).encode()
    return Reply(body, status, b"text/html; charset=utf-8", headers)
