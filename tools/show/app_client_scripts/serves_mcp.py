"""An MCP server built with the official package; serves over streamable HTTP, SSE or
stdio.

python serves_mcp.py TRANSPORT [PORT]
"""

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
def note() -> str:
    """Return a fixed text, as an example resource."""
    return "a note"


@server.prompt()
def hello(name: str) -> str:
    """Return a greeting prompt for the name."""
    return f"Say hello to {name}"


if sys.argv[1] == "stdio":
    server.run()
else:
    server.run(transport=sys.argv[1], port=int(sys.argv[2]), host="127.0.0.1")
