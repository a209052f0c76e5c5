"""Tools over the Model Context Protocol: where, and for whom."""

from modelyard.gateway.errors import OPENAI
from modelyard.gateway.mcp.streamable_http import OfferOf, Route
from modelyard.gateway.table import DEVELOPER, Api, Query, Row, Schema, whole_or_events
from modelyard.tools.mcp.server import McpServer

_MESSAGE = {
    "type": "object",
    "required": ["jsonrpc"],
    "properties": {"jsonrpc": {"const": "2.0"}, "id": {}, "method": {"type": "string"}, "error": {"type": "object"}},
}
"""A message of JSON-RPC 2.0; the protocol says what is in it."""


def api(server: McpServer, offer: OfferOf) -> Api:
    """`offer`: what a tenant's clients see."""
    rows = (
        Row(method="POST", path="/mcp", auth=DEVELOPER, handler=Route(server, offer), takes=Schema(_MESSAGE),
            answer=whole_or_events(_MESSAGE), other_statuses=(202,), errors=(400, 404),
            query=(Query("tools", "Offer only these tools; names joined by commas."),),
            summary="Send a message of the Model Context Protocol."),
    )  # fmt: skip
    return Api(
        name="mcp", title="Model Context Protocol", about="A tenant's tools, apps and datasets, for MCP clients.",
        prefixes=("/mcp",), errors=OPENAI, rows=rows,
    )  # fmt: skip
