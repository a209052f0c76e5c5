"""/console/api: people sign in and out, see where they are signed in, invite others, see what was changed by whom."""

from collections.abc import Sequence
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
from modelyard.runtime.account import Account, Session
from modelyard.runtime.accounts import Accounts
from modelyard.runtime.caller import Caller, ForbiddenError, Role

PREFIX = "/console/api/"


@dataclass(frozen=True, slots=True)
class AccountsRoute:
    accounts: Accounts
    keeper: Gatekeeper
    elsewhere: str | None = None
    """What the button says that leads to an identity provider; None where there is none."""

    async def __call__(self, request: Request) -> Reply:
        rest = request.path.removeprefix(PREFIX).strip("/").split("/")
        match request.method, *rest:
            case "GET", "session":
                return await self._who(request)
            case "POST", "session":
                return await self._sign_in(request)
            case "POST", "setup":
                return await self._set_up(request)
            case "POST", "invitations", "accept":
                return await self._accept(request)
            case _:
                session = await self.keeper.session_of(request.scope)
                if session is not None and (reply := await self._own(request, session, rest)) is not None:
                    return reply
                return await self._others(request, rest)

    # anybody

    async def _who(self, request: Request) -> Reply:
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

    async def _sign_in(self, request: Request) -> Reply:
        check_same_origin(request.scope["headers"], "POST")
        body = await request.json(SMALL_BODY)
        agent = request.header(b"user-agent") or ""
        token, session = await self.accounts.sign_in(
            need(body, "email", str), need(body, "password", str), agent,
            address=self.keeper.address_of(request.scope), device=cookie_of(request.scope["headers"], DEVICE_COOKIE),
        )  # fmt: skip
        return self._entered(request, token, session)

    async def _set_up(self, request: Request) -> Reply:
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

    async def _accept(self, request: Request) -> Reply:
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

    # whoever is signed in

    async def _own(self, request: Request, session: Session, rest: Sequence[str]) -> Reply | None:
        match request.method, *rest:
            case "DELETE", "session":
                await self.accounts.sessions.end(session)
                return json_reply({"signed_out": True}, headers=_with_cookie(request, ""))
            case "GET", "sessions":
                listed = await self.accounts.sessions.of(session.account)
                return json_reply({"data": [{**one, "is_current": one["id"] == session.id} for one in listed]})
            case "DELETE", "sessions", name:
                await self.accounts.sessions.revoke(session.account, name)
                return json_reply({"id": name, "deleted": True})
            case "PATCH", "account":
                body = await request.json(SMALL_BODY)
                changed = await self.accounts.change_own(
                    session, name=may(body, "name", str) or "", old=may(body, "current_password", str) or "",
                    new=may(body, "password", str) or "",
                )  # fmt: skip
                return json_reply(_shown(changed))
            case _:
                return None

    # administrators, with a session or a key

    async def _others(self, request: Request, rest: Sequence[str]) -> Reply:
        caller = await self.keeper.caller_of(request.scope)
        if rest in (["session"], ["sessions"], ["account"]):
            raise UnauthorizedError("this takes somebody who is signed in, not a key")
        if not caller.role.covers(Role.ADMIN):
            raise ForbiddenError(f"this takes the role 'admin'; yours is {caller.role.value!r}")
        match request.method, *rest:
            case "GET", "accounts":
                return json_reply({"data": [_shown(one) for one in await self.accounts.of(caller.tenant)]})
            case "PATCH", "accounts", name:
                return await self._change(request, caller, name)
            case "POST", "invitations":
                body = await request.json(SMALL_BODY)
                role = _role(need(body, "role", str))
                return json_reply(
                    {"token": await self.accounts.invite(caller, need(body, "email", str), role)}, status=201
                )
            case "GET", "audit":
                return await self._audit(request, caller)
            case _:
                raise request.not_offered()

    async def _change(self, request: Request, caller: Caller, name: str) -> Reply:
        body = await request.json(SMALL_BODY)
        told = may(body, "role", str)
        changed = await self.accounts.change(
            caller, name, role=_role(told) if told is not None else None, is_enabled=may(body, "is_enabled", bool)
        )
        return json_reply(_shown(changed))

    async def _audit(self, request: Request, caller: Caller) -> Reply:
        text = request.query("before") or "1e15"
        try:
            before = float(text)
        except ValueError as error:
            raise InvokeBadRequestError(
                f"before must be a time in seconds, not {text[:40]!r}", param="before"
            ) from error
        found = await self.accounts.audit.noted(
            caller.tenant, before=before, who=request.query("who") or "", what=request.query("what") or "", most=101
        )
        data = [msgspec.to_builtins(one) for one in found[:100]]
        return json_reply({"data": data, "has_more": len(found) > 100})


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
