"""Tests for plugins outside the server: in debugging mode, or served by HTTP."""

import asyncio
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
from modelyard.plugins.connection import PluginDiedError
from tests.plugins.conftest import EXAMPLES, PluginGateway
from tests.plugins.test_odd import eventually

Plug = Callable[..., PluginGateway]


def python_of(gateway: PluginGateway, name: str) -> str:
    environment = gateway.run_on_loop(
        gateway.parts.host.environments.prepare(EXAMPLES / name, name=name)
    )
    return str(environment.python)


@contextmanager
def running(
    python: str, folder: Path, **extra_environ: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a plugin as its author does: `python -m main` in its folder."""
    environ = {**os.environ, **extra_environ, "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [python, "-m", "main"], cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def models(gateway: PluginGateway) -> list[str]:
    return [
        model["id"]
        for model in httpx.get(f"{gateway.running.url}/models").json()["data"]
    ]


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def debugging(plugged: Plug) -> tuple[PluginGateway, dict[str, str]]:
    port = free_port()
    gateway = plugged(chosen=PluginSettings(debug_port=port))
    assert eventually(lambda: listens(port)), (
        "the server takes plugins in debug soon after it has started"
    )
    key = gateway.parts.debugged.key("default")
    debug_environ = {
        "INSTALL_METHOD": "remote",
        "REMOTE_INSTALL_URL": f"127.0.0.1:{port}",
        "REMOTE_INSTALL_KEY": key,
    }
    return gateway, debug_environ


def test_a_debugged_plugin_is_available_while_it_runs(
    debugging: tuple[PluginGateway, dict[str, str]],
):
    gateway, debug_environ = debugging
    ask = {
        "model": "mockgpt/mock-gpt-v1",
        "messages": [{"role": "user", "content": "hi"}],
    }
    with running(python_of(gateway, "mockgpt"), EXAMPLES / "mockgpt", **debug_environ):
        assert eventually(lambda: "mockgpt/mock-gpt-v1" in models(gateway), 20)
        answered = httpx.post(
            f"{gateway.running.url}/chat/completions", json=ask, timeout=20
        ).json()
        assert answered["choices"][0]["message"]["content"].startswith("感谢你的提问")
        (listed,) = gateway.plugins.installed("default")
        assert (listed.runtime, listed.plugin_id) == ("remote", "modelyard/mockgpt")
        assert gateway.plugins.asset(
            "default", "modelyard/mockgpt", "icon.svg"
        ).startswith(b"<svg")
        assert gateway.plugins.installed("other") == []
    assert eventually(lambda: "mockgpt/mock-gpt-v1" not in models(gateway))


def test_a_debugged_plugin_calls_its_host_and_reconnects(
    debugging: tuple[PluginGateway, dict[str, str]],
):
    gateway, debug_environ = debugging
    python = python_of(gateway, "toolbox")
    for _ in range(2):
        with running(python, EXAMPLES / "toolbox", **debug_environ):
            assert eventually(lambda: gateway.plugins.installed("default"), 20)
            assert gateway.tool_text("ask", what="llm", text="echoed") == "echoed"
        assert eventually(lambda: not gateway.plugins.installed("default"))


def test_a_debugged_plugin_replaces_the_installed_one(
    debugging: tuple[PluginGateway, dict[str, str]],
):
    gateway, debug_environ = debugging
    gateway.install("mockgpt")
    with running(python_of(gateway, "mockgpt"), EXAMPLES / "mockgpt", **debug_environ):
        assert eventually(
            lambda: (
                gateway.plugins.find("default", "modelyard/mockgpt").runtime == "remote"
            ),
            20,
        )
        assert models(gateway).count("mockgpt/mock-gpt-v1") == 1
    assert eventually(
        lambda: gateway.plugins.find("default", "modelyard/mockgpt").runtime == "local"
    )


def test_a_call_ends_if_its_debugged_plugin_disconnects(
    debugging: tuple[PluginGateway, dict[str, str]],
):
    gateway, debug_environ = debugging
    with running(
        python_of(gateway, "toolbox"), EXAMPLES / "toolbox", **debug_environ
    ) as process:
        assert eventually(lambda: gateway.plugins.installed("default"), 20)

        async def cut() -> None:
            data = {
                "provider": "toolbox",
                "tool": "sleep",
                "credentials": {},
                "credential_type": "api-key",
                "tool_parameters": {"seconds": 60},
            }
            async for _ in gateway.plugins.call(
                "default", "modelyard/toolbox", "tool", "invoke_tool", data
            ):
                os.killpg(process.pid, signal.SIGKILL)

        with pytest.raises(PluginDiedError, match="The debug plugin has disconnected"):
            gateway.run_on_loop(cut())


@pytest.mark.parametrize(
    ("sent_bytes", "answer"),
    [
        (
            b'{"type":"handshake","data":{"key":"wrong"}}\n',
            "handshake failed, invalid key",
        ),
        (b"GET / HTTP/1.1\r\n\r\n", "handshake failed, invalid handshake message"),
        (
            b'{"type":"handshake","data":{"key":"KEY"}}\n{"type":"end","data":{}}\n',
            "no registration transferred",
        ),
        (
            b'{"type":"handshake","data":{"key":"KEY"}}\n{"type":"manifest_declaration","data":{"name":"X Y","version":"0.0.1"}}\n'
            b'{"type":"tool_declaration","data":[{"identity":{"name":"x"}}]}\n{"type":"end","data":{}}\n',
            "register failed, invalid manifest",
        ),
        (
            b'{"type":"handshake","data":{"key":"KEY"}}\n{"type":"asset_chunk","data":{"filename":"x","data":"%%%","end":true}}\n',
            "An asset is damaged",
        ),
    ],
)
def test_an_invalid_registration_gets_an_error_and_is_disconnected(
    debugging: tuple[PluginGateway, dict[str, str]], sent_bytes: bytes, answer: str
):
    gateway, debug_environ = debugging
    port = int(debug_environ["REMOTE_INSTALL_URL"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            sent_bytes.replace(b"KEY", debug_environ["REMOTE_INSTALL_KEY"].encode())
        )
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
    assert answer in received.decode()
    assert gateway.plugins.installed("default") == []


# --------------------------------------------------------------------------- serverless


@contextmanager
def serve_plugin(gateway: PluginGateway, name: str, port: int) -> Iterator[None]:
    serverless_environ = {
        "INSTALL_METHOD": "serverless", "SERVERLESS_HOST": "127.0.0.1", "SERVERLESS_PORT": str(port),
        "SERVERLESS_WORKERS": "1", "DIFY_PLUGIN_DAEMON_URL": gateway.running.origin,
    }  # fmt: skip
    with running(python_of(gateway, name), EXAMPLES / name, **serverless_environ):
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").text == "OK":
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield


def test_a_plugin_over_http_answers_and_calls_its_host(plugged: Plug):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    gateway = plugged(
        chosen=PluginSettings(
            debug_port=0,
            serverless={"modelyard/toolbox": address, "modelyard/mockgpt": address},
        )
    )
    gateway.install("toolbox", "mockgpt")
    with pytest.raises(PluginDiedError, match="cannot be reached"):
        gateway.tool_text("add", a=1, b=2)
    with serve_plugin(gateway, "toolbox", port):
        assert gateway.tool_text("add", a=1, b=2) == "3"
        assert gateway.tool_text("ask", what="llm", text="from afar") == "from afar"
        with pytest.raises(PluginError, match="App 'x' does not exist"):
            gateway.tool_text("ask", what="app", text="x")
    assert gateway.plugins.find("default", "modelyard/toolbox").runtime == "serverless"


def test_a_transaction_without_an_open_session_is_refused(plugged: Plug):
    gateway = plugged()
    answered = httpx.post(
        f"{gateway.running.origin}/backwards-invocation/transaction",
        headers={"Dify-Plugin-Session-ID": "nobody"},
        content=json.dumps({"backwards_request_id": "x", "type": "llm", "request": {}}),
    )
    assert (answered.status_code, answered.json()["data"]["error_type"]) == (
        400,
        "SessionNotFound",
    )


def test_files_need_signed_urls(plugged: Plug):
    gateway = plugged()
    stored_file = asyncio.run(
        gateway.yard.services.storage.files.add("default", "../a note.txt", b"hello")
    )
    query = gateway.yard.services.storage.files.sign(
        "read", "default", stored_file.id, seconds=60
    )
    url = f"{gateway.running.origin}/files/{stored_file.id}"
    fetched = httpx.get(f"{url}?{query}")
    assert (fetched.content, fetched.headers["x-content-type-options"]) == (
        b"hello",
        "nosniff",
    )
    assert stored_file.name == "a note.txt"
    refused_responses: list[Any] = [
        httpx.get(url),
        httpx.get(f"{url}?{query}0"),
        httpx.get(f"{url}?{query.replace('tenant=default', 'tenant=other')}"),
        httpx.get(
            f"{url}?{gateway.yard.services.storage.files.sign('read', 'default', stored_file.id, seconds=-5)}"
        ),
        httpx.post(
            f"{gateway.running.origin}/files/plugins/upload?{query}",
            files={"file": b"x"},
        ),
    ]
    assert [answer.status_code for answer in refused_responses] == [404] * 5
