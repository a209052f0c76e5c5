"""Tests for endpoints that vendors have and this server lacks: each is refused with a
404 in the words of the vendor whose client asks. The list of endpoints is read from the
source of the installed official clients."""

import http.client
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import Running

Start = Callable[..., Running]
Endpoint = tuple[str, str]
STAINLESS = {"x-stainless-lang": "python", "authorization": "Bearer sk-test"}
HEADERS: Mapping[str, Mapping[str, str]] = {
    "openai": STAINLESS,
    "anthropic": {**STAINLESS, "anthropic-version": "2023-06-01"},
    "google": {"x-goog-api-key": "sk-test"},
    "cohere": {"x-fern-sdk-name": "cohere", "authorization": "Bearer sk-test"},
}
APP_APIS = ("service", "knowledge")
FRAME = {
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


def sources(package: str, pattern: str) -> Iterator[str]:
    """Yield the texts of a package's files that match a pattern."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    for path in sorted(Path(spec.origin).parent.rglob(pattern)):
        yield path.read_text("utf-8")


def plain(path: str) -> str:
    """Return a path with `x` in the place of each parameter, without a query."""
    return re.sub(r"\{+[^}]*\}+", "x", path).split("?")[0]


def stainless_endpoints(package: str, prefix: str) -> set[Endpoint]:
    """Return the endpoints of OpenAI's or Anthropic's client."""
    call = re.compile(
        r'self\._(get|post|put|patch|delete)\(\s*(?:path_template\(\s*)?f?"(/[^"]*)"'
    )
    return {
        (match[1].upper(), prefix + plain(match[2]))
        for text in sources(package, "resources/**/*.py")
        for match in call.finditer(text)
    }


def cohere_endpoints() -> set[Endpoint]:
    """Return the endpoints of Cohere's client."""
    call = re.compile(r'client\.(?:request|stream)\(\s*f?"([^"]+)",\s*method="(\w+)"')
    return {
        (match[2], "/" + plain(match[1]))
        for text in sources("cohere", "**/raw_*.py")
        for match in call.finditer(text)
    }


def google_endpoints() -> set[Endpoint]:
    """Return the endpoints of Google's client. Its source states the path, and the
    method some lines below."""
    call = re.compile(r"path = f?'([a-zA-Z:]+)'.{0,900}?request\(\s*'(\w+)'", re.DOTALL)
    return {
        (match[2].upper(), "/v1beta/" + match[1])
        for text in sources("google.genai", "*.py")
        for match in call.finditer(text)
        if not match[1].startswith(("batchPrediction", "tuningJobs"))
    }


ENDPOINTS: Mapping[str, set[Endpoint]] = {
    "openai": stainless_endpoints("openai", "/v1"),
    "anthropic": stainless_endpoints("anthropic", ""),
    "google": google_endpoints(),
    "cohere": cohere_endpoints(),
}


def error_text(vendor: str, body: Any) -> str:
    """Return the message of an error in the vendor's shape; fails for another shape."""
    if vendor == "cohere":
        return body["message"]
    if vendor == "anthropic":
        assert body["type"] == "error"
        assert body["error"]["type"] in ("not_found_error", "invalid_request_error")
    elif vendor == "google":
        assert body["error"]["status"] in ("NOT_FOUND", "INVALID_ARGUMENT")
    else:
        assert {"message", "type", "param", "code"} == set(body["error"])
    return body["error"]["message"]


class Connection:
    """A connection to a gateway, for many requests."""

    def __init__(self, running: Running) -> None:
        self._connection = http.client.HTTPConnection(
            running.origin.removeprefix("http://"), timeout=10
        )

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> tuple[int, Any]:
        """Return the status and the body of the answer."""
        sent = {"content-length": str(len(body)), **headers}
        self._connection.request(method, path, body, sent)
        answer = self._connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None

    def close(self) -> None:
        """Close it."""
        self._connection.close()


@pytest.fixture
def connection(start_gateway: Start) -> Iterator[Connection]:
    """A connection to a gateway."""
    with closing(Connection(start_gateway())) as opened:
        yield opened


@pytest.mark.parametrize("vendor", list(ENDPOINTS))
def test_the_clients_have_many_endpoints(vendor: str):
    assert len(ENDPOINTS[vendor]) >= 7


@pytest.mark.case("9.1")
@pytest.mark.parametrize("vendor", list(ENDPOINTS))
def test_an_endpoint_that_this_server_lacks_is_refused_in_the_vendors_words(
    start_gateway: Start, vendor: str
):
    running = start_gateway()
    with closing(Connection(running)) as connection:
        assert count_refusals(running, connection, vendor) >= 5


def count_refusals(running: Running, connection: Connection, vendor: str) -> int:
    """Ask for each endpoint of a vendor that the server lacks, and return their number;
    fails if one of them is not refused as it should be."""
    router = running.gateway.router
    refused = 0
    for method, path in sorted(ENDPOINTS[vendor]):
        is_allowed = method in router.allowed(path)
        # What the server has is tested elsewhere.
        if is_allowed and router.find(method, path).api.name not in APP_APIS:
            continue
        status, body = connection.ask(method, path, HEADERS[vendor])
        message = error_text(vendor, body)
        assert status in (404, 405), (method, path, status, message)
        # An endpoint of the vendor with this path lacks only the method.
        expected = "does not provide this endpoint of" if status == 404 else ", not "
        assert expected in message or "nknown" in message, (method, path, message)
        refused += 1
    return refused


@pytest.mark.case("9.1")
@pytest.mark.parametrize(
    ("method", "path", "vendor"),
    [
        ("GET", "/v1/messages/batches", "anthropic"),
        ("GET", "/v1/files", "anthropic"),
        ("POST", "/v1/conversations", "openai"),
        ("GET", "/v1/conversations/c1", "openai"),
        ("DELETE", "/v1/conversations/c1", "openai"),
        ("GET", "/v1/datasets", "cohere"),
        ("POST", "/v1/tokenize", "cohere"),
        ("GET", "/v1beta/cachedContents", "google"),
        ("POST", "/upload/v1beta/files", "google"),
    ],
)
def test_paths_of_several_apis_are_refused_for_the_one_that_is_meant(
    connection: Connection, method: str, path: str, vendor: str
):
    status, body = connection.ask(method, path, HEADERS[vendor])
    assert status == 404
    assert "does not provide this endpoint" in error_text(vendor, body)


@pytest.mark.case("9.1")
def test_a_path_without_headers_tells_the_vendor(connection: Connection):
    status, body = connection.ask("POST", "/v1/conversations", {})
    assert (status, body["error"]["code"]) == (404, "unknown_url")
    status, body = connection.ask("GET", "/v1/messages/batches", {})
    assert (status, body["error"]["type"]) == (404, "not_found_error")


def test_keys_of_apps_still_reach_the_apps_api(connection: Connection):
    headers = {"authorization": "Bearer app-unknown"}
    for method, path in (("GET", "/v1/conversations"), ("GET", "/v1/messages")):
        status, body = connection.ask(method, path, headers)
        assert (status, body["code"]) == (401, "unauthorized")
    status, body = connection.ask("POST", "/v1/conversations", headers)
    assert (status, body["code"]) == (405, "method_not_allowed")


@pytest.mark.case("9.1")
@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/messages"])
def test_a_path_without_its_version_gets_a_hint(connection: Connection, path: str):
    status, body = connection.ask("POST", path, {})
    assert status == 404
    assert f"did you mean /v1{path}?" in body["error"]["message"]


@pytest.mark.case("9.4")
def test_responses_over_a_websocket_are_refused_so_that_clients_fall_back(
    connection: Connection,
):
    status, body = connection.ask("GET", "/v1/responses", FRAME)
    assert (status, body["error"]["code"]) == (426, "upgrade_required")


@pytest.mark.case("9.1")
def test_a_response_in_the_background_is_named_as_unsupported(connection: Connection):
    body = {"model": "echo/echo", "input": "hi", "background": True}
    headers = {"content-type": "application/json"}
    status, answer = connection.ask(
        "POST", "/v1/responses", headers, json.dumps(body).encode()
    )
    assert (status, answer["error"]["param"]) == (400, "background")
    assert "not supported" in answer["error"]["message"]
