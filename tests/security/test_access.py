"""Tests for access: cross-site requests, unknown bearers, disabled tenants and keys."""

import asyncio
import json
import re
import socket
import time
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import yaml
from tools.show.servers import Postgres

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.errors import NotFoundError
from modelyard.base.settings import Settings
from modelyard.gateway.auth import (
    DEVICE_COOKIE,
    SESSION_COOKIE,
    Authenticator,
    UnauthorizedError,
)
from modelyard.gateway.server import Gateway
from modelyard.gateway.table import Admission
from modelyard.people import passwords
from modelyard.plugins.connection import PluginCall
from modelyard.plugins.manifest import Permissions
from modelyard.tenancy.caller import Caller, Role
from modelyard.tenancy.resource_types import PluginEndpoint, Subscription
from tests.gateway.conftest import start_gateway

__all__ = ["start_gateway"]

PASSWORD = "a long enough word"
HOME = [(b"host", b"127.0.0.1:8790")]
EVIL = [(b"host", b"evil.example:8790"), (b"origin", b"http://evil.example:8790")]
OPERATOR = Caller(tenant="default")
Pairs = list[tuple[bytes, bytes]]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the expensive password hash, which does not matter here."""
    monkeypatch.setattr(passwords, "_hash", lambda password: f"hash of {password}")
    monkeypatch.setattr(
        passwords,
        "_verify",
        lambda password, stored_hash: stored_hash == f"hash of {password}",
    )


async def ask(
    gateway: Gateway,
    method: str,
    path: str,
    headers: Pairs,
    body: Any = None,
    client: str | None = "127.0.0.1",
) -> tuple[int, Any]:
    """Call the gateway without a socket; return (status, document)."""
    data = json.dumps(body).encode() if body is not None else b""
    target, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http", "method": method, "path": urllib.parse.unquote(target), "query_string": query.encode(),
        "headers": [(b"content-type", b"application/json"), *headers], "client": (client, 1234) if client else None,
    }  # fmt: skip
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": data, "more_body": False}])

    async def receive() -> Any:
        if (message := next(messages, None)) is not None:
            return message
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway(scope, receive, send)
    response_body = b"".join(message.get("body", b"") for message in sent[1:])
    kinds = [value for name, value in sent[0]["headers"] if name == b"content-type"]
    return sent[0]["status"], json.loads(response_body) if response_body and kinds == [
        b"application/json"
    ] else response_body


def bearer(key: str) -> Pairs:
    return [*HOME, (b"authorization", f"Bearer {key}".encode())]


def browser(token: str) -> Pairs:
    return [
        *HOME,
        (b"cookie", f"{SESSION_COOKIE}={token}".encode()),
        (b"origin", b"http://127.0.0.1:8790"),
    ]


@asynccontextmanager
async def server(
    home: Path, **changes: Any
) -> AsyncIterator[tuple[Modelyard, Gateway]]:
    """A server that is notified of changes by other servers."""
    document = {
        "home": str(home),
        "local": {"hub": ""},
        "plugins": {"debug_port": 0},
        **changes,
    }
    async with Modelyard(msgspec.convert(document, Settings), environ={}) as yard:
        gateway = gateway_for(yard.services)
        yard.services.upkeep.start()
        yield yard, gateway


def run(
    work: Callable[[Modelyard, Gateway], Awaitable[None]], home: Path, **changes: Any
) -> None:
    async def go() -> None:
        async with server(home, **changes) as (yard, gateway):
            await work(yard, gateway)

    asyncio.run(go())


# ----------------------------------------------------------------------- an open server


def test_cross_site_requests_are_refused_with_any_credentials(
    tmp_path: Path,
):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        credentials = [(b"authorization", b"Bearer none")]
        assert (await ask(gateway, "GET", "/admin/v1/settings", [*HOME, *credentials]))[
            0
        ] == 200
        for evil in (
            EVIL,
            EVIL[:1],
            [*HOME, EVIL[1]],
            [*EVIL, *credentials],
            [*HOME, EVIL[1], *credentials],
        ):
            status, response = await ask(gateway, "GET", "/admin/v1/settings", evil)
            assert (status, response["error"]["code"]) == (403, "origin_not_allowed"), (
                evil
            )
        status, _ = await ask(
            gateway,
            "POST",
            "/admin/v1/keys",
            [*EVIL, *credentials],
            {"name": "x", "role": "owner"},
        )
        assert status == 403
        assert await yard.services.tenancy.administration.list("default", "key") == []

    run(work, tmp_path)


def test_requests_are_refused_before_the_keys_are_loaded(tmp_path: Path):
    """Before its startup hook has run, a gateway takes no stranger for the owner.

    Some servers never call the hook (no lifespan).
    """

    async def work(yard: Modelyard, gateway: Gateway) -> None:
        created_key = await yard.services.tenancy.administration.create(
            OPERATOR, "default", "key", "o", {"role": "owner"}
        )
        unopened = Modelyard(yard.settings, environ={})
        try:
            other_gateway = gateway_for(unopened.services)
            answers = await asyncio.gather(
                *(
                    ask(other_gateway, "GET", "/admin/v1/settings", HOME)
                    for _ in range(5)
                )
            )
            assert {status for status, _ in answers} == {401}
            assert (
                await ask(
                    other_gateway,
                    "GET",
                    "/admin/v1/settings",
                    bearer(created_key["key"]),
                )
            )[0] == 200
        finally:
            await unopened.aclose()

    run(work, tmp_path)


def test_every_route_of_an_open_server_looks_at_host_and_origin_first(tmp_path: Path):
    """Property: a route that needs a role or checks the origin refuses foreign pages.

    The other routes show a stranger only what is public.
    """

    async def work(yard: Modelyard, gateway: Gateway) -> None:
        for credentials in (
            [],
            [(b"authorization", b"Bearer none")],
            [(b"x-api-key", b"none")],
        ):
            # Fill the caches for this caller.
            await ask(gateway, "GET", "/v1/models", [*HOME, *credentials])
            for _, row in gateway.router.rows():
                where = re.sub(r"\{\w+(:path)?\}", "x", row.path)
                status, response = await ask(
                    gateway, row.method, where, [*EVIL, *credentials], {}
                )
                if row.auth.role is not None or row.auth.checks_origin:
                    assert (status, _code(response)) == (403, "origin_not_allowed"), (
                        row.method,
                        where,
                        response,
                    )
                elif row.auth.shows is not Admission.NOTHING:
                    assert status in (400, 401, 403, 404), (row.method, where, response)

    run(work, tmp_path)


def _code(response: Any) -> str:
    """Return the error code in any API's format, or derive it from the message."""
    error = response.get("error", response) if isinstance(response, dict) else {}
    text = json.dumps(response) if isinstance(response, dict) else ""
    return (
        "origin_not_allowed"
        if "require an API key; none is configured" in text
        else str(error.get("code"))
    )


