"""Reported cases of endpoints: what this server lacks is said in the caller's format."""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import pytest
from tools.show.proof import ROOT

from tests.gateway.conftest import Running
from tests.gateway.test_unknown_paths import FRAME, HEADERS, Connection, error_text

Start = Callable[..., Running]
REVISION = "2026-07-28"


@pytest.fixture
def connection(start_gateway: Start) -> Iterator[Connection]:
    with closing(Connection(start_gateway())) as opened:
        yield opened


MISSING = [
    ("openai", "GET", "/v1/files"),
    ("openai", "POST", "/v1/batches"),
    ("openai", "POST", "/v1/uploads"),
    ("openai", "POST", "/v1/images/generations"),
    ("openai", "POST", "/v1/videos"),
    ("openai", "GET", "/v1/vector_stores"),
    ("openai", "GET", "/v1/containers"),
    ("openai", "GET", "/v1/fine_tuning/jobs"),
    ("openai", "GET", "/v1/evals"),
    ("openai", "GET", "/v1/assistants"),
    ("openai", "POST", "/v1/responses/compact"),
    ("openai", "POST", "/v1/conversations"),
    ("anthropic", "GET", "/v1/messages/batches"),
    ("anthropic", "GET", "/v1/files"),
    ("google", "GET", "/v1beta/files"),
    ("google", "POST", "/v1beta/cachedContents"),
    ("google", "POST", "/v1beta/interactions"),
]


@pytest.mark.case("9.1")
@pytest.mark.parametrize(("vendor", "method", "path"), MISSING)
def test_an_endpoint_that_is_not_built_is_a_404_of_its_vendor(
    connection: Connection, vendor: str, method: str, path: str
):
    status, body = connection.ask(method, path, HEADERS[vendor], b"{}")
    assert status == 404
    assert "does not provide this endpoint" in error_text(vendor, body)


@pytest.mark.case("9.1", "9.4")
@pytest.mark.parametrize(
    ("path", "status"), [("/v1/responses", 426), ("/v1/realtime?model=m", 404)]
)
def test_a_websocket_gets_an_answer(connection: Connection, path: str, status: int):
    answered, body = connection.ask("GET", path, FRAME)
    assert answered == status
    assert body["error"]["message"]


@pytest.mark.case("9.4")
def test_the_refusal_of_a_websocket_says_what_to_use(start_gateway: Start):
    origin = start_gateway().origin.removeprefix("http://")
    with closing(http.client.HTTPConnection(origin, timeout=10)) as opened:
        opened.request("GET", "/v1/responses", headers=FRAME)
        answer = opened.getresponse()
        body = json.loads(answer.read())
    assert (answer.status, answer.reason) == (426, "Upgrade Required")
    assert "plain HTTP" in body["error"]["message"]


# -------------------------------------------------------------------------- MCP: 9.6

MCP_METHODS = ["prompts/list", "completion/complete", "resources/subscribe", "no/such"]


@pytest.mark.case("9.6")
@pytest.mark.parametrize("method", MCP_METHODS)
def test_a_method_that_mcp_lacks_here_is_an_error(start_gateway: Start, method: str):
    meta = {
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta}}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": REVISION,
        "mcp-method": method,
    }
    url = f"{start_gateway().origin}/mcp"
    answer = httpx.post(url, json=call, headers=headers, timeout=30)
    assert answer.json()["error"]["code"] == -32601


@pytest.mark.case("9.7")
def test_the_page_about_other_gateways_has_no_stale_claim():
    text = (ROOT / "docs" / "why.md").read_text("utf-8")
    for claim in ("One wire format", "one tenant", "20 ms"):
        assert claim not in text
    claims = (ROOT / "tests" / "docs" / "claims.yaml").read_text("utf-8")
    assert claims.count("docs/why.md:") == 2
