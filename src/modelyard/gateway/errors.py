"""Errors as HTTP responses: a status on which the caller can act, in the format of the
caller's client."""

import math
from collections.abc import Mapping

from modelyard.agents.loop import StructuredAnswerError
from modelyard.base.errors import (
    ConfigError,
    CredentialsValidateFailedError,
    EndpointNotFoundError,
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeRateLimitError,
    InvokeTimeoutError,
    MalformedToolCallError,
    ModelNotFoundError,
    ModelyardError,
    NoCredentialAvailableError,
    NotFoundError,
    PackageError,
    PluginError,
    QuotaExhaustedError,
)
from modelyard.base.patterns import PatternError
from modelyard.base.schemas import SchemaError
from modelyard.gateway.auth import OriginError, UnauthorizedError
from modelyard.gateway.call_headers import reply_headers
from modelyard.gateway.error_documents import body_of, passed_status
from modelyard.gateway.error_texts import Shape
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.keep_alive import ANTHROPIC_PING, BLANK_LINES, SSE_COMMENT
from modelyard.gateway.table import ErrorShape
from modelyard.models.types import JSON
from modelyard.people.account import SignInError
from modelyard.people.accounts import SetUpError
from modelyard.people.passwords import BusyError
from modelyard.people.sign_in_limits import TooManyTriesError
from modelyard.runtime.ledger import LedgerUnavailableError
from modelyard.runtime.limits import QuotaExceededError, UnpricedModelError
from modelyard.sandbox.runner import SandboxError, SandboxUnavailableError
from modelyard.storage.database import StorageUnavailableError
from modelyard.storage.secrets import SecretError
from modelyard.tenancy.caller import ForbiddenError, ModelNotAllowedError
from modelyard.tools.entities import ToolError, ToolNotFoundError, ToolParameterError
from modelyard.tools.openapi import DescriptionError
from modelyard.tools.providers import OriginChangedError
from modelyard.transport.egress import (
    EgressError,
    EgressRefusedError,
    EgressTimeoutError,
)
from modelyard.workflow.apps import DraftChangedError
from modelyard.workflow.generators import GenerationError
from modelyard.workflow.runs import TooManyRunsError
from modelyard.workflow.variables import WorkflowError

# The first matching class wins, so subclasses come before their base classes.
_STATUS: tuple[tuple[type[ModelyardError], int, str], ...] = (
    (UnauthorizedError, 401, "authentication_error"),
    (TooManyTriesError, 429, "rate_limit_error"),
    (BusyError, 429, "rate_limit_error"),
    (SignInError, 401, "authentication_error"),
    (SetUpError, 409, "invalid_request_error"),
    (OriginError, 403, "permission_error"),
    (ForbiddenError, 403, "permission_error"),
    (ModelNotAllowedError, 403, "permission_error"),
    (QuotaExceededError, 429, "insufficient_quota"),
    (UnpricedModelError, 403, "permission_error"),
    (LedgerUnavailableError, 503, "server_error"),
    (StorageUnavailableError, 503, "server_error"),
    (NotFoundError, 404, "invalid_request_error"),
    (TooManyRunsError, 429, "rate_limit_error"),
    (WorkflowError, 400, "invalid_request_error"),
    (DraftChangedError, 409, "invalid_request_error"),
    (PackageError, 400, "invalid_request_error"),
    (OriginChangedError, 409, "invalid_request_error"),
    (ModelNotFoundError, 404, "invalid_request_error"),
    (InvokeBadRequestError, 400, "invalid_request_error"),
    (QuotaExhaustedError, 429, "insufficient_quota"),
    (InvokeRateLimitError, 429, "rate_limit_error"),
    # 503 and not 429: the caller sent nothing wrong, but no credential is available.
    (NoCredentialAvailableError, 503, "server_error"),
    (InvokeTimeoutError, 504, "server_error"),
    (InvokeConnectionError, 502, "server_error"),
    # The provider refused the server's credential, not the caller's; 401 would make the
    # caller check the wrong key.
    (InvokeAuthorizationError, 502, "server_error"),
    # The operator's base URL is wrong, or the model has failed.
    (EndpointNotFoundError, 502, "server_error"),
    (MalformedToolCallError, 502, "server_error"),
    (InvokeError, 503, "server_error"),
    (PluginError, 502, "server_error"),
    (SecretError, 503, "server_error"),
    (PatternError, 400, "invalid_request_error"),
    (SchemaError, 400, "invalid_request_error"),
    (StructuredAnswerError, 502, "server_error"),
    (GenerationError, 502, "server_error"),
    (SandboxUnavailableError, 503, "server_error"),
    (SandboxError, 400, "invalid_request_error"),
    (ToolNotFoundError, 404, "invalid_request_error"),
    (ToolParameterError, 400, "invalid_request_error"),
    (DescriptionError, 400, "invalid_request_error"),
    # The tool was called and failed.
    (ToolError, 502, "server_error"),
    (EgressRefusedError, 400, "invalid_request_error"),
    (EgressTimeoutError, 504, "server_error"),
    (EgressError, 502, "server_error"),
    (CredentialsValidateFailedError, 400, "invalid_request_error"),
    # The request is valid, but the server is not configured for it; its operator can
    # find the cause.
    (ConfigError, 503, "server_error"),
)
"""Each error that a caller can see has its status here; 500 means a bug."""


