"""Tests that tenants' content never runs with the console's origin.

Plugins' endpoints, webhooks, triggers and files.
"""

import ast
import asyncio
import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tools.show.browser import browser
from tools.show.browser import chromium as browser_path

from modelyard.app.gateway import gateway_for
from modelyard.base.errors import ConfigError, NotFoundError, PluginError
from modelyard.base.settings import ContentSettings, load_settings
from modelyard.gateway import tenant_content
from modelyard.gateway.auth import DEVICE_COOKIE, SESSION_COOKIE
from modelyard.gateway.errors import OPENAI
from modelyard.gateway.http import json_reply
from modelyard.gateway.router import Router
from modelyard.gateway.table import NO_AUTH, Api, Row, Schema
from modelyard.gateway.tenant_content import (
    ContentRules,
    disposition,
    media_type,
    outgoing,
)
from modelyard.plugins.package import package_folder
from modelyard.tenancy import api_keys
from tests.gateway.conftest import Running
from tests.gateway.test_triggers import app_file, webhook
from tests.plugins.conftest import PluginGateway, environments, plugged, start_gateway

__all__ = ["environments", "plugged", "start_gateway"]

GATEWAY = Path(tenant_content.__file__).parent
EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"
Plug = Callable[..., PluginGateway]
Start = Callable[..., Running]

ECHO = """
import json
from dify_plugin import Endpoint
from werkzeug import Response

HOSTILE = {
    "Set-Cookie": "modelyard-session=theirs; Path=/", "Clear-Site-Data": '"*"', "Service-Worker-Allowed": "/",
    "Refresh": "0; url=/console", "Strict-Transport-Security": "max-age=1", "Link": "</x>; rel=preload",
    "Content-Security-Policy": "default-src *", "X-Accel-Redirect": "/etc/passwd", "X-Sendfile": "/etc/passwd",
    "Access-Control-Allow-Credentials": "true", "WWW-Authenticate": "Basic", "NEL": "{}", "Alt-Svc": "h3",
    "X-Request-Id": "theirs", "X-Modelyard-Cache": "hit", "SourceMap": "/x", "Speculation-Rules": "/x",
    "X-Content-Type-Options": "sniff", "Referrer-Policy": "unsafe-url", "Permissions-Policy": "camera=*",
    "X-By": "plugin", "Cache-Control": "no-store", "Access-Control-Allow-Origin": "*",
}

class HelloEndpoint(Endpoint):
    def _invoke(self, r, values, settings):
        if values["name"] == "status":
            return Response("", status=999)
        if values["name"] == "page":
            return Response(r.args["html"], content_type="text/html")
        return Response(json.dumps(dict(r.headers)), content_type="application/json", headers=HOSTILE)
"""
CREDENTIALS = {
    "cookie": f"{SESSION_COOKIE}=ours; other=1", "authorization": "Bearer of-somebody", "x-api-key": "of-somebody",
    "x-goog-api-key": "of-somebody", "proxy-authorization": "Basic x", "x-modelyard-tenant": "acme",
    "x-visitor": "somebodys-number-of-24-signs",
}  # fmt: skip
SEEN = {"x-hello": "there"}


@pytest.fixture
def echoing(plugged: Plug, tmp_path: Path) -> Callable[..., tuple[PluginGateway, str]]:
    """A plugin that echoes its request, and returns forbidden headers."""

    def start(**changes: Any) -> tuple[PluginGateway, str]:
        folder = tmp_path / "webhook"
        shutil.copytree(EXAMPLES / "webhook", folder)
        (folder / "endpoints" / "hello.py").write_text(ECHO)
        gateway = plugged(**changes)
        gateway.run_on_loop(
            gateway.parts.installations.add("default", package_folder(folder))
        )
        settings = {"greeting": "Hi", "token": "t"}
        return gateway, gateway.run_on_loop(
            gateway.parts.endpoints.set_up(
                "default", "modelyard/webhook", "mine", settings
            )
        )

    return start


def is_sandboxed(headers: httpx.Headers) -> bool:
    policy = headers["content-security-policy"]
    return (
        "sandbox" in policy
        and "allow-same-origin" not in policy
        and headers["x-content-type-options"] == "nosniff"
        and "set-cookie" not in headers
    )


