"""Every error of ours, as one tree. A class answers "what can I do now?".

ModelyardError
├─ ConfigError                      the deployment is wrong; nothing was called
├─ NotFoundError                    the caller named something that does not exist
├─ InvokeError                      a model call failed
│  ├─ InvokeConnectionError         never reached the provider
│  │  └─ InvokeTimeoutError         reached it, and waited longer than allowed
│  ├─ InvokeServerUnavailableError  the provider is down or overloaded
│  │  └─ QueueFullError             too many requests wait for it already
│  ├─ InvokeRateLimitError          the provider asks us to slow down
│  ├─ InvokeAuthorizationError      our credential was refused
│  ├─ InvokeBadRequestError         the request itself is wrong; do not retry
│  │  ├─ ContextTooLongError        it does not fit the model's context
│  │  └─ ContentFilterError         the provider will not answer this
│  ├─ NotReadyError                 weights or packages of a local model are missing
│  └─ NoCredentialAvailableError    all credentials are resting
├─ PluginError                      a plugin died, broke its protocol, or was refused what it asked for
│  └─ PackageError                  a plugin's package is damaged, or says what cannot be
└─ CredentialsValidateFailedError   a credential form was filled in wrongly
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ModelyardError(Exception):
    """The root. `code` is a short stable word for programs; the message is for people."""

    code: ClassVar[str] = "internal_error"


class ConfigError(ModelyardError):
    """The deployment is wrong; nothing was called."""

    code = "configuration_error"


class CredentialsValidateFailedError(ConfigError):
    """A credential form was filled in wrongly, or the provider refused the credential."""

    code = "invalid_credentials"


class NotFoundError(ModelyardError):
    """The caller named a provider, model or voice that does not exist."""

    code = "not_found"

    def __init__(self, message: str, *, code: str = "not_found") -> None:
        super().__init__(message)
        self.code = code  # pyright: ignore[reportAttributeAccessIssue]  narrower than the class's word


class InvokeError(ModelyardError):
    """A model call failed.

    `retryable`: the same again, with the same credential, may work.
    `cooldown`: seconds that the credential should rest, 0 where it is not to blame.
    `failover`: another model may succeed where this one did not.
    `retry_after`: seconds that the provider asked for, where it did.
    """

    retryable: ClassVar[bool] = False
    cooldown: ClassVar[float] = 0.0
    failover: ClassVar[bool] = True
    code = "upstream_error"

    def __init__(self, message: str, *, provider: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(f"[{provider}] {message}" if provider else message)
        self.provider = provider
        self.retry_after = retry_after

    @property
    def rest(self) -> float:
        """How long the credential should rest: the provider's own word first, else the class's."""
        return self.retry_after if self.retry_after is not None and self.cooldown else self.cooldown


class InvokeConnectionError(InvokeError):
    """Never reached the provider, or lost it on the way."""

    retryable = True
    cooldown = 10.0
    code = "upstream_unreachable"


class InvokeTimeoutError(InvokeConnectionError):
    """Reached the provider, and waited longer than allowed. The same again would take as long."""

    retryable = False
    code = "upstream_timeout"


class InvokeServerUnavailableError(InvokeError):
    """The provider is down or overloaded."""

    retryable = True
    code = "upstream_unavailable"


class InvokeRateLimitError(InvokeError):
    """The provider asks us to slow down."""

    cooldown = 60.0
    code = "rate_limit_exceeded"


class InvokeAuthorizationError(InvokeError):
    """Our credential was refused."""

    cooldown = 10.0
    code = "upstream_authorization"


class InvokeBadRequestError(InvokeError):
    """The request itself is wrong; do not retry."""

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
    """The request does not fit the model's context. A model with a larger one may take it."""

    failover = True
    code = "context_length_exceeded"


class ContentFilterError(InvokeBadRequestError):
    """The provider's filter refuses to read this, or to answer it. Another provider may not."""

    failover = True
    code = "content_filter"


class NotReadyError(InvokeError):
    """The model is known and cannot be called yet: weights or packages are missing, and the message says which."""

    code = "model_not_ready"


class QueueFullError(InvokeServerUnavailableError):
    """Too many requests wait for the model already. Trying at once again would only lengthen the queue."""

    retryable = False
    code = "queue_full"


