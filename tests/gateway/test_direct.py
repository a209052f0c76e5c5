"""Chat calls that are answered straight from the protocol class, beside the usual way.

Both ways must be told apart by nothing but their cost: the same bytes, rows and limits.
"""

import asyncio
import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO, Any

import pytest

from modelyard.base.errors import (
    InvokeConnectionError,
    InvokeServerUnavailableError,
)
from modelyard.base.settings import (
    CredentialSettings,
    ProviderSettings,
    TimeoutSettings,
)
from modelyard.cli.http_protocol import GuardedProtocol
from modelyard.gateway.direct import DirectAnswer
from modelyard.testing import (
    Answer,
    Handler,
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    error_answer,
    json_answer,
)
from tests.faults.upstream import answer as upstream_answer
from tests.faults.upstream import events as upstream_events
from tests.gateway.conftest import Running

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
KEY = "key-of-the-caller"
MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"model": "acme/m", "messages": MESSAGES}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat with a tool": (
        "/v1/chat/completions",
        {**CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]},
    ),
    "anthropic": ("/v1/messages", {**CHAT, "max_tokens": 50}),
    "cohere": ("/v2/chat", CHAT),
}
UNUSUAL = {"x-modelyard-cache": "off"}
"""A header with which a request takes the usual way; it changes nothing else here."""


def stream_answer(pieces: list[bytes], fault: str = "") -> Answer:
    return Answer(
        headers={"content-type": "text/event-stream"}, pieces=pieces, fault=fault
    )


class WholeRequests(http.client.HTTPConnection):
    """A connection that writes head and body at once, as most clients do. Their heads
    are recognised from the second request on."""

    def _send_output(self, message_body: Any = None, encode_chunked: bool = False):
        lines: list[bytes] = self._buffer  # type: ignore[attr-defined]
        head = b"\r\n".join([*lines, b"", b""])
        lines.clear()
        self.send(head + (message_body or b""))


