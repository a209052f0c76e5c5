"""/console/api/oidc: to an identity provider and back, and signed in."""

import base64
import html
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import ConfigError
from modelyard.gateway.auth import Gatekeeper, cookie_of, session_cookie
from modelyard.gateway.http import Reply, Request
from modelyard.gateway.policies import NOTHING
from modelyard.people.account import SignInError
from modelyard.people.accounts import Accounts
from modelyard.people.oidc import Oidc, Pending

PREFIX = "/console/api/oidc/"
_COOKIE = "modelyard-oidc"
_SECONDS = 600
_HEADERS = {
    "cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "content-security-policy": NOTHING,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class OidcSteps:
    """The two addresses that a browser is sent to: out, and back."""

    oidc: Oidc
    accounts: Accounts
    keeper: Gatekeeper

    async def begin(self, request: Request) -> Reply:
        """GET begin: send the browser to the identity provider."""
        try:
            self._count(request)
            return await self._begin(request, self.oidc)
        except (SignInError, ConfigError) as error:
            return _told(str(error))

    async def end(self, request: Request) -> Reply:
        """GET callback: the browser comes back, and is signed in."""
        try:
            address = self._count(request)
            reply = await self._end(request, self.oidc)
        except (SignInError, ConfigError) as error:
            return _told(str(error))
        self.accounts.sign_in.welcome_stranger(address)
        return reply

    def _count(self, request: Request) -> str:
        """The caller's address, counted: each call asks the provider something. Raises TooManyTriesError."""
        address = self.keeper.address_of(request.scope)
        self.accounts.sign_in.count_stranger(address)
        return address

    async def _begin(self, request: Request, oidc: Oidc) -> Reply:
        place, pending = await oidc.begin(_back(request))
        session = await self.keeper.session_of(request.scope)
        if session is not None:
            pending = msgspec.structs.replace(pending, link=self.accounts.link_of(session.account, pending.state))
        kept = base64.urlsafe_b64encode(msgspec.json.encode(pending)).decode()
        secure = "; Secure" if request.is_https else ""
        cookie = f"{_COOKIE}={kept}; Path={PREFIX}; Max-Age={_SECONDS}; HttpOnly; SameSite=Lax{secure}"
        return _gone_to(place, cookie)

    async def _end(self, request: Request, oidc: Oidc) -> Reply:
        if refused := request.query("error"):
            raise SignInError(f"the identity provider says: {(request.query('error_description') or refused)[:200]}")
        try:
            kept = base64.urlsafe_b64decode(cookie_of(request.scope["headers"], _COOKIE))
            pending = msgspec.json.decode(kept, type=Pending)
        except (ValueError, msgspec.MsgspecError) as error:
            raise SignInError("this sign-in was not begun in this browser, or too long ago: try again") from error
        person = await oidc.end(
            pending, code=request.query("code") or "", state=request.query("state") or "", back=_back(request)
        )
        account = await self.accounts.come(person.email, person.name, oidc.role, link=pending.link, state=pending.state)
        token, _ = await self.accounts.sessions.open(
            account, request.header(b"user-agent") or "", self.keeper.address_of(request.scope)
        )
        return _gone_to("/console", session_cookie(token, is_https=request.is_https))


def _back(request: Request) -> str:
    """Where the provider sends people back to: as this server is called. It compares with what it was told before."""
    return f"{'https' if request.is_https else 'http'}://{request.header(b'host') or ''}{PREFIX}callback"


def _gone_to(place: str, cookie: str) -> Reply:
    return Reply(b"", 303, b"text/plain", {**_HEADERS, "location": place, "set-cookie": cookie})


def _told(text: str) -> Reply:
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Modelyard</title><h1>You are not signed in</h1>'
        f'<p>{html.escape(text)}</p><p><a href="/console">Back to the console</a></p></html>'
    )
    return Reply(page.encode(), 401, b"text/html; charset=utf-8", _HEADERS)
