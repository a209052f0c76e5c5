"""The official MCP client against Modelyard's server: over HTTP and stdio, with current
and legacy protocol revisions.

The argument is a JSON object with the server's address and home folder. Prints the
checks as one line of JSON.
"""

import asyncio
import json
import sys

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

server_info = json.loads(sys.argv[1])
results: list[tuple[str, bool, str]] = []


async def check_client(client: Client, where: str) -> None:
    """Run the checks with a connected client and record them; `where` is the prefix of
    their names."""
    tools = (await client.list_tools()).tools
    names = [tool.name for tool in tools]
    results.append(
        (
            f"{where}: lists tools",
            "calculate" in names
            and all(tool.input_schema["type"] == "object" for tool in tools),
            f"{len(names)}, revision {client.protocol_version}",
        )
    )
    result = await client.call_tool("calculate", {"expression": "6*7"})
    results.append(
        (
            f"{where}: calls one",
            result.content[0].text == "42" and not result.is_error,
            result.content[0].text,
        )
    )
    # An error inside a tool is a tool result; only protocol errors are exceptions.
    result = await client.call_tool("calculate", {"expression": "6*"})
    results.append(
        (
            f"{where}: a tool that fails is a result",
            result.is_error,
            result.content[0].text[:60],
        )
    )
    try:
        await client.call_tool("nope", {})
        results.append(
            (f"{where}: an unknown tool is an error", False, "it was called")
        )
    except Exception as error:
        results.append(
            (
                f"{where}: an unknown tool is an error",
                "Unknown tool" in str(error),
                str(error)[:60],
            )
        )
    result = await client.call_tool("weekday", {"year": 2026, "month": 11, "day": 21})
    results.append(
        (
            f"{where}: numbers arrive as numbers",
            "Saturday" in result.content[0].text,
            result.content[0].text,
        )
    )
    resources = (await client.list_resources()).resources
    # Datasets and apps are offered over HTTP only.
    if server_info.get("dataset"):
        shop_resources = [resource for resource in resources if resource.name == "shop"]
        text = (
            (await client.read_resource(shop_resources[0].uri)).contents[0].text
            if shop_resources
            else ""
        )
        results.append(
            (
                f"{where}: a dataset is a resource",
                bool(shop_resources) and '"documents"' in text,
                text[:60],
            )
        )
        result = await client.call_tool(
            "dataset_shop", {"query": "When does the shop open?"}
        )
        results.append(
            (
                f"{where}: and a tool",
                "nine" in result.content[0].text,
                result.content[0].text[:60],
            )
        )
        result = await client.call_tool("workflow", {"n": 3})
        results.append(
            (
                f"{where}: so is an app",
                "3:[]" in result.content[0].text,
                result.content[0].text[:60],
            )
        )


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