def test_a_plugin_endpoint_gets_and_sets_none_of_our_headers(
    echoing: Any,
):
    gateway, hook = echoing()
    answer = httpx.get(
        f"{gateway.running.origin}/e/{hook}/hello/x",
        headers={**CREDENTIALS, **SEEN},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    received_headers = {name.lower(): value for name, value in answer.json().items()}
    assert (received_headers["x-hello"], received_headers["dify-hook-id"]) == (
        "there",
        hook,
    )
    assert not set(received_headers) & set(CREDENTIALS)
    assert is_sandboxed(answer.headers)
    assert answer.headers.get_list("content-security-policy") == [
        answer.headers["content-security-policy"]
    ]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-request-id"].startswith("req")
    assert [answer.headers[name] for name in ("x-by", "cache-control", "access-control-allow-origin")] == [
        "plugin", "no-store", "*",
    ]  # fmt: skip
    unwanted = (
        "clear-site-data", "service-worker-allowed", "refresh", "strict-transport-security", "link", "x-accel-redirect",
        "x-sendfile", "access-control-allow-credentials", "www-authenticate", "nel", "alt-svc", "x-modelyard-cache",
        "sourcemap", "speculation-rules", "permissions-policy",
    )  # fmt: skip
    assert not set(unwanted) & set(answer.headers)
    refused = httpx.get(f"{gateway.running.origin}/e/{hook}/hello/status", timeout=30)
    assert (refused.status_code, "200 to 599" in refused.text) == (502, True)


def test_authorization_reaches_a_plugin_only_if_configured(
    echoing: Any,
):
    gateway, hook = echoing(
        content=ContentSettings(pass_authorization=True),
        api_keys=["key-of-the-settings"],
    )
    _, minted_key = api_keys.generate_key()
    _, of_app = api_keys.generate_resource_key("app")
    address = f"{gateway.running.origin}/e/{hook}/hello/x"
    for value in (
        "Bearer key-of-the-settings",
        f"Bearer {minted_key}",
        f"bearer  {of_app}",
        minted_key,
    ):
        received_headers = httpx.get(
            address, headers={"authorization": value, "x-api-key": value}, timeout=30
        ).json()
        assert not {name.lower() for name in received_headers} & {
            "authorization",
            "x-api-key",
        }, value
    received_headers = httpx.get(address, headers=CREDENTIALS, timeout=30).json()
    assert received_headers["Authorization"] == "Bearer of-somebody"
    assert not {name.lower() for name in received_headers} & {
        "cookie",
        "proxy-authorization",
        "x-modelyard-tenant",
    }


@pytest.mark.parametrize("passes", [False, True])
def test_a_webhook_node_never_gets_cookies(start_gateway: Start, passes: bool):
    running = start_gateway(content=ContentSettings(pass_authorization=passes))
    declared = [
        {"name": name}
        for name in (
            "cookie",
            "authorization",
            "x-api-key",
            "proxy-authorization",
            "x-hello",
        )
    ]
    file = webhook(headers=declared, async_mode=False)
    with httpx.Client(base_url=running.origin, timeout=30) as client:
        app = client.post("/admin/v1/apps", json={"file": file}).json()["id"]
        (trigger,) = client.get(f"/admin/v1/apps/{app}/triggers").json()["data"]
        # A client without the session cookie, like a stranger's.
        answer = httpx.post(
            trigger["address"], json={}, headers={**CREDENTIALS, **SEEN}, timeout=30
        )
    assert answer.status_code == 200, answer.text
    outputs = answer.json()["outputs"]
    assert outputs["x_hello"] == "there"
    assert not outputs["cookie"]
    assert not outputs["proxy_authorization"]
    assert (outputs["authorization"] == "Bearer of-somebody") is passes
    assert not set(outputs["_webhook_raw"]["headers"]) & set(CREDENTIALS)
    assert is_sandboxed(answer.headers)


@pytest.mark.parametrize("text", ["<script>1</script>", '{"a": 1}', ""])
def test_webhook_answers_are_sandboxed(start_gateway: Start, text: str):
    running = start_gateway()
    with httpx.Client(base_url=running.origin, timeout=30) as client:
        file = webhook(response_body=text)
        app = client.post("/admin/v1/apps", json={"file": file}).json()["id"]
        (trigger,) = client.get(f"/admin/v1/apps/{app}/triggers").json()["data"]
        answer = client.post(trigger["address"], json={})
    assert (answer.status_code, is_sandboxed(answer.headers)) == (200, True)
    assert not answer.headers["content-type"].startswith("text/html")


def test_a_trigger_gets_none_of_our_headers(plugged: Plug):
    gateway = plugged()
    gateway.install("pulse")
    row = gateway.run_on_loop(
        gateway.parts.subscriptions.subscribe(
            "default",
            "modelyard/pulse",
            "ward",
            {"room": "7"},
            {"token": "good"},
            origin=gateway.running.origin,
        )
    )
    raw_requests: list[str] = []
    call = gateway.plugins.call_once

    async def spied(
        tenant: str,
        plugin: str,
        capability: str,
        action: str,
        data: Any,
        **options: Any,
    ) -> Any:
        if raw := data.get("raw_http_request"):
            raw_requests.append(bytes.fromhex(raw).decode("latin-1").lower())
        return await call(tenant, plugin, capability, action, data, **options)

    gateway.plugins.call_once = spied  # type: ignore[method-assign]
    answer = httpx.post(
        f"{gateway.running.origin}/t/{row}",
        json={"beat": 72},
        headers={**CREDENTIALS, **SEEN},
        timeout=30,
    )
    assert (answer.status_code, is_sandboxed(answer.headers)) == (202, True)
    assert raw_requests
    assert all("x-hello: there" in text for text in raw_requests)
    assert not [
        name for name in CREDENTIALS for text in raw_requests if f"\r\n{name}:" in text
    ]


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "image/svg+xml", "application/pdf", "text/html\r\nset-cookie: a=b"],
)
def test_files_are_handed_over_and_run_nothing(start_gateway: Start, content_type: str):
    running = start_gateway()
    files = running.yard.services.storage.files
    stored_file = asyncio.run(
        files.add(
            "default", 'a.svg"; filename=x.html', b"<script>1</script>", content_type
        )
    )
    query = files.sign("read", "default", stored_file.id, seconds=60)
    answer = httpx.get(f"{running.origin}/files/{stored_file.id}?{query}")
    assert (answer.status_code, is_sandboxed(answer.headers)) == (200, True)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert answer.headers["content-disposition"].count('"') == 2
    assert answer.headers["content-type"] == (
        content_type if "\r" not in content_type else "application/octet-stream"
    )


