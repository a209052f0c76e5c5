"""Reported cases of headers: the names of beta features, where each vendor takes them."""

import pytest

from tests.gateway.reported_world import HI, JSON, Play, Start, Vendors, dropped

CONTEXT = "context-management-2025-06-27"
INTERLEAVED = "interleaved-thinking-2025-05-14"
BETAS = {"anthropic-beta": f"{CONTEXT},{INTERLEAVED}"}
BODY: JSON = {
    "max_tokens": 2000,
    "messages": HI,
    "context_management": {
        "edits": [{"type": "clear_thinking_20251015", "keep": "all"}]
    },
}
BEDROCK = "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0"


@pytest.fixture
def vendors(start_gateway: Start, upstream: Play) -> Vendors:
    return Vendors(start_gateway, upstream, "bedrock", "openai")


@pytest.mark.case("1.1")
def test_claude_codes_call_reaches_anthropic(vendors: Vendors):
    body = {"model": "ant/agent", **BODY}
    answer = vendors.ask("/v1/messages?beta=true", body, BETAS)
    request = vendors.upstream.requests[-1]
    assert request.headers["anthropic-beta"] == BETAS["anthropic-beta"]
    assert request.path.endswith("?beta=true")
    assert vendors.sent["context_management"] == BODY["context_management"]
    assert dropped(answer) == set()


@pytest.mark.case("1.1")
def test_bedrock_gets_the_names_that_it_knows_in_the_body(vendors: Vendors):
    body = {"model": BEDROCK, **BODY}
    answer = vendors.ask("/v1/messages?beta=true", body, BETAS)
    fields = vendors.sent["additionalModelRequestFields"]
    assert fields == {"anthropic_beta": [INTERLEAVED]}
    assert "anthropic-beta" not in vendors.upstream.requests[-1].headers
    assert dropped(answer) == {"context_management"}


@pytest.mark.case("1.1")
@pytest.mark.parametrize("model", ["oai/m", "openai/gpt-5-mini", "gem/m", "rsp/m"])
@pytest.mark.parametrize("field", ["context_management", "mcp_servers", "speed"])
def test_another_vendor_gets_neither_name_nor_field(
    vendors: Vendors, field: str, model: str
):
    names = "context-management-1,mcp-client-1,fast-mode-1"
    body: JSON = {"model": model, "max_tokens": 9, "messages": HI, field: {"a": "b"}}
    headers = {"anthropic-beta": names, "x-claude-code-session-id": "s-1"}
    answer = vendors.ask("/v1/messages?beta=true", body, headers)
    assert dropped(answer) == {field}
    request = vendors.upstream.requests[-1]
    assert field not in vendors.sent
    assert "beta" not in request.path
    private = ("anthropic", "x-claude", "x-stainless")
    assert not [name for name in request.headers if name.startswith(private)]
