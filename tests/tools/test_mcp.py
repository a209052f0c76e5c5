"""Tests for the Model Context Protocol.

Our client with our server over every transport, and with servers that misbehave.
"""

import asyncio
import gc
import json
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from modelyard.base.errors import ModelyardError
from modelyard.tools.entities import ToolContext, blob_message, json_message
from modelyard.tools.function import tool
from modelyard.tools.manager import ToolManager
from modelyard.tools.mcp import protocol
from modelyard.tools.mcp.client import McpClient, StdioChannel, http_client
from modelyard.tools.mcp.protocol import McpError
from modelyard.tools.mcp.server import McpServer, Resource, ServerCatalog, serve_lines
from modelyard.transport.egress import EgressClient, EgressRules


@tool(is_repeatable=True)
async def add(one: int, other: int) -> Any:
    """Adds."""
    return [json_message({"sum": one + other})]


@tool
async def draw() -> Any:
    """Draws."""
    return [blob_message(b"\x89PNG", "image/png")]


@tool
async def boom() -> str:
    """Raises."""
    raise ValueError("no luck")


@tool
async def wait() -> str:
    """Waits."""
    await asyncio.sleep(30)
    return "never"


async def offer() -> ServerCatalog:
    async def read(uri: str) -> str | None:
        return "a note" if uri == "note://1" else None

    tools, resources = [add, draw, boom, wait], [Resource(uri="note://1", name="one")]
    return ServerCatalog(tools=tools, resources=resources, read=read)


def ask(message: Any, headers: dict[str, str] | None = None) -> Any:
    return asyncio.run(
        McpServer(ToolManager()).answer(message, offer, ToolContext(), headers=headers)
    )


def modern(method: str, **params: Any) -> dict[str, Any]:
    meta = {protocol.VERSION_META: protocol.MODERN, protocol.CAPABILITIES_META: {}}
    return protocol.request(1, method, {**params, "_meta": meta})


def test_both_kinds_of_revisions_are_served():
    old = ask(protocol.request(1, "initialize", {"protocolVersion": "2025-06-18"}))[
        "result"
    ]
    assert (old["protocolVersion"], old["serverInfo"]["name"]) == (
        "2025-06-18",
        "modelyard",
    )
    assert (
        ask(protocol.request(1, "initialize", {"protocolVersion": "1999"}))["result"][
            "protocolVersion"
        ]
        == "2025-11-25"
    )
    new = ask(modern("server/discover"))["result"]
    assert (new["supportedVersions"], new["resultType"]) == (["2026-07-28"], "complete")
    assert new["_meta"][protocol.SERVER_META]["name"] == "modelyard"
    names = [
        listed_tool["name"]
        for listed_tool in ask(protocol.request(1, "tools/list"))["result"]["tools"]
    ]
    assert names == ["add", "draw", "boom", "wait"]
    assert (
        ask(modern("tools/list"))["result"]["tools"][0]["annotations"]["readOnlyHint"]
        is True
    )
    assert ask(modern("ping"))["error"]["code"] == protocol.METHOD_NOT_FOUND
    assert ask(protocol.request(1, "ping"))["result"] == {}


def test_calls_and_their_failures():
    result = ask(modern("tools/call", name="add", arguments={"one": "1", "other": 2}))[
        "result"
    ]
    assert (result["isError"], result["structuredContent"]) == (False, {"sum": 3})
    assert (
        ask(modern("tools/call", name="draw"))["result"]["content"][0]["type"]
        == "image"
    )
    failed = ask(modern("tools/call", name="boom"))["result"]
    assert (failed["isError"], "no luck" in failed["content"][0]["text"]) == (
        True,
        True,
    )
    invalid_call = ask(modern("tools/call", name="add", arguments={}))["result"]
    assert invalid_call["isError"]
    assert (
        ask(modern("tools/call", name="none"))["error"]["code"]
        == protocol.INVALID_PARAMS
    )
    assert (
        ask(modern("tools/call", name="add", arguments=[1]))["error"]["code"]
        == protocol.INVALID_PARAMS
    )
    assert (
        ask(modern("resources/read", uri="note://1"))["result"]["contents"][0]["text"]
        == "a note"
    )
    assert (
        ask(modern("resources/read", uri="note://2"))["error"]["code"]
        == protocol.INVALID_PARAMS
    )
    assert (
        ask(protocol.request(1, "resources/read", {"uri": "x"}))["error"]["code"]
        == protocol.RESOURCE_NOT_FOUND
    )


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ([], protocol.INVALID_REQUEST), ({"id": 1, "method": "ping"}, protocol.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1}, protocol.INVALID_REQUEST), ({"jsonrpc": "2.0", "id": None, "method": "ping"}, protocol.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": True, "method": "ping"}, protocol.INVALID_REQUEST),
        (protocol.request(1, "no/such"), protocol.METHOD_NOT_FOUND),
        (protocol.request(1, "tools/list", {"cursor": "99"}), protocol.INVALID_PARAMS),
    ],
)  # fmt: skip
def test_malformed_messages(message: Any, code: int):
    assert ask(message)["error"]["code"] == code


