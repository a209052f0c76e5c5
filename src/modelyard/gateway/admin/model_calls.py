"""/admin/v1/calls: list attempts, explain routing decisions and replay a recorded call;
/admin/v1/latency."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.cpu_work import run_in_thread
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import required_field
from modelyard.gateway.admin.requests import (
    page_offset,
    page_size,
    tenant_of,
    time_range,
)
from modelyard.gateway.admin.shapes import (
    CallPage,
    CallRow,
    Explanation,
    Percentiles,
    ReplayResult,
)
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.llm import LLMRequest
from modelyard.models.types import ModelType
from modelyard.runtime.invocation import Context
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.traces import Traces
from modelyard.runtime.usage_row import UsageRow
from modelyard.runtime.usage_table import FILTERS, UsageTable


@dataclass(frozen=True, slots=True)
class Calls:
    """Routes for the recorded attempts of a tenant's calls."""

    models: ModelManager
    ledger: Ledger
    traces: Traces

    async def list_attempts(self, request: Request) -> Reply:
        """List the attempts that match the filters, newest first.

        Raises InvokeBadRequestError, NotFoundError.
        """
        tenant = tenant_of(request)
        since, until = time_range(request)
        limit = page_size(request, "limit", 100)
        skip = page_offset(request)
        filters = {name: value for name in FILTERS if (value := request.query(name))}
        rows, total = await self.ledger.usage.page(
            tenant, since=since, until=until, limit=limit, skip=skip, **filters
        )
        # A page may hold a thousand attempts, so it is serialised outside the event
        # loop.
        return await run_in_thread(_page_reply, rows, total)

    async def explain(self, request: Request) -> Reply:
        """Return the routing decisions and attempts of a call.

        Raises NotFoundError.
        """
        tenant, name = tenant_of(request), request.names["id"]
        is_operator = request.caller.is_operator
        return json_reply(
            await self._explanation(tenant, name, is_operator=is_operator)
        )

    async def replay(self, request: Request) -> Reply:
        """Send a recorded chat to another model.

        Raises NotFoundError, InvokeBadRequestError.
        """
        replaying = self._replay(request, tenant_of(request), request.names["id"])
        return json_reply(await request.cancel_on_disconnect(replaying))

    async def _explanation(
        self, tenant: str, name: str, *, is_operator: bool = False
    ) -> Explanation:
        """Return the explanation of a call. An operator also finds refused calls whose
        caller was not authenticated.

        Raises NotFoundError.
        """
        # Traces are written in batches; flush, so that a call of this moment is found
        # too.
        await self.ledger.flush()
        explained = await self.traces.explain(tenant, name, is_operator=is_operator)
        return msgspec.convert(explained, Explanation)

    async def _replay(self, request: Request, tenant: str, name: str) -> ReplayResult:
        """Call `model` with the recorded request, without the cache and without
        streaming.

        Raises NotFoundError, InvokeBadRequestError.
        """
        model = required_field(await request.json(), "model", str)
        explanation = await self._explanation(tenant, name)
        # Requests are stored only if the operator enabled recording.
        if explanation.request is None:
            raise InvokeBadRequestError(
                f"Request body of call {name!r} was not recorded; enable"
                " telemetry.record to replay later calls"
            )
        if explanation.type != ModelType.LLM.value:
            raise InvokeBadRequestError(
                f"Calls of type {explanation.type!r} cannot be replayed; only chats can"
            )
        chat_request = msgspec.convert(explanation.request, LLMRequest, strict=False)
        # Parameters outside the common format belong to the first model's API and may
        # mean something else to another.
        chat_request = msgspec.structs.replace(
            chat_request, stream=False, format="", extra={}
        )
        # An operator who looks at another tenant's call repeats it on that tenant's
        # account.
        caller = (
            request.caller
            if tenant == request.tenant
            else msgspec.structs.replace(request.caller, tenant=tenant)
        )
        # A cached response would say nothing about the other model.
        instance = self.models.find(
            caller, model, ModelType.LLM, context=Context(id=request.id, cache="off")
        )
        started_at = time.perf_counter()
        answer = await instance.invoke_llm(chat_request)
        usage, message = answer.usage, answer.message
        return ReplayResult(
            model=instance.name,
            call=request.id,
            text=answer.text,
            thought=message.thinking,
            tool_calls=[
                {
                    "name": tool_call.function.name,
                    "arguments": tool_call.function.arguments,
                }
                for tool_call in message.tool_calls
            ],
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cost=f"{usage.total_price or 0:f}",
            currency=usage.currency,
            ms=round((time.perf_counter() - started_at) * 1000, 1),
        )


def _page_reply(rows: Sequence[UsageRow], total: int) -> Reply:
    """Build the reply for a page of attempts."""
    return json_reply(CallPage(data=[_row(row) for row in rows], total=total))


def _row(row: UsageRow) -> CallRow:
    """Return the view of one attempt."""
    return CallRow(
        id=row.id,
        call=row.invocation,
        attempt=row.attempt,
        created_at=row.created_at,
        provider=row.provider,
        model=row.model,
        type=row.model_type,
        credential=row.credential,
        key=row.api_key,
        user=row.user,
        status=row.status,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cached_tokens=row.cached_tokens,
        # A text, because JSON's numbers are floats for most clients.
        cost=None if row.total_price is None else f"{row.total_price:f}",
        currency=row.currency,
        latency=row.latency,
        first_chunk=row.first_chunk,
        counted_by=row.counted_by,
    )


@dataclass(frozen=True, slots=True)
class Latency:
    """Route for the latency of a tenant's calls."""

    usage: UsageTable

    async def percentiles(self, request: Request) -> Reply:
        """Return latency percentiles by model for the period from `since` to `until`.

        Raises InvokeBadRequestError, NotFoundError.
        """
        since, until = time_range(request)
        rows = await self.usage.percentiles(
            tenant_of(request), since=since, until=until
        )
        # Models without streamed calls have no time to the first chunk.
        blank: dict[str, Any] = dict.fromkeys(("first_p50", "first_p90", "first_p99"))
        return json_reply({"data": [Percentiles(**{**blank, **row}) for row in rows]})
