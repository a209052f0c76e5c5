"""What is left out is named for the target that has answered, whichever it was."""

from typing import Any

import pytest

from modelyard.testing import error_answer
from tests.gateway.reported_world import HI, Play, Start, Vendors, dropped

pytestmark = pytest.mark.case("6.3")
USUAL = {"x-modelyard-cache": "off"}
WAYS = pytest.mark.parametrize("headers", [{}, USUAL], ids=["direct", "usual"])
STREAMS = pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
SMALL, CLAUDE = "openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"
# One vendor has no bias, the other model does not reason.
FIELDS: dict[str, Any] = {"logit_bias": {"1": 1}, "reasoning_effort": "low"}
LOST = {SMALL: {"reasoning_effort"}, CLAUDE: {"logit_bias"}}


@WAYS
@STREAMS
@pytest.mark.parametrize("first", LOST)
def test_the_target_that_answers_is_the_one_that_is_named(
    start_gateway: Start,
    upstream: Play,
    first: str,
    headers: dict[str, str],
    is_stream: bool,
):
    (second,) = LOST.keys() - {first}
    routes = {"r": {"targets": [first], "failover": [second]}}
    vendors = Vendors(start_gateway, upstream, "openai", "anthropic", routes=routes)
    body = {"model": "r", "messages": HI, "stream": is_stream, **FIELDS}
    for _ in range(2):
        answer = vendors.ask("/v1/chat/completions", body, headers)
        assert dropped(answer) == LOST[first]
    vendors.script = [error_answer(503)]
    answer = vendors.ask("/v1/chat/completions", body, headers)
    assert dropped(answer) == LOST[second]


@WAYS
def test_a_target_that_loses_nothing_is_named_with_nothing(
    start_gateway: Start, upstream: Play, headers: dict[str, str]
):
    routes = {"r": {"targets": [CLAUDE], "failover": ["oai/m"]}}
    vendors = Vendors(start_gateway, upstream, "anthropic", routes=routes)
    vendors.script = [error_answer(503)]
    body = {"model": "r", "messages": HI, "logit_bias": {"1": 1}}
    assert dropped(vendors.ask("/v1/chat/completions", body, headers)) == set()


def test_a_balanced_route_names_what_each_target_loses(
    start_gateway: Start, upstream: Play
):
    routes = {"r": {"targets": [SMALL, CLAUDE]}}
    vendors = Vendors(start_gateway, upstream, "openai", "anthropic", routes=routes)
    names: list[str] = []
    for _ in range(8):
        answer = vendors.chat("r", **FIELDS)
        model = next(name for name in LOST if name.endswith(vendors.sent["model"]))
        assert dropped(answer) == LOST[model]
        names.append(model)
    assert set(names) == set(LOST)


def test_a_target_that_would_lose_a_field_is_refused_if_the_caller_wants_that(
    start_gateway: Start, upstream: Play
):
    routes = {"r": {"targets": ["oai/m"], "failover": [CLAUDE]}}
    vendors = Vendors(start_gateway, upstream, "anthropic", routes=routes)
    vendors.script = [error_answer(503)]
    body = {"model": "r", "messages": HI, "logit_bias": {"1": 1}}
    headers = {"x-modelyard-unsupported": "refuse"}
    answer = vendors.post("/v1/chat/completions", body, headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "logit_bias"
    assert len(vendors.upstream.requests) == 1
