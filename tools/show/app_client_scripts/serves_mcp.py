"""An MCP server made with the official package: streamable HTTP, SSE or stdio."""

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("official")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@server.tool()
def info(q: str) -> dict:
    """Tells about something."""
    return {"q": q, "n": 1}


@server.tool()
def bad() -> str:
    """Raises."""
    raise ValueError("broken tool")


@server.resource("note://one")
def one() -> str:
    return "a note"


@server.prompt()
def hello(name: str) -> str:
    return f"Say hello to {name}"


if sys.argv[1] == "stdio":
    server.run()
else:
    server.run(transport=sys.argv[1], port=int(sys.argv[2]), host="127.0.0.1")