CALLS: list[tuple[Pairs, str | None, bool]] = [
    ([(b"host", b"127.0.0.1")], "127.0.0.1", True),
    ([(b"host", b"LOCALHOST:8790")], "127.0.0.1", True),
    ([(b"host", b"localhost.:8790")], "::1", True),
    ([(b"host", b"[::1]:8790")], "::ffff:127.0.0.1", True),
    ([(b"host", b"localhost"), (b"origin", b"http://localhost:3000")], None, True),
    ([(b"host", b"localhost"), (b"origin", b"tauri://localhost")], "127.0.0.1", True),
    ([(b"host", b"localhost"), (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"navigate")], "::1", True),
    ([], "127.0.0.1", False),
    ([(b"host", b"")], "127.0.0.1", False),
    ([(b"host", b"evil.example")], "127.0.0.1", False),
    ([(b"host", b"evil.example@localhost")], "127.0.0.1", False),
    ([(b"host", b"localhost.evil.example")], "127.0.0.1", False),
    ([(b"host", b"evil.example//localhost")], "127.0.0.1", False),
    ([(b"host", b"//localhost")], "127.0.0.1", False),
    ([(b"host", b"[fe80::1]")], "127.0.0.1", False),
    ([(b"host", b"localhost"), (b"host", b"localhost")], "127.0.0.1", False),
    ([(b"host", b"evil.example"), (b"host", b"localhost")], "127.0.0.1", False),
    ([(b"host", b"localhost"), (b"origin", b"null")], "127.0.0.1", False),
    ([(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"http://evil.example")], None, False),
    ([(b"host", b"localhost"), (b"origin", b"http://localhost.evil.example")], "127.0.0.1", False),
    ([(b"host", b"localhost"), (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"no-cors")], "::1", False),
    ([(b"host", b"localhost")], "192.0.2.7", False),
    ([(b"host", b"localhost"), (b"x-forwarded-for", b"192.0.2.7")], "127.0.0.1", False),
    ([(b"host", b"localhost"), (b"forwarded", b"for=192.0.2.7")], "127.0.0.1", False),
]  # fmt: skip
"""(headers, the client's address, whether the caller counts as local)"""


