"""What routes of the plugins' daemon share: one request, errors in its callers' words, readers of what is sent."""

import hmac
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError, PluginError
from modelyard.base.fields import whole_number
from modelyard.gateway.auth import UnauthorizedError
from modelyard.gateway.errors import error_headers
from modelyard.gateway.http import (
    RefusedError,
    Reply,
    Request,
    ServerBusyError,
    ServerStoppingError,
    json_reply,
)
from modelyard.gateway.plugins.parts import PluginParts
from modelyard.gateway.table import Answered, ErrorShape, MethodNotAllowedError, Row
from modelyard.models.types import JSON
from modelyard.tenancy.caller import ForbiddenError


def succeeded(data: Any) -> Reply:
    return json_reply({"code": 0, "message": "success", "data": data})


def failure(error: ModelyardError) -> JSON:
    """An error in the daemon's words: JSON in JSON."""
    if isinstance(error, PluginError) and error.kind:
        told = {"args": {}, "error_type": error.kind, "message": _bare(error)}
        return _failed(-500, _json(told), "PluginInvokeError")
    code, kind = next(
        (pair for one, pair in _KINDS.items() if isinstance(error, one)), (-500, "PluginDaemonInternalServerError")
    )
    return _failed(code, str(error), kind)


_KINDS: Mapping[type[ModelyardError], tuple[int, str]] = {
    UnauthorizedError: (-401, "PluginDaemonUnauthorizedError"),
    ForbiddenError: (-403, "PluginPermissionDeniedError"),
    NotFoundError: (-404, "PluginDaemonNotFoundError"),
    InvokeBadRequestError: (-400, "PluginDaemonBadRequestError"),
    ServerBusyError: (-500, "PluginDaemonInternalServerError"),
    ServerStoppingError: (-500, "PluginDaemonInternalServerError"),
    RefusedError: (-400, "PluginDaemonBadRequestError"),
    PluginError: (-500, "PluginInvokeError"),
    MethodNotAllowedError: (-400, "PluginDaemonBadRequestError"),
}


def _bare(error: PluginError) -> str:
    return str(error).removeprefix(f"plugin {error.plugin!r}: ")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _failed(code: int, message: str, kind: str) -> JSON:
    return {"code": code, "message": _json({"message": message, "error_type": kind, "args": None}), "data": None}


_STATUS = {-401: 401, -403: 403, -404: 404, -400: 400}


def failure_reply(error: ModelyardError, request_id: str = "") -> Reply:
    """An error as callers of the daemon read it."""
    del request_id  # it stands in a header; the body has no place for it
    document = failure(error)
    stated = getattr(error, "status", None)
    status = stated if isinstance(stated, int) else _STATUS.get(document["code"], 500)
    return json_reply(document, status=status, headers=error_headers(error))


DAEMON = ErrorShape(
    failure_reply,
    {
        "type": "object",
        "required": ["code", "message", "data"],
        "properties": {"code": {"type": "integer"}, "message": {"type": "string"}, "data": {"type": "null"}},
    },
)


@dataclass(slots=True)
class DaemonCall:
    """One request, by a program that may."""

    parts: PluginParts
    tenant: str
    request: Request
    origin: str
    """Where plugins' addresses are reached."""

    def query(self, name: str) -> str:
        """A value of the address's query. Raises InvokeBadRequestError where it is missing."""
        value = self.request.query(name)
        if not value:
            raise InvokeBadRequestError(f"{name!r} is missing in the address", param=name)
        return value

    def page(self, items: Sequence[Any]) -> Sequence[Any]:
        """The page that is asked for, of 256 at most. Raises InvokeBadRequestError."""
        page, size = max(1, self._number("page", 1)), min(256, max(1, self._number("page_size", 256)))
        return items[(page - 1) * size : page * size]

    def _number(self, name: str, default: int) -> int:
        text = self.request.query(name) or str(default)
        value = whole_number(text, maximum=999_999_999)
        if value is None:
            raise InvokeBadRequestError(f"{name!r} must be a number, not {text[:40]!r}", param=name)
        return value


def text_in(body: JSON, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvokeBadRequestError(f"{name!r} is missing", param=name)
    return value


def object_in(body: JSON, name: str) -> JSON:
    value = body.get(name) or {}
    if not isinstance(value, dict):
        raise InvokeBadRequestError(f"{name!r} must be an object", param=name)
    return value


def names_in(body: JSON, name: str) -> list[str]:
    value = body.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvokeBadRequestError(f"{name!r} must be a list of names", param=name)
    return value


@dataclass(frozen=True, slots=True)
class DaemonEntrance:
    """Between the router and the handlers: who shows the key of the interface may act for any tenant."""

    parts: PluginParts
    key: str
    is_open: bool
    """Whether other machines may call."""
    origin: Callable[[], str]

    async def enter(self, request: Request, row: Row) -> Answered:
        """Raises UnauthorizedError, NotFoundError for a tenant that is none."""
        self._admit(request)
        tenant = request.names["tenant"]
        self.parts.plugins.check_tenant(tenant)
        return await row.handler(DaemonCall(self.parts, tenant, request, self.origin()))

    def _admit(self, request: Request) -> None:
        """Raises UnauthorizedError."""
        client = request.scope.get("client")
        if not self.is_open and client is not None and not ipaddress.ip_address(client[0]).is_loopback:
            raise UnauthorizedError("the plugins' interface answers this machine alone; see plugins.open_interface")
        shown = request.header(b"x-api-key") or ""
        if not hmac.compare_digest(shown.encode(), self.key.encode()):
            raise UnauthorizedError("'x-api-key' does not hold the key of the plugins' interface")
        request.payer = request.names["tenant"]
