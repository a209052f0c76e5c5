"""Shared by the routes of the service API: its errors and their format, request
readers, and the Call type."""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import (
    ConfigError,
    InvokeBadRequestError,
    InvokeError,
    ModelyardError,
    NotFoundError,
)
from modelyard.base.fields import whole_number
from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_object
from modelyard.gateway.errors import error_headers, status_of
from modelyard.gateway.http import (
    BodyTooLargeError,
    RefusedError,
    Reply,
    Request,
    StreamReply,
    json_reply,
)
from modelyard.gateway.table import ErrorShape
from modelyard.knowledge.sources import FileTooLargeError
from modelyard.models.types import JSON
from modelyard.people.passwords import BusyError
from modelyard.people.sign_in_limits import TooManyTriesError
from modelyard.runtime.limits import QuotaExceededError
from modelyard.storage.database import StorageUnavailableError
from modelyard.workflow.apps import AppRecord, NotPublishedError
from modelyard.workflow.dsl import CHAT_MODES, App
from modelyard.workflow.nodes.start import InputError
from modelyard.workflow.runs import TooManyRunsError
from modelyard.workflow.variables import WorkflowError

CHATS = CHAT_MODES


class ServiceError(ModelyardError):
    """An invalid request of an app's caller, with the status and error code of the
    service API."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # pyright: ignore[reportAttributeAccessIssue]  narrower than the class's word


def status_and_code(error: ModelyardError) -> tuple[int, str]:
    """Return (status, code) of an error as the service API's clients know it."""
    # Order matters: subclasses stand before their base classes.
    match error:
        case BodyTooLargeError() | FileTooLargeError():
            return 413, "file_too_large"
        case ServiceError() | RefusedError():
            return error.status, error.code
        case NotFoundError():
            return 404, "not_found"
        case NotPublishedError():
            return 400, "app_unavailable"
        case InputError() | InvokeBadRequestError():
            return 400, "invalid_param"
        case QuotaExceededError():
            return 400, "provider_quota_exceeded"
        case StorageUnavailableError():
            return 503, "internal_server_error"
        case InvokeError():
            return 400, "completion_request_error"
        case TooManyRunsError() | TooManyTriesError() | BusyError():
            return 429, "too_many_requests"
        case WorkflowError():
            return 400, "invalid_param"
        case ConfigError():
            return 400, "provider_not_initialize"
        case _:
            # Only the codes of internal errors are hidden; all others are stable names.
            status, _ = status_of(error)
            return status, "internal_server_error" if status == 500 else error.code


def error_document(error: ModelyardError) -> JSON:
    """Return the JSON body for an error."""
    status, code = status_and_code(error)
    return {"code": code, "message": error.public_text, "status": status}


def error_reply(error: ModelyardError, request_id: str = "") -> Reply:
    """Return an error reply in the format of the service and dataset APIs."""
    # The request id is sent as a header; the body has no field for it.
    del request_id
    status, _ = status_and_code(error)
    return json_reply(
        error_document(error), status=status, headers=error_headers(error)
    )


# Also referenced by the OpenAPI description.
ERROR_SHAPE = ErrorShape(
    error_reply,
    {
        "type": "object",
        "required": ["code", "message", "status"],
        "properties": {
            "code": {"type": "string"},
            "message": {"type": "string"},
            "status": {"type": "integer"},
        },
    },
)


def read_object(data: bytes) -> JSON:
    """Parse a request body that must be a JSON object. Raises ServiceError."""
    try:
        document = decode_body(data)
    except BodyError as error:
        raise ServiceError(
            400, "bad_request", f"The request is not JSON: {error}"
        ) from error
    if not is_object(document):
        raise ServiceError(400, "bad_request", "The request must be a JSON object")
    return document


def mapping_of(body: JSON, name: str) -> Mapping[str, Any]:
    """Return an optional object field, empty if it is absent or null. Raises
    ServiceError for another type."""
    value = body.get(name)
    if value is None:
        return {}
    if not is_object(value):
        raise ServiceError(400, "invalid_param", f"{name!r} must be an object")
    return value


