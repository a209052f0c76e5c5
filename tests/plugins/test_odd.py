"""Tests for misbehaving plugins: each is reported with a reason; others still work."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tools.show.odd_plugins import odd_plugin

from modelyard.base.errors import PluginError
from modelyard.base.settings import PluginSettings
from modelyard.plugins.connection import PluginDiedError
from modelyard.plugins.package import package_folder
from modelyard.plugins.process import LocalRuntime
from tests.plugins.conftest import PluginGateway

pytestmark = pytest.mark.proof("plugin-storm")

Plug = Callable[..., PluginGateway]
QUICK = PluginSettings(debug_port=0, memory_mb=300, processes=16)
IMPATIENT = msgspec.structs.replace(QUICK, start_seconds=2.0)


@pytest.fixture
def odd(plugged: Plug, tmp_path: Path) -> Callable[..., PluginGateway]:
    """A gateway with one misbehaving plugin next to a normal one."""

    def start(
        *behaviours: str, kind: str = "tools", permission: str = "{}", **changes: Any
    ) -> PluginGateway:
        gateway = plugged(chosen=changes.pop("chosen", QUICK), **changes)
        for behaviour in behaviours:
            folder = odd_plugin(
                tmp_path / "odd", behaviour, extension_type=kind, permission=permission
            )
            gateway.run_on_loop(
                gateway.parts.installations.add("default", package_folder(folder))
            )
        return gateway

    return start


def ask(gateway: PluginGateway, name: str, **parameters: Any) -> list[Any]:
    return gateway.call(
        f"odd/{name}",
        "tool",
        "invoke_tool",
        provider=name,
        tool="odd",
        credentials={},
        tool_parameters=parameters,
    )


def abandon_call(gateway: PluginGateway, name: str) -> None:
    """Start a call that never ends, and abandon it once a process works on it."""

    async def call() -> None:
        parameters = {
            "provider": name,
            "tool": "odd",
            "credentials": {},
            "tool_parameters": {},
        }
        async for _ in gateway.plugins.call(
            "default", f"odd/{name}", "tool", "invoke_tool", parameters
        ):
            pass

    async def start_call() -> None:
        task = asyncio.ensure_future(call())
        async with asyncio.timeout(30):
            while not at_work():
                assert not task.done()
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def at_work() -> bool:
        identifier = gateway.plugins.find("default", f"odd/{name}").identifier
        plugin_runtime = gateway.parts.host._runtimes.get(("default", identifier))  # type: ignore[attr-defined]
        return (
            any(
                instance.conversation.open_count
                for instance in plugin_runtime.instances
            )
            if plugin_runtime
            else False
        )

    gateway.run_on_loop(start_call())


def texts(answers: list[Any]) -> list[str]:
    return [answer["message"]["text"] for answer in answers]


def runtime(gateway: PluginGateway, name: str) -> LocalRuntime:
    identifier = gateway.plugins.find("default", f"odd/{name}").identifier
    return gateway.parts.host._runtimes["default", identifier]  # type: ignore[attr-defined,return-value]


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False


def leftover_processes(name: str) -> list[int]:
    """Return the processes that were started in a plugin's folder."""
    pids: list[int] = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if (
                    f"/odd/{name}-" in str((path / "cwd").readlink())
                    and (path / "stat").read_text().split(")")[-1].split()[0] != "Z"
                ):
                    pids.append(int(path.name))
            except OSError:
                continue
    return pids


def test_a_plugin_that_fails_to_start_gets_a_reason_and_a_growing_backoff(
    odd: Callable[..., PluginGateway],
):
    gateway = odd("crash", "fine")
    with pytest.raises(PluginDiedError, match="I will not start"):
        ask(gateway, "crash")
    with pytest.raises(
        PluginDiedError, match=r"(?s)Not restarted for \d\.\d s.*I will not start"
    ) as caught:
        ask(gateway, "crash")
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 1.0
    assert texts(ask(gateway, "fine")) == ["fine"]


