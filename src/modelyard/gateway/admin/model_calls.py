"""/admin/v1/calls: attempts with filters, why a call went its way, and the same asked again; /admin/v1/latency."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.computing import apart
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import need
from modelyard.gateway.admin.requests import count_of, offset_of, span_of, tenant_of
from modelyard.gateway.admin.shapes import CallPage, CallRow, Explanation, Percentiles, Replayed
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
    """A tenant's attempts at calls, why each went its way, and the same asked again."""

    models: ModelManager
    ledger: Ledger
    traces: Traces

    async def page(self, request: Request) -> Reply:
        """Newest first, those that fit the filters. Raises InvokeBadRequestError, NotFoundError."""
        tenant = tenant_of(request)
        since, until = span_of(request)
        most = count_of(request, "limit", 100)
        skip = offset_of(request)
        wanted = {name: value for name in FILTERS if (value := request.query(name))}
        rows, total = await self.ledger.usage.page(tenant, since=since, until=until, most=most, skip=skip, **wanted)
        return await apart(_page_reply, rows, total)

    async def explain(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        return json_reply(await self._explained(tenant_of(request), request.names["id"]))

    async def replay(self, request: Request) -> Reply:
        """A recorded chat, asked of another model. Raises NotFoundError, InvokeBadRequestError."""
        replaying = self._replayed(request, tenant_of(request), request.names["id"])
        return json_reply(await request.while_here(replaying))

    async def _explained(self, tenant: str, name: str) -> Explanation:
        await self.ledger.flush()
        return msgspec.convert(await self.traces.explain(tenant, name), Explanation)

    async def _replayed(self, request: Request, tenant: str, name: str) -> Replayed:
        model = need(await request.json(), "model", str)
        story = await self._explained(tenant, name)
        if story.request is None:
            raise InvokeBadRequestError(
                f"what call {name!r} asked was not kept: set telemetry.record, and calls after that can be asked again"
            )
        if story.type != ModelType.LLM.value:
            raise InvokeBadRequestError(f"calls of type {story.type!r} cannot be asked again; chats can")
        asked = msgspec.convert(story.request, LLMRequest, strict=False)
        # What only the first model's format has a name for is not another model's.
        asked = msgspec.structs.replace(asked, stream=False, format="", extra={})
        caller = request.caller if tenant == request.tenant else msgspec.structs.replace(request.caller, tenant=tenant)
        found = self.models.find(caller, model, ModelType.LLM, context=Context(id=request.id, cache="off"))
        began = time.perf_counter()
        answer = await found.invoke_llm(asked)
        usage, message = answer.usage, answer.message
        return Replayed(
            model=found.name, call=request.id, text=answer.text, thought=message.thinking,
            tool_calls=[{"name": one.function.name, "arguments": one.function.arguments} for one in message.tool_calls],
            prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens,
            cost=f"{usage.total_price or 0:f}", currency=usage.currency,
            ms=round((time.perf_counter() - began) * 1000, 1),
        )  # fmt: skip


def _page_reply(rows: Sequence[UsageRow], total: int) -> Reply:
    """Made beside the loop: a page may hold a thousand attempts."""
    return json_reply(CallPage(data=[_row(row) for row in rows], total=total))


def _row(one: UsageRow) -> CallRow:
    return CallRow(
        id=one.id, call=one.invocation, attempt=one.attempt, created_at=one.created_at, provider=one.provider,
        model=one.model, type=one.model_type, credential=one.credential, key=one.api_key, user=one.user,
        status=one.status, prompt_tokens=one.prompt_tokens, completion_tokens=one.completion_tokens,
        cached_tokens=one.cached_tokens, cost=None if one.total_price is None else f"{one.total_price:f}",
        currency=one.currency, latency=one.latency, first_chunk=one.first_chunk, counted_by=one.counted_by,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a tenant's calls took."""

    usage: UsageTable

    async def percentiles(self, request: Request) -> Reply:
        """By model, between `since` and `until`. Raises InvokeBadRequestError, NotFoundError."""
        since, until = span_of(request)
        rows = await self.usage.percentiles(tenant_of(request), since=since, until=until)
        blank: dict[str, Any] = dict.fromkeys(("first_p50", "first_p90", "first_p99"))
        return json_reply({"data": [Percentiles(**{**blank, **row}) for row in rows]})