def test_notifications_get_no_answer():
    assert ask({"jsonrpc": "2.0", "method": "notifications/initialized"}) is None
    assert ask({"jsonrpc": "2.0", "id": 7, "result": {}}) is None


def test_headers_must_match_the_message():
    head = {
        "mcp-protocol-version": protocol.MODERN,
        "mcp-method": "tools/call",
        "mcp-name": "add",
    }
    message = modern("tools/call", name="add", arguments={"one": 1, "other": 1})
    assert "result" in ask(message, head)
    for name, value in (
        ("mcp-method", "tools/list"),
        ("mcp-name", "draw"),
        ("mcp-protocol-version", "2025-11-25"),
    ):
        assert (
            ask(message, {**head, name: value})["error"]["code"]
            == protocol.HEADER_MISMATCH
        )
    assert (
        ask(protocol.request(1, "tools/list"), {"mcp-protocol-version": "2030-01-01"})[
            "error"
        ]["code"]
        == protocol.UNSUPPORTED_VERSION
    )
    assert (
        ask(
            protocol.request(1, "tools/list"), {"mcp-protocol-version": protocol.MODERN}
        )["error"]["code"]
        == protocol.INVALID_PARAMS
    )
    assert protocol.read_header(protocol.header_value("näme ")) == "näme "
    assert protocol.read_header("=?base64?!!?=") is None


# --------------------------------------------------------------------------- over stdio


def test_stdio_requests_run_concurrently_and_can_be_cancelled():
    async def go() -> list[Any]:
        reader = asyncio.StreamReader()
        replies: list[Any] = []

        async def write(data: bytes) -> None:
            replies.append(json.loads(data))

        serving = asyncio.ensure_future(
            serve_lines(McpServer(ToolManager()), offer, ToolContext(), reader, write)
        )
        for message in (
            modern("tools/call", name="wait") | {"id": "slow"}, modern("tools/call", name="add", arguments={"one": 1, "other": 1}),
        ):  # fmt: skip
            reader.feed_data(json.dumps(message).encode() + b"\n")
        reader.feed_data(b"no json\n\n")
        while len(replies) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        cancelled = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": "slow"},
        }
        for params in ({"requestId": ["slow"]}, {"requestId": {}}, [], None):
            unusable = cancelled | {"params": params}
            reader.feed_data(json.dumps(unusable).encode() + b"\n")
        reader.feed_data(json.dumps(cancelled).encode() + b"\n")
        reader.feed_eof()
        async with asyncio.timeout(5):
            await serving
        return replies

    replies = asyncio.run(go())
    assert {reply["id"] for reply in replies} == {1, None}


def test_an_id_in_progress_is_not_taken_by_another_message():
    """Neither by a second request, nor by a response or by `true`, which equals 1."""

    async def go() -> list[Any]:
        reader = asyncio.StreamReader()
        replies: list[Any] = []
        has_replied = asyncio.Event()

        async def write(data: bytes) -> None:
            replies.append(json.loads(data))
            has_replied.set()

        def send(*messages: Any) -> None:
            for message in messages:
                reader.feed_data(json.dumps(message).encode() + b"\n")

        serving = asyncio.ensure_future(
            serve_lines(McpServer(ToolManager()), offer, ToolContext(), reader, write)
        )
        slow = modern("tools/call", name="wait")
        quick = modern("tools/call", name="add", arguments={"one": 1, "other": 1})
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
        send(slow, quick, quick | {"id": True})
        send({"jsonrpc": "2.0", "id": 1, "result": {}})
        send(cancelled | {"params": {"requestId": True}}, quick | {"id": 2})
        async with asyncio.timeout(5):
            while len(replies) < 3:
                has_replied.clear()
                await has_replied.wait()
            # The slow request can still be cancelled, so that serving ends.
            send(cancelled | {"params": {"requestId": 1}})
            reader.feed_eof()
            await serving
        return replies

    replies = asyncio.run(go())
    by_id = {reply["id"]: reply for reply in replies}
    assert set(by_id) == {1, None, 2}
    assert by_id[1]["error"] == {
        "code": protocol.INVALID_REQUEST,
        "message": "Invalid request: a request with the id 1 is in progress",
    }
    assert by_id[None]["error"]["code"] == protocol.INVALID_REQUEST
    assert "result" in by_id[2]


