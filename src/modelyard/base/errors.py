"""The tree of all errors. Each class stands for a different reaction of the caller.

ModelyardError
├─ ConfigError                          the setup is wrong; nothing was called
│  └─ CredentialsValidateFailedError    a credential form was filled in wrongly
├─ NotFoundError                        the named resource does not exist
├─ InvokeError                          a model call failed
│  ├─ InvokeConnectionError             the provider was not reached
│  │  └─ InvokeTimeoutError             it did not answer in time
│  ├─ InvokeServerUnavailableError      the provider is down or overloaded
│  │  └─ QueueFullError                 too many requests are waiting for it
│  ├─ InvokeRateLimitError              the provider's rate limit was exceeded
│  ├─ InvokeAuthorizationError          the provider refused the credential
│  ├─ InvokeBadRequestError             the request is wrong; do not retry
│  │  ├─ ContextTooLongError            it exceeds the model's context window
│  │  └─ ContentFilterError             the provider's content filter refused it
│  ├─ NotReadyError                     weights or packages are missing
│  └─ NoCredentialAvailableError        all credentials are in cooldown
└─ PluginError                          a plugin failed or violated its protocol
   └─ PackageError                      a plugin package is invalid
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

# The command line imports this module before it knows what it has to do, so nothing
# that loads slowly may be imported here.
if TYPE_CHECKING:
    from modelyard.base.call_headers import CallHeaders


class ModelyardError(Exception):
    """Root of all errors. `code` is a short stable identifier for programs; the message
    is for people."""

    code: ClassVar[str] = "internal_error"


class ConfigError(ModelyardError):
    """The setup is wrong, for example a setting or a file. Nothing was called."""

    code = "configuration_error"


class CredentialsValidateFailedError(ConfigError):
    """A credential form was filled in wrongly, or the provider refused the credential."""

    code = "invalid_credentials"


class NotFoundError(ModelyardError):
    """The caller named a resource that does not exist.

    Examples are a provider, a model or a voice. `code` replaces the general `not_found`
    by a more specific identifier, as `dataset_not_found`.
    """

    code = "not_found"

    def __init__(self, message: str, *, code: str = "not_found") -> None:
        super().__init__(message)
        # More specific than the class's code.
        self.code = code  # pyright: ignore[reportAttributeAccessIssue]


class InvokeError(ModelyardError):
    """A model call failed.

    `retryable`: repeating the call with the same credential may succeed. `cooldown`:
    seconds for which the credential is put in cooldown; 0 if it is not at fault.
    `failover`: another model may succeed. `retry_after`: seconds requested by the
    provider, or None.
    """

    retryable: ClassVar[bool] = False
    cooldown: ClassVar[float] = 0.0
    failover: ClassVar[bool] = True
    code = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        # The provider's name goes into the message, so that logs and callers see it
        # without further fields.
        super().__init__(f"[{provider}] {message}" if provider else message)
        self.provider = provider
        self.retry_after = retry_after
        self.answer_headers: CallHeaders | None = None
        """Headers of the provider's response, for a caller of the same vendor's API."""

    @property
    def cooldown_seconds(self) -> float:
        """Return the cooldown of the credential in seconds. The provider's
        `retry_after` takes precedence over the class default."""
        return (
            self.retry_after
            if self.retry_after is not None and self.cooldown
            else self.cooldown
        )


class InvokeConnectionError(InvokeError):
    """The provider was not reached, or the connection broke during the call."""

    retryable = True
    cooldown = 10.0
    code = "upstream_unreachable"


class InvokeTimeoutError(InvokeConnectionError):
    """The provider was reached but did not answer in time. Not retryable: a repeat
    would take as long."""

    retryable = False
    code = "upstream_timeout"


class InvokeServerUnavailableError(InvokeError):
    """The provider is down or overloaded."""

    retryable = True
    code = "upstream_unavailable"


class InvokeRateLimitError(InvokeError):
    """The provider's rate limit was exceeded."""

    cooldown = 60.0
    code = "rate_limit_exceeded"


class InvokeAuthorizationError(InvokeError):
    """The provider refused the credential."""

    cooldown = 10.0
    code = "upstream_authorization"


class InvokeBadRequestError(InvokeError):
    """The request itself is wrong; do not retry.

    `param` names the request field at fault, or is None. Neither the same model nor
    another one would accept the request, so failover is off; subclasses may turn it on
    again.
    """

    failover = False
    code = "invalid_request"

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        retry_after: float | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message, provider=provider, retry_after=retry_after)
        self.param = param


class ContextTooLongError(InvokeBadRequestError):
    """The request does not fit the model's context window. A model with a larger one
    may accept it."""

    failover = True
    code = "context_length_exceeded"


class ContentFilterError(InvokeBadRequestError):
    """The provider's content filter refused the request or its answer. Another provider
    may accept it."""

    failover = True
    code = "content_filter"


class NotReadyError(InvokeError):
    """The model exists but cannot be called yet: weights or packages are missing. The
    message names them."""

    code = "model_not_ready"


class QueueFullError(InvokeServerUnavailableError):
    """Too many requests are already waiting for the model. An immediate retry would
    only lengthen the queue."""

    retryable = False
    code = "queue_full"


class NoCredentialAvailableError(InvokeError):
    """All credentials are in cooldown, or none is configured."""

    code = "no_credential_available"


class PluginError(ModelyardError):
    """A plugin died, violated its protocol, or reported an error of its own.

    `kind` is the exception class name that the plugin reported, or an empty string.
    """

    code = "plugin_error"

    def __init__(
        self,
        message: str,
        *,
        plugin: str = "",
        kind: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"Plugin {plugin!r}: {message}" if plugin else message)
        # The message without the plugin's name.
        self.reason = message
        self.plugin = plugin
        self.kind = kind
        self.retry_after = retry_after


