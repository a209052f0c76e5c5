"""What routes of the service API share: errors in its callers' words, and readers of what they send."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.errors import ConfigError, InvokeBadRequestError, InvokeError, ModelyardError, NotFoundError
from modelyard.gateway.http import BodyTooLargeError
from modelyard.models.types import JSON
from modelyard.runtime.limits import QuotaExceededError
from modelyard.storage.database import StorageUnavailableError
from modelyard.workflow.nodes.start import InputError
from modelyard.workflow.variables import WorkflowError


class ServiceError(ModelyardError):
    """What a caller of an app did wrong, in the API's own words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # pyright: ignore[reportAttributeAccessIssue]  narrower than the class's word


def problem_of(error: ModelyardError) -> tuple[int, str]:
    """(status, code) as callers of apps know them."""
    match error:
        case ServiceError():
            return error.status, error.code
        case BodyTooLargeError():
            return 413, "file_too_large"
        case NotFoundError():
            return 404, "not_found"
        case InputError() | InvokeBadRequestError():
            return 400, "invalid_param"
        case QuotaExceededError():
            return 400, "provider_quota_exceeded"
        case StorageUnavailableError():
            return 503, "internal_server_error"
        case InvokeError():
            return 400, "completion_request_error"
        case WorkflowError():
            return 400, "invalid_param"
        case ConfigError():
            return 400, "provider_not_initialize"
        case _:
            return 500, "internal_server_error"


def error_document(error: ModelyardError) -> JSON:
    status, code = problem_of(error)
    return {"code": code, "message": str(error), "status": status}


def retry_after(error: ModelyardError) -> dict[str, str] | None:
    seconds = getattr(error, "retry_after", None)
    return {"retry-after": str(math.ceil(seconds))} if seconds is not None else None


def read_object(data: bytes) -> JSON:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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
