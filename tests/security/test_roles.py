"""The role of each route: one reviewed list, the routes themselves, and what an editor can
do."""

import asyncio
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

import httpx
import msgspec
import pytest
from tools.reference import apis

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.errors import ConfigError
from modelyard.base.settings import OidcSettings, Settings
from modelyard.gateway.table import Admission, Row
from modelyard.tenancy.caller import Role
from tests.gateway.conftest import Running, start_gateway
from tests.security.test_access import OPERATOR, ask, bearer

__all__ = ["start_gateway"]

# Reviewed by hand: which role opens which routes. A pattern is "METHODS path"; each route
# matches exactly one, so a new route fails this test until somebody decides about it.
EXPECTED: dict[Role, tuple[str, ...]] = {
    Role.VIEWER: (
        "GET /admin/v1/about",
        "GET /admin/v1/live",
        "GET /admin/v1/usage",
        "GET /admin/v1/apps/{id}/statistics",
        "GET /admin/v1/usage/rows",
        "GET /admin/v1/latency",
        "GET /admin/v1/calls",
        "GET /admin/v1/calls/{id}",
        "GET /admin/v1/requests",
        "GET /admin/v1/budgets",
        "GET /admin/openapi.json",
        "GET /metrics",
    ),
    Role.DEVELOPER: (
        "POST /admin/v1/calls/{id}/replay",
        "GET /admin/v1/catalogue",
        "GET /admin/v1/nodes",
        "GET /admin/v1/node-parts",
        "POST /admin/v1/split",
        "GET POST DELETE /admin/v1/evaluations/*",
        "GET /admin/tools",
        "POST /admin/tools/call",
        # The model APIs.
        "GET POST DELETE /v1/*",
        "GET POST /v1beta/models*",
        "POST /v2/*",
        "POST /mcp",
    ),
    Role.EDITOR: (
        "GET POST /admin/v1/apps",
        "POST /admin/v1/apps/check",
        "GET PATCH DELETE /admin/v1/apps/{id}",
        "GET PUT /admin/v1/apps/{id}/file",
        "GET /admin/v1/apps/{id}/code-network",
        "POST /admin/v1/apps/{id}/duplicate",
        "GET /admin/v1/app-templates",
        "POST /admin/v1/app-templates/{template}/apps",
        "GET POST PATCH DELETE /admin/v1/app-tags*",
        "POST /admin/v1/apps/{id}/publish",
        "POST /admin/v1/apps/{id}/restore",
        "GET POST /admin/v1/apps/{id}/keys",
        "GET /admin/v1/apps/{id}/form",
        "GET POST /admin/v1/apps/{id}/runs",
        "POST /admin/v1/apps/{id}/files",
        "GET /admin/v1/apps/{id}/triggers",
        "POST /admin/v1/apps/{id}/test-node",
        "GET /admin/v1/apps/{id}/conversations",
        "GET /admin/v1/apps/{id}/conversations/{conversation}",
        "GET /admin/v1/apps/{id}/feedback",
        "GET POST /admin/v1/apps/{id}/annotations",
        "PATCH DELETE /admin/v1/apps/{id}/annotations/{annotation}",
        "GET PUT /admin/v1/apps/{id}/annotation-reply",
        "POST /admin/v1/generate/*",
        "GET /admin/v1/runs/{id}",
        "GET /admin/v1/runs/{id}/events",
        "POST /admin/v1/runs/{id}/stop",
        "POST /admin/v1/runs/{id}/pause",
        "POST /admin/v1/runs/{id}/resume",
    ),
    Role.ADMIN: (
        "DELETE /admin/v1/apps/{id}/keys/{key}",
        # What an app is asked and answers leaves the server.
        "GET PUT POST DELETE /admin/v1/apps/{id}/traces*",
        # Editors write the code of nodes; what it may reach is another's decision.
        "PUT /admin/v1/apps/{id}/code-network",
        "GET POST PATCH DELETE /admin/v1/keys*",
        "GET POST PATCH DELETE /admin/v1/users*",
        "GET POST PATCH DELETE /admin/v1/credentials*",
        "GET POST PATCH DELETE /admin/v1/models*",
        "GET POST PATCH DELETE /admin/v1/routes*",
        "GET POST PATCH DELETE /admin/v1/limits*",
        "GET POST PATCH DELETE /admin/v1/defaults*",
        "GET /admin/v1/tenants*",
        "GET POST /admin/v1/providers*",
        "GET POST DELETE /admin/v1/weights*",
        "POST /admin/v1/plan",
        "GET /admin/v1/resting",
        "DELETE /admin/v1/cache",
        "GET POST PATCH DELETE /admin/v1/plugins*",
        "GET /admin/v1/market",
        "GET POST DELETE /admin/v1/subscriptions*",
        "POST /admin/v1/oauth/*",
        "GET POST DELETE /admin/tool-providers*",
        # Credentials of sources, and who may read what comes from them.
        "GET /admin/v1/connectors",
        "GET POST PATCH DELETE /admin/v1/sources/*",
        "GET PATCH /console/api/accounts*",
        "POST /console/api/invitations",
        "GET /console/api/audit",
    ),
    Role.OWNER: (
        "GET PUT /admin/v1/settings",
        "POST PATCH DELETE /admin/v1/tenants*",
    ),
}
FILE = """
app: {name: Greeting, mode: workflow, description: ''}
kind: app
version: 0.3.0
workflow:
  graph:
    nodes:
    - {id: start, data: {type: start, title: Start, variables: []}}
    - {id: end, data: {type: end, title: End, outputs: [{variable: user, value_selector: [sys, user_id]}]}}
    edges:
    - {source: start, target: end}
"""


