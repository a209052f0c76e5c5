"""Plugins that run elsewhere: in their author's folder, connected for debugging, and served by HTTP."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tools.show.proof import free_port

from modelyard.base.errors import PluginError
from modelyard.base.settings import PluginSettings
from modelyard.plugins.conversation import PluginDiedError
from tests.plugins.conftest import EXAMPLES, Plugged
from tests.plugins.test_odd import eventually

Plug = Callable[..., Plugged]


def python_of(one: Plugged, name: str) -> str:
    environment = one.do(one.parts.host.environments.prepare(EXAMPLES / name, name=name))
    return str(environment.python)


@contextmanager
def running(python: str, folder: Path, **told: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A plugin as its author starts it: `python -m main` in its folder."""
    environ = {**os.environ, **told, "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [python, "-m", "main"], cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def models(one: Plugged) -> list[str]:
    return [model["id"] for model in httpx.get(f"{one.running.url}/models").json()["data"]]


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def debugging(plugged: Plug) -> tuple[Plugged, dict[str, str]]:
    port = free_port()
    one = plugged(chosen=PluginSettings(debug_port=port))
    assert eventually(lambda: listens(port)), "the server takes plugins in debug soon after it has started"
    key = one.parts.debugged.key("default")
    told = {"INSTALL_METHOD": "remote", "REMOTE_INSTALL_URL": f"127.0.0.1:{port}", "REMOTE_INSTALL_KEY": key}
    return one, told


def test_a_plugin_in_debug_is_there_while_it_runs(debugging: tuple[Plugged, dict[str, str]]):
    one, told = debugging
    ask = {"model": "mockgpt/mock-gpt-v1", "messages": [{"role": "user", "content": "hi"}]}
    with running(python_of(one, "mockgpt"), EXAMPLES / "mockgpt", **told):
        assert eventually(lambda: "mockgpt/mock-gpt-v1" in models(one), 20)
        answered = httpx.post(f"{one.running.url}/chat/completions", json=ask, timeout=20).json()
        assert answered["choices"][0]["message"]["content"].startswith("感谢你的提问")
        (listed,) = one.plugins.installed("default")
        assert (listed.runtime, listed.plugin_id) == ("remote", "modelyard/mockgpt")
        assert one.plugins.asset("default", "modelyard/mockgpt", "icon.svg").startswith(b"<svg")
        assert one.plugins.installed("other") == []
    assert eventually(lambda: "mockgpt/mock-gpt-v1" not in models(one))


def test_a_plugin_in_debug_asks_its_host_and_comes_back(debugging: tuple[Plugged, dict[str, str]]):
    one, told = debugging
    python = python_of(one, "toolbox")
    for _ in range(2):
        with running(python, EXAMPLES / "toolbox", **told):
            assert eventually(lambda: one.plugins.installed("default"), 20)
            assert one.said("ask", what="llm", text="echoed") == "echoed"
        assert eventually(lambda: not one.plugins.installed("default"))


def test_a_plugin_in_debug_stands_before_the_installed_one(debugging: tuple[Plugged, dict[str, str]]):
    one, told = debugging
    one.install("mockgpt")
    with running(python_of(one, "mockgpt"), EXAMPLES / "mockgpt", **told):
        assert eventually(lambda: one.plugins.find("default", "modelyard/mockgpt").runtime == "remote", 20)
        assert models(one).count("mockgpt/mock-gpt-v1") == 1
    assert eventually(lambda: one.plugins.find("default", "modelyard/mockgpt").runtime == "local")


def test_a_call_whose_plugin_in_debug_goes_away_ends(debugging: tuple[Plugged, dict[str, str]]):
    one, told = debugging
    with running(python_of(one, "toolbox"), EXAMPLES / "toolbox", **told) as process:
        assert eventually(lambda: one.plugins.installed("default"), 20)

        async def cut() -> None:
            data = {
                "provider": "toolbox",
                "tool": "sleep",
                "credentials": {},
                "credential_type": "api-key",
                "tool_parameters": {"seconds": 60},
            }
            async for _ in one.plugins.call("default", "modelyard/toolbox", "tool", "invoke_tool", data):
                os.killpg(process.pid, signal.SIGKILL)

        with pytest.raises(PluginDiedError, match="the plugin in debug is gone"):
            one.do(cut())


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b'{"type":"handshake","data":{"key":"wrong"}}\n', "handshake failed, invalid key"),
        (b"GET / HTTP/1.1\r\n\r\n", "handshake failed, invalid handshake message"),
        (b'{"type":"handshake","data":{"key":"KEY"}}\n{"type":"end","data":{}}\n', "no registration transferred"),
        (
            b'{"type":"handshake","data":{"key":"KEY"}}\n{"type":"manifest_declaration","data":{"name":"X Y","version":"0.0.1"}}\n'
            b'{"type":"tool_declaration","data":[{"identity":{"name":"x"}}]}\n{"type":"end","data":{}}\n',
            "register failed, invalid manifest",
        ),
        (
            b'{"type":"handshake","data":{"key":"KEY"}}\n{"type":"asset_chunk","data":{"filename":"x","data":"%%%","end":true}}\n',
            "an asset is damaged",
        ),
    ],
)
def test_whoever_registers_wrongly_is_told_and_let_go(
    debugging: tuple[Plugged, dict[str, str]], said: bytes, answer: str
):
    one, told = debugging
    port = int(told["REMOTE_INSTALL_URL"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(said.replace(b"KEY", told["REMOTE_INSTALL_KEY"].encode()))
        received = b""
        while piece := connection.recv(4096):
            received += piece
    assert answer in received.decode()
    assert one.plugins.installed("default") == []


# ------------------------------------------------------------------------------------------------ serverless


@contextmanager
def served(one: Plugged, name: str, port: int) -> Iterator[None]:
    told = {
        "INSTALL_METHOD": "serverless", "SERVERLESS_HOST": "127.0.0.1", "SERVERLESS_PORT": str(port),
        "SERVERLESS_WORKERS": "1", "DIFY_PLUGIN_DAEMON_URL": one.running.origin,
    }  # fmt: skip
    with running(python_of(one, name), EXAMPLES / name, **told):
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").text == "OK":
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield


def test_a_plugin_that_is_served_by_http_answers_and_asks(plugged: Plug):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    one = plugged(
        chosen=PluginSettings(debug_port=0, serverless={"modelyard/toolbox": address, "modelyard/mockgpt": address})
    )
    one.install("toolbox", "mockgpt")
    with pytest.raises(PluginDiedError, match="cannot be reached"):
        one.said("add", a=1, b=2)
    with served(one, "toolbox", port):
        assert one.said("add", a=1, b=2) == "3"
        assert one.said("ask", what="llm", text="from afar") == "from afar"
        with pytest.raises(PluginError, match="app 'x' does not exist"):
            one.said("ask", what="app", text="x")
    assert one.plugins.find("default", "modelyard/toolbox").runtime == "serverless"


def test_a_transaction_for_no_open_session_is_refused(plugged: Plug):
    one = plugged()
    answered = httpx.post(
        f"{one.running.origin}/backwards-invocation/transaction",
        headers={"Dify-Plugin-Session-ID": "nobody"},
        content=json.dumps({"backwards_request_id": "x", "type": "llm", "request": {}}),
    )
    assert (answered.status_code, answered.json()["data"]["error_type"]) == (400, "SessionNotFound")


def test_files_are_reached_by_signed_addresses_alone(plugged: Plug):
    one = plugged()
    stored = one.yard.services.storage.files.add("default", "../a note.txt", b"hello")
    query = one.yard.services.storage.files.sign("read", "default", stored.id, seconds=60)
    url = f"{one.running.origin}/files/{stored.id}"
    fetched = httpx.get(f"{url}?{query}")
    assert (fetched.content, fetched.headers["x-content-type-options"]) == (b"hello", "nosniff")
    assert stored.name == "a note.txt"
    wrong: list[Any] = [
        httpx.get(url),
        httpx.get(f"{url}?{query}0"),
        httpx.get(f"{url}?{query.replace('tenant=default', 'tenant=other')}"),
        httpx.get(f"{url}?{one.yard.services.storage.files.sign('read', 'default', stored.id, seconds=-5)}"),
        httpx.post(f"{one.running.origin}/files/plugins/upload?{query}", files={"file": b"x"}),
    ]
    assert [answer.status_code for answer in wrong] == [404] * 5
