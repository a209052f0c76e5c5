"""Tests for the gateway over HTTP: the official client, plain requests, bad input."""

import base64
import http.client
import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from modelyard.testing import (
    Answer,
    Handler,
    Upstream,
    chat_answer,
    chat_events,
    error_answer,
    floats,
    stream_answer,
)

Start = Callable[..., Any]
Play = Callable[[Handler], Upstream]
HI = [{"role": "user", "content": "hi there"}]


def client(running: Any, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=running.url,
        api_key=options.pop("api_key", "none"),
        max_retries=0,
        **options,
    )


def send(
    running: Any,
    method: str,
    path: str,
    body: bytes | str | None = None,
    **headers: str,
) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection(urlsplit(running.origin).netloc, timeout=10)
    request_headers = {
        "content-type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    connection.request(method, path, body, request_headers)
    answer = connection.getresponse()
    raw = answer.read()
    connection.close()
    response_headers = {name.lower(): value for name, value in answer.getheaders()}
    return (
        answer.status,
        response_headers,
        json.loads(raw) if "json" in response_headers.get("content-type", "") else raw,
    )


# the official client, all six types


def test_the_official_client_and_the_echo_provider(start_gateway: Start):
    running = start_gateway()
    api = client(running)
    assert (
        api.chat.completions.create(model="default", messages=HI)
        .choices[0]
        .message.content
        == "hi there"
    )  # type: ignore[arg-type]
    _check_stream(api)
    assert api.embeddings.create(model="echo/echo", input=["a b", "c"]).data[
        0
    ].embedding == [3.0, 1.0, 1.0]
    assert api.moderations.create(model="echo/echo", input="bad").results[0].flagged
    assert (
        api.moderations.create(model="echo/echo", input="bad")
        .results[0]
        .categories.self_harm
        is False
    )
    assert (
        api.audio.speech.create(
            model="echo/echo", voice="alloy", input="say this"
        ).content
        == b"saythis"
    )
    transcript = api.audio.transcriptions.create(
        model="echo/echo", file=("a.wav", b"12345")
    )
    assert transcript.text == "5 bytes of a.wav"
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert (
            api.audio.translations.create(model="echo/echo", file=("a.wav", b"1")).text
            == "1 bytes of a.wav"
        )
    _, _, ranked = send(
        running,
        "POST",
        "/v1/rerank",
        json.dumps({"model": "echo/echo", "query": "a b", "documents": ["x", "a b"]}),
    )
    assert ranked["results"][0] == {
        "index": 1,
        "relevance_score": 2.0,
        "document": {"text": "a b"},
    }
    assert {model.id for model in api.models.list()} >= {"echo/echo", "default"}
    assert api.models.retrieve("echo/echo").owned_by == "echo"


def _check_stream(api: Any) -> None:
    """A stream starts with the role and ends with the finish reason and the usage."""
    stream = api.chat.completions.create(
        model="echo/echo",
        messages=HI,
        stream=True,
        stream_options={"include_usage": True},
    )  # type: ignore[arg-type]
    chunks = list(stream)
    assert (
        "".join(
            chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
        )
        == "hi there"
    )
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 2
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_embeddings_as_floats_and_as_base64(start_gateway: Start):
    running = start_gateway()
    body = {"model": "echo/echo", "input": "a b"}
    _, _, plain = send(running, "POST", "/v1/embeddings", json.dumps(body))
    _, _, packed = send(
        running,
        "POST",
        "/v1/embeddings",
        json.dumps({**body, "encoding_format": "base64"}),
    )
    assert (
        plain["data"][0]["embedding"]
        == floats(base64.b64decode(packed["data"][0]["embedding"]))
        == [3.0, 1.0, 1.0]
    )


def test_every_answer_has_a_request_id_and_health_needs_no_key(start_gateway: Start):
    running = start_gateway(api_keys=["secret-key-1"])
    status, headers, body = send(running, "GET", "/health")
    assert (status, body["status"], body["sandbox"]) == (200, "ok", "unknown")
    assert re.fullmatch(r"req_[0-9a-f]{27}", headers["x-request-id"])
    status, _, text = send(running, "GET", "/")
    assert (status, b"/v1/chat/completions" in text) == (200, True)


# invalid requests

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "part"),
    [
        ("POST", CHAT, b"{", 400, "is not JSON"),
        ("POST", CHAT, b"", 400, "is not JSON"),
        ("POST", CHAT, b"[]", 400, "must be a JSON object"),
        ("POST", CHAT, b"[" * 500_000, 400, "JSON"),
        ("POST", CHAT, b'{"a": "\xff"}', 400, "is not JSON"),
        ("POST", CHAT, {"messages": HI}, 400, "'model' is required"),
        (
            "POST",
            CHAT,
            {"model": 5, "messages": HI},
            400,
            "'model' must be a string, not 5",
        ),
        ("POST", CHAT, {"model": "default"}, 400, "'messages' is required"),
        (
            "POST",
            CHAT,
            {"model": "ecko", "messages": HI},
            404,
            "did you mean 'echo/echo'",
        ),
        (
            "POST",
            CHAT,
            {"model": "echo/other", "messages": HI},
            404,
            "is not available from provider 'echo'",
        ),
        (
            "POST",
            CHAT,
            {"model": "default-tts", "messages": HI},
            404,
            "is the alias for tts models, not llm; use 'default'",
        ),
        (
            "POST",
            CHAT,
            {"model": "openai/tts-1x", "messages": HI, "stream": True},
            503,
            "No credential is configured",
        ),
        (
            "POST",
            "/v1/embeddings",
            {"model": "echo/echo", "input": ""},
            400,
            "'input[0]' must not be empty",
        ),
        (
            "POST",
            "/v1/audio/speech",
            {"model": "echo/echo", "input": ""},
            400,
            "'input' must not be empty",
        ),
        ("POST", "/v1/audio/transcriptions", b"x", 400, "multipart/form-data"),
        (
            "POST",
            "/v1/rerank",
            {"model": "echo/echo", "query": "q", "documents": []},
            400,
            "'documents' must not be empty",
        ),
        (
            "POST",
            "/v1/moderations",
            {"model": "echo/echo", "input": 5},
            400,
            "'input' must be",
        ),
        ("GET", CHAT, None, 405, "takes POST, OPTIONS, not GET"),
        ("POST", "/v1/chat/completion", b"{}", 404, "Not found: /"),
        ("GET", "/v1/models/ecko", None, 404, "did you mean 'echo/echo'"),
        ("GET", "/etc/passwd", None, 404, "Not found: /"),
    ],
)
def test_each_invalid_request_gets_its_status_and_message(
    start_gateway: Start, method: str, path: str, body: Any, status: int, part: str
):
    running = start_gateway()
    raw = json.dumps(body) if isinstance(body, dict) else body
    actual_status, headers, answer = send(running, method, path, raw)
    assert actual_status == status
    assert part in answer["error"]["message"]
    assert "Traceback" not in str(answer)
    assert headers["x-request-id"]
    assert send(running, "GET", "/health")[0] == 200