def test_an_app_shows_images_inline_and_other_files_as_downloads(start_gateway: Start):
    running = start_gateway()
    with httpx.Client(base_url=running.origin, timeout=30) as client:
        file = app_file([{"id": "start", "type": "start", "variables": []}, {"id": "end", "type": "end", "outputs": []}],
                        [("start", "end")])  # fmt: skip
        app = client.post("/admin/v1/apps", json={"file": file}).json()["id"]
        key = client.post(f"/admin/v1/apps/{app}/keys", json={"name": "one"}).json()[
            "key"
        ]
        dispositions = {}
        for content_type in (
            "image/png",
            "image/svg+xml",
            "text/html",
            "application/pdf",
        ):
            stored_file = asyncio.run(
                running.yard.services.storage.files.add(
                    "default", "a.bin", b"x", content_type, app=app
                )
            )
            answer = client.get(
                f"/v1/files/{stored_file.id}/preview",
                headers={"authorization": f"Bearer {key}"},
            )
            assert (answer.status_code, is_sandboxed(answer.headers)) == (200, True), (
                answer.text
            )
            dispositions[content_type] = answer.headers[
                "content-disposition"
            ].partition(";")[0]
    assert dispositions == {
        "image/png": "inline", "image/svg+xml": "attachment", "text/html": "attachment",
        "application/pdf": "attachment",
    }  # fmt: skip


# ------------------------------------------------------------------------- in a browser