def _matches(pattern: str, row: Row) -> bool:
    *methods, path = pattern.split()
    return row.method in methods and fnmatchcase(row.path, path)


def _rows_with_roles() -> Iterator[tuple[Row, Role]]:
    for api in apis():
        for row in api.rows:
            if row.auth.shows is Admission.API_KEY:
                assert row.auth.role is not None
                yield row, row.auth.role


def test_every_route_has_the_role_that_was_reviewed():
    reviewed = [
        (role, pattern) for role, patterns in EXPECTED.items() for pattern in patterns
    ]
    unused = set(reviewed)
    for row, role in _rows_with_roles():
        matching = [line for line in reviewed if _matches(line[1], row)]
        assert [expected for expected, _ in matching] == [role], (row.path, matching)
        unused -= set(matching)
    # A pattern that matches nothing is about a route that no longer exists.
    assert unused == set()


def test_each_route_refuses_every_role_below_its_own(settings: Settings):
    """Refused by the server, with a key of each role, before any handler runs."""
    # The tables come from a gateway of their own, which an event loop cannot build.
    rows = list(_rows_with_roles())

    async def work() -> None:
        yard = Modelyard(settings, environ={})
        try:
            gateway = gateway_for(yard.services)
            create = yard.services.tenancy.administration.create
            keys = {}
            for role in Role:
                keys[role] = (
                    await create(
                        OPERATOR, "default", "key", role.value, {"role": role.value}
                    )
                )["key"]
            for row, needed in rows:
                path = re.sub(r"\{\w+(:path)?\}", "x", row.path)
                for role in Role:
                    if role.covers(needed):
                        continue
                    status, answer = await ask(
                        gateway, row.method, path, bearer(keys[role])
                    )
                    assert status == 403, (role, row.method, path, status, answer)
                    assert f"Role '{needed.value}' required" in str(answer), answer
        finally:
            await yard.aclose()

    asyncio.run(work())


def _keys(client: httpx.Client) -> Callable[[str], str]:
    """Return a function that makes the header of a new key with a role."""
    # The first key of a server must be an owner's.
    first = client.post("/admin/v1/keys", json={"name": "first", "role": "owner"})
    owner = {"authorization": f"Bearer {first.json()['key']}"}

    def make(role: str) -> str:
        created = client.post(
            "/admin/v1/keys", json={"name": role, "role": role}, headers=owner
        )
        assert created.status_code == 201, created.text
        return f"Bearer {created.json()['key']}"

    return make


def test_an_editor_makes_publishes_and_exports_apps_and_manages_nothing_else(
    start_gateway: Callable[..., Running],
):
    with httpx.Client(base_url=start_gateway().origin, timeout=30) as client:
        client.headers["authorization"] = _keys(client)("editor")
        created = client.post("/admin/v1/apps", json={"file": FILE, "publish": False})
        assert created.status_code == 201, created.text
        app = f"/admin/v1/apps/{created.json()['id']}"
        assert client.put(f"{app}/file", json={"file": FILE}).status_code == 200
        assert client.post(f"{app}/publish").json()["is_published"]
        run = client.post(f"{app}/runs", json={"inputs": {}})
        assert '"succeeded"' in run.text
        assert client.get(f"{app}/runs").json()["total"] == 1
        assert "Greeting" in client.get(f"{app}/file").text
        key = client.post(f"{app}/keys").json()
        dataset = client.post("/v1/datasets", json={"name": "Notes"})
        assert dataset.status_code == 200, dataset.text
        for method, path in (
            ("DELETE", f"{app}/keys/{key['id']}"),
            ("GET", "/admin/v1/keys"),
            ("POST", "/admin/v1/credentials"),
            ("GET", "/admin/v1/limits"),
            ("GET", "/admin/v1/users"),
            ("GET", "/admin/v1/settings"),
            ("POST", "/console/api/invitations"),
        ):
            refused = client.request(method, path, json={})
            assert refused.status_code == 403, (method, path, refused.text)
        assert client.delete(app).json()["deleted"]


@pytest.mark.parametrize("role", [*(role.value for role in Role), "emperor"])
def test_an_identity_provider_makes_nobody_an_owner(settings: Settings, role: str):
    """Any other role can be that of people who sign in for the first time."""
    oidc = OidcSettings(
        issuer="https://identity.example", client_id="m", client_secret="s", role=role
    )
    yard = Modelyard(msgspec.structs.replace(settings, oidc=oidc), environ={})
    try:
        if role not in ("owner", "emperor"):
            gateway_for(yard.services)
            return
        with pytest.raises(ConfigError, match=f"oidc.role: unknown role '{role}'"):
            gateway_for(yard.services)
    finally:
        asyncio.run(yard.aclose())
