"""MCP messages are validated against the official models, in both directions.

Messages that we send are checked by `mcp_types.methods`, for each revision that we
support. Messages from the official models are accepted. The official client also runs
against our server.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import mcp_types
import pytest
from mcp.client.client import Client
from mcp.shared.message import SessionMessage
from mcp_types import methods
from mcp_types.jsonrpc import JSONRPCError, JSONRPCResponse, jsonrpc_message_adapter

from modelyard.tools.entities import (
    ToolContext,
    blob_message,
    json_message,
    text_message,
)
from modelyard.tools.function import tool
from modelyard.tools.manager import ToolManager
from modelyard.tools.mcp import protocol
from modelyard.tools.mcp.client import McpClient
from modelyard.tools.mcp.protocol import McpError, messages_of
from modelyard.tools.mcp.server import McpServer, Resource, ServerCatalog

pytestmark = pytest.mark.proof("mcp")

REVISIONS = [protocol.MODERN, *protocol.HANDSHAKE]


@tool(is_repeatable=True)
async def everything(count: int = 1) -> Any:
    """Says all kinds of things that a tool can say."""
    return [
        text_message("words "),
        json_message({"count": count}),
        blob_message(b"\x89PNG", "image/png"),
        blob_message(b"RIFF", "audio/wav"),
        blob_message(b"%PDF", "application/pdf", "a.pdf"),
    ]


@tool
async def boom() -> str:
    """Raises."""
    raise ValueError("no luck")


async def offer() -> ServerCatalog:
    async def read(uri: str) -> str | None:
        return "a note" if uri == "note://1" else None

    resources = [
        Resource(uri=f"note://{number}", name="a note", description="One.")
        for number in range(1, 103)
    ]
    return ServerCatalog(
        tools=[everything, boom], resources=resources, read=read, instructions="Ask."
    )


class Served:
    """Our server in this process, with a log of the messages of server and client."""

    def __init__(self) -> None:
        self.server = McpServer(ToolManager())
        self.notifications: list[Mapping[str, Any]] = []

    async def answer(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        async def notify(notification: Mapping[str, Any]) -> None:
            self.notifications.append(notification)

        return await self.server.answer(message, offer, ToolContext(), notify=notify)


def checked_request(version: str, method: str, **params: Any) -> dict[str, Any]:
    """Return a request of a revision, itself validated by the official models."""
    meta = dict(params.pop("_meta", {}))
    if version == protocol.MODERN:
        meta |= {
            protocol.VERSION_META: version,
            protocol.CAPABILITIES_META: {},
            protocol.CLIENT_META: protocol.info(),
        }
    request_params = {**params, "_meta": meta} if meta else params
    methods.validate_client_request(method, version, request_params)
    return protocol.request(1, method, request_params)


def requests_of(version: str) -> list[dict[str, Any]]:
    """Return the requests that our server answers with a result."""
    first = [checked_request(version, "server/discover")] if version == protocol.MODERN else [
        checked_request(version, "initialize", protocolVersion=version, capabilities={}, clientInfo=protocol.info()),
        checked_request(version, "ping"), checked_request(version, "logging/setLevel", level="info"),
    ]  # fmt: skip
    return [
        *first, checked_request(version, "tools/list"), checked_request(version, "resources/list"),
        checked_request(version, "resources/list", cursor="100"), checked_request(version, "resources/templates/list"),
        checked_request(version, "resources/read", uri="note://1"),
        checked_request(version, "tools/call", name="everything", arguments={"count": 2}),
        checked_request(version, "tools/call", name="boom", arguments={}),
        checked_request(version, "tools/call", name="everything", arguments={"count": "many"}),
    ]  # fmt: skip


@pytest.mark.parametrize("version", REVISIONS)
def test_every_result_of_our_server_matches_the_official_models(version: str):
    served = Served()
    for message in requests_of(version):
        answer = asyncio.run(served.answer(message))
        assert answer is not None
        response = JSONRPCResponse.model_validate(answer)
        methods.validate_server_result(message["method"], version, response.result)


@pytest.mark.parametrize("version", REVISIONS)
def test_notifications_of_our_server_match_the_official_models(version: str):
    served = Served()
    call = checked_request(
        version,
        "tools/call",
        name="everything",
        arguments={},
        _meta={"progressToken": "t"},
    )
    asyncio.run(served.answer(call))
    assert served.notifications
    for notification in served.notifications:
        methods.parse_server_notification(
            str(notification["method"]), version, notification["params"]
        )


@pytest.mark.parametrize("version", REVISIONS)
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("resources/read", {"uri": "note://none"}), ("tools/call", {"name": "none"}), ("no/such", {}),
        ("tools/list", {"cursor": "x"}),
    ],
)  # fmt: skip
def test_every_error_of_our_server_matches_the_official_model(
    version: str, method: str, params: dict[str, Any]
):
    meta = {"_meta": {protocol.VERSION_META: version, protocol.CAPABILITIES_META: {}}}
    request_params = {**params, **meta} if version == protocol.MODERN else params
    answer = asyncio.run(Served().answer(protocol.request("a", method, request_params)))
    assert JSONRPCError.model_validate(answer).id == "a"


def test_errors_have_the_official_codes():
    jsonrpc = mcp_types.jsonrpc
    error_codes = [protocol.PARSE_ERROR, protocol.INVALID_REQUEST, protocol.METHOD_NOT_FOUND, protocol.INVALID_PARAMS,
            protocol.INTERNAL_ERROR, protocol.HEADER_MISMATCH, protocol.UNSUPPORTED_VERSION]  # fmt: skip
    assert error_codes == [jsonrpc.PARSE_ERROR, jsonrpc.INVALID_REQUEST, jsonrpc.METHOD_NOT_FOUND, jsonrpc.INVALID_PARAMS,
                    jsonrpc.INTERNAL_ERROR, jsonrpc.HEADER_MISMATCH, jsonrpc.UNSUPPORTED_PROTOCOL_VERSION]  # fmt: skip


def test_we_support_every_revision_of_the_official_package():
    assert set(REVISIONS) == set(mcp_types.version.KNOWN_PROTOCOL_VERSIONS)


# --------------------------------------------------------------------------- our client


class OfficialServer:
    """A channel that answers with the official models, in one revision.

    It records what our client sends.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.sent: list[Mapping[str, Any]] = []

    async def open(self) -> None: ...

    async def aclose(self) -> None: ...

    def set_protocol_version(self, version: str) -> None:
        del version

    async def notify(self, message: Mapping[str, Any]) -> None:
        methods.validate_client_notification(
            str(message["method"]), self.version, message.get("params")
        )
        self.sent.append(message)

    async def ask(
        self, message: Mapping[str, Any], *, seconds: float
    ) -> Mapping[str, Any]:
        del seconds
        method = str(message["method"])
        if method == "server/discover" and self.version != protocol.MODERN:
            return protocol.error_of(message["id"], protocol.METHOD_NOT_FOUND, "no")
        jsonrpc_message_adapter.validate_python(dict(message))
        methods.validate_client_request(method, self.version, message["params"])
        self.sent.append(message)
        result = official_result(method, self.version)
        return protocol.result_of(
            message["id"], methods.serialize_server_result(method, self.version, result)
        )


