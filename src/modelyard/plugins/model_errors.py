"""Which error of ours a plugin's error is.

Plugins report a class name and a text, nothing else. Dify's SDK maps the exceptions of
vendors' SDKs to a few classes if the plugin lists them; the others arrive as a general
class whose text holds the status or the vendor's own code.
"""

import re
from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    PluginError,
    QuotaExhaustedError,
)
from modelyard.base.provider_error_patterns import CODE_ERRORS
from modelyard.base.provider_errors import exact_class, provider_error
from modelyard.plugins.connection import PluginDiedError

# The names of exception classes: of Dify's SDK, of vendors' SDKs, and of HTTP clients.
_BY_NAME: Mapping[str, type[InvokeError]] = {
    name: error_class
    for error_class, names in {
        InvokeAuthorizationError: (
            "InvokeAuthorizationError CredentialsValidateFailedError"
            " AuthenticationError AuthenticationException PermissionDeniedError"
            " PermissionDenied Unauthenticated UnauthorizedError Unauthorized"
            " ForbiddenError Forbidden AccessDeniedException InvalidApiKeyError"
            " APIAuthenticationError NoCredentialsError ClientAuthenticationError"
            " UnrecognizedClientException ExpiredTokenException InvalidAPIKeyException"
        ),
        InvokeRateLimitError: (
            "InvokeRateLimitError RateLimitError RateLimitException ResourceExhausted"
            " TooManyRequests TooManyRequestsError TooManyRequestsException"
            " ThrottlingException APIReachLimitError RateLimitReachedError"
            " RequestLimitExceeded ArkRateLimitError InsufficientQuotaError"
        ),
        InvokeConnectionError: (
            "InvokeConnectionError APIConnectionError APITimeoutError ConnectionError"
            " ConnectError ConnectTimeout ReadTimeout Timeout TimeoutError ReadError"
            " TimeoutException ConnectTimeoutError ReadTimeoutError RemoteProtocolError"
            " EndpointConnectionError ChunkedEncodingError MaxRetryError SSLError"
            " NewConnectionError DeadlineExceeded ClientConnectorError"
            " ConnectionRefusedError ConnectionResetError gaierror ProxyError"
        ),
        InvokeServerUnavailableError: (
            "InvokeServerUnavailableError InternalServerError ServiceUnavailable"
            " ServiceUnavailableError OverloadedError APIInternalError ServerError"
            " APIServerFlowExceedError BadGateway GatewayTimeout InternalServerException"
            " ServiceUnavailableException ModelNotReadyException ModelTimeoutException"
        ),
        InvokeBadRequestError: (
            "InvokeBadRequestError ValidationError ValueError KeyError TypeError"
            " BadRequestError BadRequest InvalidArgument UnprocessableEntityError"
            " NotFoundError NotFound ValidationException InvalidRequestError"
            " APIRequestFailedError ConflictError UnsupportedFunctionError"
        ),
    }.items()
    for name in names.split()
}
_EXACT = frozenset({InvokeAuthorizationError, InvokeRateLimitError})
"""Classes that plugins use for nothing else; of the others, the text may know more."""
_SDK_NAMES = frozenset(
    {"InvokeBadRequestError", "InvokeConnectionError", "InvokeServerUnavailableError"}
)
# How HTTP clients and SDKs write a status.
_STATUSES = (
    re.compile(r"status(?:[ _]?code)?[\"']?\s*[:=]?\s*[\"']?([45]\d\d)\b", re.I),
    re.compile(r"\berror[ _]code[\"']?\s*[:=]?\s*[\"']?([45]\d\d)\b", re.I),
    re.compile(r"[\"']code[\"']\s*:\s*[\"']?([45]\d\d)\b", re.I),
    re.compile(r"\bHTTP(?:/\d(?:\.\d)?)?(?: error)?[ :]+([45]\d\d)\b", re.I),
    re.compile(r"\b([45]\d\d) (?:Client|Server) Error\b", re.I),
    # `Error: 429 RESOURCE_EXHAUSTED` of Google's SDK, `401 Unauthorized` of many.
    re.compile(
        r"(?:^|error:? |\()(40[01234]|408|413|422|429|50[0234]|529)[ )\],:.-]", re.I
    ),
    re.compile(r"\b([45]\d\d) (?:[A-Z][A-Z_]{5,}|Unauthorized|Forbidden|Too Many)\b"),
)
# The proxy of plugins has refused the address; no vendor has seen a credential.
_OWN_PROXY = re.compile(r"listed under egress\.private|Tunnel connection failed: 403")
_CODE = re.compile(
    r"[\"'](?:code|type|status|error_type)[\"']\s*:\s*[\"']([\w.]{1,80})"
)
_WORD = re.compile(r"[A-Za-z_.]{6,80}")
# Codes that are ordinary words, and prove nothing outside of a field.
_ORDINARY_WORDS = frozenset({"tokens", "requests", "INTERNAL", "content_filter"})
# What vendors write where a plugin passes on the text alone, the first that matches.
_TEXTS: tuple[tuple[re.Pattern[str], type[InvokeError]], ...] = (
    (
        re.compile(
            r"insufficient (?:quota|balance|credit|funds)|exceeded your current quota"
            r"|account (?:is )?in arrears|balance (?:is )?(?:not enough|insufficient)",
            re.I,
        ),
        QuotaExhaustedError,
    ),
    (
        re.compile(
            r"rate[ _-]?limit|too many requests|throttl|requests per (?:minute|second)"
            r"|concurrency (?:limit|exceed)|(?:qps|rpm|tpm)[ _]?(?:limit|exceed)",
            re.I,
        ),
        InvokeRateLimitError,
    ),
    (
        re.compile(
            r"(?:invalid|incorrect|wrong|expired|missing) (?:api|access|secret)[ _-]?"
            r"(?:key|token)|api[ _-]?key (?:is )?(?:not valid|invalid|expired|incorrect)"
            r"|unauthori[sz]ed|authentication (?:fail|error)|permission denied"
            r"|incorrect model credentials",
            re.I,
        ),
        InvokeAuthorizationError,
    ),
    (
        re.compile(
            r"connection (?:refused|reset|error|aborted)|timed out|name or service not"
            r" known|failed to establish a new connection|max retries exceeded",
            re.I,
        ),
        InvokeConnectionError,
    ),
)


