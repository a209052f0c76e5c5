"""Headers of a call: they reach a provider of the caller's format, and come back.

The stand-in for Anthropic refuses beta fields without their name, as Anthropic does.
"""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from modelyard.base.call_headers import CallHeaders, merge_headers
from modelyard.base.settings import (
    CacheSettings,
    CredentialSettings,
    ProviderSettings,
)
from modelyard.gateway.tenant_content import CREDENTIALS
from modelyard.models.capabilities import Capabilities
from modelyard.models.vendor_headers import BETA_FIELDS, VENDORS
from modelyard.testing import (
    Answer,
    Handler,
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    json_answer,
    stream_answer,
)
from modelyard.wire import anthropic, bedrock
from tests.gateway.conftest import Running

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]

EDITS = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
BODY: dict[str, Any] = {
    "model": "ant/m",
    "max_tokens": 2000,
    "messages": [{"role": "user", "content": "hi"}],
}
CONTEXT = "context-management-2025-06-27"
INTERLEAVED = "interleaved-thinking-2025-05-14"
LIMITS = {
    "anthropic-ratelimit-requests-remaining": "49",
    "request-id": "req_of_anthropic",
    "set-cookie": "a=b",
    "anthropic-organization-id": "org-of-the-operator",
}
OPENAI_LIMITS = {
    "x-ratelimit-remaining-requests": "59",
    "x-request-id": "req_of_openai",
    "openai-organization": "org-of-the-operator",
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 7, "output_tokens": 3},
}
MESSAGE_EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": []}},
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "hello"},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 3},
    },
    {"type": "message_stop"},
]


def strict_anthropic(request: UpstreamRequest) -> Answer:
    """Answer as Anthropic does: a beta field without its name is refused."""
    if request.path.startswith("/v1/v1/messages/count_tokens"):
        return json_answer({"input_tokens": 7})
    body = request.json
    names = request.headers.get("anthropic-beta", "").split(",")
    assert len(names) == len(set(names))
    for field, prefixes in BETA_FIELDS.items():
        if field in body and not any(name.startswith(prefixes) for name in names):
            message = f"{field}: Extra inputs are not permitted"
            error = {"type": "invalid_request_error", "message": message}
            return json_answer({"type": "error", "error": error}, status=400, **LIMITS)
    if body.get("stream"):
        events = [
            f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            for event in MESSAGE_EVENTS
        ]
        answer = stream_answer(events)
        return Answer(headers={**answer.headers, **LIMITS}, pieces=events)
    return json_answer(MESSAGE, **LIMITS)


def openai_upstream(request: UpstreamRequest) -> Answer:
    if request.json["messages"][-1]["content"] == "too much":
        error = {"message": "Rate limit", "type": "rate_limit_error"}
        return json_answer({"error": error}, status=429, **OPENAI_LIMITS)
    if request.json.get("stream"):
        events = chat_events(["hel", "lo"])
        answer = stream_answer(events)
        return Answer(headers={**answer.headers, **OPENAI_LIMITS}, pieces=events)
    answer = chat_answer("hello")
    return Answer(headers={**answer.headers, **OPENAI_LIMITS}, body=answer.body)


def provider(
    name: str, server: Upstream, wire: str, **changes: Any
) -> ProviderSettings:
    credential = CredentialSettings(values={"api_key": "sk-of-the-operator"})
    return ProviderSettings(
        name=name,
        base_url=server.url,
        wire=wire,
        credentials=[credential],
        models=[{"name": "m", "context_size": 100_000}],
        **changes,
    )


class World:
    """A gateway with a provider of each format."""

    def __init__(self, start_gateway: Start, upstream: Play, **changes: Any) -> None:
        self.anthropic = upstream(strict_anthropic)
        self.openai = upstream(openai_upstream)
        self.running = start_gateway(
            providers=[
                provider("ant", self.anthropic, "anthropic"),
                provider("oai", self.openai, "openai"),
            ],
            **changes,
        )

    def post(
        self, path: str, body: Any, headers: Any = None, *, is_usual: bool = False
    ) -> httpx.Response:
        """Send a request. `is_usual` keeps it from being answered directly."""
        lines = (
            list((headers or {}).items()) if not isinstance(headers, list) else headers
        )
        if is_usual:
            lines = [*lines, ("x-modelyard-cache", "off")]
        return httpx.post(
            self.running.origin + path, json=body, headers=lines, timeout=30
        )


@pytest.fixture
def world(start_gateway: Start, upstream: Play) -> World:
    return World(start_gateway, upstream)


