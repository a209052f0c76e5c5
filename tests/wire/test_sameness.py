"""The comparison of recordings detects forbidden changes within one format."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tools.show.exchanges import exchanges
from tools.show.sameness import changes, excuse
from tools.show.truth import READERS

pytestmark = pytest.mark.proof("recordings")

Spoil = Callable[[Any], Any]
FORMATS = [name for name in sorted(READERS) if name not in ("bedrock", "ollama")]
"""The formats in which the gateway answers."""


def apply_to_objects(
    body: Any, spoil: Callable[[dict[str, Any]], dict[str, Any]]
) -> Any:
    """Return the document with `spoil` applied to each of its objects."""
    if isinstance(body, dict):
        return {
            name: apply_to_objects(value, spoil) for name, value in spoil(body).items()
        }
    if isinstance(body, list):
        return [apply_to_objects(value, spoil) for value in body]
    return body


def without_fields(*names: str) -> Spoil:
    return lambda body: apply_to_objects(
        body,
        lambda fields: {
            key: fields[key] for key in fields if key not in names or not fields[key]
        },
    )


def with_field_value(value: Any, *names: str) -> Spoil:
    def spoil(fields: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value
            if key in names and not isinstance(fields[key], dict | list)
            else fields[key]
            for key in fields
        }

    return lambda body: apply_to_objects(body, spoil)


def only_first_element(*names: str) -> Spoil:
    return lambda body: apply_to_objects(
        body,
        lambda fields: {
            key: fields[key][:1] if key in names else fields[key] for key in fields
        },
    )


SPOILS: dict[str, tuple[Spoil, int]] = {
    "sources dropped": (
        without_fields(
            "annotations", "citations", "citationMetadata", "groundingMetadata"
        ),
        20,
    ),
    "places of sources shifted": (
        with_field_value(-1, "start_index", "end_index", "startIndex", "endIndex"),
        15,
    ),
    "log probabilities dropped": (
        without_fields("logprobs", "logprobsResult", "avgLogprobs"),
        5,
    ),
    "ratings and filters dropped": (
        without_fields(
            "safetyRatings", "prompt_filter_results", "content_filter_results"
        ),
        20,
    ),
    "fingerprint and tier dropped": (
        without_fields("system_fingerprint", "service_tier"),
        100,
    ),
    "other choices dropped": (only_first_element("choices", "candidates"), 2),
    "ids all the same": (
        with_field_value(
            "same", "id", "call_id", "item_id", "tool_call_id", "responseId"
        ),
        300,
    ),
    "another model": (with_field_value("other", "model", "modelVersion"), 300),
    "totals at nothing": (with_field_value(0, "total_tokens", "totalTokenCount"), 300),
    "the moment at nothing": (with_field_value(0, "created", "created_at"), 300),
    "another role": (with_field_value("user", "role"), 300),
    "bytes of a file replaced": (
        with_field_value("AAAA", "data", "result", "b64_json"),
        5,
    ),
    "unknown fields dropped": (
        without_fields(
            "x_groq", "provider", "citations", "search_results", "createTime"
        ),
        20,
    ),
}


@pytest.mark.parametrize("spoilt", SPOILS)
def test_changes_in_an_answer_are_detected(spoilt: str):
    spoil, min_count = SPOILS[spoilt]
    count = 0
    for exchange in exchanges():
        if (
            exchange.format not in FORMATS
            or exchange.is_stream
            or exchange.status != 200
        ):
            continue
        spoilt_response = spoil(exchange.response)
        if json.dumps(spoilt_response) == json.dumps(exchange.response):
            continue
        found_changes = list(changes(exchange.response, spoilt_response))
        assert any(not excuse(change, exchange.format) for change in found_changes), (
            exchange.id,
            [str(change) for change in found_changes],
        )
        count += 1
    assert count >= min_count


def test_an_unchanged_answer_has_no_changes():
    for exchange in exchanges():
        if exchange.format in FORMATS and not exchange.is_stream:
            assert not list(
                changes(exchange.response, json.loads(json.dumps(exchange.response)))
            )


@pytest.mark.parametrize(
    ("before", "after"),
    [(1, "1"), (True, 1), ("a\nb", "ab"), ([1, 2], [2, 1]), ({"a": 1}, [1])],
)
def test_a_value_of_another_type_or_order_is_a_change(before: Any, after: Any):
    assert list(changes({"x": before}, {"x": after}))
