"""/console/api: sign-in and sign-out, own sessions, accounts, invitations and the audit
log."""

from dataclasses import dataclass

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.auth import (
    DEVICE_COOKIE,
    SESSION_COOKIE,
    Authenticator,
    OriginError,
    UnauthorizedError,
    check_origin,
    check_same_origin,
    cookie_of,
    device_cookie,
    session_cookie,
)
from modelyard.gateway.http import SMALL_BODY, Reply, Request, json_reply
from modelyard.models.types import JSON
from modelyard.people.account import Account, Session
from modelyard.people.accounts import Accounts
from modelyard.tenancy.caller import ForbiddenError, Role

PREFIX = "/console/api/"


@dataclass(frozen=True, slots=True)
class SignInRoutes:
    """Routes by which users enter: sign-in, setup of the first owner, and invitations."""

    accounts: Accounts
    keeper: Authenticator
    oidc_label: str | None = None
    """Label of the button that leads to the identity provider; None if there is none.
    """

    async def current_account(self, request: Request) -> Reply:
        """Return the signed-in account and whether sign-in is required."""
        # Another process may have created the owner since the last check.
        await self.keeper.refresh_owner()
        session = await self.keeper.session_of(request.scope)
        mode = (
            "single"
            if self.keeper.is_open
            else "accounts"
            if self.keeper.has_owner
            else "setup"
        )
        response: JSON = {
            "mode": mode,
            "account": _account_view(session.account) if session is not None else None,
        }
        if self.oidc_label is not None:
            response["elsewhere"] = self.oidc_label
        token = cookie_of(request.scope["headers"], SESSION_COOKIE)
        # The page calls this at each load, which makes it the place to extend the
        # session.
        renewed_token = (
            await self.accounts.sessions.renew(token) if session is not None else None
        )
        return json_reply(
            response,
            headers=_with_cookie(request, renewed_token)
            if renewed_token
            else _NO_STORE,
        )

    async def sign_in(self, request: Request) -> Reply:
        """Sign a user in with email and password.

        Raises SignInError, TooManyTriesError, OriginError.
        """
        # There is no session to protect yet, but another site could sign its own
        # account in here.
        check_same_origin(request.scope["headers"], "POST")
        body = await request.json(SMALL_BODY)
        agent = request.header(b"user-agent") or ""
        token, session = await self.accounts.sign_in(
            required_field(body, "email", str),
            required_field(body, "password", str),
            agent,
            address=self.keeper.address_of(request.scope),
            device=cookie_of(request.scope["headers"], DEVICE_COOKIE),
        )
        return self._signed_in_reply(request, token, session)

    async def create_first_owner(self, request: Request) -> Reply:
        """Create the first owner. Allowed from this machine, or with an owner's API
        key.

        Raises ForbiddenError, SetUpError.
        """
        check_same_origin(request.scope["headers"], "POST")
        if not _is_local(request):
            caller = await self.keeper.caller_of(request.scope)
            if not caller.is_operator:
                raise ForbiddenError(
                    "The first owner can be created only from loopback or with an owner's API key"
                )
        body = await request.json(SMALL_BODY)
        account = await self.accounts.set_up(
            required_field(body, "email", str),
            optional_field(body, "name", str) or "",
            required_field(body, "password", str),
        )
        # Tell the authenticator at once: from now on the server is no longer open.
        self.keeper.mark_owned()
        return await self._open_session(request, account)

    async def accept_invitation(self, request: Request) -> Reply:
        """Accept an invitation: create the account and sign it in.

        Raises SignInError, TooManyTriesError, OriginError.
        """
        check_same_origin(request.scope["headers"], "POST")
        body, address = (
            await request.json(SMALL_BODY),
            self.keeper.address_of(request.scope),
        )
        # Count before checking the token, so that tokens cannot be guessed by many
        # tries.
        self.accounts.sign_in.count_anonymous_try(address)
        account = await self.accounts.accept(
            required_field(body, "token", str),
            optional_field(body, "name", str) or "",
            required_field(body, "password", str),
        )
        # The token was valid, so this address is not guessing.
        self.accounts.sign_in.return_anonymous_try(address)
        return await self._open_session(request, account)

    async def _open_session(self, request: Request, account: Account) -> Reply:
        """Open a session for a new account."""
        agent, address = (
            request.header(b"user-agent") or "",
            self.keeper.address_of(request.scope),
        )
        token, session = await self.accounts.sessions.open(account, agent, address)
        return self._signed_in_reply(request, token, session, status=201)

    def _signed_in_reply(
        self, request: Request, token: str, session: Session, *, status: int = 200
    ) -> Reply:
        """Return the reply to a sign-in, with the session cookie and the device cookie."""
        reply = json_reply(
            {"account": _account_view(session.account)},
            status=status,
            headers=_with_cookie(request, token),
        )
        device = self.accounts.sign_in.device_token(session.account)
        # The device cookie is sent to the sign-in route only.
        reply.cookies = [
            device_cookie(device, f"{PREFIX}session", is_https=request.is_https)
        ]
        return reply