PASSWORD = "correct horse battery staple"
PAGE = """<!doctype html><title>page</title><p id="said">nothing</p><script>
const said = { origin: String(self.origin) };
const tried = async (name, work) => {
  try { said[name] = await work(); } catch (error) { said[name] = `refused: ${error.name}`; }
};
(async () => {
  await tried("cookie", async () => document.cookie);
  await tried("storage", async () => localStorage.length);
  await tried("admin", async () => (await fetch("/admin/v1/settings", { credentials: "include" })).text());
  await tried("key", async () => (await fetch("/admin/v1/keys", {
    method: "POST", credentials: "include", body: JSON.stringify({ name: "stolen", role: "owner" }),
  })).text());
  await tried("blind", async () => (await fetch("/admin/v1/keys", {
    method: "POST", credentials: "include", mode: "no-cors", body: JSON.stringify({ name: "blind", role: "owner" }),
  })).type);
  await tried("worker", async () => String(await navigator.serviceWorker.register("/e/x/worker.js")));
  await tried("dialog", async () => String(confirm("give me your password")));
  document.getElementById("said").textContent = JSON.stringify(said);
})();
</script>"""


@pytest.fixture
def chromium() -> Iterator[Any]:
    if browser_path() is None:
        pytest.skip(
            "there is no Chromium here: what browsers make of the headers is not seen"
        )
    with browser() as chromium_browser:
        yield chromium_browser


def test_a_signed_in_operators_browser_gives_a_tenants_page_nothing(
    echoing: Any, chromium: Any
):
    gateway, hook = echoing()
    origin = gateway.running.origin
    owner = {"name": "Ada", "email": "ada@example.com", "password": PASSWORD}
    with chromium.new_context(base_url=origin) as context:
        signed_in = context.request.post(
            "/console/api/setup", data=owner, headers={"origin": origin}
        )
        assert signed_in.ok, signed_in.text()
        assert {cookie["name"] for cookie in context.cookies()} == {
            SESSION_COOKIE,
            DEVICE_COOKIE,
        }
        page = context.new_page()
        page.goto(f"/e/{hook}/hello/x")
        header_names = {
            name.lower() for name in json.loads(page.locator("body").inner_text())
        }
        assert "user-agent" in header_names
        assert "cookie" not in header_names
        page.goto(f"/e/{hook}/hello/page?html={quote(PAGE)}")
        page.wait_for_function(
            "document.getElementById('said').textContent !== 'nothing'"
        )
        page_results = json.loads(page.locator("#said").inner_text())
        keys = context.request.get("/admin/v1/keys").json()["data"]
    assert page_results["origin"] == "null"
    assert page_results["dialog"] == "false"
    assert {page_results[name] for name in ("cookie", "storage")} == {
        "refused: SecurityError"
    }
    assert {page_results[name] for name in ("admin", "key")} == {"refused: TypeError"}
    assert page_results["worker"].startswith("refused: ")
    # The browser is still signed in as operator, and the script that could not read the
    # answer created no key.
    assert keys == []


POINT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def test_no_picture_is_asked_for_because_an_answer_names_one(
    start_gateway: Start, chromium: Any
):
    running = start_gateway()
    origin, files = running.origin, running.yard.services.storage.files
    stored_file = running.do(files.add("default", "point.png", POINT))
    picture = f"/files/{stored_file.id}?{files.sign('read', 'default', stored_file.id, seconds=60)}"
    with chromium.new_context(base_url=origin) as context:
        page = context.new_page()
        page.goto("/chat/nobody")  # any page of ours, with its policy
        # The page turns images into links (tests/console); if it had one, the policy
        # would stop the browser from loading it.
        refused = page.evaluate(
            """(addresses) => Promise.all(addresses.map((address) => new Promise((done) => {
                const image = document.createElement("img");
                image.onload = () => done("loaded");
                image.onerror = () => done("refused");
                image.src = address;
            })))""",
            ["/admin/v1/about", "http://127.0.0.1:9/x", picture],
        )
        # What the page's own script fetched is displayed.
        image_width = page.evaluate(
            """async (address) => {
                const data = await (await fetch(address, { credentials: "omit" })).blob();
                const image = document.createElement("img");
                image.src = URL.createObjectURL(data);
                await image.decode();
                return image.naturalWidth;
            }""",
            picture,
        )
    assert refused == ["refused"] * 3
    assert image_width == 1


def test_our_pages_may_show_only_embedded_images(start_gateway: Start):
    origin = start_gateway().origin
    for path in ("/console", "/chat/nobody"):
        policy = httpx.get(f"{origin}{path}").headers["content-security-policy"]
        rules = dict(directive.strip().split(" ", 1) for directive in policy.split(";"))
        assert (rules["img-src"], rules["media-src"], rules["default-src"]) == (
            "data: blob:",
            "blob:",
            "'none'",
        )


