"""What routes of the service API share: errors in its callers' words, and readers of what they send."""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import ConfigError, InvokeBadRequestError, InvokeError, ModelyardError, NotFoundError
from modelyard.base.fields import whole_number
from modelyard.gateway.errors import error_headers, status_of
from modelyard.gateway.http import BodyTooLargeError, RefusedError, Reply, Request, StreamReply, json_reply
from modelyard.gateway.table import ErrorShape
from modelyard.knowledge.sources import FileTooLargeError
from modelyard.models.types import JSON
from modelyard.people.attempts import TooManyTriesError
from modelyard.people.passwords import BusyError
from modelyard.runtime.limits import QuotaExceededError
from modelyard.storage.database import StorageUnavailableError
from modelyard.workflow.apps import FoundApp, NotPublishedError
from modelyard.workflow.dsl import App
from modelyard.workflow.nodes.start import InputError
from modelyard.workflow.runs import TooManyRunsError
from modelyard.workflow.variables import WorkflowError

CHATS = ("chat", "advanced-chat", "agent-chat")


class ServiceError(ModelyardError):
    """What a caller of an app did wrong, in the API's own words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # pyright: ignore[reportAttributeAccessIssue]  narrower than the class's word


def problem_of(error: ModelyardError) -> tuple[int, str]:
    """(status, code) as callers of apps know them."""
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
            status, _ = status_of(error)
            return status, "internal_server_error" if status == 500 else error.code


def error_document(error: ModelyardError) -> JSON:
    status, code = problem_of(error)
    return {"code": code, "message": str(error), "status": status}


def problem_reply(error: ModelyardError, request_id: str = "") -> Reply:
    """An error as callers of apps and datasets read it."""
    del request_id  # it stands in a header; the body has no place for it
    status, _ = problem_of(error)
    return json_reply(error_document(error), status=status, headers=error_headers(error))


PROBLEM = ErrorShape(
    problem_reply,
    {
        "type": "object",
        "required": ["code", "message", "status"],
        "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "status": {"type": "integer"}},
    },
)


def read_object(data: bytes) -> JSON:
    try:
        found = decode_body(data)
    except BodyError as error:
        raise ServiceError(400, "bad_request", f"the request is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ServiceError(400, "bad_request", "the request must be a JSON object")
    return found


def mapping_of(body: JSON, name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ServiceError(400, "invalid_param", f"{name} must be an object")
    return value


def list_of(body: JSON, name: str) -> list[Any]:
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ServiceError(400, "invalid_param", f"{name} must be a list")
    return value


def made_id(name: str) -> str:
    """A UUID for what has none of its own: the same for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def is_uuid(value: Any) -> bool:
    """Whether this is a UUID, or its text."""
    try:
        uuid.UUID(str(value))
    except ValueError:
        return False
    return True


def seconds(moment: float | None) -> int | None:
    """A moment to the second; None for one that has not come."""
    return None if moment is None else int(moment)


def iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def end_user_id(tenant: str, app: str, user: str) -> str:
    return made_id(f"{tenant}/{app}/{user}")


@dataclass(frozen=True, slots=True)
class Call:
    """One request of an app's caller."""

    request: Request
    found: FoundApp
    app: App
    body: JSON
    visitor: str = ""
    """Who uses the app on its page; empty for callers with a key, who say for whom they call."""

    @property
    def tenant(self) -> str:
        return self.found.tenant

    @property
    def names(self) -> Mapping[str, str]:
        """What the named parts of the address hold."""
        return self.request.names

    @property
    def user(self) -> str:
        """Who uses the app. Raises ServiceError where nobody is named."""
        if not self.named_user:
            raise ServiceError(400, "invalid_param", "Arg user must be provided.")
        return self.named_user

    @property
    def named_user(self) -> str:
        """The same; empty where nobody is named."""
        user = self.visitor or self.body.get("user") or self.request.query("user")
        return user[:255] if isinstance(user, str) else ""

    @property
    def is_streaming(self) -> bool:
        """Whether the answer is to come in events. Raises ServiceError for what is neither."""
        mode = self.body.get("response_mode") or "blocking"
        if mode not in ("streaming", "blocking"):
            raise ServiceError(
                400, "invalid_param", f"response_mode must be streaming or blocking, not {str(mode)[:40]!r}"
            )
        return mode == "streaming"

    def must_be(self, *modes: str) -> None:
        """Raises ServiceError where the app is of none of these modes."""
        if self.app.mode not in modes:
            code = {"completion": "app_unavailable", "workflow": "not_workflow_app"}.get(modes[0], "not_chat_app")
            raise ServiceError(
                400, code, f"Please check if your app mode matches the right API route: it is {self.app.mode}."
            )

    def must_have(self, feature: str, code: str, message: str) -> None:
        """Raises ServiceError, in these words, where the app's file does not switch the feature on."""
        if not (self.app.features.get(feature) or {}).get("enabled"):
            raise ServiceError(400, code, message)

    def end_user(self) -> str:
        """The id of whom the app is used for."""
        user = str(self.visitor or self.body.get("user") or self.request.query("user") or "")
        return end_user_id(self.tenant, self.found.id, user)

    def number(self, name: str, default: int, most: int = 100) -> int:
        """A number of the address's query. Raises ServiceError for what is none, or too large."""
        text = self.request.query(name)
        if text is None or text == "":
            return default
        value = whole_number(text, maximum=most)
        if not value:
            raise ServiceError(400, "invalid_param", f"{name} must be a number from 1 to {most}, not {text[:20]!r}")
        return value


Handler = Callable[[Call], Awaitable[Reply | StreamReply]]