WAYS = pytest.mark.parametrize("is_usual", [False, True], ids=["direct", "usual"])
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.mark.case("1.1")
@WAYS
@STREAMS
def test_beta_names_and_the_query_reach_anthropic(
    world: World, is_usual: bool, stream: bool
):
    sent = {"anthropic-beta": f"{CONTEXT},{INTERLEAVED}"}
    body = {**BODY, "stream": stream, "context_management": EDITS}
    for _ in range(2):
        answer = world.post("/v1/messages?beta=true", body, sent, is_usual=is_usual)
        assert answer.status_code == 200, answer.text
        assert "x-modelyard-dropped" not in answer.headers
        received = world.anthropic.requests[-1]
        assert received.path.endswith("/v1/messages?beta=true")
        assert received.headers["anthropic-beta"] == f"{CONTEXT},{INTERLEAVED}"
        assert received.json["context_management"] == EDITS


@pytest.mark.case("1.1")
def test_lines_of_a_header_are_joined_without_repetition(world: World):
    lines = [("anthropic-beta", f"{CONTEXT} , a"), ("anthropic-beta", "a,b")]
    assert world.post("/v1/messages", BODY, lines).status_code == 200
    assert world.anthropic.requests[-1].headers["anthropic-beta"] == f"{CONTEXT},a,b"


@pytest.mark.case("1.1")
@WAYS
@pytest.mark.parametrize("field", BETA_FIELDS)
def test_a_field_without_its_beta_name_is_left_out_and_named(
    world: World, field: str, is_usual: bool
):
    sent = {"anthropic-beta": INTERLEAVED}
    body = {**BODY, field: {"a": "b"}}
    answer = world.post("/v1/messages", body, sent, is_usual=is_usual)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-modelyard-dropped"] == field
    assert field not in world.anthropic.requests[-1].json
    refused = world.post(
        "/v1/messages", body, {**sent, "x-modelyard-unsupported": "refuse"}
    )
    assert refused.status_code == 400
    assert field in refused.json()["error"]["message"]


@pytest.mark.case("1.1")
@pytest.mark.parametrize("field", BETA_FIELDS)
def test_a_field_goes_along_with_its_beta_name(world: World, field: str):
    sent = {"anthropic-beta": f"{BETA_FIELDS[field][0]}2026-01-01"}
    answer = world.post("/v1/messages", {**BODY, field: {"a": "b"}}, sent)
    assert answer.status_code == 200, answer.text
    assert world.anthropic.requests[-1].json[field] == {"a": "b"}


@pytest.mark.case("1.1")
@WAYS
def test_another_vendor_gets_neither_the_name_nor_the_field(
    world: World, is_usual: bool
):
    body = {**BODY, "model": "oai/m", "context_management": EDITS}
    sent = {"anthropic-beta": CONTEXT, "anthropic-version": "2023-06-01"}
    answer = world.post("/v1/messages?beta=true", body, sent, is_usual=is_usual)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-modelyard-dropped"] == "context_management"
    received = world.openai.requests[-1]
    assert "beta" not in received.path
    assert "context_management" not in received.json
    assert not [name for name in received.headers if name.startswith("anthropic")]
    # OpenAI's headers are no part of Anthropic's API.
    assert not set(OPENAI_LIMITS) & (set(answer.headers) - {"x-request-id"})
    assert answer.headers["x-request-id"] != OPENAI_LIMITS["x-request-id"]


