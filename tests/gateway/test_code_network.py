"""Network access of code nodes as a setting of the server, a tenant and an app."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from modelyard.base.settings import EgressSettings, WorkflowSettings
from modelyard.testing import Answer, Upstream
from modelyard.workflow.code_network import network_refusal
from tests.gateway.conftest import Running
from tests.workflow.building import document

Start = Callable[..., Running]
_PYTHON = "import urllib.request\ndef main(url):\n    return {'r': urllib.request.urlopen(url).read().decode()}"
_JAVASCRIPT = (
    "async function main({url}) { return {r: await (await fetch(url)).text()}; }"
)


def app(code: str, language: str, name: str = "reads") -> str:
    file = document(
        {
            "start": {"type": "start", "variables": [{"variable": "url", "type": "text-input", "label": "url", "required": True}]},
            "c": {
                "type": "code", "code_language": language, "code": code, "outputs": {"r": {"type": "string"}},
                "variables": [{"variable": "url", "value_selector": ["start", "url"]}],
            },
            "end": {"type": "end", "outputs": [{"variable": "r", "value_selector": ["c", "r"]}]},
        },
        ["start > c", "c > end"],
    )  # fmt: skip
    file["app"]["name"] = name
    return yaml.dump(file)


class World:
    """A gateway with apps, and a host that they may reach."""

    def __init__(self, start_gateway: Start, site: Upstream, **workflows: Any) -> None:
        host = site.url.removeprefix("http://").partition("/")[0]
        self.url = f"http://{host}/a"
        running = start_gateway(
            egress=EgressSettings(private=[host]),
            workflows=WorkflowSettings(**workflows),
        )
        self.http = httpx.Client(base_url=running.origin, timeout=30)
        self.tenant: dict[str, str] = {}

    def add(self, code: str = _PYTHON, language: str = "python3") -> str:
        body = {"file": app(code, language)}
        answer = self.http.post("/admin/v1/apps", json=body, params=self.tenant)
        return answer.json()["id"]

    def run(self, app_id: str) -> Any:
        """Return the output, or the error, of a run."""
        path = f"/admin/v1/apps/{app_id}/keys"
        key = self.http.post(path, params=self.tenant).json()["key"]
        body = {"inputs": {"url": self.url}, "user": "ada", "response_mode": "blocking"}
        headers = {"authorization": f"Bearer {key}"}
        answer = self.http.post("/v1/workflows/run", json=body, headers=headers).json()
        return (answer["data"]["outputs"] or {}).get("r") or answer["data"]["error"]

    def turn(self, app_id: str, enabled: bool | None) -> Any:
        path = f"/admin/v1/apps/{app_id}/code-network"
        answer = self.http.put(path, json={"enabled": enabled}, params=self.tenant)
        assert answer.status_code == 200, answer.text
        assert self.http.get(path, params=self.tenant).json() == answer.json()
        return answer.json()


@pytest.fixture
def site(upstream: Callable[..., Upstream]) -> Upstream:
    return upstream(lambda request: Answer(body=b"hello"))


@pytest.fixture
def make_world(start_gateway: Start, site: Upstream) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(**workflows: Any) -> World:
        worlds.append(World(start_gateway, site, **workflows))
        return worlds[-1]

    yield make
    for world in worlds:
        world.http.close()


def test_an_app_reaches_the_network_once_it_is_turned_on(
    make_world: Callable[..., World], site: Upstream
):
    world = make_world()
    for code, language in ((_PYTHON, "python3"), (_JAVASCRIPT, "javascript")):
        app_id = world.add(code, language)
        off = "Network access of code nodes is off for this app; an administrator can turn on the app's 'code-network'"
        assert off in world.run(app_id)
        assert world.turn(app_id, True) == {"enabled": True, "is_on": True, "reason": ""}  # fmt: skip
        assert world.run(app_id) == "hello"
        turned = world.turn(app_id, None)
        assert (turned["enabled"], turned["is_on"]) == (None, False)
        assert off in turned["reason"]
        assert off in world.run(app_id)
    assert len(site.requests) == 2


def test_a_new_file_keeps_the_value_and_a_copy_does_not(
    make_world: Callable[..., World], site: Upstream
):
    world = make_world()
    app_id = world.add()
    world.turn(app_id, True)
    assert world.add() == app_id
    assert world.run(app_id) == "hello"
    copy = world.http.post(f"/admin/v1/apps/{app_id}/duplicate", json={"publish": True}).json()  # fmt: skip
    assert "off for this app" in world.run(copy["id"])


def test_a_tenants_value_comes_before_the_setting(make_world: Callable[..., World]):
    world = make_world(code_network="on")
    assert world.run(world.add()) == "hello"
    world.http.post("/admin/v1/tenants", json={"name": "acme"})
    world.tenant = {"tenant": "acme"}
    app_id, path = world.add(), "/admin/v1/tenants/acme"
    assert world.run(app_id) == "hello"
    changed = world.http.patch(path, json={"code_network": "off"})
    assert changed.json()["code_network"] == "off"
    assert "the tenant's 'code_network'" in world.run(app_id)
    assert world.turn(app_id, True)["is_on"] is False
    world.http.patch(path, json={"code_network": "apps"})
    assert world.run(app_id) == "hello"
    wrong = world.http.patch(path, json={"code_network": "maybe"})
    assert wrong.status_code == 400
    # The default tenant still has what the settings say.
    world.tenant = {}
    assert world.run(world.add()) == "hello"


def test_a_test_of_a_node_follows_the_setting(make_world: Callable[..., World]):
    world = make_world()
    app_id = world.add()
    body = {
        "file": app(_PYTHON, "python3"),
        "node": "c",
        "inputs": {"start.url": world.url},
    }
    path = f"/admin/v1/apps/{app_id}/test-node"
    assert "off for this app" in world.http.post(path, json=body).json()["error"]
    world.turn(app_id, True)
    assert world.http.post(path, json=body).json()["outputs"] == {"r": "hello"}


@pytest.mark.parametrize("body", [{}, {"enabled": "yes"}, [], "text"])
def test_a_wrong_value_is_an_error(make_world: Callable[..., World], body: Any):
    world = make_world()
    path = f"/admin/v1/apps/{world.add()}/code-network"
    assert world.http.put(path, json=body).status_code == 400


_APP = "the app's 'code-network'"
_TENANT = "the tenant's 'code_network'"
_SERVER = "the setting 'workflows.code_network'"


@pytest.mark.parametrize(
    ("setting", "tenant", "app_value", "named"),
    [
        ("off", "", None, _SERVER),
        ("off", "", True, _SERVER),
        ("apps", "", None, _APP),
        ("apps", "", False, _APP),
        ("apps", "", True, None),
        ("on", "", None, None),
        ("on", "", False, _APP),
        ("on", "off", True, _TENANT),
        ("off", "apps", True, None),
        ("off", "apps", None, _APP),
        ("off", "on", None, None),
        ("on", "apps", None, _APP),
    ],
)
def test_the_reason_names_what_would_have_to_change(
    setting: Any, tenant: Any, app_value: bool | None, named: str | None
):
    refusal = network_refusal(setting, tenant, app_value)
    assert named in refusal if named else refusal == ""