def test_which_callers_count_as_local(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        body = {"email": "eve@example.org", "name": "Eve", "password": PASSWORD}
        for headers, client, is_local in CALLS:
            for path in ("/v1/models", "/console/api/session", "/v1/datasets"):
                status, response = await ask(
                    gateway, "GET", path, headers, client=client
                )
                assert status == (200 if is_local else 403), (headers, client, response)
            if not is_local:
                assert (
                    await ask(
                        gateway, "POST", "/console/api/setup", headers, body, client
                    )
                )[0] == 403

    run(work, tmp_path)


def test_targets_in_the_absolute_form_and_several_hosts_are_seen_through_a_socket(
    start_gateway: Any,
):
    running = start_gateway()
    port = int(running.origin.rpartition(":")[2])

    def status(*lines: str) -> int:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(
                "\r\n".join([*lines, "connection: close", "", ""]).encode()
            )
            return int(connection.makefile("rb").readline().split()[1])

    assert status("GET /v1/models HTTP/1.1", "host: 127.0.0.1") == 200
    assert (
        status("GET http://127.0.0.1/v1/models HTTP/1.1", "host: evil.example") == 403
    )
    assert status(
        "GET /v1/models HTTP/1.1", "host: 127.0.0.1", "host: evil.example"
    ) in (400, 403)
    assert status("GET /v1/models HTTP/1.0") in (400, 403)


@pytest.mark.parametrize("owned_by", ["owner", "key", "settings", "elsewhere"])
def test_unknown_bearers_are_refused_once_the_server_has_an_owner(
    tmp_path: Path, owned_by: str
):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        new_key = {"name": "x", "role": "owner"}
        for _ in range(2):
            assert (await ask(gateway, "GET", "/v1/models", bearer("none")))[0] == 200
        if owned_by == "owner":
            body = {"email": "ada@example.org", "name": "Ada", "password": PASSWORD}
            home = [*HOME, (b"origin", b"http://127.0.0.1:8790")]
            assert (await ask(gateway, "POST", "/console/api/setup", home, body))[
                0
            ] == 201
        elif owned_by == "key":
            assert (
                await ask(gateway, "POST", "/admin/v1/keys", bearer("none"), new_key)
            )[0] == 201
        elif owned_by == "settings":
            yard.reload(
                msgspec.structs.replace(
                    yard.settings, api_keys=["sk-a-key-of-the-settings"]
                )
            )
        else:
            async with Modelyard(yard.settings, environ={}) as other_yard:
                await other_yard.services.tenancy.accounts.set_up(
                    "ada@example.org", "Ada", PASSWORD
                )
            await _until_refused(gateway, bearer("none"))
        for headers in (bearer("none"), HOME):
            for method, path, body in (
                ("GET", "/admin/v1/settings", None),
                ("POST", "/admin/v1/keys", new_key),
            ):
                assert (await ask(gateway, method, path, headers, body))[0] == 401

    run(work, tmp_path)


async def _until_refused(
    gateway: Gateway, headers: Pairs, path: str = "/v1/models", *, seconds: float = 15.0
) -> float:
    """Return the seconds until a request is refused.

    Constant polling must not keep a cached permission alive.
    """
    started_at = time.monotonic()
    while (await ask(gateway, "GET", path, headers))[0] < 400:
        assert time.monotonic() - started_at < seconds, f"{path} is still answered"
        await asyncio.sleep(0.02)
    return time.monotonic() - started_at


def test_a_key_removed_from_the_settings_is_refused(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        assert (await ask(gateway, "GET", "/v1/models", bearer("sk-the-first-key")))[
            0
        ] == 200
        yard.reload(
            msgspec.structs.replace(yard.settings, api_keys=["sk-the-second-key"])
        )
        assert (await ask(gateway, "GET", "/v1/models", bearer("sk-the-first-key")))[
            0
        ] == 401
        assert (await ask(gateway, "GET", "/v1/models", bearer("sk-the-second-key")))[
            0
        ] == 200

    run(work, tmp_path, api_keys=["sk-the-first-key"])


def test_removed_keys_are_dropped_from_the_cache():
    async def go() -> None:
        keeper = Authenticator(["sk-the-first-key"])
        scope = {
            "client": None,
            "method": "GET",
            "path": "/v1/models",
            "headers": bearer("sk-the-first-key"),
        }
        assert (await keeper.caller_of(scope)).is_operator
        keeper.keys = ["sk-the-second-key"]
        with pytest.raises(UnauthorizedError):
            await keeper.caller_of(scope)

    asyncio.run(go())


def test_an_owned_server_is_never_open_for_a_moment_after_a_restart(tmp_path: Path):
    async def create_owner() -> None:
        async with server(tmp_path) as (yard, _):
            await yard.services.tenancy.accounts.set_up(
                "ada@example.org", "Ada", PASSWORD
            )

    async def work(yard: Modelyard, gateway: Gateway) -> None:
        answers = await asyncio.gather(
            *(ask(gateway, "GET", "/v1/models", HOME) for _ in range(20))
        )
        assert {status for status, _ in answers} == {401}

    asyncio.run(create_owner())
    run(work, tmp_path)


def test_a_session_is_used_by_its_own_page_alone(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        account = await yard.services.tenancy.accounts.set_up(
            "ada@example.org", "Ada", PASSWORD
        )
        token, _ = await yard.services.tenancy.accounts.sessions.open(account)
        for host, origin, expected_status in (
            (b"127.0.0.1:8790", b"http://127.0.0.1:8790", 200), (b"evil.example:8790", b"http://127.0.0.1:8790", 403),
            (b"127.0.0.1:8790", b"http://127.0.0.1:3000", 403), (b"127.0.0.1:8790", b"null", 403),
            (b"", b"null", 403), (b"", b"", 403), (b"127.0.0.1", b"http://[", 403),
        ):  # fmt: skip
            headers = [
                (b"cookie", f"{SESSION_COOKIE}={token}".encode()),
                (b"host", host),
                (b"origin", origin),
            ]
            assert (await ask(gateway, "GET", "/admin/v1/users", headers))[
                0
            ] == expected_status, (host, origin)
            twice = [*headers, (b"origin", b"http://127.0.0.1:8790")]
            assert (await ask(gateway, "GET", "/admin/v1/users", twice))[0] == 403

    run(work, tmp_path)


# ------------------------------------------------------------- local and remote callers


@pytest.mark.parametrize(("trusted", "client", "forwarded", "address"), [
    ([], "192.0.2.1", "198.51.100.7", "192.0.2.1"),
    (["10.0.0.0/8"], "192.0.2.1", "198.51.100.7", "192.0.2.1"),
    (["10.0.0.0/8"], "10.1.2.3", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
    (["10.0.0.0/8"], "10.1.2.3", "203.0.113.9, 198.51.100.7, 10.9.9.9", "198.51.100.7"),
    (["10.0.0.0/8"], "10.1.2.3", "", "10.1.2.3"),
    (["10.0.0.0/8"], "10.1.2.3", "198.51.100.7, unknown", "10.1.2.3"),
    (["::1", "10.0.0.1"], "::ffff:10.0.0.1", "2001:db8::5", "2001:db8::5"),
])  # fmt: skip
def test_who_calls_is_who_connects_unless_a_trusted_proxy_says_so(
    trusted: list[str], client: str, forwarded: str, address: str
):
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    keeper = Authenticator([], trusted_proxies=trusted)
    assert keeper.address_of({"client": (client, 1), "headers": headers}) == address


def test_an_invalid_trusted_proxy_is_reported():
    with pytest.raises(
        Exception, match=r"trusted_proxies: 'proxy\.example' is not an IP address"
    ):
        Authenticator([], trusted_proxies=["proxy.example"])


# ---------------------------------------------------------------------------- disabling


APP = yaml.safe_dump({
    "kind": "app", "version": "0.6.0", "app": {"name": "hooked", "mode": "workflow"},
    "workflow": {"graph": {
        "nodes": [
            {"id": "hook", "data": {"type": "trigger-webhook", "title": "h", "method": "get", "content_type": ""}},
            {"id": "when", "data": {
                "type": "trigger-schedule", "title": "w", "mode": "cron", "cron_expression": "* * * * *",
                "timezone": "UTC",
            }},
            {"id": "end", "data": {"type": "end", "title": "e", "outputs": []}},
        ],
        "edges": [{"source": "hook", "target": "end"}, {"source": "when", "target": "end"}],
    }},
})  # fmt: skip
PLAIN = yaml.safe_dump({
    "kind": "app", "version": "0.6.0", "app": {"name": "plain", "mode": "workflow"},
    "workflow": {"graph": {
        "nodes": [
            {"id": "start", "data": {"type": "start", "title": "s", "variables": []}},
            {"id": "end", "data": {"type": "end", "title": "e", "outputs": []}},
        ],
        "edges": [{"source": "start", "target": "end"}],
    }},
})  # fmt: skip
AccessCheck = Callable[[Modelyard, Gateway], Awaitable[bool]]
"""Returns whether access is granted."""


def request_check(
    method: str,
    path: str,
    headers: Pairs,
    body: Any = None,
    refused: tuple[int, ...] = (401, 403, 404),
) -> AccessCheck:
    async def gets_in(yard: Modelyard, gateway: Gateway) -> bool:
        status, response = await ask(gateway, method, path, headers, body)
        assert status < 500, response
        return status not in refused

    return gets_in


async def access_checks_by_name(yard: Modelyard) -> dict[str, AccessCheck]:
    """Return a check for every way to a tenant's data, by name.

    The first word of a name is the resource that the check needs: tenant, user or key.
    """
    admin = yard.services.tenancy.administration
    await admin.create(OPERATOR, "acme", "tenant", "acme", {})
    await admin.create(OPERATOR, "default", "key", "house", {"role": "owner"})
    await admin.create(OPERATOR, "acme", "user", "ann@acme.example", {"role": "admin"})
    return {
        **await _key_checks(yard),
        **await _user_checks(yard),
        **await _app_checks(yard),
        **await _file_checks(yard),
        **await _plugin_checks(yard),
    }


async def _key_checks(yard: Modelyard) -> dict[str, AccessCheck]:
    """Return the checks that need an API key of the tenant."""
    admin = yard.services.tenancy.administration
    created = await admin.create(OPERATOR, "acme", "key", "k", {"role": "owner"})
    key = bearer(created["key"])
    api_key = [*HOME, (b"x-api-key", created["key"].encode())]
    dataset_key = bearer(await yard.services.tenancy.dataset_keys.create("acme"))
    rpc = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    return {
        "key: models": request_check("GET", "/v1/models", key),
        "key: admin": request_check("GET", "/admin/v1/users", key),
        "key: x-api-key": request_check("GET", "/v1/models", api_key),
        "key: datasets": request_check("GET", "/v1/datasets", key),
        "key: console": request_check("GET", "/console/api/accounts", key),
        "key: mcp": request_check("POST", "/mcp", key, rpc),
        "key: tools": request_check("GET", "/admin/tools", key),
        "dataset_key: datasets": request_check("GET", "/v1/datasets", dataset_key),
    }


async def _user_checks(yard: Modelyard) -> dict[str, AccessCheck]:
    """Return the checks that need a user of the tenant, and one with an invitation."""
    accounts, owner = yard.services.tenancy.accounts, Caller(tenant="acme")
    values = {"role": "admin", "user": "ann@acme.example"}
    key = await yard.services.tenancy.administration.create(
        OPERATOR, "acme", "key", "own", values
    )
    invited = await accounts.invite(owner, "ann@acme.example", Role.ADMIN)
    late_invitation = await accounts.invite(owner, "late@acme.example", Role.ADMIN)
    account = await accounts.accept(invited, "Ann", PASSWORD)
    token, _ = await accounts.sessions.open(account)

    async def sign_in(yard: Modelyard, gateway: Gateway) -> bool:
        return await succeeds_async(
            lambda: yard.services.tenancy.accounts.sign_in("ann@acme.example", PASSWORD)
        )

    async def sign_in_elsewhere(yard: Modelyard, gateway: Gateway) -> bool:
        link = yard.services.tenancy.accounts.link_signature(account, "state")
        return await succeeds_async(
            lambda: yard.services.tenancy.accounts.sign_in_external(
                "ann@acme.example", "Ann", None, link=link, state="state"
            )
        )

    async def accept(yard: Modelyard, gateway: Gateway) -> bool:
        return await _accept_and_restore(yard, late_invitation)

    return {
        "user: key": request_check("GET", "/v1/models", bearer(key["key"])),
        "user: session": request_check("GET", "/admin/v1/users", browser(token)),
        "user: console": request_check("GET", "/console/api/sessions", browser(token)),
        "user: sign in": sign_in,
        "user: sign in elsewhere": sign_in_elsewhere,
        "tenant: invitation": accept,
    }


async def _accept_and_restore(yard: Modelyard, invitation: str) -> bool:
    """Return whether the late invitation can be accepted; restore it afterwards."""
    database = yard.services.storage.database
    rows = await database.fetch(
        "SELECT * FROM invitations WHERE email = 'late@acme.example'"
    )
    gets_in = await succeeds_async(
        lambda: yard.services.tenancy.accounts.accept(invitation, "Late", PASSWORD)
    )
    if gets_in:
        row = dict(rows[0])
        restored = database.submit(
            lambda connection: _restore_invitation(connection, row)
        )
        await asyncio.wrap_future(restored)
    return gets_in


async def _app_checks(yard: Modelyard) -> dict[str, AccessCheck]:
    """Return the checks that need an app of the tenant.

    They use its key, its page and its triggers.
    """
    hooked, _, _ = await yard.apps.add("acme", APP)
    plain, _, _ = await yard.apps.add("acme", PLAIN)
    page = (await yard.apps.set_page(plain, is_on=True)).stored.page.token
    key = bearer((await yard.apps.make_key(plain))[1])
    visitor = [*HOME, (b"x-visitor", b"v" * 24)]
    webhook = f"/triggers/webhook/{next(iter(hooked.stored.webhooks.values()))}"
    card = f"/a2a/{page}/.well-known/agent-card.json"
    rpc = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "x"}}

    async def schedules(yard: Modelyard, gateway: Gateway) -> bool:
        triggers = yard.services.workflows.triggers
        apps = yard.apps.list_all("acme")
        app = next(candidate for candidate in apps if candidate.id == hooked.id)
        return triggers._may_run(app)  # pyright: ignore[reportPrivateUsage]

    return {
        "app_key: service": request_check("GET", "/v1/parameters", key),
        "app_key: a2a": request_check("POST", f"/a2a/{plain.id}", key, rpc),
        "tenant: page": request_check("GET", f"/chat/{page}", HOME),
        "tenant: page's calls": request_check(
            "GET", f"/chat/{page}/v1/parameters", visitor
        ),
        "tenant: a2a card": request_check("GET", card, HOME),
        "tenant: webhook": request_check("GET", webhook, HOME),
        "tenant: schedule": schedules,
    }


async def _file_checks(yard: Modelyard) -> dict[str, AccessCheck]:
    """Return the check that needs a signed URL of a file."""
    files = yard.services.storage.files
    file = await files.add("acme", "a.txt", b"words")
    signed = files.sign("read", "acme", file.id, seconds=600.0)
    return {"tenant: file": request_check("GET", f"/files/{file.id}?{signed}", HOME)}


async def _plugin_checks(yard: Modelyard) -> dict[str, AccessCheck]:
    """Return the checks that need a plugin of the tenant."""
    rows = yard.services.plugins.rows
    endpoint = await rows.save(
        "acme", PluginEndpoint.kind, "e", {}, PluginEndpoint(plugin="a/b")
    )
    subscription = await rows.save(
        "acme", Subscription.kind, "s", {}, Subscription(plugin="a/b", provider="p")
    )
    daemon = [*HOME, (b"x-api-key", yard.services.plugins.key.encode())]
    debugging = yard.services.plugins.debugged.key("acme")

    async def plugins(yard: Modelyard, gateway: Gateway) -> bool:
        services = yard.services.plugins
        return succeeds(lambda: services.endpoints.endpoint(endpoint)) or succeeds(
            lambda: services.subscriptions.subscription(subscription)
        )

    async def debug(yard: Modelyard, gateway: Gateway) -> bool:
        return yard.services.plugins.debugged.tenant_of_key(debugging) == "acme"

    return {
        "tenant: plugin endpoints and webhooks": plugins,
        "tenant: plugin daemon": request_check(
            "GET", "/plugin/acme/management/list?page=1&page_size=10", daemon
        ),
        "tenant: plugins in debug": debug,
        "tenant: plugins' questions": _asks_as_plugin,
    }


async def _asks_as_plugin(yard: Modelyard, gateway: Gateway) -> bool:
    """Return whether a plugin's backward call to the host is answered."""
    session = PluginCall(
        tenant="acme",
        plugin="a/b",
        permissions=Permissions(),
        user="modelyard",
        type="tool",
        action="x",
        data={},
    )
    request = b'{"backwards_request_id": "1", "type": "x", "request": {}}'
    sessions = yard.services.plugins.sessions
    sessions.open("session-1", session)
    try:
        await anext(sessions.answer("session-1", request))
    except NotFoundError:
        return False
    return True


def _restore_invitation(connection: Any, row: dict[str, Any]) -> None:
    connection.execute("DELETE FROM accounts WHERE email = 'late@acme.example'")
    names = ", ".join(row)
    connection.execute(
        f"INSERT INTO invitations ({names}) VALUES ({', '.join('?' * len(row))})",
        tuple(row.values()),
    )


def succeeds(act: Callable[[], Any]) -> bool:
    try:
        act()
    except NotFoundError:
        return False
    return True


async def succeeds_async(act: Callable[[], Awaitable[Any]]) -> bool:
    from modelyard.base.errors import ModelyardError

    try:
        await act()
    except ModelyardError:
        return False
    return True


CLOSED_BY = {
    "tenant": ("key", "user", "tenant", "app_key", "dataset_key"), "tenant gone": ("key", "user", "tenant", "app_key", "dataset_key"),
    "user": ("user",), "key": ("key",), "key gone": ("key",), "app key": ("app_key",), "dataset key": ("dataset_key",),
    "account": ("user: session", "user: console", "user: sign in", "user: sign in elsewhere"),
}  # fmt: skip
"""What is disabled → the prefixes of the checks that must fail."""


async def switch_off(yard: Modelyard, target: str) -> None:
    admin, off = yard.services.tenancy.administration, {"is_enabled": False}

    async def row(resource_kind: str, name: str) -> str:
        return next(
            resource["id"]
            for resource in await admin.list("acme", resource_kind)
            if resource["name"] == name
        )

    match target:
        case "tenant":
            await admin.change(OPERATOR, "acme", "tenant", "acme", off)
        case "tenant gone":
            await admin.remove(OPERATOR, "acme", "tenant", "acme")
        case "user":
            await admin.change(
                OPERATOR, "acme", "user", await row("user", "ann@acme.example"), off
            )
        case "key":
            await admin.revoke(OPERATOR, "acme", await row("key", "k"))
        case "key gone":
            await admin.remove(OPERATOR, "acme", "key", await row("key", "k"))
        case "app key":
            plain = yard.apps.get_by_id_or_name("acme", "plain")
            await yard.apps.revoke_key(plain, yard.apps.keys(plain)[0][0].id)
        case "dataset key":
            await yard.services.tenancy.dataset_keys.revoke(
                "acme", yard.services.tenancy.dataset_keys.list_keys("acme")[0][0].id
            )
        case _:
            (ann,) = [
                account
                for account in await yard.services.tenancy.accounts.list_accounts(
                    "acme"
                )
                if account.email.startswith("ann")
            ]
            invitation = await yard.services.tenancy.accounts.invite(
                Caller(tenant="acme"), "owner@acme.example", Role.OWNER
            )
            await yard.services.tenancy.accounts.accept(invitation, "Owner", PASSWORD)
            await yard.services.tenancy.accounts.change(
                Caller(tenant="acme"), ann.id, is_enabled=False
            )


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Postgres(tmp_path_factory.mktemp("postgres") / "data") as running:
        yield running.url


def _fresh(url: str) -> str:
    """Return the URL of a new database."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(path=f"/{name}"))


@pytest.mark.parametrize(("target", "engine"), [
    *((target, "sqlite") for target in CLOSED_BY), ("tenant", "postgresql"), ("account", "postgresql"),
])  # fmt: skip
def test_what_is_switched_off_is_refused_on_every_way_in_on_every_server(
    tmp_path: Path, target: str, engine: str, request: pytest.FixtureRequest
):
    database = (
        str(tmp_path / "x.db")
        if engine == "sqlite"
        else _fresh(request.getfixturevalue("postgres_url"))
    )
    changes = {"database": database, "shared": "database"}

    async def go() -> None:
        async with (
            server(tmp_path, **changes) as (local_yard, gateway),
            server(tmp_path, **changes) as (remote_yard, remote_gateway),
        ):
            servers = ((local_yard, gateway), (remote_yard, remote_gateway))
            access_checks = await access_checks_by_name(local_yard)
            await remote_yard.services.tenancy.directory.refresh()
            # Let both servers cache what they can.
            for name, gets_in in access_checks.items():
                for yard, yard_gateway in servers:
                    assert await gets_in(yard, yard_gateway), name
            await switch_off(local_yard, target)
            for yard, yard_gateway in servers:
                await _check_switched_off(yard, yard_gateway, access_checks, target)

    asyncio.run(go())


async def _check_switched_off(
    yard: Modelyard,
    gateway: Gateway,
    access_checks: dict[str, AccessCheck],
    target: str,
) -> None:
    """Checks that need the target are refused soon; others still pass."""
    closed = {name for name in access_checks if name.startswith(CLOSED_BY[target])}
    assert closed
    started_at = time.monotonic()
    left = closed
    while left:
        left = {name for name in left if await access_checks[name](yard, gateway)}
        assert time.monotonic() - started_at < 60, left
    for name in access_checks.keys() - closed:
        if target in ("account", "user") and name.startswith("user"):
            continue
        assert await access_checks[name](yard, gateway), (
            f"{name} has nothing to do with {target}"
        )


def test_cached_sessions_expire_within_a_second_of_revocation(tmp_path: Path):
    """The cache uses monotonic time: a jump of the wall clock does not matter.

    The test moves both clocks, so a loaded machine does not matter either.
    """

    async def work(yard: Modelyard, gateway: Gateway) -> None:
        from modelyard.people.accounts import Accounts

        monotonic_seconds, wall = [100.0], [1_000_000.0]
        accounts = Accounts(
            yard.services.storage.database,
            lambda: wall[0],
            monotonic=lambda: monotonic_seconds[0],
        )
        account = await accounts.set_up("ada@example.org", "Ada", PASSWORD)
        token, session = await accounts.sessions.open(account)
        assert await accounts.sessions.of_token(token) is not None
        await yard.services.tenancy.accounts.sessions.revoke(account, session.id)
        wall[0] -= 86_400.0
        monotonic_seconds[0] += 0.99
        assert await accounts.sessions.of_token(token) is None

    run(work, tmp_path)


def test_keys_of_a_long_removed_tenant_stay_invalid(
    tmp_path: Path,
):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        access_checks = await access_checks_by_name(yard)
        await yard.services.tenancy.administration.remove(
            OPERATOR, "acme", "tenant", "acme"
        )
        yard.services.storage.resources.forget(yard.services.clock.time() + 10.0)
        await asyncio.wrap_future(yard.services.storage.database.flush())
        async with Modelyard(yard.settings, environ={}) as restarted:
            restarted_gateway = gateway_for(restarted.services)
            for name, gets_in in access_checks.items():
                assert not await gets_in(restarted, restarted_gateway), name

    run(work, tmp_path)


def test_the_device_cookie_is_not_a_session(tmp_path: Path):
    async def work(yard: Modelyard, gateway: Gateway) -> None:
        account = await yard.services.tenancy.accounts.set_up(
            "ada@example.org", "Ada", PASSWORD
        )
        device = yard.services.tenancy.accounts.sign_in.device_token(account)
        for name in (DEVICE_COOKIE, SESSION_COOKIE):
            cookie = [*HOME, (b"cookie", f"{name}={device}".encode())]
            assert (await ask(gateway, "GET", "/admin/v1/users", cookie))[0] == 401

    run(work, tmp_path)