PNG, WAV = "iVBORw0=", "UklGRg=="


def official_result(method: str, version: str) -> dict[str, Any]:
    """Return a result as the official models serialize it."""
    capabilities = mcp_types.ServerCapabilities(
        tools=mcp_types.ToolsCapability(),
        resources=mcp_types.ResourcesCapability(),
        prompts=mcp_types.PromptsCapability(),
    )
    server_info = mcp_types.Implementation(name="official", version="1")
    contents = [
        mcp_types.TextResourceContents(uri="a://b", text="read", mime_type="text/plain")
    ]
    content = [
        mcp_types.TextContent(type="text", text="hello"),
        mcp_types.ImageContent(type="image", data=PNG, mime_type="image/png"),
        mcp_types.AudioContent(type="audio", data=WAV, mime_type="audio/wav"),
        mcp_types.EmbeddedResource(type="resource", resource=contents[0]),
        mcp_types.ResourceLink(type="resource_link", uri="a://c", name="c"),
    ]
    result_builders: dict[str, Any] = {
        "initialize": lambda: mcp_types.InitializeResult(protocol_version=version, capabilities=capabilities, server_info=server_info),
        "server/discover": lambda: mcp_types.DiscoverResult(
            supported_versions=[version], capabilities=capabilities, ttl_ms=0, cache_scope="private"
        ),
        "tools/list": lambda: mcp_types.ListToolsResult(
            tools=[mcp_types.Tool(name="t", description="T.", input_schema={"type": "object"})]
        ),
        "tools/call": lambda: mcp_types.CallToolResult(content=content, structured_content={"n": 1}),
        "resources/list": lambda: mcp_types.ListResourcesResult(resources=[mcp_types.Resource(uri="a://b", name="b")]),
        "resources/read": lambda: mcp_types.ReadResourceResult(contents=contents),
        "prompts/list": lambda: mcp_types.ListPromptsResult(prompts=[mcp_types.Prompt(name="p")]),
        "prompts/get": lambda: mcp_types.GetPromptResult(
            messages=[mcp_types.PromptMessage(role="user", content=content[0])]
        ),
    }  # fmt: skip
    dumped = cast(
        "dict[str, Any]",
        result_builders[method]().model_dump(
            by_alias=True, exclude_none=True, mode="json"
        ),
    )
    if version == protocol.MODERN:
        caching = (
            {"ttlMs": 0, "cacheScope": "private"}
            if method in methods.CACHEABLE_METHODS
            else {}
        )
        dumped = {"resultType": "complete", **caching, **dumped}
    return dumped


