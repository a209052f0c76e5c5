"""Tests for webhooks of trigger plugins: subscriptions by hand, signatures, handshakes
and repeated deliveries."""

import asyncio
import hashlib
import hmac
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from modelyard.base.errors import InvokeBadRequestError, PluginError
from modelyard.plugins.package import package_folder
from tests.plugins.conftest import EXAMPLES, PluginGateway
from tests.plugins.test_commands import Run, run  # noqa: F401
from tests.plugins.test_kinds import _beats, _listening_app

Plug = Callable[..., PluginGateway]
PLUGIN = "modelyard/pulse"


def install_without_constructor(gateway: PluginGateway, folder: Path) -> None:
    """Install the example as plugins for chat platforms are: only a person can enter
    the address there."""
    shutil.copytree(EXAMPLES / "pulse", folder)
    path = folder / "provider" / "pulse.yaml"
    document = yaml.safe_load(path.read_text())
    del document["subscription_constructor"]
    document["subscription_schema"][0]["required"] = True
    path.write_text(yaml.safe_dump(document))
    gateway.run_on_loop(
        gateway.parts.installations.add("default", package_folder(folder))
    )


def signed(body: Any, secret: str, **headers: str) -> dict[str, Any]:
    """Return the arguments of a request that the sender has signed."""
    content = json.dumps(body).encode()
    signature = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
    return {"content": content, "headers": {"x-pulse-signature": signature, **headers}}


def subscribe(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post(
        "/admin/v1/subscriptions", json={"plugin": PLUGIN, "name": "ward", **fields}
    )


def test_a_subscription_by_hand_verifies_its_calls(plugged: Plug, tmp_path: Path):
    gateway = plugged()
    install_without_constructor(gateway, tmp_path / "manual")
    with httpx.Client(base_url=gateway.running.origin, timeout=60) as client:
        (provider,) = client.get("/admin/v1/node-parts").json()["trigger_providers"]
        assert provider["can_subscribe"] is False
        assert [field["name"] for field in provider["properties"]] == ["secret"]
        created = subscribe(client, properties={"secret": "hush"})
        assert created.status_code == 201, created.text
        row = created.json()
        assert row["is_manual"] is True
        assert "hush" not in created.text
        app = _listening_app(client, "every")
        # The sender's question whether somebody is there, before any event.
        handshake = client.post(row["address"], **signed({"challenge": "7f3a"}, "hush"))
        assert (handshake.status_code, handshake.text) == (200, "7f3a")
        sent = client.post(row["address"], **signed({"beat": 72}, "hush"))
        assert sent.status_code == 202
        for refused in (
            client.post(row["address"], **signed({"beat": 1}, "guess")),
            client.post(row["address"], json={"beat": 1}),
        ):
            assert refused.status_code == 401
            assert "secret" not in refused.text
        not_understood = client.post(row["address"], **signed({"no": 1}, "hush"))
        assert not_understood.status_code == 400
        assert _beats(gateway, client, app) == [72]
        # A repeated delivery starts no second run, another delivery does.
        for delivery in ("a", "a", "b"):
            headers = {"webhook-id": delivery}
            again = signed({"beat": 80}, "hush", **headers)
            assert client.post(row["address"], **again).status_code == 202
        assert sorted(_beats(gateway, client, app)) == [72, 80, 80]
        # It does not expire, and nothing is asked of the provider when it goes.
        day = gateway.yard.services.clock.time() + 10 * 86_400
        assert gateway.run_on_loop(gateway.parts.subscriptions.renew(day)) == 0
        path = f"/admin/v1/subscriptions/{row['id']}"
        assert client.delete(path).json()["deleted"] is True
        assert client.post(row["address"], json={}).status_code == 404


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "'secret' is missing"),
        ({"properties": {"secret": ""}}, "'secret' is missing"),
        ({"properties": {"secret": "a", "room": "7"}}, "unknown property 'room'"),
        ({"parameters": {"room": "7"}}, "takes no parameters"),
        ({"credentials": {"token": "a"}}, "takes no credentials"),
        ({"properties": "hush"}, "properties"),
    ],
)
def test_a_subscription_by_hand_takes_only_its_form(
    plugged: Plug, tmp_path: Path, fields: dict[str, Any], message: str
):
    gateway = plugged()
    install_without_constructor(gateway, tmp_path / "manual")
    with httpx.Client(base_url=gateway.running.origin, timeout=60) as client:
        refused = subscribe(client, **fields)
        assert refused.status_code == 400, refused.text
        assert message in refused.json()["error"]["message"]
        assert client.get("/admin/v1/subscriptions").json()["data"] == []


