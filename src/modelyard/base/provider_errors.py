"""Reads a provider's error: which of our errors it is, and what the caller may know of it.

The only classification of provider errors. It serves error responses as well as errors
inside a response or a stream with status 200. By status, code and parameter first; by an
exact phrase of a provider only where these say nothing.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from modelyard.base.errors import (
    ContextTooLongError,
    EndpointNotFoundError,
    ErrorAnswer,
    InvokeBadRequestError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    QuotaExhaustedError,
    TokenCounts,
)
from modelyard.base.fields import count, whole_number
from modelyard.base.json_types import is_array, is_object
from modelyard.base.provider_error_patterns import (
    CODE_ERRORS,
    GENERAL_ERRORS,
    PHRASES,
    STATUS_ERRORS,
    Phrase,
)
from modelyard.base.provider_waits import stated_wait

MAX_MESSAGE = 1000
"""Longest message of a provider that is repeated, in characters."""
_NO_DETAILS = "The provider returned an error without details"
# Vendors use different names for the message.
_MESSAGE_FIELDS = ("message", "detail", "msg", "err_msg", "Message")
# A larger number in a message is an id or a time, and no count of tokens.
_MAX_TOKENS = 1 << 40


def error_fields_in(document: Any) -> dict[str, Any] | None:
    """Return the fields of the error that a response or an event is; None if it is not
    an error.

    The error may be nested in `error`, be a plain text there, or be the document itself
    as vLLM and Mistral send it.
    """
    # Google sends errors of unframed streams in an array.
    if is_array(document):
        document = document[0] if document else None
    if not is_object(document):
        return None
    error = document.get("error")
    if is_object(error) and error:
        return error
    if isinstance(error, str) and error:
        return {**document, "message": error}
    is_error_object = document.get("object") in ("error", "Error")
    return document if is_error_object or _is_bare_error(document) else None


def _is_bare_error(document: Mapping[str, Any]) -> bool:
    """Return whether a document has the fields of an error and none of an answer."""
    return (
        isinstance(document.get("message"), str)
        and ("type" in document or "code" in document)
        and document.keys() <= {"message", "type", "code", "param", "request_id"}
    )


def provider_error(
    fields: Mapping[str, Any],
    *,
    status: int | None = None,
    aws_type: str = "",
    body: bytes = b"",
    retry_after: float | None = None,
) -> InvokeError:
    """Return the exception for the fields of a provider's error.

    `status` is None inside a response with status 200, where a number in `code` takes
    its place. `aws_type` is AWS's error type from the headers. `body` gives the message
    if no field does. The fields `answer`, `param` and `retry_after` are filled in.
    """
    own_message = _message_of(fields, body)
    inner = _inner_error(fields)
    wording = (_message_of(inner, b"") if inner else "") or own_message
    wait = stated_wait(fields, wording)
    codes = _codes_of(fields, inner, aws_type)
    error_class, match = _classified(fields, status, codes, wording)
    # Google words a limit per minute like an exhausted quota, but names the wait.
    if error_class is QuotaExhaustedError and wait is not None:
        error_class = InvokeRateLimitError
    message = own_message
    if wording not in own_message:
        message = f"{own_message}: {wording}" if own_message else wording
    error = error_class(
        (message or _fallback_message(fields, status))[:MAX_MESSAGE],
        retry_after=retry_after,
    )
    # Nobody has to wait after a mistake of the request.
    if retry_after is None and isinstance(error, _ENDING_BY_ITSELF):
        error.retry_after = wait
    _add_details(error, fields, match)
    # Without the provider's words, the error is told in ours.
    if not isinstance(error, EndpointNotFoundError) and message:
        error.answer = _answer_of(fields, status)
    return error


_ENDING_BY_ITSELF = (InvokeRateLimitError, InvokeServerUnavailableError)


def _answer_of(fields: Mapping[str, Any], status: int | None) -> ErrorAnswer:
    """Return the error as the provider sent it, for callers of the same format."""
    shape = _shape_of(fields)
    is_google = shape == "gemini"
    code = fields.get("code")
    return ErrorAnswer(
        shape=shape,
        status=status,
        type=_text(fields.get("status" if is_google else "type")),
        code=_text(code),
        has_code="code" in fields and (code is None or isinstance(code, str)),
        details=_limit_details(fields) if is_google else (),
    )


# What Google's clients read to tell a limit per minute from one per day. Other details
# may name the account.
_LIMIT_DETAILS = ("google.rpc.RetryInfo", "google.rpc.QuotaFailure")
# The details are passed on to the client; a server could send any amount.
_MAX_DETAILS_BYTES = 8192


def _limit_details(fields: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the details of Google's error about limits; none if they are large."""
    details = fields.get("details")
    if not is_array(details):
        return ()
    passed_on = tuple(
        detail
        for detail in details[:20]
        if is_object(detail) and str(detail.get("@type")).endswith(_LIMIT_DETAILS)
    )
    is_small = len(msgspec.json.encode(passed_on)) <= _MAX_DETAILS_BYTES
    return passed_on if is_small else ()