def test_the_official_client_raises_the_right_errors(start_gateway: Start):
    api = client(start_gateway())
    with pytest.raises(openai.NotFoundError) as missing:
        api.chat.completions.create(model="nothing", messages=HI)  # type: ignore[arg-type]
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as error_info:
        api.chat.completions.create(model="default", messages=HI, temperature=9)  # type: ignore[arg-type]
    assert error_info.value.param == "temperature"


def test_a_body_that_is_too_large_is_refused_early(start_gateway: Start):
    running = start_gateway(max_body_mb=1)
    status, _, body = send(running, "POST", CHAT, b"x" * (2 << 20))
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert "1 MB" in body["error"]["message"]


@pytest.mark.parametrize(
    ("content_type", "body", "part"),
    [
        ("multipart/form-data", b"x", "multipart/form-data"),
        ("multipart/form-data; boundary=" + "b" * 500, b"x", "multipart/form-data"),
        ("multipart/form-data; boundary=b", b"no boundary here", "Invalid multipart form"),
        ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nx', "Truncated multipart body"),
        ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n', "'file' is required"),
        ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n', "'model' is required"),
        ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nx\r\n' * 100 + b"--b--\r\n", "more than 64 parts"),
    ],
)  # fmt: skip
def test_a_malformed_form_is_refused(
    start_gateway: Start, content_type: str, body: bytes, part: str
):
    status, _, answer = send(
        start_gateway(),
        "POST",
        "/v1/audio/transcriptions",
        body,
        content_type=content_type,
    )
    assert status == 400
    assert part in answer["error"]["message"]