def test_a_plugin_that_is_never_ready_times_out(odd: Callable[..., PluginGateway]):
    gateway = odd("silent", chosen=IMPATIENT)
    with pytest.raises(PluginDiedError, match="Not ready within 2 s"):
        ask(gateway, "silent")
    assert eventually(lambda: not leftover_processes("silent"))


def test_garbage_output_is_ignored_and_logged(
    odd: Callable[..., PluginGateway], caplog: pytest.LogCaptureFixture
):
    gateway = odd("garbage")
    with caplog.at_level("INFO", logger="modelyard.plugins"):
        assert texts(ask(gateway, "garbage")) == ["still here"]
    assert "this is no JSON" in caplog.text


def test_messages_for_unknown_sessions_are_dropped(
    odd: Callable[..., PluginGateway], caplog: pytest.LogCaptureFixture
):
    gateway = odd("stranger")
    with caplog.at_level("INFO", logger="modelyard.plugins"):
        assert texts(ask(gateway, "stranger")) == ["mine"]
    assert "message for unknown session 'somebody-elses'" in caplog.text


def test_a_very_long_line_is_read(odd: Callable[..., PluginGateway]):
    gateway = odd("long")
    assert [len(text) for text in texts(ask(gateway, "long"))] == [30_000_000]


def test_a_flood_of_unread_output_ends_the_call(odd: Callable[..., PluginGateway]):
    gateway = odd("flood")

    async def slowly() -> int:
        count = 0
        stream = gateway.plugins.call(
            "default", "odd/flood", "tool", "invoke_tool",
            {"provider": "flood", "tool": "odd", "credentials": {}, "tool_parameters": {}},
        )  # fmt: skip
        async for _ in stream:
            count += 1
            await asyncio.sleep(0.2)
        return count

    with pytest.raises(PluginError, match="Output buffer exceeded"):
        gateway.run_on_loop(slowly())


def test_abandoning_a_call_kills_its_hanging_process(
    odd: Callable[..., PluginGateway],
):
    gateway = odd("hang")
    abandon_call(gateway, "hang")
    assert len(leftover_processes("hang")) == 1
    assert eventually(lambda: not leftover_processes("hang"))


def test_a_silent_plugin_is_terminated(odd: Callable[..., PluginGateway]):
    gateway = odd("mute", chosen=msgspec.structs.replace(QUICK, silence_seconds=2.0))
    with pytest.raises(PluginDiedError, match="No heartbeat for 2 s"):
        ask(gateway, "mute")
    assert eventually(lambda: not leftover_processes("mute"))


def test_a_plugin_that_ignores_signals_is_killed(
    odd: Callable[..., PluginGateway],
):
    gateway = odd("deaf")
    abandon_call(gateway, "deaf")
    gateway.run_on_loop(gateway.parts.installations.uninstall("default", "odd/deaf"))
    assert eventually(lambda: not leftover_processes("deaf"))


def test_forked_processes_end_with_their_plugin(odd: Callable[..., PluginGateway]):
    gateway = odd("forks")
    assert texts(ask(gateway, "forks")) == ["forked"]
    assert len(leftover_processes("forks")) >= 4
    os.kill(runtime(gateway, "forks").instances[0].spawned.pid, 9)
    assert eventually(lambda: not leftover_processes("forks"))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("bomb", r"\d+ processes exceed the limit of 16"),
        ("leak", r"MB of memory exceed the limit of 300"),
    ],
)
def test_a_plugin_that_exceeds_a_limit_is_terminated(
    odd: Callable[..., PluginGateway], behaviour: str, reason: str
):
    gateway = odd(behaviour, "fine")
    with pytest.raises(PluginDiedError, match=reason):
        ask(gateway, behaviour)
    assert eventually(lambda: not leftover_processes(behaviour))
    assert texts(ask(gateway, "fine")) == ["fine"]


