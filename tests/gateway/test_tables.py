"""Tests for every row of every API's table, and other answers of paths (RFC 9110)."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import Settings
from modelyard.gateway.openapi import describe
from modelyard.gateway.server import Gateway
from modelyard.gateway.table import METHODS, Admission, Api, Row

pytestmark = pytest.mark.proof("api-tables")

KEY = "sk-owner-0123456789"
Pairs = tuple[tuple[bytes, bytes], ...]
HOME: Pairs = ((b"host", b"127.0.0.1:8790"),)
OWNER: Pairs = ((b"authorization", f"Bearer {KEY}".encode()),)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def allow(self) -> set[str]:
        return set(self.headers.get("allow", "").split(", ")) - {""}


async def ask(
    gateway: Gateway, method: str, path: str, headers: Pairs = (), body: bytes = b"{}"
) -> Answer:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "query_string": b"", "headers": [*HOME, *headers],
        "client": ("127.0.0.1", 9), "scheme": "http",
    }  # fmt: skip
    await gateway(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return Answer(
        sent[0]["status"],
        {name.decode(): value.decode() for name, value in sent[0]["headers"]},
        content,
    )


def run(
    work: Callable[[Gateway], Awaitable[None]],
    settings: Settings,
    *,
    keys: list[str] | None = None,
) -> None:
    async def go() -> None:
        yard = Modelyard(
            msgspec.structs.replace(settings, api_keys=keys or []), environ={}
        )
        try:
            await work(gateway_for(yard.services))
        finally:
            await yard.aclose()

    asyncio.run(go())


def filled(path: str) -> str:
    return re.sub(r"\{\w+(:path)?\}", "x", path)


def of_path(gateway: Gateway) -> dict[str, list[tuple[Api, Row]]]:
    """Return the rows of each path by an example address."""
    rows_by_path: dict[str, list[tuple[Api, Row]]] = {}
    for api, row in gateway.router.rows():
        rows_by_path.setdefault(filled(row.path), []).append((api, row))
    return rows_by_path


async def check_refused_methods(
    gateway: Gateway, path: str, allowed_methods: set[str]
) -> None:
    """Check that all other methods of a path are refused."""
    # Without an app's key a vendor's endpoint is meant, which is missing.
    is_missing = gateway.router.is_for_apps_only(path, ())
    expected = (404, set[str]()) if is_missing else (405, allowed_methods)
    for method in set(METHODS) - allowed_methods:
        refused = await ask(gateway, method, path)
        assert (refused.status, refused.allow) == expected, (method, path, refused)


def test_every_path_lists_its_allowed_methods(settings: Settings):
    """405 with `Allow` for other methods, also for OPTIONS; HEAD wherever GET is."""

    async def work(gateway: Gateway) -> None:
        for path in of_path(gateway):
            offered = await ask(gateway, "OPTIONS", path)
            allowed_methods = set(gateway.router.allowed(path))
            if any(row.takes_any_method for _, row in of_path(gateway)[path]):
                continue
            assert (offered.status, offered.allow) == (204, allowed_methods), path
            assert ("HEAD" in allowed_methods) == ("GET" in allowed_methods), path
            await check_refused_methods(gateway, path, allowed_methods)
            unknown = await ask(gateway, "BREW", path)
            assert unknown.status == 501, (path, unknown)

    run(work, settings)


def test_rows_that_need_a_key_refuse_requests_without_one(settings: Settings):
    """On a server with keys, rows that need a key check it before anything else."""

    async def work(gateway: Gateway) -> None:
        for _, row in gateway.router.rows():
            answer = await ask(gateway, row.method, filled(row.path))
            if row.auth.shows in (
                Admission.API_KEY,
                Admission.APP_KEY,
                Admission.DATASET_KEY,
            ):
                assert answer.status in (401, 403), (row.method, row.path, answer)
            elif row.auth.shows not in (Admission.NOTHING, Admission.SAME_SITE):
                assert answer.status >= 300 or "session" in row.path, (
                    row.method,
                    row.path,
                    answer,
                )

    run(work, settings, keys=[KEY])


def test_every_row_is_documented(settings: Settings):
    async def work(gateway: Gateway) -> None:
        for api, row in gateway.router.rows():
            where = f"{row.method} {row.path} of {api.name}"
            assert re.fullmatch(r"[A-Z][^\n]*\.", row.summary), where
            has_content = row.status not in (204, 302, 303, 404)
            assert (row.answer is not None) == has_content, where
            assert api.about, api.name

    run(work, settings)


def test_every_description_is_valid_with_unique_operations(settings: Settings):
    async def work(gateway: Gateway) -> None:
        for api in gateway.router.apis:
            document = describe(api)
            assert json.loads(json.dumps(document)) == document
            operations = [
                operation
                for methods in document["paths"].values()
                for operation in methods.values()
            ]
            assert len(operations) == len(api.rows), api.name
            assert len({operation["operationId"] for operation in operations}) == len(
                operations
            ), api.name
            assert '"nullable"' not in json.dumps(document)
            defined_schemas = set(document["components"]["schemas"])
            referenced_schemas = set(
                re.findall(r"#/components/schemas/(\w+)", json.dumps(document))
            )
            assert referenced_schemas <= defined_schemas, (
                api.name,
                referenced_schemas - defined_schemas,
            )

    run(work, settings)


@pytest.fixture
def cases() -> list[tuple[str, str, Pairs, int, str]]:
    """(method, path, headers, status, start of the error body)"""
    app: Pairs = ((b"authorization", b"Bearer app-nobody"),)
    return [
        ("GET", "/v1/nothing", (), 404, '{"error":{"message":"Not found: /v1/nothing"'),
        (
            "GET",
            "/v1/nothing",
            ((b"anthropic-version", b"2023-06-01"),),
            404,
            '{"type":"error","error":',
        ),
        (
            "GET",
            "/v1/nothing",
            ((b"x-goog-api-key", b"x"),),
            404,
            '{"error":{"code":404',
        ),
        ("GET", "/v1/nothing", app, 404, '{"code":"not_found"'),
        ("POST", "/v1/messages/batches", (), 404, '{"type":"error","error":'),
        ("POST", "/v1/messages/x/y", (), 404, '{"type":"error","error":'),
        ("GET", "/v1/conversations/abc", (), 404, '{"error":{"message":'),
        ("GET", "/v1/conversations/abc", app, 405, '{"code":"method_not_allowed"'),
        ("PUT", "/v1/datasets", (), 405, '{"code":"method_not_allowed"'),
        ("PATCH", "/v1/datasets/x/retrieve", (), 405, '{"code":"method_not_allowed"'),
        ("GET", "/v1/datasets/x/nothing", (), 404, '{"code":"not_found"'),
        ("PUT", "/admin/v1/keys", (), 405, '{"error":{"message":'),
        (
            "GET",
            "/admin/v1/nothing",
            (),
            404,
            '{"error":{"message":"Not found: /admin/v1/nothing',
        ),
        ("GET", "/v2/chat", (), 405, '{"id":'),
        ("GET", "/v2/nothing", (), 404, '{"id":'),
        ("DELETE", "/mcp", (), 405, '{"error":{"message":'),
        ("POST", "/v1/files/x", (), 404, '{"error":{"message":'),
        ("GET", "/v1/files", (), 404, '{"error":{"message":"Not found: /v1/files"'),
        (
            "GET",
            "/v1/responses",
            ((b"upgrade", b"websocket"),),
            426,
            '{"error":{"message":',
        ),
    ]


def test_what_is_not_there_is_refused_in_its_clients_words(
    settings: Settings, cases: list[tuple[str, str, Pairs, int, str]]
):
    async def work(gateway: Gateway) -> None:
        for method, path, headers, status, beginning in cases:
            answer = await ask(gateway, method, path, headers)
            assert answer.status == status, (method, path, answer)
            assert answer.body.decode().startswith(beginning), (
                method,
                path,
                answer.body,
            )
            assert ("allow" in answer.headers) == (status == 405), (
                method,
                path,
                answer,
            )

    run(work, settings)


def test_head_is_get_without_content(settings: Settings):
    async def work(gateway: Gateway) -> None:
        for path in (
            "/health",
            "/v1/models",
            "/docs",
            "/docs/openai",
            "/admin/v1/keys",
            "/console/api/session",
            "/nothing",
        ):
            get_response, head = (
                await ask(gateway, "GET", path),
                await ask(gateway, "HEAD", path),
            )
            assert (head.status, head.body) == (get_response.status, b""), path
            for name in ("content-type", "content-length"):
                assert (
                    head.headers[name] == get_response.headers[name]
                    or "Not found" in get_response.body.decode()
                ), path

    run(work, settings)


def test_a_trailing_slash_makes_no_difference(settings: Settings):
    async def work(gateway: Gateway) -> None:
        for path in ("/health", "/v1/models", "/admin/v1/keys", "/docs"):
            assert (await ask(gateway, "GET", f"{path}/")).body == (
                await ask(gateway, "GET", path)
            ).body

    run(work, settings)


def test_a_browser_is_redirected_to_the_console(settings: Settings):
    async def work(gateway: Gateway) -> None:
        browser = await ask(
            gateway, "GET", "/", ((b"accept", b"text/html,application/xhtml+xml"),)
        )
        assert (browser.status, browser.headers["location"]) == (303, "/console/")
        program = await ask(gateway, "GET", "/", ((b"accept", b"*/*"),))
        assert (program.status, program.body[:9]) == (200, b"Modelyard")

    run(work, settings)


def test_descriptions_match_the_reference(settings: Settings):
    folder = Path(__file__).parents[2] / "docs" / "reference" / "openapi"

    async def work(gateway: Gateway) -> None:
        for name in ("openai", "anthropic"):
            served = json.loads(
                (await ask(gateway, "GET", f"/docs/{name}/openapi.json")).body
            )
            assert served == json.loads((folder / f"{name}.json").read_text())

    run(work, settings)
