"""The proof on recordings sees what a gateway must not do to an answer in its own format."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tools.show.exchanges import exchanges
from tools.show.sameness import changes, excuse
from tools.show.truth import READERS

Spoil = Callable[[Any], Any]
FORMATS = [name for name in sorted(READERS) if name not in ("bedrock", "ollama")]
"""Those that the gateway answers in."""


def everywhere(body: Any, spoil: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The document with each of its objects spoilt."""
    if isinstance(body, dict):
        return {name: everywhere(value, spoil) for name, value in spoil(body).items()}
    if isinstance(body, list):
        return [everywhere(value, spoil) for value in body]
    return body


def dropped(*names: str) -> Spoil:
    return lambda body: everywhere(body, lambda one: {key: one[key] for key in one if key not in names or not one[key]})


def replaced(value: Any, *names: str) -> Spoil:
    def spoil(one: dict[str, Any]) -> dict[str, Any]:
        return {key: value if key in names and not isinstance(one[key], dict | list) else one[key] for key in one}

    return lambda body: everywhere(body, spoil)


def only_the_first(*names: str) -> Spoil:
    return lambda body: everywhere(body, lambda one: {key: one[key][:1] if key in names else one[key] for key in one})


SPOILS: dict[str, tuple[Spoil, int]] = {
    "sources dropped": (dropped("annotations", "citations", "citationMetadata", "groundingMetadata"), 20),
    "places of sources shifted": (replaced(-1, "start_index", "end_index", "startIndex", "endIndex"), 15),
    "log probabilities dropped": (dropped("logprobs", "logprobsResult", "avgLogprobs"), 5),
    "ratings and filters dropped": (dropped("safetyRatings", "prompt_filter_results", "content_filter_results"), 20),
    "fingerprint and tier dropped": (dropped("system_fingerprint", "service_tier"), 100),
    "other choices dropped": (only_the_first("choices", "candidates"), 2),
    "ids all the same": (replaced("same", "id", "call_id", "item_id", "tool_call_id", "responseId"), 300),
    "another model": (replaced("other", "model", "modelVersion"), 300),
    "totals at nothing": (replaced(0, "total_tokens", "totalTokenCount"), 300),
    "the moment at nothing": (replaced(0, "created", "created_at"), 300),
    "another role": (replaced("user", "role"), 300),
    "bytes of a file replaced": (replaced("AAAA", "data", "result", "b64_json"), 5),
    "unknown fields dropped": (dropped("x_groq", "provider", "citations", "search_results", "createTime"), 20),
}


@pytest.mark.parametrize("spoilt", SPOILS)
def test_what_is_spoilt_in_an_answer_is_seen(spoilt: str):
    spoil, least = SPOILS[spoilt]
    count = 0
    for one in exchanges():
        if one.format not in FORMATS or one.is_stream or one.status != 200:
            continue
        after = spoil(one.response)
        if json.dumps(after) == json.dumps(one.response):
            continue
        seen = list(changes(one.response, after))
        assert any(not excuse(change, one.format) for change in seen), (one.id, [str(change) for change in seen])
        count += 1
    assert count >= least


def test_an_answer_as_it_was_is_the_same():
    for one in exchanges():
        if one.format in FORMATS and not one.is_stream:
            assert not list(changes(one.response, json.loads(json.dumps(one.response))))


@pytest.mark.parametrize(("before", "after"), [(1, "1"), (True, 1), ("a\nb", "ab"), ([1, 2], [2, 1]), ({"a": 1}, [1])])
def test_a_value_of_another_type_or_order_is_a_change(before: Any, after: Any):
    assert list(changes({"x": before}, {"x": after}))
