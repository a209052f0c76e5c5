"""Tests for egress: URLs set by tenants are checked, those of the operator are not."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from tools.show.hostile_urls import CASES

import modelyard
from modelyard.app import Modelyard
from modelyard.base.clock import SystemClock
from modelyard.base.errors import ModelyardError, PluginError
from modelyard.base.settings import CredentialSettings, EgressSettings, ProviderSettings
from modelyard.base.urls import join
from modelyard.models.types import OperatorCredentials
from modelyard.people.account import SignInError
from modelyard.people.oidc import Oidc
from modelyard.plugins.market import Market
from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    json_answer,
)
from modelyard.tools.api import Auth, Tokens
from modelyard.tools.openapi import parse
from modelyard.transport.egress import (
    EgressClient,
    EgressError,
    EgressRefusedError,
    EgressRules,
    normal_url,
)
from tests.gateway.conftest import Running, start_gateway
from tests.gateway.test_traffic import Got, ask

__all__ = ["start_gateway"]
pytestmark = [pytest.mark.anyio, pytest.mark.proof("egress")]
Start = Callable[..., Running]
BOSS = "operator-key-1"
SOURCE = Path(modelyard.__file__).parent
CANARY = "inside-canary-7c1f"


def inside(request: UpstreamRequest) -> Answer:
    """A server in the private network.

    Its answers and its errors contain a secret that nobody outside may read.
    """
    if request.path.endswith("/chat/completions") and request.key != "sk-right":
        return json_answer({"error": {"message": CANARY}}, status=401)
    if request.path.endswith("/models"):
        return json_answer({"object": "list", "data": [{"id": CANARY}]})
    return chat_answer(CANARY)


@pytest.fixture
def internal() -> Iterator[Upstream]:
    with Upstream(inside) as server:
        yield server


@pytest.fixture
def house(start_gateway: Start) -> tuple[Running, str]:
    """(a gateway with two tenants, the key of a tenant's administrator)"""
    running = start_gateway(api_keys=[BOSS])
    return running, administrator(running, "acme")


def administrator(running: Running, tenant: str) -> str:
    assert (
        ask(running, "POST", "/admin/v1/tenants", {"name": tenant}, key=BOSS).status
        == 201
    )
    created_key = ask(
        running,
        "POST",
        f"/admin/v1/keys?tenant={tenant}",
        {"name": "admin", "role": "owner"},
        key=BOSS,
    )
    return created_key.json["key"]


def credential(provider: str, **values: Any) -> dict[str, Any]:
    return {"name": f"{provider}-own", "provider": provider, "values": values}


def call(running: Running, model: str, *, key: str) -> Got:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return ask(running, "POST", "/v1/chat/completions", body, key=key)


# ---------------------------------------------------------------------- model providers


@pytest.mark.parametrize(
    "provider",
    ["openai_api_compatible", "ollama", "openai", "azure_openai", "anthropic"],
)
def test_a_tenants_provider_does_not_reach_the_private_network(
    house: tuple[Running, str], internal: Upstream, provider: str
):
    running, key = house
    field = "endpoint" if provider == "azure_openai" else "base_url"
    credential_fields = credential(
        provider, api_key="sk-right", **{field: internal.url}
    )
    assert (
        ask(running, "POST", "/admin/v1/credentials", credential_fields, key=key).status
        == 201
    )
    answered = call(running, f"{provider}/m", key=key)
    assert (answered.status, answered.json["error"]["code"]) == (
        400,
        "egress_refused",
    ), answered.body
    checked = ask(
        running,
        "POST",
        f"/admin/v1/providers/{provider}/check",
        {"values": credential_fields["values"]},
        key=key,
    )
    assert checked.json["works"] is False
    assert CANARY.encode() not in answered.body + checked.body
    assert internal.requests == []


def test_an_address_set_by_the_operator_for_a_tenant_is_trusted(
    house: tuple[Running, str], internal: Upstream
):
    running, key = house
    credential_fields = credential(
        "openai_api_compatible", api_key="sk-right", base_url=internal.url
    )
    created_credential = ask(
        running,
        "POST",
        "/admin/v1/credentials?tenant=acme",
        credential_fields,
        key=BOSS,
    )
    assert created_credential.json["set_by"] == "operator"
    assert (
        call(running, "openai_api_compatible/m", key=key).json["choices"][0]["message"][
            "content"
        ]
        == CANARY
    )
    # The row is the operator's: the tenant can neither set new values nor move it to
    # another provider.
    row = f"/admin/v1/credentials/{created_credential.json['id']}"
    for change in (
        {"weight": 2.0},
        {"values": credential_fields["values"]},
        {"provider": "ollama"},
    ):
        assert ask(running, "PATCH", row, change, key=key).status == 403
    assert call(running, "openai_api_compatible/m", key=key).status == 200
    changed = ask(running, "PATCH", f"{row}?tenant=acme", {"weight": 2.0}, key=BOSS)
    assert changed.json["set_by"] == "operator"


def test_an_operators_change_does_not_make_a_tenants_address_trusted(
    house: tuple[Running, str], internal: Upstream
):
    running, key = house
    credential_fields = credential(
        "openai_api_compatible", api_key="sk-right", base_url=internal.url
    )
    created_credential = ask(
        running, "POST", "/admin/v1/credentials", credential_fields, key=key
    )
    row = f"/admin/v1/credentials/{created_credential.json['id']}"
    assert created_credential.json["set_by"] == ""
    assert (
        ask(running, "PATCH", f"{row}?tenant=acme", {"weight": 1.5}, key=BOSS).json[
            "set_by"
        ]
        == ""
    )
    for field in ("set_by", "set_by_operator"):
        refused = ask(running, "PATCH", row, {field: "operator"}, key=key)
        assert (refused.status, refused.json["error"]["code"]) == (
            400,
            "invalid_request",
        )
    assert (
        call(running, "openai_api_compatible/m", key=key).json["error"]["code"]
        == "egress_refused"
    )
    filled_in = ask(
        running,
        "PATCH",
        f"{row}?tenant=acme",
        {"values": credential_fields["values"]},
        key=BOSS,
    )
    assert filled_in.json["set_by"] == "operator"
    assert call(running, "openai_api_compatible/m", key=key).status == 200


@pytest.mark.parametrize("change", ["values", "provider"])
def test_an_admin_of_the_default_tenant_is_not_the_operator(
    house: tuple[Running, str], internal: Upstream, change: str
):
    running, _ = house
    credential_fields = credential(
        "openai_api_compatible", api_key="sk-right", base_url=internal.url
    )
    created_credential = ask(
        running, "POST", "/admin/v1/credentials", credential_fields, key=BOSS
    )
    assert created_credential.json["set_by"] == "operator"
    admin = ask(
        running, "POST", "/admin/v1/keys", {"name": "staff", "role": "admin"}, key=BOSS
    ).json["key"]
    row = f"/admin/v1/credentials/{created_credential.json['id']}"
    assert (
        ask(running, "PATCH", row, {"weight": 2.0}, key=admin).json["set_by"]
        == "operator"
    )
    assert call(running, "openai_api_compatible/m", key=admin).status == 200
    changed = ask(
        running,
        "PATCH",
        row,
        {change: credential_fields["values"] if change == "values" else "ollama"},
        key=admin,
    )
    assert changed.json["set_by"] == ""
    request_count = len(internal.requests)
    provider = "ollama" if change == "provider" else "openai_api_compatible"
    assert (
        call(running, f"{provider}/m", key=admin).json["error"]["code"]
        == "egress_refused"
    )
    assert len(internal.requests) == request_count


def test_the_operator_lists_what_tenants_may_reach(
    start_gateway: Start, internal: Upstream
):
    host = internal.url.removeprefix("http://").removesuffix("/v1")
    running = start_gateway(api_keys=[BOSS], egress=EgressSettings(private=[host]))
    key = administrator(running, "acme")
    credential_fields = credential(
        "openai_api_compatible", api_key="sk-right", base_url=internal.url
    )
    ask(running, "POST", "/admin/v1/credentials", credential_fields, key=key)
    assert call(running, "openai_api_compatible/m", key=key).status == 200


def test_a_local_server_works_with_console_settings_and_catalogue(
    start_gateway: Start, internal: Upstream
):
    mine = ProviderSettings(
        name="my-vllm",
        base_url=internal.url,
        credentials=[CredentialSettings(values={})],
    )
    running = start_gateway(
        providers=[mine, ProviderSettings(name="vllm", base_url=internal.url)]
    )
    credential_fields = credential(
        "openai_api_compatible", api_key="sk-right", base_url=internal.url
    )
    assert (
        ask(running, "POST", "/admin/v1/credentials", credential_fields).status == 201
    )
    check = ask(
        running,
        "POST",
        "/admin/v1/providers/openai_api_compatible/check",
        {"values": credential_fields["values"]},
    )
    assert check.json["works"] is True
    assert call(running, "openai_api_compatible/m", key="").status == 200
    for name in ("my-vllm", "vllm"):  # the server was reached
        assert (
            call(running, f"{name}/m", key="").json["error"]["code"]
            == "upstream_authorization"
        )


def test_an_operators_server_serves_tenants_that_bring_a_key_and_no_address(
    start_gateway: Start, internal: Upstream
):
    running = start_gateway(
        api_keys=[BOSS],
        providers=[ProviderSettings(name="my-vllm", base_url=internal.url)],
    )
    key = administrator(running, "acme")
    ask(
        running,
        "POST",
        "/admin/v1/credentials",
        credential("my-vllm", api_key="sk-right"),
        key=key,
    )
    assert call(running, "my-vllm/m", key=key).status == 200
    # The same host with another path counts as the tenant's URL.
    internal_url = internal.url.removesuffix("/v1") + "/internal/v1"
    key = administrator(running, "globex")
    ask(
        running,
        "POST",
        "/admin/v1/credentials",
        credential("my-vllm", api_key="sk-right", base_url=internal_url),
        key=key,
    )
    assert call(running, "my-vllm/m", key=key).json["error"]["code"] == "egress_refused"


async def test_no_form_of_an_inner_address_is_reached_as_a_tenants_provider(
    echo_yard: Callable[..., Modelyard],
):
    """The hosts of the cases do not exist here.

    Redirects and DNS rebinding need a network: see `make show WHAT=egress`.
    """
    forms = [address for address in CASES if "test" not in address]
    assert len(forms) > 60
    yard = echo_yard()
    try:
        for url in forms:
            with pytest.raises(ModelyardError):
                await yard.services.checks.credentials(
                    "default", "openai_api_compatible", {"base_url": url}
                )
            assert not yard.services.network.guarded.connections
    finally:
        await yard.aclose()


def account(token_uri: str) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return json.dumps(
        {
            "client_email": "a@b.example",
            "private_key": pem.decode(),
            "token_uri": token_uri,
        }
    )


def test_the_token_url_of_a_tenants_service_account_is_checked(
    house: tuple[Running, str], internal: Upstream
):
    running, key = house
    values = {
        "service_account_key": account(f"{internal.url}/token"),
        "project_id": "p",
        "location": "us-central1",
    }
    created_credential = ask(
        running,
        "POST",
        "/admin/v1/credentials",
        credential("vertex_ai", **values),
        key=key,
    )
    assert created_credential.status == 201, created_credential.body
    answered = call(running, "vertex_ai/gemini-2.5-pro", key=key)
    assert answered.json["error"]["code"] == "egress_refused", answered.body
    assert internal.requests == []


async def test_clients_of_the_operator_and_of_tenants_share_no_connection(
    echo_yard: Callable[..., Modelyard], internal: Upstream
):
    yard = echo_yard()
    try:
        offered = await yard.services.checks.credentials(
            "default",
            "openai_api_compatible",
            OperatorCredentials(base_url=internal.url),
        )
        assert offered == [CANARY]
        with pytest.raises(Exception, match="Address blocked|is blocked"):
            await yard.services.checks.credentials(
                "default", "openai_api_compatible", {"base_url": internal.url}
            )
        assert len(internal.requests) == 1
    finally:
        await yard.aclose()


# -------------------------------------------------------- marketplaces, sign-in, tokens


def listed(file: str) -> Answer:
    listing = {
        "plugin": "me/one",
        "version": "1.0.0",
        "checksum": "0" * 64,
        "file": file,
    }
    return json_answer({"plugins": [listing]})


async def test_a_marketplace_reaches_no_private_address_but_its_own(
    internal: Upstream, upstream: Callable[[Any], Upstream], tmp_path: Path
):
    redirect_targets = {
        "there": f"{internal.url}/package",
        "here": "/v1/more",
        "on": "/v1/on",
    }

    def market(request: UpstreamRequest) -> Answer:
        name = request.path.rpartition("/")[2]
        if name == "index.json":
            return listed(listed_file[0])
        if name == "more":
            return Answer(body=b"bytes")
        return Answer(status=302, headers={"location": redirect_targets[name]})

    listed_file = ["here"]
    server = upstream(market)
    egress = EgressClient()
    try:
        plugin_market = Market([server.url], egress, github=server.url)
        assert await plugin_market.fetch("me/one") == b"bytes"
        for listed_file[0] in ("there", f"{internal.url}/package"):
            with pytest.raises(PluginError, match="is blocked|Address blocked"):
                await plugin_market.fetch("me/one")
        listed_file[0] = "on"
        with pytest.raises(PluginError, match="redirected more than 5 times"):
            await plugin_market.fetch("me/one")
        with pytest.raises(PluginError, match="is blocked|Address blocked"):
            await plugin_market.github(f"{server.url}/more")
        assert (
            await plugin_market.github(f"{server.url}/more", is_operators=True)
            == b"bytes"
        )
        assert internal.requests == []
    finally:
        await egress.aclose()


async def test_an_issuer_reaches_no_private_address_but_its_own(
    internal: Upstream, upstream: Callable[[Any], Upstream]
):
    def issuer(request: UpstreamRequest) -> Answer:
        if request.path.endswith("openid-configuration"):
            return json_answer({
                "issuer": server.url, "authorization_endpoint": f"{server.url}/authorize",
                "token_endpoint": f"{internal.url}/token", "jwks_uri": f"{internal.url}/keys",
            })  # fmt: skip
        return Answer(status=307, headers={"location": f"{internal.url}/token"})

    server = upstream(issuer)
    egress = EgressClient()
    try:
        oidc = Oidc(
            egress,
            SystemClock(),
            issuer=server.url,
            client_id="me",
            client_secret="hush",
        )
        _, pending = await oidc.begin("http://here.example/back")
        with pytest.raises(
            SignInError, match="Request to the identity provider failed"
        ) as refused:
            await oidc.end(
                pending, code="c", state=pending.state, back="http://here.example/back"
            )
        assert CANARY not in str(refused.value)
        # The request goes to its own host, which redirects elsewhere.
        with pytest.raises(
            SignInError, match="Request to the identity provider failed"
        ):
            await oidc._ask("POST", f"{server.url}/token", b"client_secret=hush")
        assert internal.requests == []
    finally:
        await egress.aclose()


async def test_the_secret_of_a_token_follows_no_redirect(
    internal: Upstream, upstream: Callable[[Any], Upstream]
):
    hosts = [url.removeprefix("http://").removesuffix("/v1") for url in (internal.url,)]
    server = upstream(
        lambda request: Answer(
            status=307, headers={"location": f"{internal.url}/token"}
        )
    )
    hosts.append(server.url.removeprefix("http://").removesuffix("/v1"))
    egress = EgressClient(EgressRules(private=frozenset(hosts)))
    try:
        auth = Auth(
            type="oauth2", user="me", value="hush", token_url=f"{server.url}/token"
        )
        with pytest.raises(EgressError, match="redirected more than 0 times"):
            await Tokens(egress).get(auth, tenant="acme", row="1")
        assert internal.requests == []
    finally:
        await egress.aclose()


async def test_credentials_are_not_sent_to_another_origin(
    internal: Upstream, upstream: Callable[[Any], Upstream]
):
    server = upstream(
        lambda request: Answer(status=302, headers={"location": f"{internal.url}/look"})
    )
    hosts = frozenset(
        backend.url.removeprefix("http://").removesuffix("/v1")
        for backend in (internal, server)
    )
    egress = EgressClient(EgressRules(private=hosts))
    try:
        headers = [
            ("authorization", "Bearer hush"),
            ("cookie", "session=hush"),
            ("x-api-key", "hush"),
            ("accept", "a/b"),
        ]
        await egress.fetch("GET", server.url, headers=headers)
        assert {"authorization", "cookie", "x-api-key"} <= set(
            server.requests[0].headers
        )
        assert not {"authorization", "cookie", "x-api-key"} & set(
            internal.requests[0].headers
        )
        assert "hush" not in str(internal.requests[0].headers)
    finally:
        await egress.aclose()


def test_a_refused_url_is_a_caller_error(
    house: tuple[Running, str], internal: Upstream
):
    running, key = house
    base_url = internal.url.removesuffix("/v1")
    for body in (
        {"name": "a", "type": "api", "url": f"{base_url}/openapi.json"}, {"name": "b", "type": "mcp", "url": base_url},
        {"name": "c", "type": "extension", "url": base_url}, {"name": "d", "type": "api", "url": "file:///etc/passwd"},
        {"name": "e", "type": "api", "url": "http://[::1"},
    ):  # fmt: skip
        refused = ask(running, "POST", "/admin/tool-providers", body, key=key)
        assert refused.status in (400, 502), (body, refused.body)
        assert refused.json["error"]["code"] in ("egress_refused", "mcp_error"), (
            refused.body
        )
        assert CANARY.encode() not in refused.body
    assert internal.requests == []


# ------------------------------------------------------------- property over the source

_OWN_WAYS = {
    ("transport/connect.py", "getaddrinfo"): "the one client: names are looked up",
    (
        "transport/connect.py",
        "create_connection",
    ): "and connected to, after the guard was asked",
    ("transport/connect.py", "start_tls"): "over what is connected already",
    ("transport/connect.py", "socket.socket"): "for protocols other than HTTP",
    ("transport/connect.py", "sock_connect"): "by an address that was checked",
    ("transport/smtp.py", "aiosmtplib"): "mails, over a socket of the one client",
    (
        "transport/egress.py",
        "HttpClient",
    ): "what is guarded, and a pool for what the operator named",
    (
        "transport/otlp.py",
        "requests",
    ): "a session whose only adapter sends by the one client",
    (
        "app/network.py",
        "HttpClient",
    ): "for the operator's providers, and traces to the operator's collector",
    (
        "providers/local/hub.py",
        "HttpClient",
    ): "weights, from the hub that the operator set",
    (
        "providers/local/engines/chat.py",
        "http.client",
    ): "a model's process, by its socket in the file system",
    ("providers/local/engines/chat.py", "socket.socket"): "the same",
    ("providers/local/process.py", "open_connection"): "one half of a pair of sockets",
    ("plugins/process.py", "create_connection"): "the pipes of a plugin's process",
    (
        "transport/egress_proxy.py",
        "getaddrinfo",
    ): "traffic of plugins and code: names are looked up, held to the rules",
    (
        "transport/egress_proxy.py",
        "open_connection",
    ): "and connected to by the address that was checked",
    (
        "transport/egress_proxy.py",
        "open_unix_connection",
    ): "one half of a pair of sockets, from a program in the sandbox",
    (
        "plugins/supervisor.py",
        "socket.socket",
    ): "listens inside a plugin's own network, and connects to nothing",
    (
        "plugins/inside/confine.py",
        "socket.socket",
    ): "brings up the loopback of a plugin's own network",
    (
        "cli/agent_programs.py",
        "HttpClient",
    ): "the server that the user names, from the user's own terminal",
    (
        "workflow/carriers/temporal_engine.py",
        "temporalio.client",
    ): "the Temporal server that the operator set",
    (
        "workflow/carriers/dbos_engine.py",
        "dbos",
    ): "the PostgreSQL database that the operator set",
    (
        "cli/doctor.py",
        "socket.socket",
    ): "whether a port is free, and whether the operator's Temporal server answers",
    ("cli/doctor.py", "connect_ex"): "the same",
}
"""(file, call) of everything that could open a connection, and why it is allowed"""
_CALLS = frozenset({
    "create_connection", "open_connection", "open_unix_connection", "create_unix_connection", "start_tls",
    "create_datagram_endpoint", "getaddrinfo", "gethostbyname", "urlopen", "urlretrieve", "sock_connect", "connect_ex",
    "HttpClient",
})  # fmt: skip
_MODULES = frozenset({
    "urllib.request", "http.client", "aiohttp", "httpx", "requests", "urllib3", "ftplib", "smtplib", "aiosmtplib", "imaplib", "poplib",
    "telnetlib", "nntplib", "xmlrpc.client", "websockets", "websocket", "paramiko", "pycurl", "boto3", "botocore", "h11",
    "h2", "httpcore", "socks", "temporalio.client", "dbos",
})  # fmt: skip
_STARTS = frozenset(
    {
        "create_subprocess_exec",
        "create_subprocess_shell",
        "Popen",
        "run",
        "check_output",
        "system",
    }
)
_PROGRAMS = re.compile(r"(^|[ /])(curl|wget|git|ssh|nc|ncat|socat|pip)( |$)")


def _network_calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in _MODULES)
        elif isinstance(node, ast.ImportFrom):
            full = [
                str(node.module),
                *(f"{node.module}.{alias.name}" for alias in node.names),
            ]
            yield from (module_name for module_name in full if module_name in _MODULES)
        elif isinstance(node, ast.Call):
            yield from _network_call(node)