@pytest.mark.parametrize("version", REVISIONS)
def test_our_client_sends_and_accepts_official_messages(version: str):
    async def use() -> OfficialServer:
        server = OfficialServer(version)
        client = McpClient(server)
        await client.connect()
        assert client.version == version
        assert [listed_tool["name"] for listed_tool in await client.tools()] == ["t"]
        assert [resource["uri"] for resource in await client.resources()] == ["a://b"]
        assert (await client.read("a://b"))[0]["text"] == "read"
        assert [prompt["name"] for prompt in await client.prompts()] == ["p"]
        assert (await client.prompt("p", {"a": "b"}))["messages"][0]["content"][
            "text"
        ] == "hello"
        messages = list(messages_of(await client.call("t", {"a": [1, None]})))
        # A text, an image, a sound, a resource, a link, and the structured content.
        has_structure = version in (protocol.MODERN, "2025-11-25", "2025-06-18")
        assert len(messages) >= (6 if has_structure else 5)
        await client.aclose()
        return server

    sent = {str(message["method"]) for message in asyncio.run(use()).sent}
    first = (
        {"server/discover"}
        if version == protocol.MODERN
        else {"initialize", "notifications/initialized"}
    )
    assert sent == {
        *first,
        "tools/list",
        "tools/call",
        "resources/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
    }


# ------------------------------------------------------------------ the official client


@asynccontextmanager
async def in_process(served: Served) -> AsyncIterator[Any]:
    """A transport of the official client that is connected to our server.

    Messages are JSON in both directions, as over stdio.
    """
    to_client, from_server = anyio.create_memory_object_stream[Any](64)
    to_server, from_client = anyio.create_memory_object_stream[Any](64)

    async def work() -> None:
        async for session_message in from_client:
            line = session_message.message.model_dump_json(
                by_alias=True, exclude_unset=True
            )
            answer = await served.answer(json.loads(line))
            if answer is not None:
                await to_client.send(
                    SessionMessage(
                        jsonrpc_message_adapter.validate_json(json.dumps(answer))
                    )
                )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        try:
            yield from_server, to_server
        finally:
            tasks.cancel_scope.cancel()
            for stream in (to_client, from_server, to_server, from_client):
                stream.close()


@pytest.mark.parametrize(
    ("mode", "version"), [("auto", protocol.MODERN), ("legacy", protocol.HANDSHAKE[0])]
)
def test_the_official_client_is_answered(mode: Any, version: str):
    async def use() -> None:
        async with Client(in_process(Served()), mode=mode) as client:
            assert client.protocol_version == version
            assert [
                listed_tool.name for listed_tool in (await client.list_tools()).tools
            ] == ["everything", "boom"]
            result = await client.call_tool("everything", {"count": 3})
            assert [block.type for block in result.content] == [
                "text",
                "text",
                "image",
                "audio",
                "resource",
            ]
            assert result.structured_content == {"count": 3}
            assert (await client.call_tool("boom", {})).is_error
            page = await client.list_resources()
            assert (
                len((await client.list_resources(cursor=page.next_cursor)).resources)
                == 2
            )
            read = (await client.read_resource("note://1")).contents[0]
            assert isinstance(read, mcp_types.TextResourceContents)
            assert read.text == "a note"
            with pytest.raises(Exception, match="Unknown tool"):
                await client.call_tool("none", {})

    asyncio.run(use())


def test_a_server_of_no_known_revision_is_refused():
    with pytest.raises(McpError, match="Unsupported protocol revision"):
        asyncio.run(McpClient(Unknown("2025-06-18")).connect())


class Unknown(OfficialServer):
    async def ask(
        self, message: Mapping[str, Any], *, seconds: float
    ) -> Mapping[str, Any]:
        answer = await super().ask(message, seconds=seconds)
        result = answer.get("result")
        return (
            {**answer, "result": {**result, "protocolVersion": "1999-01-01"}}
            if isinstance(result, dict)
            else answer
        )
