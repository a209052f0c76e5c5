"""Tests for slow, huge and numerous connections of unauthenticated clients.

They must not keep others out or exhaust the server's memory.
"""

import asyncio
import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from tools.show.proof import free_port, is_healthy
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import ConnectionSettings, Settings
from modelyard.cli.connection_limits import ConnectionLimiter, capacity_for, network_of
from modelyard.cli.http_protocol import GuardedProtocol, protocol_class
from modelyard.gateway.bodies import BodyBudget
from modelyard.gateway.early_refusals import EarlyRefusals
from modelyard.gateway.http import SMALL_BODY, Reply
from modelyard.runtime.overload import LoadController

pytestmark = pytest.mark.proof("strangers")

KEY = "key-of-the-owner"
SHORT = {
    "HEAD_SECONDS": "0.8", "BODY_SECONDS": "1", "BODY_RATE": "2000", "IDLE_SECONDS": "0.8", "UNREAD_SECONDS": "1",
    "HEAD_KB": "16", "HEADERS": "40", "TARGET_KB": "4", "PIPELINED": "64",
}  # fmt: skip


@contextmanager
def serving(*, files: int | None = None, **limits: str) -> Iterator[int]:
    """Start a server as users do, with an owner's key; yield its port.

    `files` limits its open files.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        environ = {
            **os.environ, "MODELYARD_HOME": home, "MODELYARD_PORT": str(port), "MODELYARD_LOCAL__ENABLED": "false",
            "MODELYARD_PLUGINS__DEBUG_PORT": "0", "MODELYARD_GRACE_SECONDS": "1",
            **{f"MODELYARD_CONNECTIONS__{name}": value for name, value in limits.items()},
        }  # fmt: skip
        (Path(home) / "modelyard.yaml").write_text(f"api_keys: [{KEY}]\n")

        def limit_open_files() -> None:
            if files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files // 2, files))

        command = [sys.executable, "-m", "modelyard", "serve"]
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.DEVNULL, preexec_fn=limit_open_files
        )
        try:
            until = time.monotonic() + 60
            while not is_healthy(port):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def impatient() -> Iterator[int]:
    with serving(**SHORT) as port:
        yield port


@pytest.fixture
def connect(impatient: int) -> Iterator[Callable[[], socket.socket]]:
    with ExitStack() as opened:
        yield lambda: opened.enter_context(
            socket.create_connection(("127.0.0.1", impatient), timeout=20)
        )


Connect = Callable[[], socket.socket]


def request_head(
    method: str, path: str, *, length: int | None = None, **headers: str
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if length is not None:
        lines.append(f"content-length: {length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


OWNED = {"authorization": f"Bearer {KEY}"}


def until_closed(client: socket.socket) -> bytes:
    """Return all bytes until the server closes the connection."""
    data = b""
    with suppress(ConnectionResetError):
        while chunk := client.recv(1 << 16):
            data += chunk
    return data


def read_response(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read a response that has a content length."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = client.recv(1 << 16)
        assert chunk, data
        data += chunk
    status, headers, body = split(data)
    while len(body) < int(headers["content-length"]):
        chunk = client.recv(1 << 16)
        assert chunk, data
        body += chunk
    return status, headers, body


def split(data: bytes) -> tuple[int, dict[str, str], bytes]:
    start, _, body = data.partition(b"\r\n\r\n")
    first, *lines = start.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def parse_error_response(data: bytes) -> tuple[int, Any]:
    """Return the status and document of the last response on a connection."""
    status, headers, body = split(data)
    assert headers["connection"] == "close"
    assert len(body) == int(headers["content-length"])
    return status, json.loads(body)


# time


def test_an_incomplete_head_times_out_with_an_error(connect: Connect):
    client = connect()
    client.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n")
    status, document = parse_error_response(until_closed(client))
    assert status == 408
    assert document["type"] == "error"  # in the format of Anthropic's clients
    assert "0.8 seconds" in document["error"]["message"]


def test_a_silent_connection_is_closed_without_an_answer(connect: Connect):
    assert until_closed(connect()) == b""


def test_a_connection_that_is_idle_after_an_answer_is_closed(connect: Connect):
    client = connect()
    client.sendall(request_head("GET", "/health"))
    assert read_response(client)[0] == 200
    assert until_closed(client) == b""


def test_an_incomplete_second_head_times_out_too(connect: Connect):
    client = connect()
    client.sendall(request_head("GET", "/health") + b"GET /hea")
    assert read_response(client)[0] == 200
    assert parse_error_response(until_closed(client))[0] == 408


@pytest.mark.parametrize(
    ("path", "message_of"),
    [
        ("/v1/chat/completions", lambda error_body: error_body["error"]["message"]),
        ("/v1/messages", lambda error_body: error_body["error"]["message"] if error_body["type"] == "error" else ""),
        ("/v1beta/models/x:generateContent", lambda error_body: error_body["error"]["message"] if error_body["error"]["code"] == 408 else ""),
        ("/v2/chat", lambda error_body: error_body["message"]),
        ("/v1/datasets", lambda error_body: error_body["message"] if error_body["status"] == 408 else ""),
        ("/console/api/session", lambda error_body: error_body["error"]["message"]),
    ],
)  # fmt: skip
def test_a_stalled_body_times_out_with_an_error_in_the_callers_format(
    connect: Connect, path: str, message_of: Callable[[Any], str]
):
    client = connect()
    origin = {"origin": "http://127.0.0.1"} if path.startswith("/console") else OWNED
    client.sendall(request_head("POST", path, length=1000, **origin) + b'{"mo')
    status, document = parse_error_response(until_closed(client))
    assert status == 408
    assert "too slowly" in message_of(document)


def test_a_body_below_the_minimum_rate_times_out(connect: Connect):
    client = connect()
    client.sendall(
        request_head("POST", "/v1/chat/completions", length=1 << 20, **OWNED)
    )
    with suppress(ConnectionError):
        for _ in range(400):
            client.sendall(b" ")
            time.sleep(0.02)
    assert parse_error_response(until_closed(client))[0] == 408


def test_a_slow_but_steady_body_is_accepted(connect: Connect):
    client = connect()
    client.sendall(
        request_head("POST", "/v1/chat/completions", length=40 * 512, **OWNED)
    )
    # Twice as long as the allowed pause, at several times the minimum rate.
    for _ in range(40):
        client.sendall(b" " * 512)
        time.sleep(0.05)
    status, _, body = read_response(client)
    assert status == 400
    assert "not JSON" in json.loads(body)["error"]["message"]


def test_a_client_that_does_not_read_is_disconnected(connect: Connect):
    client = connect()
    client.sendall(request_head("GET", "/admin/openapi.json", **OWNED) * 60)
    time.sleep(4)
    assert len(until_closed(client)) < 60 * 100_000
    second_client = connect()
    second_client.sendall(request_head("GET", "/admin/openapi.json", **OWNED))
    assert len(read_response(second_client)[2]) > 100_000


# sizes


SHAPES: list[tuple[str, Callable[[Any], Any]]] = [
    ("/v1/chat/completions", lambda error_body: error_body["error"]["code"]),
    (
        "/v1/messages",
        lambda error_body: (
            error_body["type"] == "error" and error_body["error"]["message"]
        ),
    ),
    (
        "/v1beta/models/x:generateContent",
        lambda error_body: error_body["error"]["status"],
    ),
    ("/v2/chat", lambda error_body: error_body["message"]),
    ("/v1/chat-messages", lambda error_body: error_body["code"]),
    (
        "/plugin/default/management/list",
        lambda error_body: error_body["code"] < 0 and error_body["message"],
    ),
    ("/nowhere", lambda error_body: error_body["error"]["code"]),
]


@pytest.mark.parametrize(("path", "error_of"), SHAPES)
def test_an_oversized_head_is_refused_in_the_callers_format(
    connect: Connect, path: str, error_of: Callable[[Any], Any]
):
    client = connect()
    client.sendall(
        f"POST {path} HTTP/1.1\r\nhost: x\r\n".encode() + b"a: " + b"b" * 20_000
    )
    status, document = parse_error_response(until_closed(client))
    assert status == 431
    assert error_of(document)


def test_too_many_headers_are_refused(connect: Connect):
    client = connect()
    client.sendall(request_head("GET", "/health", **{f"h{n}": "x" for n in range(60)}))
    assert parse_error_response(until_closed(client))[0] == 431


def test_a_complete_oversized_head_is_refused_first(
    connect: Connect,
):
    client = connect()
    client.sendall(request_head("GET", "/health", filler="x" * 17_000))
    assert parse_error_response(until_closed(client))[0] == 431


@pytest.mark.parametrize("end", [b" HTTP/1.1\r\nhost: x\r\n\r\n", b""])
def test_a_url_that_is_too_long_is_refused(connect: Connect, end: bytes):
    client = connect()
    client.sendall(b"GET /v1/models?" + b"q" * (5000 if end else 20_000) + end)
    status, document = parse_error_response(until_closed(client))
    assert (status, document["error"]["code"]) == (414, "address_too_long")


def test_forty_five_megabytes_of_headers_are_not_read(connect: Connect):
    client = connect()
    with suppress(ConnectionError):
        client.sendall(b"GET /health HTTP/1.1\r\n")
        for _ in range(450):
            client.sendall(b"a: " + b"b" * 100_000 + b"\r\n")
    assert b" 431 " in until_closed(client)[:20]


def test_chunks_with_excessive_overhead_are_refused(connect: Connect):
    client = connect()
    client.sendall(
        request_head(
            "POST", "/v1/chat/completions", transfer_encoding="chunked", **OWNED
        )
    )
    with suppress(ConnectionError):
        for _ in range(100):
            client.sendall(b"1;" + b"e" * 10_000 + b"\r\n \r\n")
    status, document = parse_error_response(until_closed(client))
    assert (status, document["error"]["code"]) == (400, "malformed_request")


def test_small_chunks_are_accepted_and_trailers_are_not_headers(connect: Connect):
    client = connect()
    client.sendall(
        request_head(
            "POST", "/v1/chat/completions", transfer_encoding="chunked", **OWNED
        )
    )
    body = json.dumps(
        {"model": "none", "messages": [{"role": "user", "content": "x" * 5000}]}
    ).encode()
    client.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in body))
    client.sendall(
        b"0\r\nauthorization: Bearer wrong\r\nx-modelyard-tenant: other\r\n\r\n"
    )
    status, _, answer = read_response(client)
    assert (status, json.loads(answer)["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "data",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nhost\r\n\r\n", b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n",
     b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"],
)  # fmt: skip
def test_what_is_not_http_is_refused(connect: Connect, data: bytes):
    client = connect()
    client.sendall(data)
    status, document = parse_error_response(until_closed(client))
    assert (status, document["error"]["code"]) == (400, "malformed_request")


def test_a_chunk_that_is_none_ends_the_request_it_belongs_to(connect: Connect):
    client = connect()
    head = request_head(
        "POST", "/v1/chat/completions", transfer_encoding="chunked", **OWNED
    )
    client.sendall(head + b"5\r\nhello\r\nzz\r\n")
    assert parse_error_response(until_closed(client))[0] == 400


# unauthenticated clients


def test_an_unauthenticated_request_is_answered_before_its_body(connect: Connect):
    client = connect()
    client.sendall(request_head("POST", "/v1/chat/completions", length=30 << 20))
    status, headers, _ = read_response(client)
    assert (status, headers["connection"]) == (401, "close")
    # Data that follows is discarded while the client may still read the response.
    with suppress(ConnectionError):
        client.sendall(b"x" * (1 << 20))
    assert until_closed(client) == b""


def test_a_small_body_after_an_early_answer_keeps_the_connection(
    connect: Connect,
):
    client = connect()
    client.sendall(request_head("POST", "/v1/chat/completions", length=5))
    assert read_response(client)[0] == 401
    client.sendall(b"hello" + request_head("GET", "/health"))
    assert read_response(client)[0] == 200


def test_no_100_continue_for_unauthenticated_callers(connect: Connect):
    client = connect()
    client.sendall(
        request_head("POST", "/v1/chat/completions", length=5, expect="100-continue")
    )
    assert read_response(client)[0] == 401


def test_100_continue_is_sent_if_the_body_is_needed(connect: Connect):
    client = connect()
    client.sendall(
        request_head(
            "POST", "/v1/chat/completions", length=5, expect="100-continue", **OWNED
        )
    )
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"hello")
    assert read_response(client)[0] == 400


def test_an_upgrade_request_is_answered_without_upgrade(connect: Connect):
    client = connect()
    client.sendall(
        request_head(
            "GET",
            "/health",
            upgrade="websocket",
            connection="upgrade",
            sec_websocket_version="13",
        )
    )
    assert read_response(client)[0] == 200


def test_pipelined_requests_are_answered_in_order(connect: Connect):
    client = connect()
    client.sendall(
        request_head("GET", "/health")
        + request_head("GET", "/nowhere")
        + request_head("GET", "/health")
    )
    data = b""
    while data.count(b"HTTP/1.1 ") < 3 or not data.endswith(b"}"):
        data += client.recv(1 << 16)
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"404", b"200"]


def test_the_number_of_pipelined_requests_is_limited(
    connect: Connect,
):
    client = connect()
    with suppress(ConnectionError):
        client.sendall(request_head("GET", "/health") * 5000)
    assert until_closed(client).count(b"HTTP/1.1 200") == 65


# every route


async def _endless(read_sizes: list[int]) -> MutableMapping[str, Any]:
    read_sizes.append(SMALL_BODY)
    return {"type": "http.request", "body": b"x" * SMALL_BODY, "more_body": True}


def _bytes_read(gateway: Any, method: str, path: str) -> int:
    """Return how many bytes of an endless body the server reads from a stranger."""
    read_sizes: list[int] = []
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return await _endless(read_sizes)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [
        (b"host", b"127.0.0.1"), (b"origin", b"http://127.0.0.1"), (b"content-type", b"application/json"),
        (b"authorization", b"Bearer wrong"), (b"x-api-key", b"wrong"), (b"dify-plugin-session-id", b"none"),
    ]  # fmt: skip
    scope = {
        "type": "http", "method": method, "path": path, "query_string": b"", "headers": headers,
        "client": ("203.0.113.9", 1), "scheme": "http",
    }  # fmt: skip
    asyncio.run(gateway(scope, receive, send))
    assert sent[0]["type"] == "http.response.start"
    assert sent[0]["status"] != 500
    return sum(read_sizes)


def test_no_route_buffers_the_body_of_an_unauthenticated_request(
    settings: Settings,
):
    """Property: the caller is authenticated before the body is read.

    Authentication is by key, session, signature, or a secret in the URL.
    """
    import msgspec

    yard = Modelyard(msgspec.structs.replace(settings, api_keys=[KEY]), environ={})
    gateway = gateway_for(yard.services)
    try:
        read = {
            (row.method, row.path): _bytes_read(
                gateway, row.method, re.sub(r"\{\w+(:path)?\}", "x", row.path)
            )
            for _, row in gateway.router.rows()
        }
        for path in (
            "session",
            "setup",
            "invitations/accept",
            "accounts",
            "invitations",
            "account",
        ):
            read["POST", path] = _bytes_read(gateway, "POST", f"/console/api/{path}")
        assert len(read) > 100
        # Reading stops with the chunk that exceeds the limit.
        assert {pair for pair, count in read.items() if count > 2 * SMALL_BODY} == set()
    finally:
        asyncio.run(yard.aclose())


# the total of all bodies


def test_unfinished_bodies_of_strangers_leave_room_for_those_who_are_known():
    budget = BodyBudget(1000, 400)
    with ExitStack() as stack:
        strangers = [
            stack.enter_context(budget.share((f"192.0.2.{n}", False)))
            for n in range(40)
        ]
        grown = sum(share.grow(10) for _ in range(100) for share in strangers)
        assert 0 < grown * 10 <= 400
        newcomer = stack.enter_context(budget.share(("192.0.2.99", False)))
        assert newcomer.grow(5)
        tenant_share = stack.enter_context(budget.share(("acme", True)))
        assert tenant_share.grow(700)
        assert not tenant_share.grow(100)
        assert stack.enter_context(budget.share(("globex", True))).grow(150)
    assert budget.held == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.booleans(), st.integers(1, 400)),
        max_size=60,
    )
)
def test_the_body_budget_is_never_exceeded_and_fully_released(
    bodies: list[tuple[str, bool, int]],
):
    budget = BodyBudget(1000, 300)
    with ExitStack() as stack:
        for who, is_authenticated, count in bodies:
            share = stack.enter_context(budget.share((who, is_authenticated)))
            share.grow(count)
            assert budget.held <= 1300
            assert share.pool.held <= (1000 if is_authenticated else 300)
    assert budget.held == 0


def test_a_body_beyond_the_budget_gets_retry_after(settings: Settings):
    import msgspec

    limits = ConnectionSettings(bodies_mb=1)
    yard = Modelyard(
        msgspec.structs.replace(settings, api_keys=[KEY], connections=limits),
        environ={},
    )
    gateway = gateway_for(yard.services)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b" " * SMALL_BODY, "more_body": True}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {KEY}".encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/messages",
        "query_string": b"",
        "headers": headers,
    }
    try:
        asyncio.run(gateway(scope, receive, send))
    finally:
        asyncio.run(yard.aclose())
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"1") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["type"] == "error"


# number of connections


def _idle(port: int, count: int, opened: ExitStack) -> list[socket.socket]:
    """Open connections from several addresses that never send anything."""
    connections: list[socket.socket] = []
    for number in range(count):
        connection = opened.enter_context(socket.socket())
        connection.settimeout(20)
        connection.bind((f"127.0.0.{2 + number % 8}", 0))
        connection.connect(("127.0.0.1", port))
        connections.append(connection)
    return connections


def test_more_idle_connections_than_open_files_block_nobody():
    with serving(files=256) as port, ExitStack() as opened:
        _idle(port, 600, opened)
        for _ in range(3):
            assert is_healthy(port)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(
                request_head("POST", "/v1/chat/completions", length=2, **OWNED) + b"{}"
            )
            assert read_response(client)[0] == 400
            _idle(port, 600, opened)
            assert is_healthy(port)


def test_at_the_connection_limit_a_new_connection_is_refused():
    with serving(MOST="4") as port, ExitStack() as opened:
        busy = [
            opened.enter_context(
                socket.create_connection(("127.0.0.1", port), timeout=20)
            )
            for _ in range(4)
        ]
        for client in busy:
            client.sendall(
                request_head("POST", "/v1/chat/completions", length=10, **OWNED) + b"{"
            )
        time.sleep(0.5)
        late_client = opened.enter_context(
            socket.create_connection(("127.0.0.1", port), timeout=20)
        )
        status, document = parse_error_response(until_closed(late_client))
        assert (status, document["error"]["code"]) == (503, "server_busy")
        for client in busy:
            client.sendall(b'"a": "b"}')
        assert [read_response(client)[0] for client in busy] == [400] * 4


def test_an_address_with_many_idle_connections_loses_its_own():
    with serving(MOST="40", IDLE_PER_ADDRESS="10") as port, ExitStack() as opened:
        active_client = opened.enter_context(
            socket.create_connection(("127.0.0.1", port), timeout=20)
        )
        active_client.sendall(request_head("GET", "/health"))
        assert read_response(active_client)[0] == 200

        def greedy() -> None:
            connection = opened.enter_context(socket.socket())
            connection.settimeout(20)
            connection.bind(("127.0.0.9", 0))
            connection.connect(("127.0.0.1", port))
            idle_clients.append(connection)

        idle_clients: list[socket.socket] = []
        for _ in range(10):
            greedy()
        time.sleep(1.5)
        for _ in range(5):
            greedy()
        assert [until_closed(client) for client in idle_clients[:5]] == [b""] * 5
        active_client.sendall(request_head("GET", "/health"))
        assert read_response(active_client)[0] == 200


@pytest.mark.parametrize(
    ("files", "settings", "max_connections", "idle"),
    [
        (1024, {}, 768, 192),
        (256, {}, 192, 48),
        (128, {}, 64, 16),
        (20_000, {"most": 100}, 100, 25),
        (1024, {"reserved_files": 24, "idle_per_address": 7}, 1000, 7),
    ],
)
def test_some_open_files_are_reserved_for_the_server(
    files: int, settings: Mapping[str, int], max_connections: int, idle: int
):
    room = capacity_for(ConnectionSettings(**settings), files)
    assert (room.most, room.idle_per_address) == (max_connections, idle)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_addresses_are_grouped_by_network(address: str, network: str):
    assert network_of(address) == network


def test_our_request_cycle_has_all_attributes_of_uvicorns(
    monkeypatch: pytest.MonkeyPatch,
):
    """uvicorn's methods run on our request cycle.

    So an attribute that a later version of uvicorn adds must be set here too.
    """
    loop = asyncio.new_event_loop()
    app: Any = lambda scope, receive, send: None  # noqa: E731
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    config.load()
    cycles: list[Any] = []
    monkeypatch.setattr(
        HttpToolsProtocol,
        "_start_asgi_task",
        lambda self, cycle, app: cycles.append(cycle),
    )
    monkeypatch.setattr(
        GuardedProtocol, "start_usual", lambda self, cycle: cycles.append(cycle)
    )
    door = ConnectionLimiter(
        ConnectionSettings(), capacity_for(ConnectionSettings(), 1024)
    )
    guarded: Any = protocol_class(
        door,
        lambda method, path, error: Reply(b""),
        EarlyRefusals(LoadController(0.0)),
    )
    try:
        for protocol in (HttpToolsProtocol, guarded):
            connection: Any = protocol(config, ServerState(), {}, loop)
            connection.connection_made(_Nowhere())
            connection.data_received(request_head("GET", "/a%20b?c=d"))
        uvicorn_cycle, guarded_cycle = cycles
        assert {
            name for name in vars(uvicorn_cycle) if not hasattr(guarded_cycle, name)
        } <= {"access_logger"}
        assert guarded_cycle.scope == uvicorn_cycle.scope
    finally:
        loop.close()


class _Nowhere(asyncio.Transport):
    """A transport that is not connected."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default
