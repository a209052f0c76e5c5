"""How policies wrap a call. A policy and a call have one shape, so nobody can tell which it calls."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from modelyard.models.types import Chunks
from modelyard.runtime.invocation import Invocation

Call = Callable[[Invocation], Chunks]


class Policy(Protocol):
    """Does something before, after or instead of the call it wraps.

    It may hand on `call_next(invocation)` as it is where it has nothing to do. Otherwise it iterates it inside
    `contextlib.aclosing`, so that a caller who walks away ends everything below at once.
    """

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks: ...


def compose(policies: Sequence[Policy], call: Call) -> Call:
    """The call wrapped in the policies, the first of them outermost."""
    for policy in reversed(policies):
        call = partial(policy, call_next=call)
    return call