@dataclass(frozen=True, slots=True)
class OwnAccount:
    """Routes for a signed-in user's own account. An API key is not enough, because it
    belongs to no account."""

    accounts: Accounts
    keeper: Authenticator

    async def sign_out(self, request: Request) -> Reply:
        """DELETE session: sign out.

        Raises UnauthorizedError.
        """
        await self.accounts.sessions.end(await self._session(request))
        return json_reply({"signed_out": True}, headers=_with_cookie(request, ""))

    async def sessions(self, request: Request) -> Reply:
        """GET sessions: list the user's own sessions.

        Raises UnauthorizedError.
        """
        session = await self._session(request)
        listed = await self.accounts.sessions.of(session.account)
        return json_reply(
            {
                "data": [
                    {**session_view, "is_current": session_view["id"] == session.id}
                    for session_view in listed
                ]
            }
        )

    async def revoke(self, request: Request) -> Reply:
        """DELETE sessions/ID: end one of the user's own sessions.

        Raises UnauthorizedError, NotFoundError.
        """
        session, name = await self._session(request), request.names["session"]
        await self.accounts.sessions.revoke(session.account, name)
        return json_reply({"id": name, "deleted": True})

    async def change(self, request: Request) -> Reply:
        """PATCH account: change the user's own name or password.

        Raises UnauthorizedError, SignInError, InvokeBadRequestError.
        """
        session = await self._session(request)
        body = await request.json(SMALL_BODY)
        changed = await self.accounts.change_own(
            session,
            name=optional_field(body, "name", str) or "",
            old=optional_field(body, "current_password", str) or "",
            new=optional_field(body, "password", str) or "",
        )
        return json_reply(_account_view(changed))

    async def _session(self, request: Request) -> Session:
        """Return the session of the request.

        Raises UnauthorizedError.
        """
        session = await self.keeper.session_of(request.scope)
        if session is None:
            raise UnauthorizedError("This endpoint requires a console session")
        return session


@dataclass(frozen=True, slots=True)
class AccountsRoutes:
    """Routes by which administrators manage accounts, with a session or an API key."""

    accounts: Accounts

    async def list_accounts(self, request: Request) -> Reply:
        """GET accounts: list the accounts of the tenant."""
        accounts = await self.accounts.list_accounts(request.tenant)
        return json_reply({"data": [_account_view(account) for account in accounts]})

    async def change(self, request: Request) -> Reply:
        """PATCH accounts/ID: change an account's role, or enable or disable it.

        Raises NotFoundError, ForbiddenError, InvokeBadRequestError.
        """
        body = await request.json(SMALL_BODY)
        role = optional_field(body, "role", str)
        changed = await self.accounts.change(
            request.caller,
            request.names["account"],
            role=_role(role) if role is not None else None,
            is_enabled=optional_field(body, "is_enabled", bool),
        )
        return json_reply(_account_view(changed))

    async def invite(self, request: Request) -> Reply:
        """POST invitations: invite a user and return the token of the invitation.

        Raises ForbiddenError, InvokeBadRequestError.
        """
        body = await request.json(SMALL_BODY)
        role = _role(required_field(body, "role", str))
        token = await self.accounts.invite(
            request.caller, required_field(body, "email", str), role
        )
        return json_reply({"token": token}, status=201)

    async def audit(self, request: Request) -> Reply:
        """GET audit: list changes with their authors, newest first.

        Raises InvokeBadRequestError.
        """
        # The default is a time in the far future.
        text = request.query("before") or "1e15"
        try:
            before_time = float(text)
        except ValueError as error:
            raise InvokeBadRequestError(
                f"'before' must be a Unix time in seconds, not {text[:40]!r}",
                param="before",
            ) from error
        # Fetch one entry more than shown, to know whether there are older ones.
        changes = await self.accounts.audit.audit_log(
            request.tenant,
            before=before_time,
            who=request.query("who") or "",
            action=request.query("what") or "",
            limit=101,
        )
        data = [msgspec.to_builtins(change) for change in changes[:100]]
        return json_reply({"data": data, "has_more": len(changes) > 100})


def _is_local(request: Request) -> bool:
    """Return whether the call comes from this machine, and neither through a proxy nor
    by DNS rebinding."""
    try:
        check_origin(request.scope)
    except OriginError:
        return False
    # Without a client address the check above accepts the call, but nothing proves that
    # it is local.
    return request.scope.get("client") is not None


# The answers hold secrets, such as the link of an invitation.
_NO_STORE = {"cache-control": "no-store"}


def _with_cookie(request: Request, token: str) -> dict[str, str]:
    """Return the headers that set the session cookie and forbid caching."""
    return {"set-cookie": session_cookie(token, is_https=request.is_https), **_NO_STORE}


def _role(text: str) -> Role:
    """Return the role with this name.

    Raises InvokeBadRequestError.
    """
    try:
        return Role(text)
    except ValueError as error:
        role_names = ", ".join(role.value for role in Role)
        raise InvokeBadRequestError(
            f"'role' must be {role_names}, not {text[:40]!r}", param="role"
        ) from error


def _account_view(account: Account) -> JSON:
    """Return the view of an account."""
    return {
        "id": account.id,
        "email": account.email,
        "name": account.name,
        "role": account.role.value,
        "tenant": account.tenant,
        "is_enabled": account.is_enabled,
        "created_at": account.created_at,
        "seen_at": account.seen_at,
    }