# authentication


def test_a_key_is_required_if_one_is_configured(start_gateway: Start):
    running = start_gateway(api_keys=["right-key", "other-key"])
    assert client(running, api_key="other-key").models.list().data
    for wrong_key in ("wrong", "", "right-key-and-more", "right-ke"):
        with pytest.raises(openai.AuthenticationError, match="API key"):
            client(running, api_key=wrong_key or "none").models.list()
    status, _, body = send(
        running, "GET", "/v1/models", authorization="Basic right-key"
    )
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example:8790"}, 403),
        ({"host": "localhost:8790"}, 200),
        ({"host": "[::1]:8790"}, 200),
    ],
)
def test_cross_site_pages_may_not_call_a_server_without_keys(
    start_gateway: Start, headers: dict[str, str], status: int
):
    actual_status, _, body = send(start_gateway(), "GET", "/v1/models", **headers)
    assert actual_status == status
    if status == 403:
        assert body["error"]["code"] == "origin_not_allowed"


# upstream errors


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (error_answer(401, "bad key"), 502, "upstream_authorization"),
        (error_answer(429, "slow", retry_after="7"), 429, "rate_limit_exceeded"),
        (
            error_answer(400, "long", code="context_length_exceeded"),
            400,
            "context_length_exceeded",
        ),
        (error_answer(500, "down"), 503, "upstream_unavailable"),
        (Answer(fault="hang_up"), 502, "upstream_unreachable"),
        (Answer(body=b"?"), 503, "upstream_unavailable"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_failure_has_a_status_that_names_its_cause(
    start_gateway: Start,
    upstream: Play,
    answer: Answer,
    status: int,
    code: str,
    stream: bool,
):
    running = start_gateway(upstream(lambda request: answer))
    body = json.dumps({"model": "openai/gpt-5", "messages": HI, "stream": stream})
    actual_status, headers, error_body = send(running, "POST", CHAT, body)
    assert (actual_status, error_body["error"]["code"]) == (status, code)
    assert "canary" not in json.dumps(error_body)
    if status == 429:
        assert headers["retry-after"] == "7"


def test_a_broken_stream_ends_with_an_error_and_without_done(
    start_gateway: Start, upstream: Play
):
    events = chat_events(["some", "words"])[:3]
    running = start_gateway(
        upstream(lambda request: stream_answer(events, fault="cut"))
    )
    api = client(running)
    with pytest.raises(openai.APIError, match="before its response was complete"):
        list(
            api.chat.completions.create(model="openai/gpt-5", messages=HI, stream=True)
        )  # type: ignore[arg-type]
    (row,) = running.flush()
    assert (row.status, row.estimated) == ("upstream_unreachable", True)


def test_a_broken_audio_stream_does_not_look_complete(
    start_gateway: Start, upstream: Play
):
    running = start_gateway(
        upstream(lambda request: stream_answer([b"RIFF"], fault="cut"))
    )
    with (
        pytest.raises(openai.APIConnectionError),
        client(running).audio.speech.with_streaming_response.create(
            model="openai/tts-1", voice="alloy", input="x"
        ) as response,
    ):
        try:
            b"".join(response.iter_bytes())
        except Exception as error:
            raise openai.APIConnectionError(request=None) from error  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_disconnect_cancels_the_upstream_call(
    start_gateway: Start, upstream: Play, stream: bool
):
    slow = (
        stream_answer(chat_events(["word "] * 500), gap=0.02)
        if stream
        else Answer(delay=30)
    )
    server = upstream(lambda request: slow)
    running = start_gateway(server)
    host, port = urlsplit(running.origin).netloc.split(":")
    body = json.dumps({"model": "openai/gpt-5", "messages": HI, "stream": stream})
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(
            f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        if stream:
            received = b""
            while b"word" not in received:
                received += (chunk := caller.recv(65_536))
                assert chunk, received
        else:
            time.sleep(0.3)
    deadline = time.monotonic() + 5
    while server.connections and time.monotonic() < deadline and stream:
        time.sleep(0.02)
    rows = running.flush()
    while not rows and time.monotonic() < deadline:
        time.sleep(0.05)
        rows = running.flush()
    assert [row.status for row in rows] == ["cancelled"]
    assert send(running, "GET", "/health")[0] == 200


def test_a_stopping_server_finishes_running_calls(start_gateway: Start, upstream: Play):
    server = upstream(
        lambda request: stream_answer(chat_events(["word "] * 20), gap=0.02)
    )
    running = start_gateway(server)
    stream = client(running).chat.completions.create(
        model="openai/gpt-5", messages=HI, stream=True
    )  # type: ignore[arg-type]
    first = next(iter(stream))
    running._server.should_exit = True
    texts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert first.choices[0].delta.role == "assistant"
    assert "".join(texts) == "word " * 20


# cost, load balancing and failover through HTTP


def test_of_three_credentials_the_working_one_serves(
    start_gateway: Start, upstream: Play
):
    from modelyard.base.settings import CredentialSettings, ProviderSettings

    answers = {
        "bad": error_answer(401),
        "slow": error_answer(429, retry_after="60"),
        "good": chat_answer("ok"),
    }
    server = upstream(lambda request: answers[request.key])
    credentials = [
        CredentialSettings(name=name, values={"api_key": name}) for name in answers
    ]
    running = start_gateway(
        providers=[
            ProviderSettings(
                name="openai", base_url=server.url, credentials=credentials
            )
        ]
    )
    api = client(running)
    for _ in range(3):
        assert (
            api.chat.completions.create(model="openai/gpt-5", messages=HI)
            .choices[0]
            .message.content
            == "ok"
        )  # type: ignore[arg-type]
    assert [request.key for request in server.requests] == [
        "bad",
        "slow",
        "good",
        "good",
        "good",
    ]
    rows = running.flush()
    assert [(row.credential, row.status) for row in reversed(rows)] == [
        ("bad", "upstream_authorization"), ("slow", "rate_limit_exceeded"), ("good", "ok"), ("good", "ok"), ("good", "ok"),
    ]  # fmt: skip
    assert [row.attempt for row in reversed(rows)] == [1, 2, 3, 1, 1]


def test_failover_to_another_model_is_transparent(start_gateway: Start, upstream: Play):
    server = upstream(lambda request: error_answer(503, "down"))
    running = start_gateway(server, failover={"openai/gpt-5": ["echo/echo"]})
    answer = client(running).chat.completions.create(model="openai/gpt-5", messages=HI)  # type: ignore[arg-type]
    assert (answer.choices[0].message.content, answer.model) == ("hi there", "echo")
    assert [row.provider for row in running.flush()] == ["echo", "openai"]


def test_a_failover_to_an_unknown_model_is_a_configuration_error(
    start_gateway: Start, upstream: Play
):
    running = start_gateway(
        upstream(lambda request: chat_answer("ok")),
        failover={"openai/gpt-5": ["echo/no"]},
    )
    status, _, body = send(
        running, "POST", CHAT, json.dumps({"model": "openai/gpt-5", "messages": HI})
    )
    assert (status, body["error"]["code"]) == (503, "configuration_error")
    assert "Failover of 'openai/gpt-5'" in body["error"]["message"]


def test_no_secret_reaches_an_answer_or_the_ledger(
    start_gateway: Start, upstream: Play, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG", logger="modelyard")
    server = upstream(lambda request: error_answer(401, f"key {request.key} is wrong"))
    running = start_gateway(server)
    _, _, error_body = send(
        running, "POST", CHAT, json.dumps({"model": "openai/gpt-5", "messages": HI})
    )
    assert "key [redacted] is wrong" in error_body["error"]["message"]
    assert "canary" not in json.dumps(error_body)
    assert "canary" not in caplog.text
    assert "canary" not in str(running.flush())
