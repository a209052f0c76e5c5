"""One ledger row, from the intent of an attempt to the columns of the table. Pure
functions without database or clock."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from modelyard.models.llm import LLMUsage
from modelyard.models.types import ModelUsage
from modelyard.runtime.invocation import Invocation
from modelyard.storage.usage_sums import LedgerAmounts, is_answer

Columns = tuple[Any, ...]
"""A row in the order of the table's columns, which are those of UsageRow."""
_NANO = Decimal(1_000_000_000)
# The largest value that fits into a signed 64-bit column.
_MAX_NANOS = (1 << 63) - 1
_DAY = 86_400


class UsageRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A ledger row, in the order of the table's columns."""

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
    """None if the price is unknown."""
    nanos: int | None
    currency: str
    price_source: str
    price_version: str
    latency: float
    first_chunk: float | None
    asked: str = ""
    """The model that the limits count the call against, as `provider/model`."""
    app: str = ""
    session: str = ""
    project: str = ""
    tags: str = ""
    """Sorted, with commas between."""

    @property
    def estimated(self) -> bool:
        """Whether the tokens were counted by this server and not by the provider."""
        return self.counted_by != "provider"

    def as_dict(self) -> dict[str, Any]:
        """Return the row as a dictionary by column name."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class Priced(NamedTuple):
    """A cost and the source of the price."""

    total_price: Decimal | None
    currency: str
    source: str
    version: str


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that is about to be made. Its JSON form is an array, so fields may
    only be appended."""

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
    """An estimate; used if the process ends before the provider reports its count."""
    asked: str = ""
    """The model that the limits count the call against, as `provider/model`; the
    attempt may use another one."""
    app: str = ""
    """`app:ID` of the app that runs on behalf of the API key; empty if there is none.
    """
    session: str = ""
    project: str = ""
    tags: str = ""


_NANOS = UsageRow.__struct_fields__.index("nanos")


class LostUsage(NamedTuple):
    """The usage of an attempt whose process was killed before it ended."""

    prompt_tokens: int
    completion_tokens: int
    price: Priced

    @property
    def total_price(self) -> Decimal | None:
        """The cost; None if it is unknown."""
        return self.price.total_price

    @property
    def currency(self) -> str:
        """The currency of the cost."""
        return self.price.currency

    @property
    def price_source(self) -> str:
        """Where the price came from."""
        return self.price.source


def intent_of(
    invocation: Invocation, *, attempt: int, created_at: float, prompt_tokens: int = 0
) -> Intent:
    """Return the intent of an attempt. `prompt_tokens` is an estimate."""
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
        invocation.record.requested_model
        or f"{invocation.provider}/{invocation.model}",
        invocation.app,
        *invocation.attribution,
    )


def intent_like(
    template: Intent,
    invocation: Invocation,
    *,
    attempt: int,
    created_at: float,
    prompt_tokens: int,
) -> Intent:
    """Return the same as `intent_of`, for a call of the same caller to the same
    deployment as that of the template."""
    return Intent(
        invocation.id,
        attempt,
        template.tenant,
        template.api_key,
        invocation.user,
        created_at,
        template.provider,
        template.model,
        template.model_type,
        template.credential,
        template.credential_id,
        prompt_tokens,
        template.asked,
        template.app,
        # Requests of one caller may belong to different sessions.
        *invocation.attribution,
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
    """Return a row in the order of the table's columns.

    No usage means a cost of 0. Usage without a price means an unknown cost, None.
    """
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
        *_counts_of(usage),
        # Written without an exponent, which SQL would not read as a decimal.
        None if price is None else format(price, "f"),
        # Sums need integers: SQLite would add decimals that are stored as text as
        # floats.
        None if price is None else min(int(price * _NANO), _MAX_NANOS),
        usage.currency if usage else "USD",
        usage.price_source if usage else "",
        price_version,
        latency,
        first_chunk,
        intent.asked or f"{intent.provider}/{intent.model}",
        intent.app,
        intent.session,
        intent.project,
        intent.tags,
    )


def _counts_of(
    usage: "ModelUsage | LostUsage | None",
) -> tuple[int, int, int, int, int, int, float, int]:
    """Return the counts of a usage in the order of the columns, from the prompt's
    tokens to the searches."""
    if isinstance(usage, LLMUsage):
        return (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
            0,
            0.0,
            usage.searches,
        )
    # Usage types of different models have different fields; absent ones count as 0.
    usage_fields: Any = usage
    return (
        _prompt_tokens(usage_fields),
        getattr(usage_fields, "completion_tokens", 0),
        getattr(usage_fields, "cached_tokens", 0),
        getattr(usage_fields, "cache_write_tokens", 0),
        getattr(usage_fields, "reasoning_tokens", 0),
        getattr(usage_fields, "characters", 0),
        float(getattr(usage_fields, "seconds", 0.0)),
        getattr(usage_fields, "searches", 0),
    )


def tokens_of(usage: ModelUsage) -> int:
    """Return the tokens as the row's columns add up, so that limits count what the
    ledger counts."""
    if isinstance(usage, LLMUsage):
        return usage.prompt_tokens + usage.completion_tokens
    usage_fields: Any = usage
    return _prompt_tokens(usage_fields) + getattr(usage_fields, "completion_tokens", 0)


def _prompt_tokens(usage_fields: Any) -> int:
    """Return the prompt tokens, called `tokens` in the usage of embeddings."""
    return getattr(usage_fields, "prompt_tokens", None) or getattr(
        usage_fields, "tokens", 0
    )


def usage_booking(row: Sequence[Any]) -> LedgerAmounts:
    """Return what the usage sums need of a row. Answers from the cache count no tokens."""
    # The order is that of the table's columns. Unpacking costs less than an object for
    # each row, and there are millions of them.
    (
        id_,
        invocation,
        attempt,
        tenant,
        api_key,
        user,
        created_at,
        _,
        provider,
        model,
        _,
        credential,
        _,
        status,
        _,
        went_in,
        came_out,
        *_,
        first_chunk,
        requested_model,
        app,
        _,
        _,
        _,
    ) = row
    is_cached = status == "cached"
    return LedgerAmounts(
        id_,
        invocation,
        attempt,
        tenant,
        api_key,
        user or "",
        created_at,
        requested_model,
        f"{provider}/{model}",
        f"{provider}/{credential}",
        is_answer(status, first_chunk),
        0 if is_cached else went_in + came_out,
        0 if is_cached else row[_NANOS] or 0,
        app,
    )


def row_from(row: Sequence[Any]) -> UsageRow:
    """Return a row from its columns. Raises msgspec.ValidationError if they are not
    valid."""
    columns = list(row)
    # Rows of older versions do not say which model was requested.
    if len(columns) > _ASKED and columns[_ASKED] is None:
        columns[_ASKED] = ""
    return msgspec.convert(columns, UsageRow, strict=False)


_ALL_COLUMNS = len(UsageRow.__struct_fields__)
_ASKED = UsageRow.__struct_fields__.index("asked")


def complete_columns(row: Sequence[Any]) -> Columns:
    """Return a journal row with the columns that older versions did not write: the
    requested model, the app, and what the call belongs to."""
    # The oldest format ends before the requested model, which then was the model that
    # was called.
    if len(row) <= _ASKED:
        old_row = row_from(row)
        row = [*row, f"{old_row.provider}/{old_row.model}"]
    return (*row, *("" for _ in range(_ALL_COLUMNS - len(row))))
