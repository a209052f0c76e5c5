"""How policies wrap a call. A policy that is bound to its successor has the same
signature as a call, so policies nest freely."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from modelyard.models.types import Chunks
from modelyard.runtime.invocation import Invocation

Call = Callable[[Invocation], Chunks]


class Policy(Protocol):
    """A step that acts before, after or instead of the call it wraps.

    It may return `call_next(invocation)` directly if it has nothing to do. Otherwise it
    must iterate it inside `contextlib.aclosing`, so that a disconnecting caller ends
    everything below at once.
    """

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks: ...


def compose(policies: Sequence[Policy], call: Call) -> Call:
    """Return the call wrapped in the policies, the first of them outermost."""
    for policy in reversed(policies):
        call = partial(policy, call_next=call)
    return call