def test_messages_without_an_id_are_answered_before_serving_ends():
    async def go() -> list[Any]:
        reader = asyncio.StreamReader()
        replies: list[Any] = []

        async def write(data: bytes) -> None:
            # Garbage would be collected here, if nobody held the task.
            gc.collect()
            await asyncio.sleep(0)
            replies.append(json.loads(data))

        reader.feed_data(b'[]\n{"jsonrpc": "2.0", "id": null, "method": "ping"}\n')
        reader.feed_eof()
        await serve_lines(McpServer(ToolManager()), offer, ToolContext(), reader, write)
        return replies

    replies = asyncio.run(go())
    codes = [reply["error"]["code"] for reply in replies]
    assert codes == [protocol.INVALID_REQUEST] * 2


def test_a_server_over_stdio_and_one_that_dies():
    program = "import asyncio, sys\nsys.path.insert(0, '.')\nfrom tests.tools import test_mcp\nasyncio.run(test_mcp.serve_here())\n"

    async def go() -> None:
        client = McpClient(
            StdioChannel(sys.executable, ["-c", program], {"PATH": "/usr/bin:/bin"}),
            seconds=20,
        )
        try:
            await client.connect()
            assert client.version == protocol.MODERN
            assert [listed_tool["name"] for listed_tool in await client.tools()] == [
                "add",
                "draw",
                "boom",
                "wait",
            ]
            result = await client.call("add", {"one": 2, "other": 3})
            assert next(iter(protocol.messages_of(result)))["message"] == {
                "json_object": {"sum": 5}
            }
            with pytest.raises(McpError, match=r"No response within 0\.1 s"):
                await client.call("wait", {}, seconds=0.1)
        finally:
            await client.aclose()
        dead = McpClient(StdioChannel(sys.executable, ["-c", "pass"]))
        with pytest.raises(McpError):
            await dead.connect()
        await dead.aclose()
        with pytest.raises(McpError, match="Cannot start"):
            await McpClient(StdioChannel("/no/such/program")).connect()

    asyncio.run(go())


async def serve_here() -> None:
    """Serve over stdio; run by the program of the test above."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )

    async def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    await serve_lines(McpServer(ToolManager()), offer, ToolContext(), reader, write)


# ------------------------------------------------------------------ misbehaving servers


@contextmanager
def lying(answers: Any) -> Generator[str]:
    """Serve the responses of `answers` to each message: (status, headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, headers, answer = answers(
                json.loads(body) if body else {}, self.headers
            )
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            self.send_response(405)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *details: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run_with_server(answers: Any, work: Any) -> Any:
    """Return the result of `work` with a client of such a server, or the error."""

    async def go() -> Any:
        with lying(answers) as origin:
            egress = EgressClient(EgressRules(private=frozenset({origin})))
            client = http_client(egress, f"http://{origin}/mcp", seconds=5)
            try:
                return await work(client)
            except ModelyardError as error:
                return f"{type(error).__name__}: {error}"
            finally:
                await client.aclose()
                await egress.aclose()

    return asyncio.run(go())


def result_body(message: dict[str, Any], result: Any) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "id": message.get("id"), "result": result}
    ).encode()


DISCOVERED = {
    "supportedVersions": [protocol.MODERN],
    "capabilities": {"tools": {}},
    "resultType": "complete",
}


def after_discovery(answer: Any) -> Any:
    def answers(message: dict[str, Any], headers: Any) -> Any:
        if message.get("method") == "server/discover":
            return 200, {}, result_body(message, DISCOVERED)
        return answer(message)

    return answers


@pytest.mark.parametrize("sent", [5, "2026-07-28", None, {"a": 1}, True])
def test_a_malformed_list_of_revisions_counts_as_empty(sent: Any):
    assert protocol.names_of(sent) == []


