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
│  │  └─ QuotaExhaustedError            the credential's quota or credit is used up
│  ├─ InvokeAuthorizationError          the provider refused the credential
│  ├─ InvokeBadRequestError             the request is wrong; do not retry
│  │  ├─ ContextTooLongError            it exceeds the model's context window
│  │  ├─ ContentFilterError             the provider's content filter refused it
│  │  ├─ ModelNotFoundError             the provider does not have the model
│  │  └─ StringTooLongError             a field of it is longer than allowed
│  ├─ EndpointNotFoundError             the provider's server does not have the API
│  ├─ MalformedToolCallError            the model wrote a tool call that is invalid
│  ├─ NotReadyError                     weights or packages are missing
│  └─ NoCredentialAvailableError        all credentials are in cooldown
└─ PluginError                          a plugin failed or violated its protocol
   └─ PackageError                      a plugin package is invalid
"""

import copy
import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

# The command line imports this module before it knows what it has to do, so nothing
# that loads slowly may be imported here.
if TYPE_CHECKING:
    from modelyard.base.call_headers import CallHeaders


class ModelyardError(Exception):
    """Root of all errors. `code` is a short stable identifier for programs; the message
    is for people."""

    code: ClassVar[str] = "internal_error"

    @property
    def public_text(self) -> str:
        """The message for callers of an API. The message itself is for logs and the
        command line; it may name addresses and paths of the server."""
        return str(self)


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


class ErrorAnswer(NamedTuple):
    """A provider's error as it was sent, for callers of the same format."""

    shape: Literal["openai", "anthropic", "gemini", ""] = ""
    """Whose error format it has; empty for any other."""
    status: int | None = None
    """HTTP status; None for an error inside a response with status 200."""
    type: str | None = None
    """The field `type`; Google's `status`."""
    code: str | None = None
    has_code: bool = False
    """Whether the error has a field `code` that is a text or null."""
    details: "tuple[dict[str, Any], ...]" = ()
    """Google's details about limits; empty in other formats."""


class TokenCounts(NamedTuple):
    """The numbers of tokens that a provider named in an error. None if it did not."""

    input: int | None = None
    output: int | None = None
    """Tokens reserved for the answer, if they are a part of the cause."""
    limit: int | None = None
    """The model's context window."""


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
        self.reason = message
        """The message without the provider's name."""
        self.provider = provider
        self.retry_after = retry_after
        self.answer_headers: CallHeaders | None = None
        """Headers of the provider's response, for a caller of the same vendor's API."""
        self.answer: ErrorAnswer | None = None
        """The error as the provider sent it; None if it is not the provider's own."""
        self.is_adaptable = False
        """Whether the same call would now be made in another way, because this error
        has taught what the server does not accept."""

    def with_provider(self, provider: str) -> Self:
        """Return the same error with the name of a provider."""
        named = copy.copy(self)
        named.provider = provider
        named.args = (f"[{provider}] {self.reason}",)
        return named

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


class QuotaExhaustedError(InvokeRateLimitError):
    """The credential's quota or credit is used up. Waiting does not help soon, but
    another credential may."""

    cooldown = 600.0
    code = "insufficient_quota"


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

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        retry_after: float | None = None,
        param: str | None = None,
        tokens: TokenCounts | None = None,
    ) -> None:
        super().__init__(
            message, provider=provider, retry_after=retry_after, param=param
        )
        self.tokens = tokens or TokenCounts()


class ContentFilterError(InvokeBadRequestError):
    """The provider's content filter refused the request or its answer. Another provider
    may accept it."""

    failover = True
    code = "content_filter"


class ModelNotFoundError(InvokeBadRequestError):
    """The provider does not have the model: it is unknown, retired, or not open to this
    credential. Another model may serve the call."""

    failover = True
    code = "model_not_found"


class StringTooLongError(InvokeBadRequestError):
    """A field of the request is longer than the provider allows. The size of the
    conversation is not at fault."""

    code = "string_above_max_length"


class EndpointNotFoundError(InvokeError):
    """The provider's server does not have the API that was called. Either its base URL
    is wrong, or it does not speak the format."""

    code = "upstream_endpoint_not_found"


class MalformedToolCallError(InvokeError):
    """The model wrote a tool call that the provider could not read. A repeat may
    succeed, since the model's choice is partly random."""

    retryable = True
    code = "malformed_tool_call"


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
