"""Readers of what others wrote: a value of another kind than its field takes is their mistake, not a fault of ours.

Readers name the field wherever they look at a value's kind. Where one is not looked at, and Python stumbles over it,
what is said is less exact, and the status is right all the same.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from modelyard.base.errors import InvokeBadRequestError, InvokeError, InvokeServerUnavailableError

P = ParamSpec("P")
T = TypeVar("T")

STUMBLES = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What Python raises where a value is of another kind than the code expects."""


def reads_request(read: Callable[P, T]) -> Callable[P, T]:
    """A reader of callers' requests: raises InvokeBadRequestError."""
    return _guarded(read, _wrong_kind)


def reads_answer(read: Callable[P, T]) -> Callable[P, T]:
    """A reader of providers' answers: raises InvokeServerUnavailableError."""
    return _guarded(read, other_shape)


def other_shape(error: Exception) -> InvokeServerUnavailableError:
    """What is said of an answer that a reader stumbled over."""
    return InvokeServerUnavailableError(f"the answer has another shape than its format: {str(error)[:200]}")


def _wrong_kind(error: Exception) -> InvokeBadRequestError:
    message = f"a value in the request is not of the kind that its field takes: {str(error)[:200]}"
    return InvokeBadRequestError(message)


def _guarded(read: Callable[P, T], refusal: Callable[[Exception], InvokeError]) -> Callable[P, T]:
    @wraps(read)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except STUMBLES as error:
            raise refusal(error) from error

    return guarded