@pytest.mark.case("1.1")
def test_the_names_of_a_provider_file_are_merged(
    start_gateway: Start, upstream: Play, tmp_path: Path
):
    server = upstream(strict_anthropic)
    file = tmp_path / "ant.yaml"
    file.write_text(
        f"{{name: ant, wire: anthropic, base_url: '{server.url}', any_model: true,"
        f" model_types: [llm], headers: {{Anthropic-Beta: '{CONTEXT},a'}}}}"
    )
    running = start_gateway(providers=[ProviderSettings(path=str(file))])
    answer = httpx.post(
        f"{running.url}/messages",
        json={**BODY, "context_management": EDITS},
        headers={"anthropic-beta": "b,a"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    assert "x-modelyard-dropped" not in answer.headers
    received = server.requests[-1].headers["anthropic-beta"].split(",")
    assert sorted(received) == sorted([CONTEXT, "a", "b"])


PRIVATE = {
    "authorization": "Bearer key-of-the-caller",
    "x-api-key": "key-of-the-caller",
    "x-goog-api-key": "key-of-the-caller",
    "api-key": "key-of-the-caller",
    "cookie": "modelyard-session=secret",
    "proxy-authorization": "Basic c2VjcmV0",
    "te": "trailers",
    "x-modelyard-tenant": "default",
    "x-unknown": "1",
}


@pytest.mark.case("1.1")
@WAYS
@pytest.mark.parametrize(
    ("path", "model", "passed"),
    [
        (
            "/v1/chat/completions",
            "oai/m",
            {
                "openai-beta": "assistants=v2",
                "idempotency-key": "id-1",
                "x-client-request-id": "{api_key}",
                "x-stainless-lang": "python",
            },
        ),
        (
            "/v1/messages",
            "ant/m",
            {
                "anthropic-version": "2026-10-21",
                "x-claude-code-session-id": "session-1",
                "x-stainless-lang": "js",
                "x-app": "cli",
            },
        ),
    ],
)
def test_only_listed_headers_go_along(
    world: World, path: str, model: str, passed: dict[str, str], is_usual: bool
):
    body = {**BODY, "model": model}
    sent = {**PRIVATE, **passed}
    # The tenant header is for the usual way.
    if not is_usual:
        del sent["x-modelyard-tenant"]
    answer = world.post(path, body, sent, is_usual=is_usual)
    assert answer.status_code == 200, answer.text
    received = (world.openai if model == "oai/m" else world.anthropic).requests[-1]
    assert {name: received.headers.get(name) for name in passed} == passed
    credential = {"authorization": "Bearer sk-of-the-operator"}
    for name in PRIVATE:
        assert received.headers.get(name) in (None, credential.get(name))
    assert "key-of-the-caller" not in str(received.headers)


@pytest.mark.case("1.1")
@WAYS
def test_an_account_of_the_callers_is_not_chosen_with_the_operators_key(
    world: World, is_usual: bool
):
    sent = {"openai-organization": "org-1", "openai-project": "proj-1"}
    body = {**BODY, "model": "oai/m"}
    answer = world.post("/v1/chat/completions", body, sent, is_usual=is_usual)
    assert answer.status_code == 200
    assert answer.headers["x-modelyard-dropped"] == (
        "openai-organization, openai-project"
    )
    assert not set(sent) & set(world.openai.requests[-1].headers)


@pytest.mark.case("1.1")
@WAYS
@STREAMS
@pytest.mark.parametrize(
    ("path", "model", "sent", "own_id"),
    [
        ("/v1/messages", "ant/m", LIMITS, "x-request-id"),
        (
            "/v1/chat/completions",
            "oai/m",
            OPENAI_LIMITS,
            "x-modelyard-request-id",
        ),
    ],
)
def test_limits_and_the_providers_id_come_back(
    world: World,
    path: str,
    model: str,
    sent: dict[str, str],
    own_id: str,
    is_usual: bool,
    stream: bool,
):
    body = {**BODY, "model": model, "stream": stream}
    for _ in range(2):
        answer = world.post(path, body, is_usual=is_usual)
        assert answer.status_code == 200
        unlisted = {"set-cookie", "anthropic-organization-id", "openai-organization"}
        for name, value in sent.items():
            expected = None if name in unlisted else value
            assert answer.headers.get(name) == expected
        assert answer.headers[own_id].startswith("req")
        assert answer.headers.get_list("x-request-id") == [
            answer.headers["x-request-id"]
        ]


@pytest.mark.case("1.1")
@WAYS
@STREAMS
def test_limits_come_back_with_an_error(world: World, is_usual: bool, stream: bool):
    body = {
        "model": "oai/m",
        "stream": stream,
        "messages": [{"role": "user", "content": "too much"}],
    }
    path = "/v1/chat/completions"
    # The first call opens the connection that a direct one needs.
    assert world.post(path, {**body, "messages": BODY["messages"]}).status_code == 200
    answer = world.post(path, body, is_usual=is_usual)
    assert answer.status_code == 429
    assert answer.headers["x-ratelimit-remaining-requests"] == "59"
    assert answer.headers["x-request-id"] == "req_of_openai"
    assert answer.headers["x-modelyard-request-id"].startswith("req")


def test_a_cached_answer_has_no_limits(start_gateway: Start, upstream: Play):
    world = World(start_gateway, upstream, cache=CacheSettings(seconds=60))
    body = {**BODY, "model": "oai/m", "temperature": 0}
    answers = [
        world.post(
            "/v1/chat/completions",
            body,
            {"x-client-request-id": str(number), "x-modelyard-cache": "on"},
        )
        for number in range(2)
    ]
    assert len(world.openai.requests) == 1
    assert ["x-ratelimit-remaining-requests" in a.headers for a in answers] == [
        True,
        False,
    ]


def test_the_token_counter_gets_the_names_too(world: World):
    body = {**BODY, "context_management": EDITS}
    answer = world.post(
        "/v1/messages/count_tokens?beta=true", body, {"anthropic-beta": CONTEXT}
    )
    assert answer.json() == {"input_tokens": 7}
    received = world.anthropic.requests[-1]
    assert received.path.endswith("count_tokens?beta=true")
    assert received.headers["anthropic-beta"] == CONTEXT
    assert received.json["context_management"] == EDITS


def test_bedrock_gets_only_names_that_it_accepts():
    headers = CallHeaders(
        vendor="anthropic", values={"anthropic-beta": f"{CONTEXT},{INTERLEAVED}"}
    )
    request = anthropic.parse_request({**BODY, "context_management": EDITS})
    request = msgspec.structs.replace(request, headers=headers)
    body = bedrock.dump_request(request, "anthropic.claude-x", Capabilities())
    assert body["additionalModelRequestFields"] == {"anthropic_beta": [INTERLEAVED]}
    other = bedrock.dump_request(request, "amazon.nova", Capabilities())
    assert "additionalModelRequestFields" not in other
    assert "context_management" not in json.dumps([body, other])


def test_no_table_lists_what_belongs_to_the_connection_or_is_secret():
    forbidden = {
        *CREDENTIALS,
        b"cookie",
        b"set-cookie",
        b"host",
        b"connection",
        b"content-length",
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"upgrade",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"forwarded",
        b"x-forwarded-for",
    }
    for rules in VENDORS:
        lines = [(name, b"value") for name in sorted(forbidden)]
        assert rules.of_request(lines).is_empty
        assert rules.of_answer(lines).is_empty


def test_merging_joins_lists_only():
    merged = merge_headers(
        {"anthropic-beta": "a, b", "x": "1"}, {"anthropic-beta": "b,c", "x": "2"}
    )
    assert merged == {"anthropic-beta": "a,b,c", "x": "2"}


VERSION = "io.modelcontextprotocol/protocolVersion"


def mcp_call(
    running: Running,
    version: str,
    lines: str,
    method: str = "tools/list",
    **params: Any,
) -> int:
    """Send a raw MCP request, and return the status. Clients of the library refuse to
    send blanks around a value."""
    meta = {VERSION: version, "io.modelcontextprotocol/clientCapabilities": {}}
    meta |= params.pop("meta", {})
    message = {"jsonrpc": "2.0", "id": 1, "method": method}
    body = json.dumps({**message, "params": {**params, "_meta": meta}})
    head = (
        f"POST /mcp HTTP/1.1\r\nhost: {running.origin.removeprefix('http://')}\r\n"
        f"content-length: {len(body)}\r\naccept: application/json, text/event-stream\r\n"
        f"connection: close\r\nmcp-method:\t{method} \r\n{lines}\r\n"
    )
    host, _, port = running.origin.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall((head + body).encode())
        status_line = connection.makefile("rb").readline()
    return int(status_line.split()[1])


@pytest.mark.case("1.2")
@pytest.mark.parametrize("blanks", ["", " ", "   \t"])
def test_blanks_around_a_header_are_not_part_of_it(start_gateway: Start, blanks: str):
    running = start_gateway()
    version = "2026-07-28"
    lines = (
        f"mcp-protocol-version:{blanks}{version}{blanks}\r\n"
        f"mcp-name:{blanks}calculate{blanks}\r\n"
        f"x-modelyard-tenant:{blanks}default{blanks}\r\n"
        f"sec-fetch-site:{blanks}none{blanks}\r\n"
    )
    arguments = {"name": "calculate", "arguments": {"expression": "1+1"}}
    assert mcp_call(running, version, lines, "tools/call", **arguments) == 200


@pytest.mark.case("1.3")
@pytest.mark.parametrize(
    ("header", "version"),
    [
        ("2099-01-01", "2099-01-01"),
        ("2026-07-28", "2099-01-01"),
        ("2099-01-01", "2026-07-28"),
        ("2025-06-18", "2099-01-01"),
        ("", "2099-01-01"),
    ],
)
@pytest.mark.parametrize("method", ["tools/list", "tools/call"])
def test_an_unknown_revision_is_a_bad_request(
    start_gateway: Start, header: str, version: str, method: str
):
    running = start_gateway()
    lines = f"mcp-protocol-version: {header}\r\n" if header else ""
    # With a progress token, the answer would be a stream.
    meta = {"progressToken": 1}
    assert mcp_call(running, version, lines, method, name="calculate", meta=meta) == 400