def _network_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    name = called.rpartition(".")[2]
    if name in _CALLS:
        yield name
    elif called == "socket.socket" and not any(
        keyword.arg == "fileno" for keyword in node.keywords
    ):
        yield called
    elif name in _STARTS:
        constants = [
            child.value for child in ast.walk(node) if isinstance(child, ast.Constant)
        ]
        if any(
            isinstance(constant, str) and _PROGRAMS.search(constant)
            for constant in constants
        ):
            yield f"{name} {constants}"


def _all_network_calls() -> set[tuple[str, str]]:
    paths = [
        path
        for path in SOURCE.rglob("*.py")
        if "testing" not in path.relative_to(SOURCE).parts
    ]
    return {
        (str(path.relative_to(SOURCE)), call_name)
        for path in paths
        for call_name in _network_calls(ast.parse(path.read_text("utf-8")))
    }


def test_all_network_calls_use_the_egress_client():
    network_calls = _all_network_calls()
    # The sandbox's attacks are texts, and sandboxed code is confined by the sandbox
    # itself.
    network_calls = {
        network_call
        for network_call in network_calls
        if not network_call[0].startswith("sandbox/")
    }
    assert network_calls == set(_OWN_WAYS)


@pytest.mark.parametrize(
    "text",
    [
        "import requests",
        "from urllib import request",
        "from urllib.request import urlopen",
        "import http.client",
        "asyncio.open_connection('a', 1)",
        "loop.getaddrinfo('a', 1)",
        "HttpClient()",
        "socket.socket(socket.AF_INET)",
        "subprocess.run(['git', 'clone', url])",
        "create_subprocess_exec('/usr/bin/curl', url)",
        "os.system('wget x')",
    ],
)
def test_the_law_sees_each_way(text: str):
    assert list(_network_calls(ast.parse(text)))


