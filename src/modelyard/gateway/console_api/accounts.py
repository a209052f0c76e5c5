"""/console/api: people sign in and out, see where they are signed in, invite others, see what was changed by whom."""

from dataclasses import dataclass

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import may, need
from modelyard.gateway.auth import (
    DEVICE_COOKIE,
    SESSION_COOKIE,
    Gatekeeper,
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
class Entrance:
    """How people come in: they sign in, set up the first owner, accept an invitation."""

    accounts: Accounts
    keeper: Gatekeeper
    elsewhere: str | None = None
    """What the button says that leads to an identity provider; None where there is none."""

    async def who(self, request: Request) -> Reply:
        """Who is signed in; and whether anybody has to be."""
        await self.keeper.look()
        session = await self.keeper.session_of(request.scope)
        mode = "single" if self.keeper.is_open else "accounts" if self.keeper.has_owner else "setup"
        told: JSON = {"mode": mode, "account": _shown(session.account) if session is not None else None}
        if self.elsewhere is not None:
            told["elsewhere"] = self.elsewhere
        token = cookie_of(request.scope["headers"], SESSION_COOKIE)
        fresh = await self.accounts.sessions.renewed(token) if session is not None else None
        return json_reply(told, headers=_with_cookie(request, fresh) if fresh else _NOT_KEPT)

    async def sign_in(self, request: Request) -> Reply:
        check_same_origin(request.scope["headers"], "POST")
        body = await request.json(SMALL_BODY)
        agent = request.header(b"user-agent") or ""
        token, session = await self.accounts.sign_in(
            need(body, "email", str), need(body, "password", str), agent,
            address=self.keeper.address_of(request.scope), device=cookie_of(request.scope["headers"], DEVICE_COOKIE),
        )  # fmt: skip
        return self._entered(request, token, session)

    async def set_up(self, request: Request) -> Reply:
        """The first owner: by somebody at this machine, or with a key of the owner's."""
        check_same_origin(request.scope["headers"], "POST")
        if not _is_local(request):
            caller = await self.keeper.caller_of(request.scope)
            if not caller.is_operator:
                raise ForbiddenError("the first owner is set up at the server's own machine, or with an owner's key")
        body = await request.json(SMALL_BODY)
        account = await self.accounts.set_up(
            need(body, "email", str), may(body, "name", str) or "", need(body, "password", str)
        )
        self.keeper.learn_owner()
        return await self._opened(request, account)

    async def accept(self, request: Request) -> Reply:
        check_same_origin(request.scope["headers"], "POST")
        body, address = await request.json(SMALL_BODY), self.keeper.address_of(request.scope)
        self.accounts.sign_in.count_stranger(address)
        account = await self.accounts.accept(
            need(body, "token", str), may(body, "name", str) or "", need(body, "password", str)
        )
        self.accounts.sign_in.welcome_stranger(address)
        return await self._opened(request, account)

    async def _opened(self, request: Request, account: Account) -> Reply:
        """Somebody who has just become an account, signed in."""
        agent, address = request.header(b"user-agent") or "", self.keeper.address_of(request.scope)
        token, session = await self.accounts.sessions.open(account, agent, address)
        return self._entered(request, token, session, status=201)

    def _entered(self, request: Request, token: str, session: Session, *, status: int = 200) -> Reply:
        reply = json_reply({"account": _shown(session.account)}, status=status, headers=_with_cookie(request, token))
        device = self.accounts.sign_in.device_of(session.account)
        reply.cookies = [device_cookie(device, f"{PREFIX}session", is_https=request.is_https)]
        return reply


@dataclass(frozen=True, slots=True)
class OwnAccount:
    """What somebody who is signed in does with their own account. A key is not enough: it is nobody's account."""

    accounts: Accounts
    keeper: Gatekeeper

    async def sign_out(self, request: Request) -> Reply:
        """DELETE session. Raises UnauthorizedError."""
        await self.accounts.sessions.end(await self._session(request))
        return json_reply({"signed_out": True}, headers=_with_cookie(request, ""))

    async def sessions(self, request: Request) -> Reply:
        """GET sessions. Raises UnauthorizedError."""
        session = await self._session(request)
        listed = await self.accounts.sessions.of(session.account)
        return json_reply({"data": [{**known, "is_current": known["id"] == session.id} for known in listed]})

    async def revoke(self, request: Request) -> Reply:
        """DELETE sessions/ID. Raises UnauthorizedError, NotFoundError."""
        session, name = await self._session(request), request.names["session"]
        await self.accounts.sessions.revoke(session.account, name)
        return json_reply({"id": name, "deleted": True})

    async def change(self, request: Request) -> Reply:
        """PATCH account. Raises UnauthorizedError, SignInError, InvokeBadRequestError."""
        session = await self._session(request)
        body = await request.json(SMALL_BODY)
        changed = await self.accounts.change_own(
            session, name=may(body, "name", str) or "", old=may(body, "current_password", str) or "",
            new=may(body, "password", str) or "",
        )  # fmt: skip
        return json_reply(_shown(changed))

    async def _session(self, request: Request) -> Session:
        session = await self.keeper.session_of(request.scope)
        if session is None:
            raise UnauthorizedError("this takes somebody who is signed in to the console; a key is not enough")
        return session


@dataclass(frozen=True, slots=True)
class People:
    """What administrators do with accounts: a session or a key."""

    accounts: Accounts

    async def all(self, request: Request) -> Reply:
        """GET accounts."""
        return json_reply({"data": [_shown(account) for account in await self.accounts.of(request.tenant)]})

    async def change(self, request: Request) -> Reply:
        """PATCH accounts/ID. Raises NotFoundError, ForbiddenError, InvokeBadRequestError."""
        body = await request.json(SMALL_BODY)
        role = may(body, "role", str)
        changed = await self.accounts.change(
            request.caller, request.names["account"], role=_role(role) if role is not None else None,
            is_enabled=may(body, "is_enabled", bool),
        )  # fmt: skip
        return json_reply(_shown(changed))

    async def invite(self, request: Request) -> Reply:
        """POST invitations. Raises ForbiddenError, InvokeBadRequestError."""
        body = await request.json(SMALL_BODY)
        role = _role(need(body, "role", str))
        token = await self.accounts.invite(request.caller, need(body, "email", str), role)
        return json_reply({"token": token}, status=201)

    async def audit(self, request: Request) -> Reply:
        """GET audit: who changed what. Raises InvokeBadRequestError."""
        text = request.query("before") or "1e15"
        try:
            before = float(text)
        except ValueError as error:
            raise InvokeBadRequestError(
                f"before must be a time in seconds, not {text[:40]!r}", param="before"
            ) from error
        changes = await self.accounts.audit.noted(
            request.tenant, before=before, who=request.query("who") or "", what=request.query("what") or "", most=101
        )
        data = [msgspec.to_builtins(change) for change in changes[:100]]
        return json_reply({"data": data, "has_more": len(changes) > 100})


def _is_local(request: Request) -> bool:
    """Whether somebody at this machine calls, and not through a proxy on it, nor by a name that was bent to it."""
    try:
        check_origin(request.scope)
    except OriginError:
        return False
    return request.scope.get("client") is not None


_NOT_KEPT = {"cache-control": "no-store"}


def _with_cookie(request: Request, token: str) -> dict[str, str]:
    return {"set-cookie": session_cookie(token, is_https=request.is_https), **_NOT_KEPT}


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError as error:
        known = ", ".join(one.value for one in Role)
        raise InvokeBadRequestError(f"role must be {known}, not {text[:40]!r}", param="role") from error


def _shown(one: Account) -> JSON:
    return {
        "id": one.id, "email": one.email, "name": one.name, "role": one.role.value, "tenant": one.tenant,
        "is_enabled": one.is_enabled, "created_at": one.created_at, "seen_at": one.seen_at,
    }  # fmt: skip
