"""Agents over A2A: where, and for whom."""

from modelyard.gateway.a2a.agents import Agents
from modelyard.gateway.service.calls import PROBLEM
from modelyard.gateway.service.parts import ServiceParts
from modelyard.gateway.table import APP_KEY, Api, Row, Schema, whole_or_events

_CARDS = ("agent-card.json", "agent.json")
"""Revision 1.0's name, and 0.3's."""
_CARD = {
    "type": "object",
    "required": ["name", "description", "version", "supportedInterfaces", "capabilities", "skills"],
    "properties": {"name": {"type": "string"}, "skills": {"type": "array"}, "url": {"type": "string"}},
}
_MESSAGE = {"type": "object", "required": ["jsonrpc"], "properties": {"jsonrpc": {"const": "2.0"}}}


def api(parts: ServiceParts) -> Api:
    """Every published app is an agent; a card is for anybody where the app has a page."""
    agents = Agents(parts)
    cards = [
        Row(method="GET", path=f"/a2a/{{agent}}/.well-known/{name}", auth=APP_KEY, handler=agents.card,
            answer=Schema(_CARD), summary="Get an agent's card.", errors=(401,))
        for name in _CARDS
    ]  # fmt: skip
    call = Row(
        method="POST", path="/a2a/{agent}", auth=APP_KEY, handler=agents.call, takes=Schema(_MESSAGE),
        answer=whole_or_events(_MESSAGE), errors=(401,),
        summary="Send a message of JSON-RPC to an agent.",
    )  # fmt: skip
    return Api(
        name="a2a", title="A2A", about="Apps as agents that other agents call.",
        prefixes=("/a2a",), errors=PROBLEM, rows=(*cards, call),
    )  # fmt: skip