class Caller:
    """A caller with one connection to a gateway."""

    def __init__(self, running: Running, *, writes_at_once: bool = True) -> None:
        self.running = running
        host = running.origin.removeprefix("http://")
        connection = WholeRequests if writes_at_once else http.client.HTTPConnection
        self.connection = connection(host, timeout=30)

    def send(
        self, path: str, document: Any, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """Send a request and read the head of the response."""
        sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        body = json.dumps(document)
        self.connection.request("POST", path, body, {**sent, **(headers or {})})
        return self.connection.getresponse()

    def call(
        self, path: str, document: Any, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return the status and the body."""
        response = self.send(path, document, headers)
        return response.status, response.read()

    @property
    def sent(self) -> int:
        """How many calls the gateway has sent directly."""
        return self.running.yard.services.calls.direct.sent


class World:
    """A gateway with two credentials of one provider, and a caller."""

    def __init__(
        self,
        start_gateway: Start,
        upstream: Play,
        *,
        wire: str = "openai",
        writes_at_once: bool = True,
        **changes: Any,
    ) -> None:
        self.wire = wire
        self.upstream = upstream(self.answer)
        self.script: list[Answer] = []
        self.lock = threading.Lock()
        provider = ProviderSettings(
            name="acme",
            base_url=self.upstream.url,
            wire=wire,
            credentials=[
                CredentialSettings(name=name, values={"api_key": f"sk-{name}"})
                for name in "ab"
            ],
            models=[
                {"name": "m", "context_size": 1000, "input_price": 1, "output_price": 2}
            ],
        )
        self.running = start_gateway(providers=[provider], api_keys=[KEY], **changes)
        self.caller = Caller(self.running, writes_at_once=writes_at_once)
        # A connection to the provider is idle from now on.
        assert self.caller.call(*REQUESTS["chat"])[0] == 200

    def answer(self, request: UpstreamRequest) -> Answer:
        """Return the next answer of the script, or a usual one."""
        with self.lock:
            if self.script:
                return self.script.pop(0)
        is_stream = bool(request.json.get("stream"))
        if self.wire == "anthropic":
            if is_stream:
                return stream_answer(upstream_events("anthropic"))
            return json_answer(upstream_answer("anthropic"))
        if is_stream:
            return stream_answer(chat_events(["he", "llo"]))
        return chat_answer("hello")

    def rows(self) -> list[Any]:
        """Return the rows of the ledger, newest first."""
        return self.running.flush()

    def check_nothing_left(self) -> None:
        """Check that no call runs or holds anything."""
        calls = self.running.yard.services.calls
        assert not calls.direct.running
        assert calls.queue.running == 0
        assert calls.metrics.in_flight.values[()] == 0


@pytest.fixture(params=[True, False], ids=["whole", "in parts"])
def world(
    start_gateway: Start, upstream: Play, request: pytest.FixtureRequest
) -> Iterator[World]:
    built = World(start_gateway, upstream, writes_at_once=request.param)
    yield built
    built.caller.connection.close()
    built.check_nothing_left()


def without_names(body: bytes) -> Any:
    """Return a body without what differs from call to call: ids and times."""
    text = body.decode()
    lines = text.splitlines() if text.startswith(("data:", "event:")) else [text]
    return [_plain(line) for line in lines if line]


def _plain(line: str) -> Any:
    """Return a line of a stream, or a document, without ids and times."""
    data = line.removeprefix("data: ")
    if not data.startswith("{"):
        return line
    document = json.loads(data)
    for part in (document, document.get("message", {})):
        part.pop("id", None)
        part.pop("created", None)
    return document


def test_calls_of_one_key_may_belong_to_different_sessions(world: World):
    """What is looked up once for a key and a model leaves the session to each call."""
    path, request = REQUESTS["anthropic"]
    sessions = [f"0e6a2f0c-93a1-4c55-8d5e-1f6f0f2b7a1{number}" for number in range(3)]
    sent_before = world.caller.sent
    for session in sessions:
        user = {"device_id": "a" * 64, "session_id": session}
        metadata = {"user_id": json.dumps(user)}
        assert world.caller.call(path, {**request, "metadata": metadata})[0] == 200
    assert world.caller.sent == sent_before + len(sessions)
    assert [row.session for row in world.rows()[: len(sessions)]] == sessions[::-1]


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("stream", [False, True])
def test_both_ways_send_the_same(
    start_gateway: Start, upstream: Play, wire: str, name: str, stream: bool
):
    world = World(start_gateway, upstream, wire=wire)
    path, document = REQUESTS[name]
    document = {**document, "stream": stream}
    before = world.caller.sent
    direct = world.caller.call(path, document)
    assert world.caller.sent == before + 1
    usual = world.caller.call(path, document, UNUSUAL)
    assert world.caller.sent == before + 1
    assert direct[0] == usual[0] == 200
    assert without_names(direct[1]) == without_names(usual[1])
    first, second = world.rows()[:2]
    same = ("status", "prompt_tokens", "completion_tokens", "total_price", "counted_by")
    assert [getattr(first, part) for part in same] == [
        getattr(second, part) for part in same
    ]
    world.caller.connection.close()
    world.check_nothing_left()


AUDIO = {"id": "a", "data": "UklGRg==", "transcript": "hello", "expires_at": 1}
SPOKEN = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "audio": AUDIO},
            "finish_reason": "stop",
        }
    ],
}


@pytest.mark.parametrize("headers", [{}, UNUSUAL], ids=["direct", "usual"])
def test_callers_without_audio_get_what_was_said(world: World, headers: dict[str, str]):
    world.script = [json_answer(SPOKEN)]
    path, document = REQUESTS["cohere"]
    response = world.caller.send(path, document, headers)
    body = json.loads(response.read())
    assert response.status == 200
    assert body["message"]["content"] == [{"type": "text", "text": "hello"}]
    assert response.getheader("x-modelyard-dropped") == "audio"


def test_an_answer_that_cannot_be_written_is_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    def complete_body(answer: DirectAnswer, chunks: Any) -> bytes:
        raise InvokeServerUnavailableError("It has no place in this format")

    monkeypatch.setattr(DirectAnswer, "complete_body", complete_body)
    status, body = world.caller.call(*REQUESTS["cohere"])
    assert status == 503
    assert "no place" in json.loads(body)["message"]


def test_the_heads_of_both_ways_are_the_same(world: World):
    heads = []
    for headers in ({}, UNUSUAL):
        for stream in (False, True):
            response = world.caller.send(
                "/v1/chat/completions", {**CHAT, "stream": stream}, headers
            )
            response.read()
            names = {name.lower(): value for name, value in response.getheaders()}
            names.pop("x-request-id")
            heads.append(names)
    assert heads[0] == heads[2]
    assert heads[1] == heads[3]


def test_calls_take_turns_on_the_credentials(world: World):
    world.upstream.requests.clear()
    for _ in range(4):
        world.caller.call(*REQUESTS["chat"])
    keys = [request.key for request in world.upstream.requests]
    assert keys in (["sk-a", "sk-b"] * 2, ["sk-b", "sk-a"] * 2)


def test_a_failed_first_attempt_goes_on_with_the_next_credential(world: World):
    world.script = [error_answer(401)]
    before = world.caller.sent
    status, body = world.caller.call(*REQUESTS["chat"])
    assert world.caller.sent == before + 1
    assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (
        200,
        "hello",
    )
    second, first = world.rows()[:2]
    assert (first.status, first.attempt) == ("upstream_authorization", 1)
    assert (second.status, second.attempt) == ("ok", 2)
    assert first.invocation == second.invocation
    assert first.credential != second.credential


def forget_idle_connections(world: World) -> None:
    """Close the gateway's idle connections to the provider."""
    client = world.running.yard.services.network.clients.shared

    async def forget() -> None:
        await client.aclose()

    world.running.do(forget())


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_without_an_idle_connection_opens_one(world: World, stream: bool):
    """And is still direct: a stream would hold the memory of the usual way for long."""
    forget_idle_connections(world)
    sent = world.caller.sent
    status, body = world.caller.call("/v1/chat/completions", {**CHAT, "stream": stream})
    assert (status, b"llo" in body) == (200, True)
    assert world.caller.sent == sent + 1
    assert world.rows()[0].status == "ok"


def test_a_server_that_cannot_be_reached_fails_the_attempt_alone(world: World):
    """The next credential is tried, and each attempt has its row."""
    forget_idle_connections(world)
    client, refused = world.running.yard.services.network.clients.shared, list[str]()
    connect = client._connect

    async def refuse_once(route: Any, limits: Any) -> Any:
        if not refused:
            refused.append(route.description)
            raise InvokeConnectionError("The server cannot be reached")
        return await connect(route, limits)

    client._connect = refuse_once
    assert world.caller.call(*REQUESTS["chat"])[0] == 200
    second, first = world.rows()[:2]
    assert (first.status, first.attempt) == ("upstream_unreachable", 1)
    assert (second.status, second.attempt) == ("ok", 2)
    assert refused


def test_a_caller_who_leaves_before_the_server_is_reached_ends_the_call(world: World):
    forget_idle_connections(world)
    client, is_ended = (
        world.running.yard.services.network.clients.shared,
        threading.Event(),
    )

    async def connect_forever(route: Any, limits: Any) -> Any:
        try:
            await asyncio.sleep(3600)
        finally:
            is_ended.set()

    client._connect = connect_forever
    request_count = len(world.upstream.requests)
    connection = world.caller.connection
    body = json.dumps(CHAT)
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    until = time.monotonic() + 30
    while not world.running.yard.services.calls.direct.running:
        assert time.monotonic() < until
        time.sleep(0.01)
    connection.close()
    assert is_ended.wait(60)
    wait_for_row(world, "cancelled")
    assert len(world.upstream.requests) == request_count


def test_a_caller_who_leaves_ends_the_call(world: World):
    # Far more than the test reads.
    pieces = chat_events(["he"] * 2000)
    world.script = [
        Answer(headers={"content-type": "text/event-stream"}, pieces=pieces, gap=0.01)
    ]
    response = world.caller.send("/v1/chat/completions", {**CHAT, "stream": True})
    assert response.read1()
    response.close()
    world.caller.connection.close()
    assert world.upstream.cut_by_client.wait(60)
    row = wait_for_row(world, "cancelled")
    assert row.completion_tokens > 0


def wait_for_row(world: World, status: str) -> Any:
    """Return the newest row once it has the status."""
    until = time.monotonic() + 10
    while (row := world.rows()[0]).status != status and time.monotonic() < until:
        time.sleep(0.01)
    assert row.status == status
    return row


def test_a_stopping_server_ends_a_direct_stream_with_an_error(world: World):
    pieces = chat_events(["he", "llo"])
    world.script = [stream_answer(pieces[:2], fault="stall")]
    response = world.caller.send("/v1/chat/completions", {**CHAT, "stream": True})
    assert b"he" in response.read1()
    world.running.stop_running_calls()
    rest = response.read()
    assert b'"error"' in rest
    assert b"[DONE]" not in rest


def test_a_limit_refuses_a_call_and_nothing_is_sent(
    start_gateway: Start, upstream: Play
):
    limits = {"calls": {"unit": "requests", "amount": 3, "window": "day"}}
    world = World(start_gateway, upstream, limits=limits)
    statuses = [world.caller.call(*REQUESTS["chat"])[0] for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    assert len(world.upstream.requests) == 3
    world.caller.connection.close()
    world.check_nothing_left()


def test_a_key_that_is_unknown_is_refused(world: World):
    status, body = world.caller.call(
        "/v1/chat/completions", CHAT, {"authorization": "Bearer another"}
    )
    assert status == 401
    assert json.loads(body)["error"]["code"] == "invalid_api_key"


def test_a_stream_in_silence_is_kept_alive_and_may_still_fail_over(
    start_gateway: Start, upstream: Play
):
    world = World(start_gateway, upstream, timeouts=TimeoutSettings(keep_alive=0.05))
    world.script = [Answer(status=401, delay=0.4, body=b"{}")]
    before = world.caller.sent
    status, body = world.caller.call("/v1/chat/completions", {**CHAT, "stream": True})
    assert world.caller.sent == before + 1
    assert status == 200
    assert body.startswith(b": keep-alive\n\n")
    assert b'"he"' in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert [row.status for row in world.rows()[:2]] == ["ok", "upstream_authorization"]
    world.caller.connection.close()
    world.check_nothing_left()


def test_an_error_after_a_keep_alive_is_the_last_event(
    start_gateway: Start, upstream: Play
):
    world = World(start_gateway, upstream, timeouts=TimeoutSettings(keep_alive=0.05))
    world.script = [Answer(status=400, delay=0.4, body=b'{"error": {"message": "no"}}')]
    status, body = world.caller.call(
        "/v1/messages", {**CHAT, "max_tokens": 5, "stream": True}
    )
    assert status == 200
    assert body.startswith(b"event: ping\n")
    assert b"event: error\n" in body
    world.caller.connection.close()
    world.check_nothing_left()


def test_pipelined_requests_are_answered_in_order(world: World):
    body = json.dumps(CHAT).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    world.caller.connection.close()
    world.caller.connection.connect()
    socket = world.caller.connection.sock
    assert socket is not None
    socket.sendall((head + body) * 3)
    received = b""
    while received.count(b'"hello"') < 3:
        data = socket.recv(1 << 16)
        assert data, received
        received += data
    assert received.count(b"HTTP/1.1 200 OK") == 3


def test_responses_of_busy_connections_stay_in_order(world: World):
    """Responses of one turn are written together; a later one must not overtake them."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"authorization: Bearer {KEY}\r\n"
    )
    good, bad = (
        f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()
        for body in (json.dumps(CHAT), "{")
    )
    address = world.caller.connection.host, world.caller.connection.port
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(address, 30))
            for _ in range(20)
        ]
        files = [
            stack.enter_context(connection.makefile("rb")) for connection in connections
        ]
        for _ in range(10):
            _send_to_all(connections, good)
            _send_to_all(connections, bad)
            statuses = [[_read_status(file) for _ in range(2)] for file in files]
            assert statuses == [[200, 400]] * len(files)


def _send_to_all(connections: list[socket.socket], request: bytes) -> None:
    for connection in connections:
        connection.sendall(request)


def _read_status(file: IO[bytes]) -> int:
    """Read one response, and return its status."""
    status = int(file.readline().split()[1])
    headers = http.client.parse_headers(file)
    file.read(int(headers["content-length"]))
    return status


def test_a_body_in_two_parts_is_answered_directly(world: World):
    before = world.caller.sent
    body = json.dumps(CHAT).encode()
    connection = world.caller.connection
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("authorization", f"Bearer {KEY}")
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body[:10])
    time.sleep(0.05)
    connection.send(body[10:])
    response = connection.getresponse()
    assert (response.status, b"hello" in response.read()) == (200, True)
    assert world.caller.sent == before + 1


def test_a_large_body_takes_the_usual_way(world: World):
    before = world.caller.sent
    messages = [{"role": "user", "content": "x" * 100_000}]
    status, _ = world.caller.call(
        "/v1/chat/completions", {**CHAT, "messages": messages}
    )
    assert (status, world.caller.sent) == (200, before)


def test_a_caller_who_does_not_read_holds_up_nobody(world: World):
    text = "x" * 60_000
    world.script = [stream_answer(chat_events([text] * 200))]
    response = world.caller.send("/v1/chat/completions", {**CHAT, "stream": True})
    other = Caller(world.running)
    assert other.call(*REQUESTS["chat"])[0] == 200
    other.connection.close()
    body = response.read()
    assert body.count(text.encode()) == 200
    assert body.endswith(b"data: [DONE]\n\n")


def test_a_compressed_answer_that_is_cut_off_is_an_error(world: World):
    body = gzip.compress(chat_answer("hello").body)
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    statuses: list[int] = []
    for unusual in ({}, UNUSUAL):
        world.running.yard.services.providers.manager.health.clear()
        # Without its check sum; the text itself is complete.
        world.script = [Answer(headers=headers, body=body[:-8])] * 2
        statuses.append(world.caller.call(*REQUESTS["chat"], unusual)[0])
        world.script = []
    assert statuses == [503, 503]


def known_heads(world: World) -> int:
    """Return how many heads the gateway has stored."""
    direct = world.running.gateway.direct
    assert direct is not None
    return len(direct.heads)


def test_a_head_is_stored_once_and_then_recognised(
    start_gateway: Start, upstream: Play, monkeypatch: pytest.MonkeyPatch
):
    world = World(start_gateway, upstream)
    assert known_heads(world) == 1
    parsed: list[bytes] = []
    monkeypatch.setattr(
        GuardedProtocol, "parse", lambda protocol, data: parsed.append(data)
    )
    for text in ("hi", "a longer question"):
        messages = [{"role": "user", "content": text}]
        body = {**CHAT, "messages": messages}
        status, answer = world.caller.call("/v1/chat/completions", body)
        assert (status, b"hello" in answer) == (200, True)
    assert (parsed, known_heads(world)) == ([], 1)
    assert [row.status for row in world.rows()] == ["ok"] * 3
    world.caller.connection.close()
    world.check_nothing_left()


def test_a_known_head_is_worth_nothing_once_its_key_is_gone(world: World):
    direct = world.running.gateway.direct
    assert direct is not None
    direct.authenticator.keys = ("another-key",)
    status, body = world.caller.call(*REQUESTS["chat"])
    assert status == 401
    assert json.loads(body)["error"]["code"] == "invalid_api_key"
    assert len(world.upstream.requests) == 1


def test_a_change_of_the_settings_forgets_all_heads(
    start_gateway: Start, upstream: Play
):
    world = World(start_gateway, upstream)
    live = world.running.yard.services.settings

    async def replace() -> None:
        """Replace the settings by the same."""
        live.replace(live.current)

    world.running.do(replace())
    assert known_heads(world) == 0
    assert world.caller.call(*REQUESTS["chat"])[0] == 200
    assert known_heads(world) == 1
    world.caller.connection.close()
    world.check_nothing_left()


def test_a_known_request_that_is_refused_gets_the_usual_error(world: World):
    for model, status in (("acme/m", 200), ("nobody/none", 404), ("acme/m", 200)):
        answer = world.caller.call("/v1/chat/completions", {**CHAT, "model": model})
        assert answer[0] == status, answer


@pytest.mark.parametrize("writes_at_once", [True, False])
def test_a_request_behind_a_stream_waits_for_its_end(
    start_gateway: Start, upstream: Play, writes_at_once: bool
):
    world = World(start_gateway, upstream, writes_at_once=writes_at_once)
    pieces = chat_events(["he", "llo"])
    world.script = [
        Answer(headers={"content-type": "text/event-stream"}, pieces=pieces, gap=0.1)
    ]
    first = world.caller.send("/v1/chat/completions", {**CHAT, "stream": True})
    assert b"he" in first.read1()
    socket = world.caller.connection.sock
    assert socket is not None
    body = json.dumps(CHAT).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    socket.sendall(head + body)
    received = b""
    while b'"hello"' not in received:
        data = socket.recv(1 << 16)
        assert data, received
        received += data
    # The end of the stream comes first, then the answer.
    assert received.index(b"data: [DONE]") < received.index(b"HTTP/1.1 200 OK")
    first.close()
    world.caller.connection.close()
    world.check_nothing_left()


def test_a_server_that_stops_lets_a_known_call_end(
    start_gateway: Start, upstream: Play
):
    world = World(start_gateway, upstream)
    world.script = [
        Answer(
            headers={"content-type": "text/event-stream"},
            pieces=chat_events(["he", "llo"]),
            gap=0.1,
        )
    ]
    response = world.caller.send("/v1/chat/completions", {**CHAT, "stream": True})
    assert response.read1()
    world.running.close()
    assert response.read().endswith(b"data: [DONE]\n\n")
    world.caller.connection.close()
    assert not world.running.yard.services.calls.direct.running
