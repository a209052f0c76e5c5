"""The bodies of errors in the formats of the callers' APIs.

What a provider of the caller's own format has sent comes through: status, type and code.
"""

from modelyard.base.errors import (
    ErrorAnswer,
    InvokeBadRequestError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    ModelyardError,
    QuotaExhaustedError,
)
from modelyard.gateway.error_texts import Shape, caller_text
from modelyard.models.types import JSON
from modelyard.wire import anthropic, cohere, gemini


def body_of(
    error: ModelyardError,
    shape: Shape,
    usual: tuple[int, str],
    request_id: str = "",
) -> JSON:
    """Return the body of an error response in a format. Anthropic and Cohere include
    the request id.

    `usual` are the status and the OpenAI error type of the error's class.
    """
    status, text = passed_status(error, shape) or usual[0], caller_text(error, shape)
    answer = _own_answer(error, shape)
    match shape:
        case "anthropic":
            document = anthropic.dump_error(status, text, request_id)
            # The vendor's own type says more than one that is chosen by the status.
            if answer is not None and answer.type:
                document["error"]["type"] = answer.type
            return document
        case "gemini":
            return _google_document(error, status, text, answer)
        case "cohere":
            return cohere.dump_error(status, text, request_id)
        case "openai":
            return _openai_document(error, usual[1], text, answer)


def _openai_document(
    error: ModelyardError, error_type: str, text: str, answer: ErrorAnswer | None
) -> JSON:
    """Return the body of an error in OpenAI's format."""
    code = error.code
    if answer is not None:
        error_type = answer.type or error_type
        # Clients tell limits apart by their code, so that null is no use to them.
        is_known = isinstance(error, InvokeBadRequestError) or answer.code
        code = answer.code if answer.has_code and is_known else code
    param = getattr(error, "param", None)
    return {
        "error": {"message": text, "type": error_type, "param": param, "code": code}
    }


def _google_document(
    error: ModelyardError, status: int, text: str, answer: ErrorAnswer | None
) -> JSON:
    """Return the body of an error in Google's format. Its clients read the time to wait
    from the body."""
    document = gemini.dump_error(status, text)
    if answer is not None and answer.type:
        document["error"]["status"] = answer.type
    details = _limit_details(error)
    if details:
        document["error"]["details"] = details
    return document


def _limit_details(error: ModelyardError) -> list[JSON]:
    """Return Google's details about a limit: the provider's own, else the wait."""
    sent = getattr(error, "answer", None)
    details = list(sent.details) if isinstance(sent, ErrorAnswer) else []
    wait = getattr(error, "retry_after", None)
    has_wait = any(detail.get("@type") == _RETRY_INFO for detail in details)
    if wait is not None and not has_wait:
        details.append({"@type": _RETRY_INFO, "retryDelay": _duration(wait)})
    return details


def _duration(seconds: float) -> str:
    """Return a time in the JSON form of a `google.protobuf.Duration`, as `1.5s`."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


# Errors that a caller of the same format gets as the provider sent them. The others
# have a meaning of their own here, or are none of the caller's business: a refused
# credential is the server's.
_PASSED_ON = (InvokeBadRequestError, InvokeRateLimitError)


def _own_answer(error: ModelyardError, shape: Shape) -> ErrorAnswer | None:
    """Return the error as the provider sent it, if the caller of a format gets its
    type, code and status; else None."""
    answer = getattr(error, "answer", None)
    if not isinstance(answer, ErrorAnswer) or answer.shape != shape:
        return None
    # These clients tell an overload from a failure by status and type. In OpenAI's
    # format our own codes do it.
    if shape != "openai" and type(error) is InvokeServerUnavailableError:
        return answer
    if shape == "anthropic" and isinstance(error, QuotaExhaustedError):
        return answer
    return answer if type(error) in _PASSED_ON else None


def passed_status(error: ModelyardError, shape: Shape) -> int | None:
    """Return the HTTP status of a provider's error that a caller of a format gets as it
    is; None if the caller gets the usual one."""
    answer = _own_answer(error, shape)
    if answer is not None and answer.status is not None and answer.status >= 400:
        return answer.status
    return None