def test_a_plugin_that_can_subscribe_may_be_subscribed_by_hand(plugged: Plug):
    gateway = plugged()
    gateway.install("pulse")
    with httpx.Client(base_url=gateway.running.origin, timeout=60) as client:
        by_hand = subscribe(client, properties={"secret": "hush"}).json()
        assert by_hand["is_manual"] is True
        sent = client.post(by_hand["address"], json={"beat": 1})
        assert sent.status_code == 401
        by_plugin = subscribe(
            client, name="hall", parameters={"room": "7"}, credentials={"token": "a"}
        ).json()
        assert by_plugin["is_manual"] is False
        assert client.post(by_plugin["address"], json={"beat": 1}).status_code == 202


def test_the_address_answers_while_the_provider_is_asked(plugged: Plug):
    """Providers call it before they accept the subscription."""
    gateway = plugged()
    gateway.install("pulse")
    call, answers = gateway.plugins.call_once, []

    async def call_back(*arguments: Any, **options: Any) -> Any:
        if arguments[3] == "subscribe_trigger":
            answers.append(
                await asyncio.to_thread(
                    httpx.post, arguments[4]["endpoint"], json={"challenge": "7f3a"}
                )
            )
        return await call(*arguments, **options)

    gateway.plugins.call_once = call_back  # type: ignore[method-assign]
    with httpx.Client(base_url=gateway.running.origin, timeout=60) as client:
        created = subscribe(
            client, parameters={"room": "7"}, credentials={"token": "a"}
        )
        assert created.status_code == 201
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "7f3a")]


def test_one_listener_that_fails_does_not_hold_up_the_others(plugged: Plug):
    gateway = plugged()
    gateway.install("pulse")
    call = gateway.plugins.call_once

    async def fail_sometimes(*arguments: Any, **options: Any) -> Any:
        data = arguments[4]
        if arguments[3] == "invoke_trigger_event" and data["parameters"]:
            kind = data["parameters"]["at_least"]
            raise PluginError("not today", kind=kind)
        return await call(*arguments, **options)

    gateway.plugins.call_once = fail_sometimes  # type: ignore[method-assign]
    with httpx.Client(base_url=gateway.running.origin, timeout=60) as client:
        apps = [
            _listening_app(
                client,
                name,
                event_parameters={"at_least": {"type": "constant", "value": kind}},
            )
            for name, kind in (("fails", "ValueError"), ("ignores", "EventIgnoreError"))
        ]
        apps.append(_listening_app(client, "every"))
        row = subscribe(
            client, parameters={"room": "7"}, credentials={"token": "a"}
        ).json()
        assert client.post(row["address"], json={"beat": 72}).status_code == 202
        assert [_beats(gateway, client, app) for app in apps] == [[], [], [72]]


def test_a_failing_plugin_lets_the_platform_repeat_the_call(plugged: Plug):
    gateway = plugged()
    gateway.install("pulse")
    with httpx.Client(base_url=gateway.running.origin, timeout=60) as client:
        row = subscribe(
            client, parameters={"room": "7"}, credentials={"token": "a"}
        ).json()

        async def fail(*arguments: Any, **options: Any) -> Any:
            raise PluginError("no such module", kind="ModuleNotFoundError")

        gateway.plugins.call_once = fail  # type: ignore[method-assign]
        assert client.post(row["address"], json={"beat": 72}).status_code == 502


def test_a_plugin_without_triggers_has_no_subscriptions(plugged: Plug):
    gateway = plugged()
    gateway.install("toolbox")
    with pytest.raises(InvokeBadRequestError, match="has no triggers"):
        gateway.run_on_loop(
            gateway.parts.subscriptions.subscribe(
                "default", "modelyard/toolbox", "x", {}, {}, origin="http://x"
            )
        )


def test_the_command_line_subscribes_by_hand_and_by_the_plugin(run: Run):  # noqa: F811
    assert run("install", EXAMPLES / "pulse", "--all").returncode == 0
    by_hand = run("subscription", "add", PLUGIN, "ward", "--property", "secret=hush")
    assert by_hand.returncode == 0, by_hand.stderr
    assert "/t/" in by_hand.stdout
    arguments = ("--parameter", "room=7", "--credential", "token=a", "--json")
    made_by_plugin = json.loads(
        run("subscription", "add", PLUGIN, "hall", *arguments).stdout
    )
    rows = json.loads(run("subscription", "list", "--json").stdout)
    assert {(row["name"], row["by_hand"]) for row in rows} == {
        ("ward", True),
        ("hall", False),
    }
    assert made_by_plugin["address"] in {row["address"] for row in rows}
    assert "hush" not in run("subscription", "list").stdout
    for address in (by_hand.stdout.strip(), made_by_plugin["id"]):
        assert run("subscription", "remove", address).returncode == 0
    assert json.loads(run("subscription", "list", "--json").stdout) == []
    unknown = run("subscription", "add", PLUGIN, "x", "--property", "secrt=a")
    assert "unknown property 'secrt'" in unknown.stderr
    assert run("subscription", "remove", "nobody").returncode != 0
