"""The columns of ledger rows, and what of them counts for limits."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from modelyard.models.embedding import EmbeddingUsage
from modelyard.models.llm import LLMUsage
from modelyard.models.rerank import RerankUsage
from modelyard.models.speech2text import Speech2TextUsage
from modelyard.models.tts import TTSUsage
from modelyard.models.types import ModelType, ModelUsage
from modelyard.runtime.attribution import Attribution
from modelyard.runtime.call_trace import CallTrace
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.usage_row import (
    Intent,
    LostUsage,
    Priced,
    UsageRow,
    complete_columns,
    intent_like,
    intent_of,
    row_from,
    row_of,
    tokens_of,
    usage_booking,
)
from modelyard.storage.usage_sums import LedgerAmounts
from modelyard.tenancy.caller import Caller

D = Decimal
CREATED_AT = 3 * 86_400 + 7.5
INTENT = Intent(
    "call", 2, "t", "k1", "alice", CREATED_AT, "p", "big", "llm", "main", "c1", 40,
    "p/asked", "app:7",
)  # fmt: skip
IDENTITY = (
    "call.2", "call", 2, "t", "k1", "alice", CREATED_AT, 3, "p", "big", "llm",
    "main", "c1",
)  # fmt: skip
COUNTS = (
    "prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens",
    "reasoning_tokens", "characters", "seconds", "searches",
)  # fmt: skip


def columns(
    usage: Any = None, status: str = "ok", first_chunk: float | None = 0.5
) -> tuple[Any, ...]:
    return row_of(INTENT, status, usage, "provider", "v1", 2.5, first_chunk)


def counts(usage: ModelUsage) -> dict[str, float]:
    """The counts of a row that are not 0."""
    row = row_from(columns(usage)[:30])
    return {name: getattr(row, name) for name in COUNTS if getattr(row, name)}


def new_call(**fields: Any) -> Invocation:
    """Return the call of INTENT."""
    trace = CallTrace()
    trace.requested_model = "p/asked"
    defaults: dict[str, Any] = {
        "id": "call", "tenant": "t", "provider": "p", "model": "big",
        "model_type": ModelType.LLM, "request": None, "credential": "main",
        "credential_id": "c1", "user": "alice", "record": trace,
        "caller": Caller(tenant="t", key="k1", app="app:7"),
    }  # fmt: skip
    return Invocation(**defaults | fields)


def test_an_intent_has_what_is_known_before_the_call():
    invocation = new_call()
    intent = intent_of(invocation, attempt=2, created_at=CREATED_AT, prompt_tokens=40)
    assert intent == INTENT
    invocation.record.requested_model = ""
    intent = intent_of(invocation, attempt=2, created_at=CREATED_AT)
    assert (intent.asked, intent.prompt_tokens) == ("p/big", 0)


def test_an_intent_says_what_the_call_belongs_to():
    invocation = new_call(attribution=Attribution("s1", "blue", "a,b"))
    intent = intent_of(invocation, attempt=2, created_at=CREATED_AT)
    assert (intent.session, intent.project, intent.tags) == ("s1", "blue", "a,b")
    row = row_of(intent, "ok", None, "", "", 0.0, None)
    assert row[-3:] == ("s1", "blue", "a,b")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        # What differs from call to call of one caller.
        {"id": "next", "user": None, "attribution": Attribution("s2", "red", "c")},
    ],
)
def test_an_intent_by_a_template_is_that_of_the_call(fields: dict[str, Any]):
    first = new_call(attribution=Attribution("s1", "blue", "a,b"))
    template = intent_of(first, attempt=1, created_at=0.0)
    invocation = new_call(**fields)
    details: dict[str, Any] = {
        "attempt": 2,
        "created_at": CREATED_AT,
        "prompt_tokens": 40,
    }
    assert intent_like(template, invocation, **details) == intent_of(
        invocation, **details
    )


def test_a_row_has_all_counts_of_a_chat():
    usage = LLMUsage.of(
        10, 20, cached_tokens=4, cache_write_tokens=3, reasoning_tokens=5, searches=6,
        total_price=D("0.25"), currency="EUR", price_source="list",
    )  # fmt: skip
    assert columns(usage) == (
        *IDENTITY, "ok", "provider", 10, 20, 4, 3, 5, 0, 0.0, 6, "0.25", 250_000_000,
        "EUR", "list", "v1", 2.5, 0.5, "p/asked", "app:7", "", "", "",
    )  # fmt: skip


def test_a_row_without_usage_costs_nothing():
    assert columns(None, "cancelled", None) == (
        *IDENTITY, "cancelled", "provider", 0, 0, 0, 0, 0, 0, 0.0, 0, "0", 0,
        "USD", "", "v1", 2.5, None, "p/asked", "app:7", "", "", "",
    )  # fmt: skip


def test_usage_without_a_price_has_an_unknown_cost():
    row = row_from(columns(LLMUsage.of(1, 2))[:30])
    assert (row.total_price, row.nanos, row.price_source) == (None, None, "")


def test_an_attempt_without_a_requested_model_counts_for_its_own():
    intent = msgspec.structs.replace(INTENT, asked="", app="")
    row = row_of(intent, "ok", None, "", "", 0.0, None)
    assert row[30:] == ("p/big", "", "", "", "")


def test_a_chat_counts_with_its_prompt_and_its_answer():
    assert tokens_of(LLMUsage.of(10, 20)) == 30


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (EmbeddingUsage(tokens=7, total_tokens=9), {"prompt_tokens": 7}),
        (RerankUsage(tokens=7, searches=2), {"prompt_tokens": 7, "searches": 2}),
        (TTSUsage(characters=9), {"characters": 9}),
        (
            Speech2TextUsage(seconds=1.5, prompt_tokens=3, completion_tokens=4),
            {"seconds": 1.5, "prompt_tokens": 3, "completion_tokens": 4},
        ),
    ],
)
def test_each_type_of_usage_has_its_columns(
    usage: ModelUsage, expected: dict[str, float]
):
    assert counts(usage) == expected
    tokens = expected.get("prompt_tokens", 0) + expected.get("completion_tokens", 0)
    assert tokens_of(usage) == tokens


def test_usage_of_a_killed_process_has_its_price():
    usage = LostUsage(11, 12, Priced(D("0.5"), "EUR", "list", "v2"))
    assert counts(usage) == {"prompt_tokens": 11, "completion_tokens": 12}  # type: ignore[arg-type]
    row = row_from(columns(usage)[:30])
    assert (row.total_price, row.currency) == (D("0.5"), "EUR")
    assert row.price_source == "list"


@pytest.mark.parametrize(
    ("price", "text", "nanos"),
    [
        ("1E-7", "0.0000001", 100),
        ("0.0000000019", "0.0000000019", 1),
        ("1E+3", "1000", 10**12),
        ("1E+11", "100000000000", (1 << 63) - 1),
        ("0", "0", 0),
    ],
)
def test_prices_are_written_in_full_and_as_billionths(
    price: str, text: str, nanos: int
):
    row = columns(LLMUsage.of(1, 2, total_price=D(price)))
    assert (row[23], row[24]) == (text, nanos)


def test_a_row_knows_who_counted_it():
    row = row_from(columns()[:30])
    assert not row.estimated
    assert msgspec.structs.replace(row, counted_by="estimate").estimated
    assert row.as_dict()["created_at"] == CREATED_AT
    assert list(row.as_dict()) == list(UsageRow.__struct_fields__)


def test_columns_of_a_database_are_read_as_a_row():
    stored = list(columns(LLMUsage.of(1, 2, total_price=D("0.25")))[:30])
    stored[2] = "2"
    assert row_from(stored).attempt == 2
    assert row_from(stored).total_price == D("0.25")
    with pytest.raises(msgspec.ValidationError):
        row_from(["call.2", "call", "many"])


# What counts for limits.


def test_a_row_counts_with_its_tokens_and_its_cost():
    usage = LLMUsage.of(10, 20, total_price=D("0.25"))
    assert usage_booking(columns(usage)) == LedgerAmounts(
        "call.2", "call", 2, "t", "k1", "alice", CREATED_AT, "p/asked", "p/big",
        "p/main", is_answer=True, tokens=30, nanos=250_000_000, app="app:7",
    )  # fmt: skip


def test_an_unknown_cost_and_no_user_count_as_nothing():
    row = list(columns(LLMUsage.of(10, 20)))
    row[5] = None
    booking = usage_booking(row)
    assert (booking.user, booking.tokens, booking.nanos) == ("", 30, 0)


def test_answers_from_the_cache_use_nothing():
    usage = LLMUsage.of(10, 20, total_price=D("0.25"))
    booking = usage_booking(columns(usage, "cached"))
    assert (booking.tokens, booking.nanos, booking.is_answer) == (0, 0, True)


@pytest.mark.parametrize(
    ("status", "first_chunk", "expected"),
    [
        ("ok", None, True),
        ("lost", None, True),
        ("cached", None, True),
        ("cancelled", None, False),
        ("cancelled", 0.0, True),
        ("upstream_timeout", 1.5, True),
    ],
)
def test_the_start_of_an_answer_is_an_answer(
    status: str, first_chunk: float | None, *, expected: bool
):
    assert usage_booking(columns(None, status, first_chunk)).is_answer is expected


# Rows of older versions.


def test_older_rows_are_completed():
    row = columns()
    assert complete_columns(list(row)) == row
    assert complete_columns(row[:32]) == (*row[:32], "", "", "")
    assert complete_columns(row[:31]) == (*row[:31], "", "", "", "")
    assert complete_columns(row[:30]) == (*row[:30], "p/big", "", "", "", "")
    with pytest.raises(msgspec.ValidationError):
        complete_columns(row[:20])
