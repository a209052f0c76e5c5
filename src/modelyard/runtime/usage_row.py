"""One row of the ledger, from what was about to be called to the table's columns. Pure: no database, no clock."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from modelyard.models.types import ModelUsage
from modelyard.runtime.invocation import Invocation
from modelyard.storage.usage_sums import Booked, is_answer

Columns = tuple[Any, ...]
"""A row in the order of the table's columns: those of UsageRow, what was asked for, and the app."""
_NANO = Decimal(1_000_000_000)
_MOST_NANOS = (1 << 63) - 1
_DAY = 86_400


class UsageRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """In the order of the table's columns; the last two, what was asked for and the app that ran on
    behalf of the key, are the limits' alone."""

    id: str
    invocation: str
    attempt: int
    tenant: str
    api_key: str
    user: str | None
    created_at: float
    day: int
    provider: str
    model: str
    model_type: str
    credential: str
    credential_id: str
    status: str
    counted_by: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    characters: int
    seconds: float
    searches: int
    total_price: Decimal | None
    """None where nobody knows the price."""
    nanos: int | None
    currency: str
    price_source: str
    price_version: str
    latency: float
    first_chunk: float | None

    @property
    def estimated(self) -> bool:
        return self.counted_by != "provider"

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__struct_fields__}


class Priced(NamedTuple):
    """What something costs, and who says so."""

    total_price: Decimal | None
    currency: str
    source: str
    version: str


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that is about to be made."""

    invocation: str
    attempt: int
    tenant: str
    api_key: str
    user: str | None
    created_at: float
    provider: str
    model: str
    model_type: str
    credential: str
    credential_id: str
    prompt_tokens: int
    """About; for the row that is written where the process ends before the provider has counted."""
    asked: str = ""
    """The model that the call's limits know it by, as `provider/model`; the attempt may be made with another."""
    app: str = ""
    """`app:ID` of the app that runs on behalf of the API key; empty where none does."""


_NANOS = UsageRow.__struct_fields__.index("nanos")


class LostUsage(NamedTuple):
    """The usage of an attempt that nobody saw the end of."""

    prompt_tokens: int
    completion_tokens: int
    price: Priced

    @property
    def total_price(self) -> Decimal | None:
        return self.price.total_price

    @property
    def currency(self) -> str:
        return self.price.currency

    @property
    def price_source(self) -> str:
        return self.price.source


def intent_of(invocation: Invocation, *, attempt: int, created_at: float, prompt_tokens: int = 0) -> Intent:
    """An attempt of a call; `prompt_tokens` about."""
    return Intent(
        invocation.id,
        attempt,
        invocation.tenant,
        invocation.api_key,
        invocation.user,
        created_at,
        invocation.provider,
        invocation.model,
        invocation.model_type.value,
        invocation.credential,
        invocation.credential_id,
        prompt_tokens,
        invocation.record.asked or f"{invocation.provider}/{invocation.model}",
        invocation.app,
    )


def row_of(
    intent: Intent,
    status: str,
    usage: "ModelUsage | LostUsage | None",
    counted_by: str,
    price_version: str,
    latency: float,
    first_chunk: float | None,
) -> Columns:
    """In the order of the table's columns. Nothing was used: nothing is owed. Something was, at an unknown price:
    nobody knows."""
    counted: Any = usage
    price = Decimal(0) if usage is None else usage.total_price
    return (
        f"{intent.invocation}.{intent.attempt}",
        intent.invocation,
        intent.attempt,
        intent.tenant,
        intent.api_key,
        intent.user,
        intent.created_at,
        int(intent.created_at // _DAY),
        intent.provider,
        intent.model,
        intent.model_type,
        intent.credential,
        intent.credential_id,
        status,
        counted_by,
        _went_in(counted),
        getattr(counted, "completion_tokens", 0),
        getattr(counted, "cached_tokens", 0),
        getattr(counted, "cache_write_tokens", 0),
        getattr(counted, "reasoning_tokens", 0),
        getattr(counted, "characters", 0),
        float(getattr(counted, "seconds", 0.0)),
        getattr(counted, "searches", 0),
        None if price is None else format(price, "f"),
        None if price is None else min(int(price * _NANO), _MOST_NANOS),
        usage.currency if usage else "USD",
        usage.price_source if usage else "",
        price_version,
        latency,
        first_chunk,
        intent.asked or f"{intent.provider}/{intent.model}",
        intent.app,
    )


def tokens_of(usage: ModelUsage) -> int:
    """As the row's columns add up to: limits count what the ledger counts."""
    counted: Any = usage
    return _went_in(counted) + getattr(counted, "completion_tokens", 0)


def _went_in(counted: Any) -> int:
    return getattr(counted, "prompt_tokens", None) or getattr(counted, "tokens", 0)


def booked(row: Sequence[Any]) -> Booked:
    """What the sums take of a row; an answer from the cache took no tokens of any limit."""
    (
        id_, invocation, attempt, tenant, api_key, user, created_at, _, provider, model, _, credential, _, status, _,
        went_in, came_out, *_, first_chunk, asked, app,
    ) = row  # fmt: skip
    is_cached = status == "cached"
    return Booked(
        id_, invocation, attempt, tenant, api_key, user or "", created_at, asked, f"{provider}/{model}",
        f"{provider}/{credential}", is_answer(status, first_chunk), 0 if is_cached else went_in + came_out,
        0 if is_cached else row[_NANOS] or 0, app,
    )  # fmt: skip


def row_from(row: Sequence[Any]) -> UsageRow:
    """Raises msgspec.ValidationError for columns that are no row's."""
    return msgspec.convert(list(row), UsageRow, strict=False)


def whole_columns(row: Sequence[Any]) -> Columns:
    """A row of a journal, with the columns that versions before did not write: what was asked for, and the app."""
    known = len(UsageRow.__struct_fields__)
    if len(row) <= known:
        before = row_from(row)
        row = [*row, f"{before.provider}/{before.model}"]
    return (*row, "") if len(row) == known + 1 else tuple(row)