class PackageError(PluginError):
    """A plugin's package or folder is damaged or contradicts itself."""

    code = "invalid_package"


# For statuses whose meaning is the same at all providers.
_BY_STATUS: dict[int, type[InvokeError]] = {
    401: InvokeAuthorizationError,
    402: InvokeAuthorizationError,  # the credential's account has no credit
    403: InvokeAuthorizationError,
    407: InvokeAuthorizationError,
    408: InvokeServerUnavailableError,
    425: InvokeServerUnavailableError,
    429: InvokeRateLimitError,
}

# Error types and codes of all vendors, from error objects and from inside streams. One
# table is enough: the codes do not collide.
# A code says more than a status, so it is looked up first.
_BY_CODE: dict[str, type[InvokeError]] = {
    code: error_class
    for error_class, codes in {
        InvokeBadRequestError: (
            "invalid_request_error invalid_request INVALID_ARGUMENT FAILED_PRECONDITION"
            " ValidationException InvalidParameter not_found_error NOT_FOUND"
            " ResourceNotFoundException ModelNotFound model_not_found request_too_large"
            " OUT_OF_RANGE"
        ),
        ContextTooLongError: "context_length_exceeded string_above_max_length",
        ContentFilterError: (
            "content_filter content_policy_violation DataInspectionFailed"
            " data_inspection_failed"
        ),
        InvokeAuthorizationError: (
            "authentication_error permission_error billing_error UNAUTHENTICATED"
            " PERMISSION_DENIED AccessDeniedException UnrecognizedClientException"
            " ExpiredTokenException InvalidApiKey invalid_api_key AccessDenied"
            " Arrearage insufficient_credits"
        ),
        InvokeRateLimitError: (
            "rate_limit_error rate_limit_exceeded tokens requests insufficient_quota"
            " RESOURCE_EXHAUSTED ThrottlingException ServiceQuotaExceededException"
            " Throttling Throttling.RateQuota Throttling.AllocationQuota"
            " too_many_requests"
        ),
        InvokeServerUnavailableError: (
            "overloaded_error api_error server_error internal_error timeout_error"
            " INTERNAL UNAVAILABLE DEADLINE_EXCEEDED InternalServerException"
            " ServiceUnavailableException ModelTimeoutException"
            " ModelStreamErrorException ModelErrorException ModelNotReadyException"
            " InternalError"
        ),
    }.items()
    for code in codes.split()
}


def error_class_for_status(status: int | None, *codes: object) -> type[InvokeError]:
    """Return the error class for a provider's error, by its own types and codes first,
    then by its HTTP status.

    `status` is None for an error inside a stream. Without any match the class is
    InvokeServerUnavailableError.
    """
    by_code = next(
        (error_class for code in codes if (error_class := _BY_CODE.get(str(code)))),
        None,
    )
    if by_code is None:
        return _class_of_status(status)
    if status is None:
        return by_code
    # With a 5xx status a bad-request code is ignored: the fault is the server's.
    if status >= 500 and issubclass(by_code, InvokeBadRequestError):
        return _class_of_status(status)
    # If a generic bad-request code and the status disagree, the status is more
    # reliable, for example about a refused credential.
    if by_code is InvokeBadRequestError:
        return _BY_STATUS.get(status, by_code)
    return by_code


def error_of_code(code: object, message: object) -> InvokeError:
    """Return the exception for an error that a provider reports with status 200, by its
    code.

    An unknown code gives InvokeServerUnavailableError. The message falls back to the
    code.
    """
    return error_class_for_status(None, code)(str(message or code))


def _class_of_status(status: int | None) -> type[InvokeError]:
    """Return the error class for an HTTP status alone.

    None, for an error inside a stream, and every status other than 4xx give
    InvokeServerUnavailableError; a 4xx status without an entry of its own gives
    InvokeBadRequestError.
    """
    if status is None:
        return InvokeServerUnavailableError
    if (by_status := _BY_STATUS.get(status)) is not None:
        return by_status
    # Unknown 4xx statuses are the caller's mistake, everything else the server's.
    return (
        InvokeBadRequestError if 400 <= status < 500 else InvokeServerUnavailableError
    )


_MAX_NAME_LENGTH = 200


def closest_names(
    target: str, candidates: Iterable[str], *, max_results: int = 3
) -> list[str]:
    """Return the candidates most similar to `target`, best first, ignoring case.

    A target that is too long to be a mistyped name has none.
    """
    if len(target) > _MAX_NAME_LENGTH:
        return []
    by_fold = {name.casefold(): name for name in candidates}
    folded = target.casefold()
    # Typing mistakes first, then names that contain the target.
    close = difflib.get_close_matches(folded, by_fold, n=max_results, cutoff=0.5)
    close += [name for name in by_fold if folded in name and name not in close]
    return [by_fold[name] for name in close[:max_results]]


def suggestion(
    target: str, candidates: Iterable[str], *, label: str = "available:"
) -> str:
    """Return the end of a "not found" message: similar names, or a list of all.

    If no candidate resembles the target, the text is `label` followed by a few of the
    candidates.
    """
    names = list(candidates)
    if close := closest_names(target, names):
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    if not names:
        return f"{label} none"
    listing = ", ".join(repr(name) for name in names[:8])
    return f"{label} {listing}" + (
        f" and {len(names) - 8} more" if len(names) > 8 else ""
    )
