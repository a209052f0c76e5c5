"""The official MCP client against our server: over HTTP and stdio, in both kinds of revisions."""

import asyncio
import json
import sys

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

told = json.loads(sys.argv[1])
seen: list[tuple[str, bool, str]] = []


async def use(client: Client, where: str) -> None:
    tools = (await client.list_tools()).tools
    names = [one.name for one in tools]
    seen.append(
        (
            f"{where}: lists tools",
            "calculate" in names and all(one.input_schema["type"] == "object" for one in tools),
            f"{len(names)}, revision {client.protocol_version}",
        )
    )
    result = await client.call_tool("calculate", {"expression": "6*7"})
    seen.append((f"{where}: calls one", result.content[0].text == "42" and not result.is_error, result.content[0].text))
    result = await client.call_tool("calculate", {"expression": "6*"})
    seen.append((f"{where}: a tool that fails is a result", result.is_error, result.content[0].text[:60]))
    try:
        await client.call_tool("nope", {})
        seen.append((f"{where}: an unknown tool is an error", False, "it was called"))
    except Exception as error:
        seen.append((f"{where}: an unknown tool is an error", "Unknown tool" in str(error), str(error)[:60]))
    result = await client.call_tool("weekday", {"year": 2026, "month": 11, "day": 21})
    seen.append((f"{where}: numbers arrive as numbers", "Saturday" in result.content[0].text, result.content[0].text))
    resources = (await client.list_resources()).resources
    if told.get("dataset"):
        found = [one for one in resources if one.name == "shop"]
        text = (await client.read_resource(found[0].uri)).contents[0].text if found else ""
        seen.append((f"{where}: a dataset is a resource", bool(found) and '"documents"' in text, text[:60]))
        result = await client.call_tool("dataset_shop", {"query": "When does the shop open?"})
        seen.append((f"{where}: and a tool", "nine" in result.content[0].text, result.content[0].text[:60]))
        result = await client.call_tool("workflow", {"n": 3})
        seen.append((f"{where}: so is an app", "3:[]" in result.content[0].text, result.content[0].text[:60]))


async def main() -> None:
    for mode in ("auto", "legacy"):
        async with Client(told["url"], mode=mode) as client:
            await use(client, f"HTTP, {mode}")
    told.pop("dataset", None)
    for mode in ("auto", "legacy"):
        program = StdioServerParameters(
            command=told["python"],
            args=["-m", "modelyard", "mcp", "serve", "--tools", "calculate,weekday"],
            env={"MODELYARD_HOME": told["home"], "PATH": "/usr/bin:/bin"},
        )
        async with Client(stdio_client(program), mode=mode) as client:
            await use(client, f"stdio, {mode}")


asyncio.run(main())
print(json.dumps(seen))