def list_of(body: JSON, name: str) -> list[Any]:
    """Return an optional list field, empty if it is absent or null. Raises ServiceError
    for another type."""
    value = body.get(name)
    if value is None:
        return []
    if not is_array(value):
        raise ServiceError(400, "invalid_param", f"{name!r} must be a list")
    return value


def derived_id(name: str) -> str:
    """Return a UUID derived from a name, for records without an id. The same name gives
    the same UUID."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def is_uuid(value: Any) -> bool:
    """Tell whether the value is a UUID or the text of one."""
    try:
        uuid.UUID(str(value))
    except ValueError:
        return False
    return True


def seconds(moment: float | None) -> int | None:
    """Return a timestamp in whole seconds, or None."""
    return None if moment is None else int(moment)


def iso(moment: float | None) -> str | None:
    """Return a timestamp (seconds since 1970) in ISO 8601, UTC, or None."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def end_user_id(tenant: str, app: str, user: str) -> str:
    """Return the id of an app's end user, derived from the user's name."""
    return derived_id(f"{tenant}/{app}/{user}")


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an app, after authentication."""

    request: Request
    found: AppRecord
    app: App
    body: JSON
    visitor: str = ""
    """The visitor of the app's page. Empty for callers with an app key, who state the
    user themselves."""

    @property
    def tenant(self) -> str:
        """The tenant that owns the app."""
        return self.found.tenant

    @property
    def names(self) -> Mapping[str, str]:
        """The values of the path parameters."""
        return self.request.names

    @property
    def user(self) -> str:
        """The user of the app. Raises ServiceError if the request does not state one."""
        if not self.named_user:
            raise ServiceError(400, "invalid_param", "Arg user must be provided.")
        return self.named_user

    @property
    def named_user(self) -> str:
        """The user of the app, or an empty string if the request does not state one."""
        # The visitor comes first: a visitor must not act as another user.
        user = self.visitor or self.body.get("user") or self.request.query("user")
        return user[:255] if isinstance(user, str) else ""

    @property
    def is_streaming(self) -> bool:
        """Whether the answer is streamed. Raises ServiceError for an unknown
        `response_mode`."""
        mode = self.body.get("response_mode") or "blocking"
        if mode not in ("streaming", "blocking"):
            expected = "response_mode must be streaming or blocking"
            problem = f"{expected}, not {str(mode)[:40]!r}"
            raise ServiceError(400, "invalid_param", problem)
        return mode == "streaming"

    def require_mode(self, *modes: str) -> None:
        """Raise ServiceError unless the app has one of these modes."""
        if self.app.mode not in modes:
            # Clients distinguish these codes by the kind of route that they called.
            code = {
                "completion": "app_unavailable",
                "workflow": "not_workflow_app",
            }.get(modes[0], "not_chat_app")
            raise ServiceError(
                400,
                code,
                "Please check if your app mode matches the right API route: the app mode"
                f" is {self.app.mode}.",
            )

    def require_feature(self, feature: str, code: str, message: str) -> None:
        """Raise ServiceError with this code and message unless the app's file enables
        the feature."""
        if not (self.app.features.get(feature) or EMPTY_OBJECT).get("enabled"):
            raise ServiceError(400, code, message)

    def end_user(self) -> str:
        """Return the id of the end user. The request need not state a user."""
        user = str(
            self.visitor or self.body.get("user") or self.request.query("user") or ""
        )
        return end_user_id(self.tenant, self.found.id, user)

    def positive_int(self, name: str, default: int, maximum: int = 100) -> int:
        """Return a positive integer from the query string, or the default. Raises
        ServiceError for anything else."""
        text = self.request.query(name)
        if text is None or text == "":
            return default
        value = whole_number(text, maximum=maximum)
        # `whole_number` returns None for what is no number or too large; 0 is not
        # allowed either.
        if not value:
            raise ServiceError(
                400,
                "invalid_param",
                f"{name!r} must be a number from 1 to {maximum}, not {text[:20]!r}",
            )
        return value


Handler = Callable[[Call], Awaitable[Reply | StreamReply]]
