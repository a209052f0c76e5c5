"""What a provider's error means arrives at the caller in words on which its client acts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelyard.testing import Answer, json_answer
from tests.gateway.error_world import (
    DIRECT,
    USUAL,
    Play,
    Start,
    World,
    anthropic_error,
    event,
    gemini_error,
    openai_error,
    stream,
)

DATA = Path(__file__).parents[1] / "data" / "provider_errors.yaml"
RECORDINGS: list[dict[str, Any]] = yaml.safe_load(DATA.read_text("utf-8"))
OVERFLOWS = [
    recording
    for recording in RECORDINGS
    if recording["error"] == "ContextTooLongError"
    and isinstance(recording["body"], dict)
    and "aws_type" not in recording
]
NAMES = [recording["name"] for recording in OVERFLOWS]


@pytest.fixture
def world(start_gateway: Start, upstream: Play) -> World:
    return World(start_gateway, upstream)


def recorded(recording: dict[str, Any]) -> Answer:
    return json_answer(recording["body"], status=recording["status"])


@pytest.mark.case("6.1")
@pytest.mark.parametrize("headers", [DIRECT, USUAL], ids=["direct", "usual"])
def test_an_overflow_has_one_code_and_is_not_repeated(
    world: World, headers: dict[str, str]
):
    for recording in OVERFLOWS:
        world.upstream.requests.clear()
        for call in (world.chat, world.responses):
            world.script = [recorded(recording)]
            reply = call("oai/m", headers)
            error = reply.json["error"]
            assert (reply.status, error["code"]) == (400, "context_length_exceeded")
            assert error["type"] == "invalid_request_error"
            assert not error["message"].startswith("[")
            assert reply.headers["x-modelyard-provider"] == "oai"
        assert len(world.upstream.requests) == 2
    assert (world.direct_calls > 0) == (headers is DIRECT)


@pytest.mark.case("6.1")
@pytest.mark.parametrize("headers", [DIRECT, USUAL], ids=["direct", "usual"])
def test_an_overflow_is_told_to_messages_callers_in_anthropics_words(
    world: World, headers: dict[str, str]
):
    for recording in OVERFLOWS:
        world.script = [recorded(recording)]
        reply = world.messages("oai/m", headers)
        assert reply.status == 400
        assert reply.json["error"]["type"] == "invalid_request_error"
        message = reply.json["error"]["message"]
        tokens, output, limit = recording["tokens"]
        if tokens and output and limit and tokens <= limit:
            assert message == (
                "input length and `max_tokens` exceed context limit:"
                f" {tokens} + {output} > {limit}, decrease input length or `max_tokens`"
                " and try again"
            )
        elif tokens and limit:
            assert message == f"prompt is too long: {tokens} tokens > {limit} maximum"
        else:
            assert message.startswith("prompt is too long")


OWN_OVERFLOWS = {
    "oai": "OpenAI chat",
    "ant": "Anthropic",
    "gem": "Gemini",
    "rsp": "OpenAI responses",
}


@pytest.mark.case("6.1")
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("headers", [DIRECT, USUAL], ids=["direct", "usual"])
@pytest.mark.parametrize("provider", OWN_OVERFLOWS)
def test_an_overflow_of_each_vendor_is_told_in_each_format(
    world: World, provider: str, headers: dict[str, str], is_stream: bool
):
    name = OWN_OVERFLOWS[provider]
    recording = next(each for each in OVERFLOWS if each["name"] == name)
    model, answer = f"{provider}/m", recorded(recording)
    for call in (world.chat, world.responses):
        world.script = [answer]
        reply = call(model, headers, stream=is_stream)
        assert (reply.status, reply.json["error"]["code"]) == (
            400,
            "context_length_exceeded",
        )
    world.script = [answer]
    error = world.messages(model, headers, stream=is_stream).json["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith("prompt is too long")
    world.script = [answer]
    error = world.gemini(model, headers, is_stream=is_stream).json["error"]
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    assert error["message"].startswith("The input token count")
    world.script = [answer]
    document = {"model": model, "stream": is_stream, "messages": HELLO}
    reply = world.call("/v2/chat", document, headers)
    assert reply.status == 400
    assert not reply.json["message"].startswith("[")
    assert len(world.upstream.requests) == 5


HELLO = [{"role": "user", "content": "hi"}]


def test_an_overflow_of_a_completion_has_the_code(world: World):
    world.script = [recorded(OVERFLOWS[0])]
    reply = world.call("/v1/completions", {"model": "oai/m", "prompt": "hi"})
    assert (reply.status, reply.json["error"]["code"]) == (
        400,
        "context_length_exceeded",
    )


def test_an_overflow_is_told_to_gemini_callers_in_googles_words(world: World):
    for recording in OVERFLOWS:
        world.script = [recorded(recording)]
        error = world.gemini("oai/m").json["error"]
        assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
        assert error["message"].startswith("The input token count")
    world.script = [recorded(OVERFLOWS[0])]
    assert world.gemini("oai/m").json["error"]["message"] == (
        "The input token count (9000) exceeds the maximum number of tokens allowed"
        " (8192)."
    )


def test_an_overflow_inside_a_successful_answer_is_one(world: World):
    body = {
        "error": {
            "code": 400,
            "message": "the request exceeds the available context size",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 9000,
            "n_ctx": 8192,
        }
    }
    bare = {
        "object": "error",
        "message": "This model's maximum context length is 8192 tokens. However, you"
        " requested 9000 tokens.",
        "type": "BadRequestError",
        "code": 400,
    }
    for document in (body, bare):
        for is_stream in (False, True):
            world.script = [json_answer(document)]
            reply = world.chat("oai/m", stream=is_stream)
            assert reply.status == 400
            assert reply.json["error"]["code"] == "context_length_exceeded"
            world.script = [json_answer(document)]
            message = world.messages("oai/m", stream=is_stream).json["error"]["message"]
            assert message == "prompt is too long: 9000 tokens > 8192 maximum"


@pytest.mark.case("6.2")
def test_a_long_text_keeps_its_code_and_field(world: World):
    message = (
        "Invalid 'user': string too long. Expected a string with maximum length 64, but"
        " got a string with length 150 instead."
    )
    world.script = [openai_error(message, code="string_above_max_length", param="user")]
    reply = world.chat("oai/m")
    assert reply.status == 400
    assert reply.json["error"] == {
        "message": message,
        "type": "invalid_request_error",
        "param": "user",
        "code": "string_above_max_length",
    }


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (400, {"code": None, "param": "tool_choice"}),
        (400, {"code": "array_above_max_length", "param": "tools"}),
        (422, {"code": "odd", "type": "odd_error"}),
        (404, {"code": None, "param": "input"}),
    ],
)
@pytest.mark.parametrize("headers", [DIRECT, USUAL], ids=["direct", "usual"])
def test_an_error_of_the_same_format_comes_through(
    world: World, headers: dict[str, str], status: int, fields: dict[str, Any]
):
    world.script = [openai_error("Too many of them", status=status, **fields)]
    reply = world.chat("oai/m", headers)
    assert reply.status == status
    expected = {"type": "invalid_request_error", "param": None, **fields}
    assert reply.json["error"] == {"message": "Too many of them", **expected}


def test_an_error_of_anthropic_comes_through(world: World):
    for status, error_type in (
        (400, "invalid_request_error"),
        (413, "request_too_large"),
        (409, "conflict_error"),
        (429, "rate_limit_error"),
        (529, "overloaded_error"),
    ):
        world.script = [anthropic_error(status, error_type, "The words")]
        reply = world.messages("ant/m")
        assert reply.status == status
        assert reply.json["error"] == {"type": error_type, "message": "The words"}


def test_a_failure_of_the_same_format_keeps_its_status_and_type(world: World):
    for status, error_type in ((500, "api_error"), (504, "timeout_error")):
        world.script = [anthropic_error(status, error_type, "The words")]
        reply = world.messages("ant/m")
        assert reply.status == status
        assert reply.json["error"] == {"type": error_type, "message": "The words"}
    world.script = [gemini_error(500, "INTERNAL", "The words")]
    reply = world.gemini("gem/m")
    assert reply.status == 500
    assert reply.json["error"]["status"] == "INTERNAL"


def test_a_failure_is_told_in_the_callers_format(world: World):
    failure = anthropic_error(529, "overloaded_error", "Overloaded")
    world.script = [failure]
    reply = world.chat("ant/m")
    assert reply.status == 503
    assert reply.json["error"]["code"] == "upstream_unavailable"
    world.script = [failure]
    assert world.gemini("ant/m").json["error"]["status"] == "UNAVAILABLE"
    world.script = [openai_error("Overloaded", status=503, type="server_error")]
    reply = world.messages("oai/m")
    assert reply.json["error"]["type"] == "overloaded_error"


def test_an_error_of_google_comes_through(world: World):
    world.script = [gemini_error(400, "FAILED_PRECONDITION", "The words")]
    reply = world.gemini("gem/m")
    assert reply.json["error"] == {
        "code": 400,
        "message": "The words",
        "status": "FAILED_PRECONDITION",
    }


def test_a_refused_key_is_not_the_callers(world: World):
    world.script = [
        openai_error("Incorrect API key", status=401, code="invalid_api_key")
    ]
    reply = world.chat("oai/m")
    assert reply.status == 502
    assert reply.json["error"]["code"] == "upstream_authorization"


MISSING_MODELS = {
    "oai": openai_error("The model `x` is gone", status=404, code="model_not_found"),
    "ant": anthropic_error(404, "not_found_error", "model: claude-3-5-sonnet-20240620"),
    "gem": gemini_error(404, "NOT_FOUND", "models/x is not found for API version v1"),
    "rsp": json_answer(
        {"error": {"message": "No endpoints found for x.", "code": 404}}, status=404
    ),
}


@pytest.mark.case("6.3")
@pytest.mark.parametrize("provider", MISSING_MODELS)
def test_a_missing_model_is_named_in_every_format(world: World, provider: str):
    model, answer = f"{provider}/m", MISSING_MODELS[provider]
    for call in (world.chat, world.responses):
        world.script = [answer]
        reply = call(model)
        assert reply.status == 404
        assert reply.json["error"]["code"] == "model_not_found"
    world.script = [answer]
    reply = world.messages(model)
    assert (reply.status, reply.json["error"]["type"]) == (404, "not_found_error")
    world.script = [answer]
    reply = world.gemini(model)
    assert (reply.status, reply.json["error"]["status"]) == (404, "NOT_FOUND")


@pytest.mark.case("6.3")
@pytest.mark.parametrize("provider", MISSING_MODELS)
@pytest.mark.parametrize("headers", [DIRECT, USUAL], ids=["direct", "usual"])
def test_a_missing_model_fails_over(
    start_gateway: Start, upstream: Play, provider: str, headers: dict[str, str]
):
    routes = {"r": {"targets": [f"{provider}/gone"], "failover": ["oai/good"]}}
    world = World(start_gateway, upstream, routes=routes)
    for _ in range(2):
        world.script = [MISSING_MODELS[provider]]
        reply = world.chat("r", headers)
        assert reply.status == 200
        assert reply.json["choices"][0]["message"]["content"] == "hello"
    models = [request.json.get("model") for request in world.upstream.requests]
    assert models[-1] == "good"
    assert len(models) == 4


@pytest.mark.case("6.3")
@pytest.mark.parametrize("headers", [DIRECT, USUAL], ids=["direct", "usual"])
def test_a_wrong_address_is_the_operators_error(world: World, headers: dict[str, str]):
    for answer in (
        json_answer({"detail": "Not Found"}, status=404),
        Answer(status=404, body=b"<html>no</html>"),
        Answer(status=404),
    ):
        world.script = [answer] * 5
        reply = world.chat("oai/m", headers)
        assert reply.status == 502
        error = reply.json["error"]
        assert error["code"] == "upstream_endpoint_not_found"
        assert "check the base URL" in error["message"]
        world.script.clear()


def test_waits_reach_the_caller(world: World):
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37.5s"}
    error = {"code": 429, "message": "Slow", "status": "RESOURCE_EXHAUSTED"}
    world.script = [json_answer({"error": {**error, "details": [info]}}, status=429)]
    reply = world.gemini("gem/m")
    assert reply.status == 429
    assert reply.headers["retry-after"] == "38"
    assert reply.headers["retry-after-ms"] == "37500"
    assert reply.json["error"]["details"] == [info]


def test_details_of_a_limit_reach_googles_clients(world: World):
    quota = {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}],
    }
    account = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "metadata": {"consumer": "projects/1"},
    }
    error = {"code": 429, "message": "Slow", "status": "RESOURCE_EXHAUSTED"}
    body = {"error": {**error, "details": [account, quota]}}
    world.script = [json_answer(body, status=429)]
    assert world.gemini("gem/m").json["error"]["details"] == [quota]


def test_a_wait_of_another_vendor_is_told_to_googles_clients(world: World):
    body = {"error": {"message": "Slow", "type": "rate_limit_error"}}
    world.script = [json_answer(body, status=429, retry_after_ms="2500")]
    reply = world.gemini("oai/m")
    assert reply.json["error"]["details"] == [
        {
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": "2.5s",
        }
    ]


def test_a_wait_in_words_reaches_the_caller_and_rests_the_model(
    start_gateway: Start, upstream: Play
):
    world = World(start_gateway, upstream, keys="ab")
    words = "Rate limit reached. Please try again in 6m0.5s."
    world.script = [openai_error(words, status=429, code="rate_limit_exceeded")] * 2
    reply = world.chat("oai/m")
    assert reply.status == 429
    assert reply.headers["retry-after"] == "361"
    # Both credentials are in cooldown, so the provider is not asked again.
    assert world.chat("oai/m").status == 503
    assert len(world.upstream.requests) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, "7"),
        ({"retry_after_ms": "2500"}, "3"),
        (
            {
                "x_ratelimit_remaining_requests": "0",
                "x_ratelimit_reset_requests": "1m5s",
            },
            "65",
        ),
    ],
)
def test_waits_of_headers_reach_the_caller(
    start_gateway: Start, upstream: Play, headers: dict[str, str], seconds: str
):
    world = World(start_gateway, upstream)
    body = {"error": {"message": "Slow", "type": "rate_limit_error"}}
    world.script = [json_answer(body, status=429, **headers)]
    assert world.chat("oai/m").headers["retry-after"] == seconds


def test_an_exhausted_quota_rests_the_key_and_not_only_the_model(
    start_gateway: Start, upstream: Play
):
    world = World(start_gateway, upstream, keys="ab")
    quota = openai_error(
        "You exceeded your current quota", status=429, code="insufficient_quota"
    )
    world.script = [quota]
    assert world.chat("oai/m").status == 200
    first, second = (request.key for request in world.upstream.requests)
    assert first != second
    # Other models use the same account.
    for _ in range(4):
        assert world.chat("oai/other").status == 200
        assert world.upstream.requests[-1].key == second


def test_an_exhausted_quota_reaches_the_caller(world: World):
    world.script = [
        json_answer(
            {"error": {"message": "Insufficient Balance", "type": "unknown_error"}},
            status=402,
        )
    ]
    reply = world.chat("oai/m")
    assert reply.status == 429
    assert reply.json["error"]["code"] == "insufficient_quota"
    assert reply.json["error"]["type"] == "insufficient_quota"
    message = "Your credit balance is too low to access the Anthropic API."
    world.script = [anthropic_error(400, "invalid_request_error", message)]
    reply = world.messages("ant/m")
    assert (reply.status, reply.json["error"]["message"]) == (400, message)


@pytest.mark.case("6.1")
def test_an_overflow_goes_on_with_another_target_of_a_route(
    start_gateway: Start, upstream: Play
):
    routes = {"r": {"targets": ["oai/small", "oai/large"]}}
    world = World(start_gateway, upstream, keys="ab", routes=routes)
    overflow = openai_error("Too long", code="context_length_exceeded")
    for headers in (DIRECT, USUAL):
        for _ in range(3):
            world.upstream.requests.clear()
            world.script = [overflow]
            assert world.chat("r", headers).status == 200
            models = [request.json["model"] for request in world.upstream.requests]
            assert sorted(models) == ["large", "small"]


def test_a_malformed_tool_call_is_tried_again(start_gateway: Start, upstream: Play):
    world = World(start_gateway, upstream, retries=1)
    failed = openai_error("Failed to call a function", code="tool_use_failed")
    world.script = [failed]
    assert world.chat("oai/m").status == 200
    world.script = [failed, failed]
    reply = world.chat("oai/m")
    assert (reply.status, reply.json["error"]["code"]) == (502, "malformed_tool_call")


MALFORMED = {
    "candidates": [
        {
            "content": {},
            "finishReason": "MALFORMED_FUNCTION_CALL",
            "finishMessage": "Malformed function call: print(f(",
            "index": 0,
        }
    ],
    "usageMetadata": {"promptTokenCount": 3},
}


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_a_malformed_call_of_gemini_is_tried_again(
    start_gateway: Start, upstream: Play, is_stream: bool
):
    world = World(start_gateway, upstream, retries=1)
    answer = stream([event(MALFORMED)]) if is_stream else json_answer(MALFORMED)
    good = {"candidates": [{**TEXT_CANDIDATE, "finishReason": "STOP"}]}
    answered = stream([event(good)]) if is_stream else json_answer(good)
    world.script = [answer, answered]
    assert world.chat("gem/m", stream=is_stream).status == 200
    assert len(world.upstream.requests) == 2
    world.script = [answer, answer]
    reply = world.chat("gem/m", stream=is_stream)
    assert (reply.status, reply.json["error"]["code"]) == (502, "malformed_tool_call")


TEXT_CANDIDATE = {"content": {"role": "model", "parts": [{"text": "hi"}]}, "index": 0}


@pytest.mark.parametrize("reason", ["error", "network_error"])
@pytest.mark.parametrize("headers", [DIRECT, USUAL], ids=["direct", "usual"])
def test_an_answer_that_the_provider_could_not_finish_is_an_error(
    world: World, headers: dict[str, str], reason: str
):
    choice = {"index": 0, "finish_reason": reason}
    message = {"role": "assistant", "content": "par"}
    whole = {"id": "c", "created": 1, "model": "m", "choices": [choice]}
    for call in (world.chat, world.messages, world.responses):
        world.script = [
            json_answer({**whole, "choices": [{**choice, "message": message}]})
        ]
        assert call("oai/m", headers).status == 503
        pieces = [
            {"id": "c", "choices": [{"index": 0, "delta": message}]},
            {"id": "c", "choices": [{**choice, "delta": {}}]},
        ]
        world.script = [stream([event(piece) for piece in pieces])]
        reply = call("oai/m", headers, stream=True)
        name, last = reply.events[-1]
        assert "error" in json.dumps(last)
        assert name in ("", "error", "response.failed")
