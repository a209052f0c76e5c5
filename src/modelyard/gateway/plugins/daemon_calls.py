"""Shared code of the plugin daemon's routes: the request object, the error format, and
readers for request bodies."""

import hmac
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import (
    InvokeBadRequestError,
    ModelyardError,
    NotFoundError,
    PackageError,
    PluginError,
)
from modelyard.base.fields import whole_number
from modelyard.base.json_types import is_array, is_object
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
from modelyard.gateway.plugins.dependencies import PluginDependencies
from modelyard.gateway.table import Answered, ErrorShape, MethodNotAllowedError, Row
from modelyard.models.types import JSON
from modelyard.tenancy.caller import ForbiddenError


def succeeded(data: Any) -> Reply:
    """Return a successful response in the daemon's format."""
    return json_reply({"code": 0, "message": "success", "data": data})


def failure(error: ModelyardError) -> JSON:
    """Return an error in the daemon's format, whose `message` is itself JSON."""
    # An error that the plugin itself raised keeps its type, so that callers can tell it
    # apart.
    if isinstance(error, PluginError) and error.kind:
        details: JSON = {
            "args": {},
            "error_type": error.kind,
            # Without the plugin's name, which the caller adds itself.
            "message": error.reason,
        }
        return _error_body(-500, _json(details), "PluginInvokeError")
    if isinstance(error, NotFoundError) and error.code == "plugin_not_found":
        return _error_body(-404, error.public_text, "PluginNotFoundError")
    code, error_type = next(
        (
            pair
            for error_class, pair in _KINDS.items()
            if isinstance(error, error_class)
        ),
        (-500, "PluginDaemonInternalServerError"),
    )
    return _error_body(code, error.public_text, error_type)


# The first matching class wins, so subclasses come before their base classes.
_KINDS: Mapping[type[ModelyardError], tuple[int, str]] = {
    UnauthorizedError: (-401, "PluginDaemonUnauthorizedError"),
    ForbiddenError: (-403, "PluginPermissionDeniedError"),
    NotFoundError: (-404, "PluginDaemonNotFoundError"),
    InvokeBadRequestError: (-400, "PluginDaemonBadRequestError"),
    ServerBusyError: (-500, "PluginDaemonInternalServerError"),
    ServerStoppingError: (-500, "PluginDaemonInternalServerError"),
    RefusedError: (-400, "PluginDaemonBadRequestError"),
    PackageError: (-400, "PluginDaemonBadRequestError"),
    # Clients expect JSON in the message of a PluginInvokeError, as above.
    PluginError: (-500, "PluginDaemonInternalServerError"),
    MethodNotAllowedError: (-400, "PluginDaemonBadRequestError"),
}


def _json(value: Any) -> str:
    """Return a value as JSON text."""
    return msgspec.json.encode(value).decode()


def _error_body(code: int, message: str, error_type: str) -> JSON:
    """Return an error response's body."""
    return {
        "code": code,
        "message": _json({"message": message, "error_type": error_type, "args": None}),
        "data": None,
    }


_MANAGEMENT = "/management/"
# The daemon's codes are the negative statuses of HTTP.
_STATUS = {-401: 401, -403: 403, -404: 404, -400: 400}


def failure_reply(error: ModelyardError, request_id: str = "") -> Reply:
    """Return an error as a response of the daemon."""
    # The request id is sent as a header; the body has no field for it.
    del request_id
    document = failure(error)
    stated = getattr(error, "status", None)
    # Some errors carry their own HTTP status; otherwise the daemon's code decides.
    status = stated if isinstance(stated, int) else _STATUS.get(document["code"], 500)
    return json_reply(document, status=status, headers=error_headers(error))


DAEMON = ErrorShape(
    failure_reply,
    {
        "type": "object",
        "required": ["code", "message", "data"],
        "properties": {
            "code": {"type": "integer"},
            "message": {"type": "string"},
            "data": {"type": "null"},
        },
    },
)


@dataclass(slots=True)
class DaemonCall:
    """One request to the daemon by an authorised program."""

    parts: PluginDependencies
    tenant: str
    request: Request
    origin: str
    """Base URL of plugin endpoints."""

    def query(self, name: str) -> str:
        """Return a required query parameter.

        Raises InvokeBadRequestError if it is missing.
        """
        value = self.request.query(name)
        if not value:
            raise InvokeBadRequestError(
                f"Query parameter {name!r} is missing", param=name
            )
        return value

    def page(self, items: Sequence[Any]) -> Sequence[Any]:
        """Return the requested page of at most 256 items.

        Raises InvokeBadRequestError.
        """
        page, size = (
            max(1, self._number("page", 1)),
            min(256, max(1, self._number("page_size", 256))),
        )
        return items[(page - 1) * size : page * size]

    def _number(self, name: str, default: int) -> int:
        """Return a number of the query.

        Raises InvokeBadRequestError.
        """
        text = self.request.query(name) or str(default)
        value = whole_number(text, maximum=999_999_999)
        if value is None:
            raise InvokeBadRequestError(
                f"{name!r} must be a number, not {text[:40]!r}", param=name
            )
        return value


def text_in(body: JSON, name: str) -> str:
    """Return a required text of a body.

    Raises InvokeBadRequestError.
    """
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvokeBadRequestError(f"{name!r} is missing", param=name)
    return value


def object_in(body: JSON, name: str) -> JSON:
    """Return an object of a body, empty if it is missing.

    Raises InvokeBadRequestError.
    """
    value = body.get(name) or dict[str, Any]()
    if not is_object(value):
        raise InvokeBadRequestError(f"{name!r} must be an object", param=name)
    return value


def names_in(body: JSON, name: str) -> list[str]:
    """Return a required list of names of a body.

    Raises InvokeBadRequestError.
    """
    value = body.get(name)
    if not is_array(value) or not all(isinstance(element, str) for element in value):
        raise InvokeBadRequestError(f"{name!r} must be a list of names", param=name)
    return value


@dataclass(frozen=True, slots=True)
class DaemonGateway:
    """Authorises requests between the router and the handlers. The interface's key may
    act for any tenant."""

    parts: PluginDependencies
    key: str
    is_open: bool
    """Whether other machines may call."""
    origin: Callable[[], str]

    async def enter(self, request: Request, row: Row) -> Answered:
        """Authorise the request and call its handler.

        Raises UnauthorizedError, NotFoundError if the tenant does not exist.
        """
        self._admit(request)
        tenant = request.names["tenant"]
        self.parts.plugins.check_tenant(tenant)
        call = DaemonCall(self.parts, tenant, request, self.origin())
        try:
            return await row.handler(call)
        except (NotFoundError, ForbiddenError, PluginError) as error:
            # Clients read the error from the body, and only from a 200.
            if _MANAGEMENT not in row.path:
                raise
            return json_reply(failure(error))

    def _admit(self, request: Request) -> None:
        """Check the client address and the key.

        Raises UnauthorizedError.
        """
        client = request.scope.get("client")
        # The address is checked first: remote callers learn nothing about the key.
        if (
            not self.is_open
            and client is not None
            and not ipaddress.ip_address(client[0]).is_loopback
        ):
            raise UnauthorizedError(
                "The plugin interface accepts only local requests; see plugins.open_interface"
            )
        presented_key = request.header(b"x-api-key") or ""
        # Constant time, so that the duration reveals nothing about the key.
        if not hmac.compare_digest(presented_key.encode(), self.key.encode()):
            raise UnauthorizedError(
                "'x-api-key' is not the key of the plugin interface"
            )
        # The caller has no API key, so the tenant of the path pays for the body's
        # memory.
        request.payer = request.names["tenant"]