def status_of(error: ModelyardError) -> tuple[int, str]:
    """Return the HTTP status and the OpenAI error type of an error; 500 for an unknown
    class."""
    # Refusals of the server and errors of the service API carry their own status, so
    # they need no entry in the table.
    stated = getattr(error, "status", None)
    if isinstance(stated, int):
        return stated, "invalid_request_error" if stated < 500 else "server_error"
    return next(
        (
            (status, error_type)
            for error_class, status, error_type in _STATUS
            if isinstance(error, error_class)
        ),
        (500, "server_error"),
    )


PROVIDER = "x-modelyard-provider"
"""Response header that names the provider an error is about."""
KEEP_ALIVES: Mapping[Shape, bytes] = {
    "openai": SSE_COMMENT,
    "anthropic": ANTHROPIC_PING,
    "gemini": BLANK_LINES,
    "cohere": SSE_COMMENT,
}
"""Format → bytes that its streams of server-sent events send during silence. Its
official clients skip them, before the first event too."""


def error_document(
    error: ModelyardError, shape: Shape = "openai", request_id: str = ""
) -> JSON:
    """Return the body of an error response in a format. Anthropic and Cohere include
    the request id.

    The type and the code of a provider of the same format come through.
    """
    return body_of(error, shape, status_of(error), request_id)


def error_reply(
    error: ModelyardError, shape: Shape = "openai", request_id: str = ""
) -> Reply:
    """Return an error response."""
    headers = error_headers(error)
    # The headers of the provider's response, if the format has them.
    if isinstance(error, InvokeError) and error.answer_headers is not None:
        headers |= reply_headers(error.answer_headers, shape)
    return json_reply(
        error_document(error, shape, request_id),
        status=passed_status(error, shape) or status_of(error)[0],
        headers=headers,
    )


def error_headers(error: ModelyardError) -> dict[str, str]:
    """Return the headers of an error: Retry-After, the provider's name, and those that
    the error brings itself."""
    headers = dict(getattr(error, "headers", None) or {})
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        # Retry-After has whole seconds; round up, so that a retry does not come too
        # early.
        headers["retry-after"] = str(math.ceil(retry_after))
        if retry_after % 1:
            headers["retry-after-ms"] = str(math.ceil(retry_after * 1000))
    provider = getattr(error, "provider", None)
    if isinstance(provider, str) and _is_header_value(provider):
        headers[PROVIDER] = provider
    return headers


def _is_header_value(text: str) -> bool:
    """Return whether a text can be the value of a header."""
    return bool(text) and text.isascii() and text.isprintable()


def _object(**properties: JSON) -> JSON:
    """Return the JSON schema of an object with these properties, all required."""
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
    }


# Schemas of the fields that all formats share.
_TEXT: JSON = {"type": "string"}
_TEXT_OR_NONE: JSON = {"type": ["string", "null"]}

OPENAI = ErrorShape(
    lambda error, request_id: error_reply(error, "openai", request_id),
    _object(
        error=_object(
            message=_TEXT,
            type=_TEXT,
            param=_TEXT_OR_NONE,
            code=_TEXT_OR_NONE,
        )
    ),
)
"""OpenAI's error format, which the admin API uses too."""
ANTHROPIC = ErrorShape(
    lambda error, request_id: error_reply(error, "anthropic", request_id),
    _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT)),
)
GOOGLE = ErrorShape(
    lambda error, request_id: error_reply(error, "gemini", request_id),
    _object(error=_object(code={"type": "integer"}, message=_TEXT, status=_TEXT)),
)
COHERE = ErrorShape(
    lambda error, request_id: error_reply(error, "cohere", request_id),
    _object(message=_TEXT),
)
