"""Records requests that are refused before they become a call of a model or a run of an
app. What happens after that is recorded by the ledger and by the run."""

import hashlib

from modelyard.base.errors import ModelyardError
from modelyard.gateway.auth import Authenticator, presented_key
from modelyard.gateway.http import Request
from modelyard.runtime.invocation import ANONYMOUS_CALLER
from modelyard.runtime.unserved_calls import (
    NO_TENANT,
    UnservedCall,
    UnservedCalls,
    outcome_of,
)
from modelyard.tenancy.caller import Caller

_FINGERPRINT_CHARS = 8
"""Enough to tell two wrong keys apart, too few to find one."""


class UnservedRequests:
    """Turns refused requests into records."""

    def __init__(self, calls: UnservedCalls, keeper: Authenticator) -> None:
        self._calls = calls
        self._keeper = keeper

    def record(
        self, request: Request, error: ModelyardError, status: int
    ) -> UnservedCall | None:
        """Record a request that ended with an error, unless what it began has a record
        of its own. Returns the record.

        `status` is the HTTP status of the response.
        """
        if request.has_record:
            return None
        request.is_recorded = True
        call = self._call(request, error, status)
        self._calls.add(call)
        return call

    def record_unread(
        self, request_id: str, error: ModelyardError, status: int
    ) -> None:
        """Record a request that was refused before its headers were read: nothing is
        known about its caller."""
        self._calls.add(
            UnservedCall(
                id=request_id,
                outcome=outcome_of(status),
                status=status,
                code=error.code,
                message=error.public_text,
            )
        )

    def repeat(self, call: UnservedCall, request_id: str) -> None:
        """Record a further request that was refused like an earlier one."""
        self._calls.add(call, request_id)

    def _call(
        self, request: Request, error: ModelyardError, status: int
    ) -> UnservedCall:
        """Return the record of a request."""
        caller = self._caller_of(request)
        is_stranger = caller is None
        return UnservedCall(
            id=request.id,
            tenant=NO_TENANT if caller is None else caller.tenant,
            outcome=outcome_of(status),
            status=status,
            code=error.code,
            message=error.public_text,
            route=request.endpoint,
            api_key="" if caller is None else caller.key,
            fingerprint=_fingerprint(request) if is_stranger else "",
            user=None if caller is None else caller.user,
            app="" if caller is None else caller.app,
            asked=request.asked_model,
        )

    def _caller_of(self, request: Request) -> Caller | None:
        """Return who sent a request; None if that is not known."""
        if request.caller is not ANONYMOUS_CALLER:
            return request.caller
        # The request was refused before it was authenticated, for example because
        # nothing is at its path. Its key may still tell whose it is.
        return self._keeper.known_caller(request.scope)


def _fingerprint(request: Request) -> str:
    """Return the beginning of the digest of the key that a request presents; empty if
    there is none. It identifies a wrong key without revealing it."""
    key = presented_key(request.scope)
    return hashlib.sha256(key).hexdigest()[:_FINGERPRINT_CHARS] if key else ""
