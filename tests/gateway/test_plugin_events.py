"""Events of a trigger plugin that answers what no plugin should: the caller is told, and
nothing starts."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from modelyard.base.settings import PluginSettings
from modelyard.plugins.package import package_folder
from modelyard.testing import Answer, Upstream, UpstreamRequest
from tests.gateway.conftest import Running
from tests.plugins.conftest import EXAMPLES
from tests.workflow.building import document

_HEARD = b"HTTP/1.1 202 Accepted\r\n\r\nheard".hex()


class World:
    """A gateway whose trigger plugin runs elsewhere, in this process."""

    def __init__(
        self, start_gateway: Callable[..., Running], upstream: Callable[..., Upstream]
    ) -> None:
        self.results: dict[str, Any] = {}
        elsewhere = upstream(self._answer)
        address = elsewhere.url.removesuffix("/v1")
        plugins = PluginSettings(serverless={"modelyard/pulse": address}, debug_port=0)
        running = start_gateway(plugins=plugins)
        services = running.yard.services.plugins
        package = package_folder(EXAMPLES / "pulse")
        running.do(services.installations.add("default", package))
        self.http = httpx.Client(base_url=running.origin, timeout=30)
        self.app = self._add_app()

    def _answer(self, request: UpstreamRequest) -> Answer:
        action = json.loads(request.body)["data"]["action"]
        result = self.results.get(action, {})
        messages = ({"type": "stream", "data": result}, {"type": "end", "data": {}})
        lines = [json.dumps({"event": "session", "session_id": "s", "data": message}) for message in messages]  # fmt: skip
        return Answer(body="\n".join([*lines, ""]).encode())

    def _add_app(self) -> str:
        root = {"type": "trigger-plugin", "provider_id": "modelyard/pulse/pulse", "event_name": "beat"}  # fmt: skip
        end = {"type": "end", "outputs": [{"variable": "r", "value_selector": ["hook", "beat"]}]}  # fmt: skip
        file = json.dumps(document({"hook": root, "end": end}, ["hook > end"]))
        return self.http.post("/admin/v1/apps", json={"file": file}).json()["id"]

    def subscribe(self) -> httpx.Response:
        subscription = {"plugin": "modelyard/pulse", "name": "ward", "parameters": {"room": "7"}, "credentials": {"token": "a"}}  # fmt: skip
        return self.http.post("/admin/v1/subscriptions", json=subscription)

    def runs(self) -> list[Any]:
        return self.http.get(f"/admin/v1/apps/{self.app}/runs").json()["data"]


@pytest.fixture
def world(
    start_gateway: Callable[..., Running], upstream: Callable[..., Upstream]
) -> Iterator[World]:
    new_world = World(start_gateway, upstream)
    yield new_world
    new_world.http.close()


def test_an_odd_result_is_the_plugins_error(world: World):
    address = world.subscribe().json()["address"]
    dispatched = {"events": ["beat"], "payload": {}, "response": _HEARD}
    event = {"variables": {"beat": 1}}
    cases: list[tuple[Any, Any, str]] = [
        ({**dispatched, "events": 5}, event, "'events' of the plugin's result"),
        ({**dispatched, "events": "beat"}, event, "'events' of the plugin's result"),
        ({**dispatched, "events": [{"name": "beat"}]}, event, "must be a list of names"),
        ({**dispatched, "payload": [1]}, event, "'payload' of the plugin's result"),
        ({**dispatched, "response": 5}, event, "not hexadecimal"),
    ]  # fmt: skip
    for dispatch, variables, message in cases:
        world.results = {
            "dispatch_trigger_event": dispatch,
            "invoke_trigger_event": variables,
        }
        answer = world.http.post(address, json={"beat": 1})
        assert (answer.status_code, message in answer.text) == (502, True), answer.text
    # The last one had started its run before its response was read.
    assert len(world.runs()) == 1
    world.results = {
        "dispatch_trigger_event": dispatched,
        "invoke_trigger_event": event,
    }
    assert world.http.post(address, json={"beat": 1}).status_code == 202
    assert len(world.runs()) == 2


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ([1], "'variables' of the plugin's result"),
        ("text", "must be an object, not 'text'"),
    ],
)
def test_an_odd_event_is_logged_and_starts_nothing(
    world: World, caplog: pytest.LogCaptureFixture, variables: Any, message: str
):
    address = world.subscribe().json()["address"]
    world.results = {
        "dispatch_trigger_event": {"events": ["beat"], "response": _HEARD},
        "invoke_trigger_event": {"variables": variables},
    }
    # The platform would repeat the call, for which there is no reason.
    assert world.http.post(address, json={"beat": 1}).status_code == 202
    (record,) = [
        record for record in caplog.records if record.name.endswith("triggers")
    ]
    assert message in record.__dict__["fields"]["error"]
    assert world.runs() == []


def test_a_subscription_that_cannot_be_read_is_not_stored(world: World):
    for subscription, message in (
        ("yes", "must be an object"),
        ({"expires_at": "soon"}, "must be seconds since 1970, not 'soon'"),
    ):
        world.results = {"subscribe_trigger": {"subscription": subscription}}
        answer = world.subscribe()
        assert (answer.status_code, message in answer.text) == (502, True), answer.text
    assert world.http.get("/admin/v1/subscriptions").json()["data"] == []