def _imports(tree: ast.AST, name: str) -> bool:
    """Return whether a module imports a name, on one line or several."""
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return any(alias.name == name for node in imports for alias in node.names)


def test_only_listed_modules_use_the_unguarded_client():
    """Only providers, traces and file servers may use `client.send`; all others receive `Egress`."""
    texts = {path: path.read_text("utf-8") for path in SOURCE.rglob("*.py")}
    users = {
        str(path.relative_to(SOURCE))
        for path, text in texts.items()
        if "HttpClient" in text and _imports(ast.parse(text), "HttpClient")
    }
    assert users == {
        "app/network.py", "app/storage.py", "app/telemetry.py", "cli/agent_programs.py", "plugins/serverless.py", "providers/auth.py", "providers/endpoint.py",
        "providers/chat_exchange.py", "providers/http_provider.py", "providers/local/hub.py", "transport/egress.py", "transport/otlp.py",
        "transport/s3_files.py",
    }  # fmt: skip


def test_malformed_urls_raise_only_our_errors(
    house: tuple[Running, str],
):
    running, key = house
    broken = "http://[::1"
    assert join("http://a.example/", broken) == ""
    with pytest.raises(EgressRefusedError, match="Invalid URL"):
        normal_url(broken)
    described = {"openapi": "3.0.0", "info": {"title": "x", "version": "1"}, "servers": [{"url": broken}],
                 "paths": {"/x": {"get": {"operationId": "x", "servers": [{"url": broken}]}}}}  # fmt: skip
    assert parse(json.dumps(described), url="http://a.example/").server == ""
    ask(
        running,
        "POST",
        "/admin/v1/credentials",
        credential("openai_api_compatible", base_url=broken),
        key=key,
    )
    assert call(running, "openai_api_compatible/m", key=key).status == 400
