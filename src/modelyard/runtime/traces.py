"""Stored traces: the routing decisions of calls, by default of the notable ones only."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import NotFoundError
from modelyard.base.log import redaction
from modelyard.models.passthrough import to_parsed_request
from modelyard.models.speech2text import Speech2TextRequest
from modelyard.runtime.callbacks import Callback, CallResult
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.unserved_calls import NO_TENANT, UnservedCall, UnservedCalls
from modelyard.runtime.usage_table import UsageTable
from modelyard.storage.database import (
    Database,
    Row,
    StorageUnavailableError,
    statements,
)

_encode = msgspec.json.Encoder().encode


class Traces(Callback):
    """Stores the traces of calls and explains a call from its trace and its ledger
    rows."""

    def __init__(
        self,
        database: Database,
        usage: UsageTable,
        clock: Clock,
        unserved: UnservedCalls | None = None,
        *,
        keep: Literal["notable", "all", "none"] = "notable",
        records: bool = False,
    ) -> None:
        """Create the callback. With `records`, the request and the answer of every call
        are stored as well."""
        self.wants_result = records
        self._database = database
        self._usage = usage
        self._unserved = unserved or UnservedCalls(database, clock)
        self._clock = clock
        self._keep = keep
        self._sql = statements("traces")

    def on_after_invoke(self, invocation: Invocation, outcome: CallResult) -> None:
        """Store the trace of a successful call, if it is to be kept."""
        is_notable = self._keep != "notable" or invocation.record.is_notable
        # The usual case: nothing happened that is worth keeping.
        if not is_notable and not self.wants_result:
            return
        self._store_trace(invocation, outcome)

    def on_invoke_error(
        self, invocation: Invocation, error: BaseException, outcome: CallResult
    ) -> None:
        """Store the trace of a failed call, if it is to be kept."""
        self._store_trace(invocation, outcome)

    def _store_trace(self, invocation: Invocation, outcome: CallResult) -> None:
        """Write the trace of a finished call. Does not wait for the database."""
        if self._keep == "none" and not self.wants_result:
            return
        if (
            self._keep == "all"
            or self.wants_result
            or invocation.record.is_notable
            or outcome.status not in ("ok", "cancelled")
        ):
            trace = _trace(invocation, outcome, self._clock.monotonic())
            if self.wants_result:
                trace |= {
                    "request": _request_for_trace(invocation),
                    "answer": outcome.result,
                }
            # Errors and recorded content may contain secrets.
            body = redaction.redact(_encode(trace).decode())
            values = (invocation.id, invocation.tenant, self._clock.time(), body)
            try:
                self._database.write(self._sql["put"], values)
            # A lost trace is tolerable; the ledger reports the same failure as an
            # error.
            except StorageUnavailableError:
                return

    async def explain(
        self, tenant: str, invocation: str, *, is_operator: bool = False
    ) -> dict[str, Any]:
        """Return the decisions of a call and its attempts, or why it was refused.

        An operator also finds calls whose caller was not authenticated. Raises
        NotFoundError if there is no such call.
        """
        rows = await self._usage.of_invocation(tenant, invocation)
        values = {"tenant": tenant, "invocation": invocation}
        stories = await self._database.read_together(
            lambda connection: _decode_traces(
                connection.execute(self._sql["one"], values)
            )
        )
        # A call without a trace was not notable, and one without rows was refused
        # before any attempt.
        unserved = None if rows else await self._unserved.find(tenant, invocation)
        if unserved is None and is_operator and not rows and not stories:
            unserved = await self._unserved.find(NO_TENANT, invocation)
        if not rows and not stories and unserved is None:
            raise NotFoundError(f"Call {invocation!r} not found", code="call_not_found")
        trace = stories[0] if stories else {}
        # The last row is the attempt that decided the outcome.
        plain = (
            {
                "asked_for": f"{rows[-1].provider}/{rows[-1].model}",
                "status": rows[-1].status,
            }
            if rows
            else {}
        )
        first_choice = {"what": "chose", "why": "the first deployment answered"}
        return {
            "call": invocation,
            **plain,
            **(_unserved_plain(unserved) if unserved is not None else {}),
            **trace,
            "decisions": trace.get("decisions") or ([first_choice] if rows else []),
            "attempts": [_attempt(row) for row in rows],
            "refusal": None if unserved is None else _refusal(unserved),
        }

    def forget(self, cutoff: float) -> None:
        """Delete traces older than `cutoff` (seconds since 1970), in the background."""
        self._database.submit(
            lambda connection: connection.execute(self._sql["forget"], (cutoff,)),
            is_retried=True,
            may_gather=True,
        )


def _decode_traces(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Decode trace rows on the reader thread: with `records` they contain complete
    requests and answers."""
    return [msgspec.json.decode(row["body"]) for row in rows]


def _request_for_trace(invocation: Invocation) -> Any:
    """Return the request for the trace. Audio is replaced by its size."""
    request = to_parsed_request(invocation.request)
    if isinstance(request, Speech2TextRequest):
        return {"file": f"{len(request.audio):,} bytes"}
    return request


def _trace(
    invocation: Invocation, outcome: CallResult, current_time: float
) -> dict[str, Any]:
    """Return the trace of a call as JSON values."""
    return {
        "asked_for": invocation.route or f"{invocation.provider}/{invocation.model}",
        "type": invocation.model_type.value,
        "status": outcome.status,
        "ms": round(outcome.latency * 1000, 3),
        # The start is derived from the latency, because decisions have monotonic times.
        "decisions": invocation.record.decisions(current_time - outcome.latency),
    }


def _attempt(row: Any) -> dict[str, Any]:
    """Return a ledger row as an attempt of the explanation."""
    return {
        "attempt": row.attempt,
        "started_at": row.created_at,
        "model": f"{row.provider}/{row.model}",
        "credential": row.credential,
        "status": row.status,
        "ms": round(row.latency * 1000, 3),
        "first_chunk_ms": None
        if row.first_chunk is None
        else round(row.first_chunk * 1000, 3),
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "counted_by": row.counted_by,
        "cost": None if row.total_price is None else f"{row.total_price:f}",
        "currency": row.currency,
    }


def _unserved_plain(call: UnservedCall) -> dict[str, Any]:
    """Return what the explanation of a call without attempts says at the top."""
    return {"asked_for": call.asked, "type": call.model_type, "status": call.code}


def _refusal(call: UnservedCall) -> dict[str, Any]:
    """Return how a call ended that made no attempt."""
    return {
        "outcome": call.outcome,
        "created_at": call.created_at,
        "status": call.status,
        "code": call.code,
        "message": call.message,
        "route": call.route,
        "key": call.api_key,
        "key_fingerprint": call.fingerprint,
        "user": call.user,
    }