# -------------------------------------------------------------------- a separate origin

CONTENT = "https://usercontent.example"
THEIRS = (
    "/e/x",
    "/t/x",
    "/triggers/webhook/x",
    "/triggers/webhook-debug/x",
    "/files/file_x?sign=x",
)
OURS = (
    "/",
    "/console",
    "/admin/v1/about",
    "/admin/openapi.json",
    "/v1/models",
    "/chat/x",
    "/health",
    "/metrics",
)


def test_with_an_origin_of_its_own_content_is_there_and_nothing_else_is(
    start_gateway: Start,
):
    running = start_gateway(content=ContentSettings(origin=CONTENT))
    with httpx.Client(base_url=running.origin, timeout=30) as client:
        for host, is_content_host in (
            ("usercontent.example", True), ("USERCONTENT.example:443", True), ("usercontent.example.", True),
            (running.origin.partition("//")[2], False), ("localhost", False),
        ):  # fmt: skip
            for path in THEIRS:
                page_text = client.get(path, headers={"host": host}).text
                assert (
                    f"This path is served only at {CONTENT}" in page_text
                ) is not is_content_host, (host, path)
            for path in OURS:
                answer = client.get(path, headers={"host": host})
                assert ("on this host" in answer.text) is is_content_host, (host, path)
                assert answer.status_code == 404 or not is_content_host
        file = webhook()
        app = client.post("/admin/v1/apps", json={"file": file}).json()["id"]
        (trigger,) = client.get(f"/admin/v1/apps/{app}/triggers").json()["data"]
        assert trigger["address"].startswith(f"{CONTENT}/triggers/webhook/")
        path = trigger["address"].removeprefix(CONTENT)
        assert client.post(path, json={}).status_code == 404
        assert (
            client.post(
                path, json={}, headers={"host": "usercontent.example"}
            ).status_code
            == 200
        )
        # Plugins upload files at the address where they reach the server.
        assert (
            "Signature of the file address" in client.post("/files/plugins/upload").text
        )
    files = running.yard.services.workflows.files("default", "")
    assert running.do(files.save("a.txt", b"x")).url.startswith(f"{CONTENT}/files/")


@pytest.mark.parametrize(
    "text",
    [
        "usercontent.example",
        "ftp://x",
        "https://x/path",
        "https://",
        "https://[",
        "a b",
    ],
)
def test_an_invalid_origin_is_refused_with_its_line(tmp_path: Path, text: str):
    file = tmp_path / "modelyard.yaml"
    file.write_text(f"log_level: info\ncontent:\n  origin: {json.dumps(text)}\n")
    with pytest.raises(
        ConfigError,
        match=r"modelyard.yaml:\d: content: .*must be a URL origin such as https://",
    ):
        load_settings({"MODELYARD_HOME": str(tmp_path)})
    file.unlink()
    with pytest.raises(
        ConfigError, match="MODELYARD_CONTENT__ORIGIN: .*must be a URL origin"
    ):
        load_settings(
            {"MODELYARD_HOME": str(tmp_path), "MODELYARD_CONTENT__ORIGIN": text}
        )


def test_no_browser_guesses_the_type_of_anything(start_gateway: Start):
    """Property over all kinds of answers: pages, JSON, text, streams, errors."""
    origin = start_gateway().origin
    chat = {
        "model": "echo/echo",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
    }
    with httpx.Client(base_url=origin, timeout=30) as client:
        answers = [
            client.get(path)
            for path in (
                *OURS,
                *THEIRS,
                "/nowhere",
                "/chat/-/embed.js",
                "/console/x.js",
            )
        ]
        answers += [
            client.post("/v1/chat/completions", json=body)
            for body in (chat, {**chat, "stream": False}, {})
        ]
    assert {answer.status_code for answer in answers} >= {200, 404, 400}
    assert [
        answer.url
        for answer in answers
        if answer.headers.get("x-content-type-options") != "nosniff"
    ] == []


def test_without_a_content_origin_all_hosts_serve_all_paths():
    rules = ContentRules(origin=lambda: "")
    for path in (*THEIRS, *OURS):
        rules.check_host("GET", path, "anything")
    with pytest.raises(NotFoundError):
        ContentRules(origin=lambda: CONTENT).check_host("GET", "/e/x", None)