class NoCredentialAvailableError(InvokeError):
    """All credentials are resting, or there is none."""

    code = "no_credential_available"


class PluginError(ModelyardError):
    """A plugin died, broke its protocol, or reports an error of its own.

    `kind` is the plugin's own word for it, where it gave one: the name of an exception's class.
    """

    code = "plugin_error"

    def __init__(self, message: str, *, plugin: str = "", kind: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"plugin {plugin!r}: {message}" if plugin else message)
        self.plugin = plugin
        self.kind = kind
        self.retry_after = retry_after


class PackageError(PluginError):
    """A plugin's package or folder is damaged, or says what cannot be."""

    code = "invalid_package"


_BY_STATUS: dict[int, type[InvokeError]] = {
    401: InvokeAuthorizationError,
    402: InvokeAuthorizationError,  # this credential's money is spent
    403: InvokeAuthorizationError,
    407: InvokeAuthorizationError,
    408: InvokeServerUnavailableError,
    425: InvokeServerUnavailableError,
    429: InvokeRateLimitError,
}

# What vendors call it, in error objects, in the middle of streams too. One table: the words do not clash.
_BY_WORD: dict[str, type[InvokeError]] = {
    word: kind
    for kind, words in {
        InvokeBadRequestError: "invalid_request_error invalid_request INVALID_ARGUMENT FAILED_PRECONDITION "
        "ValidationException InvalidParameter not_found_error NOT_FOUND ResourceNotFoundException ModelNotFound "
        "model_not_found request_too_large OUT_OF_RANGE",
        ContextTooLongError: "context_length_exceeded string_above_max_length",
        ContentFilterError: "content_filter content_policy_violation DataInspectionFailed data_inspection_failed",
        InvokeAuthorizationError: "authentication_error permission_error billing_error UNAUTHENTICATED "
        "PERMISSION_DENIED AccessDeniedException UnrecognizedClientException ExpiredTokenException InvalidApiKey "
        "invalid_api_key AccessDenied Arrearage insufficient_credits",
        InvokeRateLimitError: "rate_limit_error rate_limit_exceeded tokens requests insufficient_quota "
        "RESOURCE_EXHAUSTED ThrottlingException ServiceQuotaExceededException Throttling Throttling.RateQuota "
        "Throttling.AllocationQuota too_many_requests",
        InvokeServerUnavailableError: "overloaded_error api_error server_error internal_error timeout_error INTERNAL "
        "UNAVAILABLE DEADLINE_EXCEEDED InternalServerException ServiceUnavailableException ModelTimeoutException "
        "ModelStreamErrorException ModelErrorException ModelNotReadyException InternalError",
    }.items()
    for word in words.split()
}


def kind_of_error(status: int | None, *words: object) -> type[InvokeError]:
    """Which of ours a provider's refusal is: by its own words for it (types and codes), then by its HTTP status."""
    found = next((kind for word in words if (kind := _BY_WORD.get(str(word)))), None)
    if found is not None and (status is None or status < 500 or not issubclass(found, InvokeBadRequestError)):
        # A status is the surer word where the two disagree on whose credential it is.
        by_status = _BY_STATUS.get(status) if status else None
        return by_status if by_status and found is InvokeBadRequestError else found
    if status is None:
        return InvokeServerUnavailableError
    if (by_status := _BY_STATUS.get(status)) is not None:
        return by_status
    return InvokeBadRequestError if 400 <= status < 500 else InvokeServerUnavailableError


_LONGEST_NAME = 200


def near(word: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """The names most like `word`, best first; case does not count. What is no name anybody would type has none."""
    if len(word) > _LONGEST_NAME:
        return []
    by_fold = {name.casefold(): name for name in known}
    folded = word.casefold()
    close = difflib.get_close_matches(folded, by_fold, n=most, cutoff=0.5)
    close += [name for name in by_fold if folded in name and name not in close]
    return [by_fold[name] for name in close[:most]]


def suggestion(word: str, known: Iterable[str], *, label: str = "it offers") -> str:
    """The end of a "not found" message: near names where there are any, else a few known ones."""
    names = list(known)
    if close := near(word, names):
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    if not names:
        return f"{label} none"
    shown = ", ".join(repr(name) for name in names[:8])
    return f"{label} {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
