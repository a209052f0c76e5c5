"""Readers of what others wrote: a value of another kind than its field takes is their mistake, not a fault of ours.

Readers name the field wherever they look at a value's kind. Where one is not looked at, and Python stumbles over it,
what is said is less exact, and the status is right all the same.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec, TypeVar

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError

P = ParamSpec("P")
T = TypeVar("T")

STUMBLES = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What Python raises where a value is of another kind than the code expects."""


def reads_request(read: Callable[P, T]) -> Callable[P, T]:
    """A reader of callers' requests: raises InvokeBadRequestError."""

    @wraps(read)
    def reading(*given: P.args, **more: P.kwargs) -> T:
        try:
            return read(*given, **more)
        except STUMBLES as error:
            said = f"a value in the request is not of the kind that its field takes: {str(error)[:200]}"
            raise InvokeBadRequestError(said) from error

    return reading


def reads_answer(read: Callable[P, T]) -> Callable[P, T]:
    """A reader of providers' answers: raises InvokeServerUnavailableError."""

    @wraps(read)
    def reading(*given: P.args, **more: P.kwargs) -> T:
        try:
            return read(*given, **more)
        except STUMBLES as error:
            raise InvokeServerUnavailableError(_other_shape(error)) from error

    return reading


def reads_events(read: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
    """A reader of the events of providers' streams: raises InvokeServerUnavailableError."""

    @wraps(read)
    def reading(*given: P.args, **more: P.kwargs) -> Iterator[T]:
        try:
            yield from read(*given, **more)
        except STUMBLES as error:
            raise InvokeServerUnavailableError(_other_shape(error)) from error

    return reading


def _other_shape(error: Exception) -> str:
    return f"the answer has another shape than its format: {str(error)[:200]}"