# --------------------------------------------------------------- the rules on their own


@pytest.mark.parametrize(
    ("name", "value"), [("x-a", "1\r\nset-cookie: a=b"), ("x-a", "1\nb"), ("x-a", "1\0"), ("x a", "1"), ("x:a", "1"), ("", "1")]
)  # fmt: skip
def test_a_header_that_would_end_itself_is_refused(name: str, value: str):
    with pytest.raises(PluginError, match="an invalid header"):
        outgoing([(name, value)])


def test_types_and_names_cannot_end_their_header():
    assert media_type("image/svg+xml") == b"image/svg+xml"
    assert media_type("text/plain; charset=utf-8") == b"text/plain; charset=utf-8"
    for text in (
        "",
        "text",
        "text/html\r\nx: y",
        'text/html; x="y"',
        "a/b; charset=" + "x" * 99,
    ):
        assert media_type(text) == b"application/octet-stream"
    assert disposition("inline", 'a"; b.html\r\n') == 'inline; filename="a___b.html__"'


def _reads_raw_headers(source: str) -> bool:
    """Return whether a module reads `scope['headers']`."""
    # Most modules do not have the word, and need not be parsed.
    nodes = ast.walk(ast.parse(source)) if "headers" in source else ()
    return any(
        isinstance(node, ast.Subscript)
        and ast.unparse(node.slice) == "'headers'"
        and ast.unparse(node).endswith("scope['headers']")
        for node in nodes
    )


def test_only_listed_modules_read_raw_request_headers():
    """Headers for a tenant's code are taken from `ContentRules.incoming`."""
    allowed = {
        "auth.py", "http.py", "server.py", "raw_requests.py", "console_api/accounts.py", "console_api/oidc.py",
        "plugins/webhooks.py", "direct.py", "early_refusals.py", "call_headers.py", "speaking.py",
    }  # fmt: skip
    reading_files = {
        str(file.relative_to(GATEWAY))
        for file in GATEWAY.rglob("*.py")
        if _reads_raw_headers(file.read_text("utf-8"))
    }
    handing_on = [
        (GATEWAY / name).read_text().count('rules.incoming(request.scope["headers"])')
        for name in ("raw_requests.py", "plugins/webhooks.py")
    ]
    assert handing_on == [1, 1]
    assert reading_files <= allowed, (
        "these read all headers of a request: do they hand them to a tenant?"
    )


def test_headers_with_line_breaks_are_never_sent(start_gateway: Start):
    """The last line of defence, whoever writes a header."""
    gateway = gateway_for(start_gateway().yard.services)

    async def injecting_handler(request: Any) -> Any:
        return json_reply(
            {"path": request.path}, headers={"x-a": "1\r\nset-cookie: a=b"}
        )

    row = Row(
        method="GET",
        path="/health",
        auth=NO_AUTH,
        handler=injecting_handler,
        summary="",
        answer=Schema({}),
    )
    gateway.router = Router(
        [
            Api(
                name="bad",
                title="",
                about="",
                prefixes=("/",),
                errors=OPENAI,
                rows=(row,),
            )
        ]
    )

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=gateway)  # type: ignore[arg-type]
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1"
        ) as client:
            return await client.get("/health")

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.headers["x-a"]) == (200, "1  set-cookie: a=b")


def test_names_from_callers_and_apps_cannot_break_headers(start_gateway: Start):
    running = start_gateway()
    with httpx.Client(base_url=running.origin, timeout=30) as client:
        body = {
            "model": "echo/echo",
            "messages": [{"role": "user", "content": "x"}],
            "a\r\nset-cookie: b=c": 1,
        }
        answers = [client.post("/v1/chat/completions", json=body)]
        app = client.post(
            "/admin/v1/apps", json={"file": webhook(method="post\r\nset-cookie: b=c")}
        ).json()["id"]
        (trigger,) = client.get(f"/admin/v1/apps/{app}/triggers").json()["data"]
        answers.append(client.post(trigger["address"], json={}))
    assert [answer.status_code for answer in answers] == [200, 405]
    assert is_sandboxed(answers[1].headers)
    for answer in answers:
        assert "set-cookie" not in answer.headers