@pytest.mark.timeout(400)
def test_a_plugin_that_spins_while_idle_is_terminated(
    odd: Callable[..., PluginGateway],
):
    gateway = odd("spin")
    assert texts(ask(gateway, "spin")) == ["off"]
    (instance,) = runtime(gateway, "spin").instances
    group = Path(f"/proc/{instance.spawned.pid}/autogroup")
    # On a busy machine the plugin may never get the CPU share at which its priority is
    # lowered.
    assert eventually(lambda: instance.is_behind or not leftover_processes("spin"), 120)
    with contextlib.suppress(OSError):
        assert not instance.is_behind or group.read_text().split()[-1] == "19"
    assert eventually(lambda: not leftover_processes("spin"), 150)


def test_a_crash_during_a_stream_ends_the_call_and_leaves_its_row(
    odd: Callable[..., PluginGateway],
):
    gateway = odd("dies", kind="models")
    body = {"model": "dies/odd", "messages": [{"role": "user", "content": "hi"}]}
    with httpx.Client(base_url=gateway.running.url, timeout=20) as client:
        with client.stream(
            "POST", "/chat/completions", json={**body, "stream": True}
        ) as response:
            # On a loaded machine, comments that keep the connection alive come first.
            lines = [line for line in response.iter_lines() if line.startswith("data:")]
        assert "half a " in lines[0]
        assert "Exited with status 3" in lines[-1]
        completion = client.post("/chat/completions", json=body)
    assert (completion.status_code, completion.json()["error"]["code"]) == (
        503,
        "upstream_unavailable",
    )
    rows = gateway.running.flush()
    assert {row.status for row in rows} == {"upstream_unavailable"}
    assert rows[-1].completion_tokens > 0


def test_another_model_answers_where_nothing_had_begun(
    odd: Callable[..., PluginGateway],
):
    gateway = odd("crash", kind="models", failover={"crash/odd": ["echo/echo"]})
    body = {"model": "crash/odd", "messages": [{"role": "user", "content": "hello"}]}
    answered = httpx.post(
        f"{gateway.running.url}/chat/completions", json=body, timeout=20
    )
    assert answered.json()["choices"][0]["message"]["content"] == "hello"


def test_a_long_running_model_is_polled_until_it_is_done(
    odd: Callable[..., PluginGateway],
):
    gateway = odd("polled", kind="models")
    body = {"model": "polled/odd", "messages": [{"role": "user", "content": "hello"}]}
    answered = httpx.post(
        f"{gateway.running.url}/chat/completions", json=body, timeout=20
    ).json()
    assert answered["choices"][0]["message"]["content"] == "done after 2"
    assert answered["usage"]["total_tokens"] == 7


def test_a_model_plugin_may_not_call_its_host(odd: Callable[..., PluginGateway]):
    gateway = odd("asks", permission="{storage: {enabled: true, size: 4096}}")

    async def refused(call_type: str) -> str:
        from modelyard.plugins.connection import PluginCall
        from modelyard.plugins.host_calls import HostCallHandler

        backwards: HostCallHandler = gateway.parts.sessions._backwards  # type: ignore[attr-defined,assignment]
        call = PluginCall(
            tenant="default", plugin="odd/asks", type=call_type, action="x", data={}
        )
        try:
            async for _ in backwards.answer(
                call, "storage", {"opt": "get", "key": "x"}
            ):
                pass
        except PluginError as error:
            return str(error)
        return ""

    assert "Model plugins cannot make host calls" in gateway.run_on_loop(
        refused("model")
    )
    assert "Permission denied: 'storage'" in gateway.run_on_loop(refused("tool"))


def test_unknown_actions_and_unknown_plugins(
    plugged: Plug,
):
    gateway = plugged()
    gateway.install("toolbox")
    assert gateway.call("modelyard/toolbox", "tool", "fly", provider="toolbox") == []
    with pytest.raises(Exception, match="Plugin 'nobody/here' is not installed"):
        gateway.call("nobody/here", "tool", "invoke_tool")
