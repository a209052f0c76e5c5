"""The official MCP client against Modelyard's server: over HTTP and stdio, with current
and legacy protocol revisions.

The argument is a JSON object with the server's address and home folder. Prints the
checks as one line of JSON.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

server_info = json.loads(sys.argv[1])
results: list[tuple[str, bool, str]] = []


async def check_client(client: Client, prefix: str) -> None:
    """Run the checks with a connected client and record them; `prefix` is that of their
    names."""

    def check(name: str, ok: Any, detail: Any) -> None:
        """Record a check; the detail is cut to 60 characters."""
        results.append((f"{prefix}: {name}", bool(ok), str(detail)[:60]))

    tools = (await client.list_tools()).tools
    names = [tool.name for tool in tools]
    are_objects = all(tool.input_schema["type"] == "object" for tool in tools)
    summary = f"{len(names)}, revision {client.protocol_version}"
    check("lists tools", "calculate" in names and are_objects, summary)
    await check_calls(client, check)
    # Datasets and apps are offered over HTTP only.
    resources = (await client.list_resources()).resources
    if server_info.get("dataset"):
        await check_dataset(client, resources, check)
        result = await client.call_tool("workflow", {"n": 3})
        text = result.content[0].text
        check("an app is a tool", "3:[]" in text, text)


Check = Callable[[str, Any, Any], None]


async def check_calls(client: Client, check: Check) -> None:
    """Call tools with valid and invalid arguments."""
    result = await client.call_tool("calculate", {"expression": "6*7"})
    text = result.content[0].text
    check("calls a tool", text == "42" and not result.is_error, text)
    # An error inside a tool is a tool result; only protocol errors are exceptions.
    result = await client.call_tool("calculate", {"expression": "6*"})
    check("a failed tool call is a result", result.is_error, result.content[0].text)
    try:
        await client.call_tool("nope", {})
        check("an unknown tool is an error", False, "it was called")
    except Exception as error:
        check("an unknown tool is an error", "Unknown tool" in str(error), error)
    result = await client.call_tool("weekday", {"year": 2026, "month": 11, "day": 21})
    text = result.content[0].text
    check("numbers are received as numbers", "Saturday" in text, text)


async def check_dataset(client: Client, resources: list[Any], check: Check) -> None:
    """Read a dataset as a resource, and search it as a tool."""
    text = ""
    shop = next((resource for resource in resources if resource.name == "shop"), None)
    if shop:
        text = (await client.read_resource(shop.uri)).contents[0].text
    check("a dataset is a resource", shop and '"documents"' in text, text)
    result = await client.call_tool(
        "dataset_shop", {"query": "When does the shop open?"}
    )
    text = result.content[0].text
    check("a dataset is a tool", "nine" in text, text)


async def main() -> None:
    """Run the checks over both transports, each in both revision modes."""
    for mode in ("auto", "legacy"):
        async with Client(server_info["url"], mode=mode) as client:
            await check_client(client, f"HTTP, {mode}")
    # The stdio server below offers only the two tools, no datasets.
    server_info.pop("dataset", None)
    for mode in ("auto", "legacy"):
        program = StdioServerParameters(
            command=server_info["python"],
            args=["-m", "modelyard", "mcp", "serve", "--tools", "calculate,weekday"],
            env={"MODELYARD_HOME": server_info["home"], "PATH": "/usr/bin:/bin"},
        )
        async with Client(stdio_client(program), mode=mode) as client:
            await check_client(client, f"stdio, {mode}")


asyncio.run(main())
print(json.dumps(results))