def as_invoke_error(error: PluginError, provider: str) -> InvokeError:
    """Convert a plugin's error to a model call's error.

    A class for credentials or limits decides; then the HTTP status and the vendor's
    code in the text, then the name of any other class, then known wordings.
    """
    if isinstance(error, PluginDiedError):
        return InvokeServerUnavailableError(
            str(error), provider=provider, retry_after=error.retry_after
        )
    named = _BY_NAME.get(error.kind)
    stated = None if named in _EXACT else _stated_error(error.reason)
    # Plugins list their own mistakes as wrong requests, and everything as a failed
    # connection, so a status outweighs these.
    if stated is not None:
        error_class, wait = type(stated), stated.retry_after
    else:
        error_class, wait = _class_of(named, error), error.retry_after
    return error_class(str(error), provider=provider, retry_after=wait)


def _stated_error(text: str) -> InvokeError | None:
    """Return the error that a status or a code in a text stands for; None if the text
    has neither."""
    text = text[:4000]
    if _OWN_PROXY.search(text):
        return InvokeConnectionError(text)
    status = _status_in(text)
    code = _code_in(text)
    if status is None and code is None:
        return None
    fields: dict[str, Any] = {"message": text}
    if code is not None:
        fields["code"] = code
    # A plugin knows its paths; what was not found is the model or the deployment.
    elif status == 404:
        fields["type"] = "not_found"
    return provider_error(fields, status=status)


def _status_in(text: str) -> int | None:
    """Return the HTTP status that a text states; None if it states none."""
    for pattern in _STATUSES:
        match = pattern.search(text)
        if match is not None:
            return int(match[1])
    return None


def _code_in(text: str) -> str | None:
    """Return a vendor's code in a text: in a field, or as a word of its own. None if
    there is none that is known."""
    for match in _CODE.finditer(text):
        if match[1] in CODE_ERRORS:
            return match[1]
    for match in _WORD.finditer(text):
        word = match[0]
        if word in CODE_ERRORS and word not in _ORDINARY_WORDS:
            return word
    return None


def _class_of(named: type[InvokeError] | None, error: PluginError) -> type[InvokeError]:
    """Return the class for an error without a status.

    `named` is that of its name, None if the name is not known. Without any hint, the
    plugin is what has failed, so that another model may answer.
    """
    is_general = named is None or error.kind not in _SDK_NAMES
    if is_general and named not in _EXACT:
        for pattern, error_class in _TEXTS:
            if pattern.search(error.reason[:4000]):
                return error_class
    # Plugins report the words of their provider.
    return exact_class(named or InvokeServerUnavailableError, error.reason)
