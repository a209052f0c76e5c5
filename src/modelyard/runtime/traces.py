"""Why a call went where it went, kept for those who ask later: of the notable calls, unless all are wanted."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import NotFoundError
from modelyard.base.log import redaction
from modelyard.models.speech2text import Speech2TextRequest
from modelyard.models.verbatim import VerbatimRequest
from modelyard.runtime.callbacks import Callback, Outcome
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.usage_table import UsageTable
from modelyard.storage.database import Database, Row, StorageUnavailableError, statements

_encode = msgspec.json.Encoder().encode


class Traces(Callback):
    def __init__(
        self,
        database: Database,
        usage: UsageTable,
        clock: Clock,
        *,
        keep: Literal["notable", "all", "none"] = "notable",
        records: bool = False,
    ) -> None:
        """`records`: what was asked and answered is kept too, of every call."""
        self.wants_result = records
        self._database = database
        self._usage = usage
        self._clock = clock
        self._keep = keep
        self._sql = statements("traces")

    def on_after_invoke(self, invocation: Invocation, outcome: Outcome) -> None:
        self._ended(invocation, outcome)

    def on_invoke_error(self, invocation: Invocation, error: BaseException, outcome: Outcome) -> None:
        self._ended(invocation, outcome)

    def _ended(self, invocation: Invocation, outcome: Outcome) -> None:
        if self._keep == "none" and not self.wants_result:
            return
        if (
            self._keep == "all"
            or self.wants_result
            or invocation.record.is_notable
            or outcome.status not in ("ok", "cancelled")
        ):
            story = _story(invocation, outcome, self._clock.monotonic())
            if self.wants_result:
                story |= {"request": _asked(invocation), "answer": outcome.result}
            body = redaction.strike(_encode(story).decode())
            values = (invocation.id, invocation.tenant, self._clock.time(), body)
            try:
                self._database.write(self._sql["put"], values)
            except StorageUnavailableError:  # the ledger says so louder
                return

    async def explain(self, tenant: str, invocation: str) -> dict[str, Any]:
        """What was decided, and the ledger's rows. Raises NotFoundError where this tenant has no such call."""
        rows = await self._usage.of_invocation(tenant, invocation)
        values = {"tenant": tenant, "invocation": invocation}
        stories = await self._database.at_once(lambda it: _stories(it.execute(self._sql["one"], values)))
        if not rows and not stories:
            raise NotFoundError(f"call {invocation!r} does not exist", code="call_not_found")
        story = stories[0] if stories else {}
        plain = {"asked_for": f"{rows[-1].provider}/{rows[-1].model}", "status": rows[-1].status} if rows else {}
        return {
            "call": invocation,
            **plain,
            **story,
            "decisions": story.get("decisions") or [{"what": "chose", "why": "the first choice served at once"}],
            "attempts": [_attempt(row) for row in rows],
        }

    def forget(self, before: float) -> None:
        self._database.submit(lambda it: it.execute(self._sql["forget"], (before,)), is_kept=True, may_gather=True)


def _stories(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Read where they were fetched: with `records`, a story holds all that was asked and answered."""
    return [msgspec.json.decode(row["body"]) for row in rows]


def _asked(invocation: Invocation) -> Any:
    """The request; without what is only bytes, as recordings are."""
    request = invocation.request
    if isinstance(request, VerbatimRequest):
        request = request.parse()
    if isinstance(request, Speech2TextRequest):
        return {"file": f"{len(request.audio):,} bytes"}
    return request


def _story(invocation: Invocation, outcome: Outcome, now: float) -> dict[str, Any]:
    return {
        "asked_for": invocation.route or f"{invocation.provider}/{invocation.model}",
        "type": invocation.model_type.value,
        "status": outcome.status,
        "ms": round(outcome.latency * 1000, 3),
        "decisions": invocation.record.story(now - outcome.latency),
    }


def _attempt(row: Any) -> dict[str, Any]:
    return {
        "attempt": row.attempt,
        "started_at": row.created_at,
        "model": f"{row.provider}/{row.model}",
        "credential": row.credential,
        "status": row.status,
        "ms": round(row.latency * 1000, 3),
        "first_chunk_ms": None if row.first_chunk is None else round(row.first_chunk * 1000, 3),
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "counted_by": row.counted_by,
        "cost": None if row.total_price is None else f"{row.total_price:f}",
        "currency": row.currency,
    }
