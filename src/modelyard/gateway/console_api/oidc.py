"""/console/api/oidc: sign-in with an OpenID Connect identity provider."""

import base64
import html
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import ConfigError
from modelyard.gateway.auth import Authenticator, cookie_of, session_cookie
from modelyard.gateway.http import Reply, Request
from modelyard.gateway.policies import DENY_ALL
from modelyard.people.account import SignInError
from modelyard.people.accounts import Accounts
from modelyard.people.oidc import Oidc, PendingSignIn

RecordGroups = Callable[[str, str, Sequence[str]], Awaitable[None]]
"""Stores what the identity provider says: (tenant, email address, groups)."""
PREFIX = "/console/api/oidc/"
_COOKIE = "modelyard-oidc"
# A person may have to find a second factor in the meantime.
_SECONDS = 600
# Errors are shown as a page of this server, which needs no scripts or other resources.
_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": DENY_ALL,
}


@dataclass(frozen=True, slots=True)
class OidcSteps:
    """The two steps of a sign-in: redirect to the identity provider, and return from
    it."""

    oidc: Oidc
    accounts: Accounts
    keeper: Authenticator
    record_groups: RecordGroups

    async def begin(self, request: Request) -> Reply:
        """GET begin: redirect the browser to the identity provider."""
        try:
            self._count_try(request)
            return await self._begin(request, self.oidc)
        except (SignInError, ConfigError) as error:
            return _error_page(error.public_text)

    async def end(self, request: Request) -> Reply:
        """GET callback: complete the sign-in after the browser returns."""
        try:
            address = self._count_try(request)
            reply = await self._end(request, self.oidc)
        except (SignInError, ConfigError) as error:
            return _error_page(error.public_text)
        # The sign-in succeeded, so this address is not guessing.
        self.accounts.sign_in.return_anonymous_try(address)
        return reply

    def _count_try(self, request: Request) -> str:
        """Count a try of the client address and return the address. Each call causes a
        request to the provider.

        Raises TooManyTriesError.
        """
        address = self.keeper.address_of(request.scope)
        self.accounts.sign_in.count_anonymous_try(address)
        return address

    async def _begin(self, request: Request, oidc: Oidc) -> Reply:
        """Start the sign-in, and store its state in a cookie of the browser."""
        authorization_url, pending = await oidc.begin(_redirect_uri(request))
        session = await self.keeper.session_of(request.scope)
        # A user who is already signed in links the account to the identity provider.
        if session is not None:
            pending = msgspec.structs.replace(
                pending,
                link=self.accounts.link_signature(session.account, pending.state),
            )
        cookie_value = base64.urlsafe_b64encode(msgspec.json.encode(pending)).decode()
        secure = "; Secure" if request.is_https else ""
        # SameSite must be Lax: the browser returns by a link from the provider's site.
        cookie = (
            f"{_COOKIE}={cookie_value}; Path={PREFIX}; Max-Age={_SECONDS}; HttpOnly;"
            f" SameSite=Lax{secure}"
        )
        return _redirect(authorization_url, cookie)

    async def _end(self, request: Request, oidc: Oidc) -> Reply:
        """Check the provider's response and open a session.

        Raises SignInError, ConfigError.
        """
        if refused := request.query("error"):
            raise SignInError(
                "The identity provider reports:"
                f" {(request.query('error_description') or refused)[:200]}"
            )
        # The cookie proves that this browser started the sign-in; its state must match
        # the response.
        try:
            cookie_bytes = base64.urlsafe_b64decode(
                cookie_of(request.scope["headers"], _COOKIE)
            )
            pending = msgspec.json.decode(cookie_bytes, type=PendingSignIn)
        except (ValueError, msgspec.MsgspecError) as error:
            raise SignInError(
                "Sign-in session not found or expired; start again"
            ) from error
        person = await oidc.end(
            pending,
            code=request.query("code") or "",
            state=request.query("state") or "",
            back=_redirect_uri(request),
        )
        account = await self.accounts.sign_in_external(
            person.email, person.name, oidc.role, link=pending.link, state=pending.state
        )
        # Before the session exists, which may search at once.
        await self.record_groups(account.tenant, account.email, person.groups)
        token, _ = await self.accounts.sessions.open(
            account,
            request.header(b"user-agent") or "",
            self.keeper.address_of(request.scope),
        )
        return _redirect("/console", session_cookie(token, is_https=request.is_https))


def _redirect_uri(request: Request) -> str:
    """Return the redirect URI, by the host name of this request. The provider compares
    it with the registered one."""
    return f"{'https' if request.is_https else 'http'}://{request.header(b'host') or ''}{PREFIX}callback"  # noqa: E501


def _redirect(location: str, cookie: str) -> Reply:
    """Return a redirect that sets a cookie."""
    return Reply(
        b"",
        303,
        b"text/plain",
        {**_HEADERS, "location": location, "set-cookie": cookie},
    )


def _error_page(text: str) -> Reply:
    """Return a page that shows why the sign-in failed."""
    page = (
        '<!doctype html><html lang="en"><meta'
        ' charset="utf-8"><title>Modelyard</title><h1>You are not signed'
        f' in</h1><p>{html.escape(text)}</p><p><a href="/console">Back to the'
        " console</a></p></html>"
    )
    return Reply(page.encode(), 401, b"text/html; charset=utf-8", _HEADERS)