def raise_error_in(document: Mapping[str, Any]) -> None:
    """Raise the exception for a response or an event that is an error, although its
    status is 200. Without effect for any other."""
    if "error" in document or "message" in document:
        fields = error_fields_in(document)
        if fields is not None:
            raise provider_error(fields)


def error_class_for_status(status: int) -> type[InvokeError]:
    """Return the error class for an HTTP status alone."""
    return _class_of_status(status, {}, "")


def _fallback_message(fields: Mapping[str, Any], status: int | None) -> str:
    """Return what stands for a message that is missing."""
    for name in ("type", "status", "code"):
        if isinstance(value := fields.get(name), str | int) and value:
            return str(value)
    if status is not None:
        return f"HTTP status {status} without a message"
    return _NO_DETAILS


# ---------------------------------------------------------------------------- reading


def _shape_of(
    fields: Mapping[str, Any],
) -> Literal["openai", "anthropic", "gemini", ""]:
    """Return whose error format the fields have."""
    if isinstance(fields.get("status"), str) and isinstance(fields.get("code"), int):
        return "gemini"
    if not isinstance(fields.get("type"), str):
        return ""
    if "code" in fields or "param" in fields:
        return "openai"
    return "anthropic" if fields["type"] in _ANTHROPIC_TYPES else "openai"


_ANTHROPIC_TYPES = frozenset(
    [
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "conflict_error",
        "request_too_large",
        "rate_limit_error",
        "api_error",
        "timeout_error",
        "overloaded_error",
    ]
)


def _message_of(fields: Mapping[str, Any], body: bytes) -> str:
    """Return an error's message, at most 1,000 characters; empty if there is none.

    Without a known field it is the start of the body, unless that is HTML.
    """
    for name in _MESSAGE_FIELDS:
        value = fields.get(name)
        if isinstance(value, str) and value:
            return value[:MAX_MESSAGE]
        if text := _validation_message(value):
            return text[:MAX_MESSAGE]
    text = body[:300].decode("utf-8", "replace").strip()
    # A proxy's HTML page is not a useful message.
    return "" if text.startswith("<") else text


def _validation_entries(value: Any) -> list[dict[str, Any]]:
    """Return the entries of a list of validation errors, as FastAPI and Mistral send
    it: objects with `loc`, `msg` and `type`."""
    if is_object(value):
        value = value.get("detail")
    if not is_array(value):
        return []
    return [entry for entry in value[:10] if is_object(entry)]


def _validation_message(value: Any) -> str:
    """Return validation errors as one text; empty if there is none."""
    texts: list[str] = []
    for entry in _validation_entries(value):
        reason = entry.get("msg") or entry.get("message") or entry.get("type")
        where = _location(entry)
        texts.append(f"{where}: {reason}" if where else str(reason))
    return "; ".join(texts)


def _location(entry: Mapping[str, Any]) -> str:
    """Return the path of the field that a validation error is about."""
    location = entry.get("loc")
    if not is_array(location):
        return ""
    names = [str(name) for name in location]
    return ".".join(names[1:] if names[:1] == ["body"] else names)


def _validation_type(fields: Mapping[str, Any]) -> str:
    """Return the type of the first validation error; empty if there is none."""
    for name in _MESSAGE_FIELDS:
        for entry in _validation_entries(fields.get(name)):
            return str(entry.get("type") or "")
    return ""


