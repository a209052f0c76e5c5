"""Callback that records model calls which end before any attempt is made."""

from collections.abc import Callable

from modelyard.base.errors import ModelyardError
from modelyard.runtime.callbacks import Callback, CallResult
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.unserved_calls import (
    CLIENT_CLOSED_STATUS,
    UnservedCall,
    UnservedCalls,
    outcome_of,
)


class UnservedCallback(Callback):
    """Records calls that a limit, a queue or a cooldown refuses, and those that their
    caller ends while they wait. Attempts are recorded by the ledger."""

    def __init__(
        self, calls: UnservedCalls, status_of: Callable[[ModelyardError], int]
    ) -> None:
        """`status_of` returns the HTTP status with which an error is answered."""
        self._calls = calls
        self._status_of = status_of

    def is_silent(self) -> bool:
        """Return True: only failures are of interest."""
        return True

    def on_invoke_error(
        self, invocation: Invocation, error: BaseException, outcome: CallResult
    ) -> None:
        """Record a call without an attempt."""
        del outcome
        if invocation.record.attempts:
            return
        if isinstance(error, ModelyardError):
            status, code, message = (
                self._status_of(error),
                error.code,
                error.public_text,
            )
        # The caller disconnected, or whoever waited for the call gave up.
        else:
            status, code, message = CLIENT_CLOSED_STATUS, "cancelled", ""
        self._calls.add(_unserved(invocation, status, code, message))


def _unserved(
    invocation: Invocation, status: int, code: str, message: str
) -> UnservedCall:
    """Return the record of a call that ended with an error."""
    session, project, tags = invocation.attribution
    provider, model = invocation.provider, invocation.model
    return UnservedCall(
        id=invocation.id,
        tenant=invocation.tenant,
        outcome=outcome_of(status),
        status=status,
        code=code,
        message=message,
        route=invocation.endpoint,
        api_key=invocation.api_key,
        user=invocation.user,
        app=invocation.app,
        asked=invocation.route or f"{provider}/{model}",
        provider=provider,
        model=model,
        model_type=invocation.model_type.value,
        session=session,
        project=project,
        tags=tags,
    )
