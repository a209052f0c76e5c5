"""Route table of the MCP server."""

from modelyard.gateway.errors import OPENAI
from modelyard.gateway.mcp.streamable_http import FindCatalog, Route
from modelyard.gateway.table import DEVELOPER, Api, Query, Row, Schema, json_or_events
from modelyard.tools.mcp.server import McpServer

_MESSAGE = {
    "type": "object",
    "required": ["jsonrpc"],
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {},
        "method": {"type": "string"},
        "error": {"type": "object"},
    },
}
"""A JSON-RPC 2.0 message. The protocol itself defines its content."""


def api(server: McpServer, offer: FindCatalog) -> Api:
    """Return the MCP API. `offer` returns the catalog of a tenant."""
    rows = (
        Row(
            method="POST",
            path="/mcp",
            auth=DEVELOPER,
            handler=Route(server, offer),
            takes=Schema(_MESSAGE),
            answer=json_or_events(_MESSAGE),
            other_statuses=(202,),
            errors=(400, 404),
            query=(Query("tools", "Offer only these tools; comma-separated names."),),
            summary="Send a Model Context Protocol message.",
        ),
    )
    return Api(
        name="mcp",
        title="Model Context Protocol",
        about="A tenant's tools, apps and datasets, for MCP clients.",
        prefixes=("/mcp",),
        errors=OPENAI,
        rows=rows,
    )