LIES: dict[str, tuple[Any, str]] = {
    "no JSON": (lambda m: (200, {}, b"<html>"), "not a JSON-RPC message"),
    "another id": (lambda m: (200, {}, json.dumps({"jsonrpc": "2.0", "id": 99, "result": {}}).encode()), "another request"),
    "neither result nor error": (lambda m: (200, {}, json.dumps({"jsonrpc": "2.0", "id": m["id"]}).encode()), "not a JSON-RPC message"),
    "a result that is a list": (lambda m: (200, {}, result_body(m, [1])), "neither a result nor an error"),
    "wants its user": (lambda m: (200, {}, result_body(m, {"resultType": "input_required"})), "requires user input"),
    "a stream without end or answer": (lambda m: (200, {"content-type": "text/event-stream"}, b"data: {}\n\n"), "without a response"),
    "a status": (lambda m: (500, {}, b"oops"), "status 500"),
    "an error": (lambda m: (200, {}, json.dumps({"jsonrpc": "2.0", "id": m["id"], "error": {"code": -1, "message": "no"}}).encode()), "McpError: no"),
    "too much": (lambda m: (200, {}, b" " * (33 << 20)), "sent more than|larger"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_misbehaving_servers(name: str):
    answer, error_pattern = LIES[name]

    async def work(client: McpClient) -> Any:
        return await client.call("x", {})

    import re

    assert re.search(error_pattern, str(run_with_server(after_discovery(answer), work)))


def test_endless_and_malformed_lists():
    def endless(message: dict[str, Any]) -> Any:
        tools = [
            {"name": "a"},
            {"name": ""},
            {"name": 7},
            "x",
            None,
            {"name": "b" * 500},
            {"name": "ok", "inputSchema": "odd"},
        ]
        return 200, {}, result_body(message, {"tools": tools, "nextCursor": "same"})

    async def work(client: McpClient) -> Any:
        from modelyard.tools.mcp.client import list_tools
        from modelyard.tools.sources import mcp_entity

        return [
            mcp_entity("p", listed_tool).name
            async for listed_tool in list_tools(client)
        ]

    assert run_with_server(after_discovery(endless), work) == ["a", "ok"]


def test_a_server_of_older_revisions_and_a_lost_session():
    methods: list[str] = []

    def answers(message: dict[str, Any], headers: Any) -> Any:
        method = str(message.get("method"))
        methods.append(method)
        if method == "initialize":
            return (
                200,
                {"mcp-session-id": f"s{len(methods)}"},
                result_body(
                    message, {"protocolVersion": "2025-03-26", "capabilities": {}}
                ),
            )
        if method == "server/discover":
            return (
                200,
                {},
                json.dumps(
                    {
                        "jsonrpc": "2.0",
                        "id": message["id"],
                        "error": {"code": -32601, "message": "?"},
                    }
                ).encode(),
            )
        if method == "tools/call" and methods.count("tools/call") == 1:
            return 404, {}, b""
        return (
            200,
            {},
            result_body(message, {"content": [{"type": "text", "text": "fine"}]}),
        )

    async def work(client: McpClient) -> Any:
        return (await client.call("x", {}))["content"][0]["text"], client.version

    assert run_with_server(answers, work) == ("fine", "2025-03-26")
    assert methods.count("initialize") == 2


def test_a_server_of_unknown_revisions():
    def answers(message: dict[str, Any], headers: Any) -> Any:
        error = {
            "code": protocol.UNSUPPORTED_VERSION,
            "message": "no",
            "data": {"supported": ["2031-01-01"]},
        }
        return (
            400,
            {},
            json.dumps(
                {"jsonrpc": "2.0", "id": message.get("id"), "error": error}
            ).encode(),
        )

    async def work(client: McpClient) -> Any:
        return await client.tools()

    assert "McpError" in run_with_server(answers, work)


def test_content_of_other_servers_as_messages():
    content = [
        {"type": "text", "text": '{"a": 1}'}, {"type": "text", "text": '[{"a": 1}, {"b": 2}]'}, {"type": "text", "text": "x"},
        {"type": "image", "data": "AAE=", "mimeType": "image/x"}, {"type": "audio", "data": "!"},
        {"type": "resource", "resource": {"uri": "a/b.txt", "text": "t"}}, {"type": "resource", "resource": {"uri": "a/b", "blob": "AAE="}},
        {"type": "resource_link", "uri": "u", "name": "n"}, {"type": "odd"}, "x",
    ]  # fmt: skip
    kinds = [
        message["type"]
        for message in protocol.messages_of(
            {"content": content, "structuredContent": {"v": 1}}
        )
    ]
    assert kinds == [
        "json",
        "json",
        "json",
        "text",
        "blob",
        "blob",
        "text",
        "blob",
        "text",
        "variable",
    ]
    assert list(protocol.messages_of({"content": "odd"})) == []
