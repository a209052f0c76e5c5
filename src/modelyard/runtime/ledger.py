"""Usage and money: one row for every attempt at serving a call."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.models.types import ModelUsage
from modelyard.runtime.invocation import Invocation
from modelyard.storage.database import Database, statements


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    invocation: str
    attempt: int
    tenant: str
    created_at: float
    provider: str
    model: str
    model_type: str
    credential: str
    user: str | None
    status: str
    prompt_tokens: int
    completion_tokens: int
    characters: int
    seconds: float
    estimated: bool
    total_price: Decimal | None
    """None where nobody knows the price."""
    currency: str
    latency: float
    first_chunk: float | None
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    price_source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Many rows as one line."""

    key: tuple[str, ...]
    calls: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    cost: Decimal
    currency: str
    unpriced: int
    """Rows whose price nobody knows: the cost leaves them out."""


def _price(usage: ModelUsage | None) -> str | None:
    """Nothing was used: nothing is owed. Something was, at an unknown price: nobody knows."""
    if usage is None:
        return "0"
    return None if usage.total_price is None else format(usage.total_price, "f")


class Ledger:
    """Writes rows without making the call wait; reads them back within one tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("usage")

    def add(
        self,
        invocation: Invocation,
        *,
        attempt: int,
        created_at: float,
        status: str,
        usage: ModelUsage | None,
        latency: float,
        first_chunk: float | None,
    ) -> None:
        counted: Any = usage
        row = (
            invocation.id,
            attempt,
            invocation.tenant,
            created_at,
            invocation.provider,
            invocation.model,
            invocation.model_type.value,
            invocation.credential,
            invocation.user,
            status,
            getattr(counted, "prompt_tokens", None) or getattr(counted, "tokens", 0),
            getattr(counted, "completion_tokens", 0),
            getattr(counted, "characters", 0),
            float(getattr(counted, "seconds", 0.0)),
            int(usage.estimated) if usage else 0,
            _price(usage),
            usage.currency if usage else "USD",
            latency,
            first_chunk,
            getattr(counted, "cached_tokens", 0),
            getattr(counted, "cache_write_tokens", 0),
            getattr(counted, "reasoning_tokens", 0),
            usage.price_source if usage else "",
        )
        self._database.write(self._sql["add"], row)

    async def flush(self) -> None:
        """Until all rows added so far are on disk."""
        await asyncio.wrap_future(self._database.flush())

    def recent(self, tenant: str, *, most: int = 50, since: float = 0.0) -> list[UsageRow]:
        return self._rows(self._database.read(self._sql["recent"], {"tenant": tenant, "since": since, "most": most}))

    def summary(self, tenant: str, *, by: Sequence[str], since: float = 0.0) -> list[Spending]:
        """Rows added up by fields such as `provider`, `model`, `credential`, `user`; currencies stay apart."""
        rows = self._rows(self._database.read(self._sql["since"], {"tenant": tenant, "since": since}))
        return summarise(rows, by)

    @staticmethod
    def _rows(rows: Iterable[Any]) -> list[UsageRow]:
        return [msgspec.convert(dict(row), UsageRow, strict=False) for row in rows]


GROUPINGS = ("provider", "model", "model_type", "credential", "user", "status")


def summarise(rows: Iterable[UsageRow], by: Sequence[str]) -> list[Spending]:
    """Rows added up, dearest first."""
    groups: dict[tuple[str, ...], list[UsageRow]] = defaultdict(list)
    for row in rows:
        key = tuple(str(getattr(row, name) or "-") for name in by)
        groups[(*key, row.currency)].append(row)
    lines = [
        Spending(
            key=key[:-1],
            calls=len(group),
            failed=sum(row.status != "ok" for row in group),
            prompt_tokens=sum(row.prompt_tokens for row in group),
            completion_tokens=sum(row.completion_tokens for row in group),
            cost=sum((row.total_price for row in group if row.total_price is not None), Decimal(0)),
            currency=key[-1],
            unpriced=sum(row.total_price is None for row in group),
        )
        for key, group in groups.items()
    ]
    return sorted(lines, key=lambda line: (-line.cost, -line.calls, line.key))
