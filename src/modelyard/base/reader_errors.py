"""Error handling for readers of external data: a value of the wrong type is the
sender's mistake, not an internal error.

Readers name the field wherever they check a type. Where a check is missing and Python
raises, the message is less precise but the HTTP status is still right.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeError,
    InvokeServerUnavailableError,
)

P = ParamSpec("P")
T = TypeVar("T")

MALFORMED_INPUT_ERRORS = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""Exceptions that Python raises if a value has an unexpected type."""


def reads_request(read: Callable[P, T]) -> Callable[P, T]:
    """Decorate a reader of callers' requests so that it raises InvokeBadRequestError
    for malformed input."""
    return _guarded(read, _malformed_request)


def reads_answer(read: Callable[P, T]) -> Callable[P, T]:
    """Decorate a reader of providers' responses so that it raises
    InvokeServerUnavailableError for malformed input."""
    return _guarded(read, malformed_response)


def malformed_response(error: Exception) -> InvokeServerUnavailableError:
    """Return the error for a response that does not have the shape of its wire format."""
    return InvokeServerUnavailableError(
        f"The response does not match its format: {str(error)[:200]}"
    )


def _malformed_request(error: Exception) -> InvokeBadRequestError:
    """Return the error for a request that a parser could not read."""
    return InvokeBadRequestError(
        f"A value in the request has an invalid type: {str(error)[:200]}"
    )


def _guarded(
    read: Callable[P, T], refusal: Callable[[Exception], InvokeError]
) -> Callable[P, T]:
    """Wrap a reader so that malformed input raises the error `refusal` returns.

    Translated are AttributeError, IndexError, KeyError, TypeError and ValueError; all
    others pass through. The original exception is kept as the cause.
    """

    @wraps(read)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        """Call the reader and translate its exceptions."""
        try:
            return read(*args, **kwargs)
        except MALFORMED_INPUT_ERRORS as error:
            raise refusal(error) from error

    return guarded
