"""Route table of the A2A agents."""

from modelyard.gateway.a2a.agents import Agents
from modelyard.gateway.service.calls import ERROR_SHAPE
from modelyard.gateway.service.dependencies import ServiceDependencies
from modelyard.gateway.table import APP_KEY, Api, Row, Schema, json_or_events

_CARDS = ("agent-card.json", "agent.json")
"""File name of the card in revision 1.0, and in revision 0.3."""
_CARD = {
    "type": "object",
    "required": [
        "name",
        "description",
        "version",
        "supportedInterfaces",
        "capabilities",
        "skills",
    ],
    "properties": {
        "name": {"type": "string"},
        "skills": {"type": "array"},
        "url": {"type": "string"},
    },
}
_MESSAGE = {
    "type": "object",
    "required": ["jsonrpc"],
    "properties": {"jsonrpc": {"const": "2.0"}},
}


def api(parts: ServiceDependencies) -> Api:
    """Return the routes of the A2A API.

    Every published app is an agent. Its card is public if the app has a public page.
    """
    agents = Agents(parts)
    # Both names serve the same card, because clients look for the name of their
    # revision.
    cards = [
        Row(
            method="GET",
            path=f"/a2a/{{agent}}/.well-known/{name}",
            auth=APP_KEY,
            handler=agents.card,
            answer=Schema(_CARD),
            summary="Get an agent's card.",
            errors=(401,),
        )
        for name in _CARDS
    ]
    call = Row(
        method="POST",
        path="/a2a/{agent}",
        auth=APP_KEY,
        handler=agents.call,
        takes=Schema(_MESSAGE),
        answer=json_or_events(_MESSAGE),
        errors=(401,),
        summary="Send a JSON-RPC request to an agent.",
    )
    return Api(
        name="a2a",
        title="A2A",
        about="Apps as agents that other agents call.",
        prefixes=("/a2a",),
        errors=ERROR_SHAPE,
        rows=(*cards, call),
    )