def _inner_error(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the error of the provider behind a router: OpenRouter passes its body on
    as text, in `metadata.raw`. Empty if there is none."""
    metadata = fields.get("metadata")
    raw = metadata.get("raw") if is_object(metadata) else None
    if is_object(raw):
        return error_fields_in(raw) or {}
    if not isinstance(raw, str) or not raw:
        return {}
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {"message": raw}
    return error_fields_in(document) or {"message": raw}


def _codes_of(
    fields: Mapping[str, Any], inner: Mapping[str, Any], aws_type: str
) -> list[str]:
    """Return the codes and types of an error, the more exact ones first."""
    innererror = fields.get("innererror")
    codes = [
        fields.get("code"),
        fields.get("type"),
        fields.get("status"),
        innererror.get("code") if is_object(innererror) else None,
        _validation_type(fields),
        aws_type,
        inner.get("code"),
        inner.get("type"),
        inner.get("status"),
    ]
    return [code for code in codes if isinstance(code, str) and code]


def _status_in(fields: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that an error states in `code`, as OpenRouter, Google and
    vLLM do inside a stream."""
    for name in ("code", "status", "status_code"):
        status = _count(fields.get(name))
        if status is not None and 400 <= status < 600:
            return status
    return None


def _text(value: Any) -> str | None:
    """Return the value if it is a text with content, otherwise None."""
    return value if isinstance(value, str) and value else None


# ------------------------------------------------------------------------- classifying


def _classified(
    fields: Mapping[str, Any], status: int | None, codes: Sequence[str], wording: str
) -> tuple[type[InvokeError], re.Match[str] | None]:
    """Return the class of an error, and the match of the phrase that has decided or that
    names the numbers of an overflow."""
    stated = status if status is not None else _status_in(fields)
    error_class = _class_by_code(stated, codes)
    if error_class is None:
        error_class = _class_of_status(stated, fields, wording)
    match = _matching_phrase(error_class, wording)
    return (error_class, None) if match is None else (match[0].error, match[1])


def _class_by_code(
    status: int | None, codes: Sequence[str]
) -> type[InvokeError] | None:
    """Return the class that the codes name; None if there is none, or if the status is
    more reliable."""
    classes = [CODE_ERRORS[code] for code in codes if code in CODE_ERRORS]
    exact = next((each for each in classes if each not in GENERAL_ERRORS), None)
    by_code = exact or next(iter(classes), None)
    if by_code is None or status is None:
        return by_code
    # With a 5xx status a bad-request code is ignored: the fault is the server's.
    if status >= 500 and exact is None and by_code is InvokeBadRequestError:
        return None
    # If a general code and the status disagree, the status is more reliable, for
    # example about a refused credential or a missing path.
    if by_code is InvokeBadRequestError and (status == 404 or status in STATUS_ERRORS):
        return None
    return by_code


def _class_of_status(
    status: int | None, fields: Mapping[str, Any], message: str
) -> type[InvokeError]:
    """Return the class that a status stands for.

    None and every status other than 4xx stand for a failing server; a 4xx status
    without a meaning of its own for a wrong request.
    """
    if status is None:
        return InvokeServerUnavailableError
    if status == 404:
        # An API that has the path names its error; a server without it does not.
        is_api_error = isinstance(fields.get("type"), str) or isinstance(
            fields.get("code"), str
        )
        is_known = bool(message) and is_api_error
        return InvokeBadRequestError if is_known else EndpointNotFoundError
    if (by_status := STATUS_ERRORS.get(status)) is not None:
        return by_status
    if 400 <= status < 500:
        return InvokeBadRequestError
    return InvokeServerUnavailableError


def _matching_phrase(
    error_class: type[InvokeError], message: str
) -> tuple[Phrase, re.Match[str]] | None:
    """Return the phrase in a message, if the class may become more exact by it. The
    numbers of an overflow are read even if its code has named it."""
    if not message:
        return None
    is_overflow = error_class is ContextTooLongError
    for phrase in PHRASES:
        if is_overflow:
            if phrase.error is not ContextTooLongError:
                continue
        elif error_class not in phrase.instead_of:
            continue
        if (match := phrase.expression.search(message)) is not None:
            return phrase, match
    return None


# ----------------------------------------------------------------------------- details


def _add_details(
    error: InvokeError, fields: Mapping[str, Any], match: re.Match[str] | None
) -> None:
    """Fill in the field at fault, and the numbers of an overflow."""
    if isinstance(error, InvokeBadRequestError):
        error.param = _param_of(fields)
    if isinstance(error, ContextTooLongError):
        error.tokens = _token_counts(fields, match)


def token_counts_in(message: str) -> TokenCounts:
    """Return the numbers in a provider's words for an overflow; none in other words."""
    match = _matching_phrase(ContextTooLongError, message)
    return _token_counts({}, match[1] if match is not None else None)


def exact_class(error_class: type[InvokeError], message: str) -> type[InvokeError]:
    """Return the class of an error of which only a general class and a message are
    known, as plugins report it."""
    match = _matching_phrase(error_class, message)
    return error_class if match is None else match[0].error


def _param_of(fields: Mapping[str, Any]) -> str | None:
    """Return the request field that an error names; None if it names none."""
    if (param := _text(fields.get("param"))) is not None:
        return param[:200]
    for name in _MESSAGE_FIELDS:
        for entry in _validation_entries(fields.get(name)):
            return _location(entry)[:200] or None
    return None


def _token_counts(
    fields: Mapping[str, Any], match: re.Match[str] | None
) -> TokenCounts:
    """Return the numbers of an overflow, from the fields or from the phrase."""
    numbers: dict[str, int | None] = {
        "input": _count(fields.get("n_prompt_tokens")),
        "limit": _count(fields.get("n_ctx")),
    }
    if match is not None:
        for name, digits in match.groupdict().items():
            if digits is not None:
                numbers[name] = _count(digits.replace(",", ""))
    # A sum alone is what the prompt has at most.
    return TokenCounts(
        input=numbers.get("input") or numbers.get("total"),
        output=numbers.get("output"),
        limit=numbers.get("limit"),
    )


def _count(value: Any) -> int | None:
    """Return a number that may be written as text; None for anything else."""
    if isinstance(value, str):
        return whole_number(value, maximum=_MAX_TOKENS)
    number = count(value)
    return number if number is not None and number <= _MAX_TOKENS else None
