"""Starts of plugins on busy machines, and fairness between those that serve."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from modelyard.plugins.monitor import Monitor, ResourceUsage
from modelyard.plugins.process import (
    LocalRuntime,
    ProcessOptions,
    queued_seconds,
    wait_until_ready,
)
from tests.plugins.conftest import PluginGateway

pytestmark = pytest.mark.proof("plugin-storm")


def waited(seconds: float, *queued: float, ready_after: float = 99.0) -> bool:
    """Return whether a start ends well that waits for a processor for these times."""
    answers = list(queued)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.call_later(
            ready_after, lambda: None if ready.done() else ready.set_result(None)
        )
        await wait_until_ready(
            ready, seconds, lambda: answers.pop(0) if len(answers) > 1 else answers[0]
        )

    try:
        asyncio.run(work())
    except TimeoutError:
        return False
    return True


def test_time_in_the_queue_for_a_processor_is_not_the_plugins():
    assert not waited(0.05, 0.0)
    assert waited(0.05, 0.0, 1.0, ready_after=0.2)
    # However busy the machine is, a start ends at some time.
    assert not waited(0.02, 99.0)


def test_a_start_that_fails_is_reported_at_once():
    async def work() -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ready.set_exception(ValueError("died"))
        await wait_until_ready(ready, 60.0, lambda: 0.0)

    with pytest.raises(ValueError, match="died"):
        asyncio.run(work())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5000000 2500000000 7\n", 2.5), ("5", 0.0), ("a b c", 0.0), (None, 0.0)],
)
def test_the_kernel_says_how_long_a_process_waited(
    tmp_path: Path, text: str | None, seconds: float
):
    if text is not None:
        (tmp_path / "7").mkdir()
        (tmp_path / "7" / "schedstat").write_text(text)
    assert queued_seconds(7, tmp_path) == seconds


def test_only_a_plugin_that_serves_is_held_to_its_share():
    class Ready:
        is_done = False

        def done(self) -> bool:
            return self.is_done

    ready = Ready()
    conversation = SimpleNamespace(open_count=0, ready=ready)
    instance = SimpleNamespace(
        spawned=SimpleNamespace(pid=0), conversation=conversation, is_behind=False,
        spins_since=None,
    )  # fmt: skip
    runtime = SimpleNamespace(
        instances=[instance], options=ProcessOptions(), disk_bytes=0, behind_until=0.0,
        evict=lambda instance, reason: None,
    )  # fmt: skip
    monitor = Monitor()

    def used(seconds: float, at: float) -> bool:
        usage = {0: ResourceUsage(seconds=seconds, processes=[1])}
        monitor.enforce_limits(cast(LocalRuntime, cast(Any, runtime)), usage, at)
        return instance.is_behind

    # A plugin that starts may use all of a processor.
    assert not used(0.0, 1.0)
    assert not used(5.0, 6.0)
    ready.is_done = True
    conversation.open_count = 1
    # So may one for each call.
    assert not used(6.0, 7.0)
    conversation.open_count = 2
    assert not used(8.0, 8.0)
    # One call does not ask for four processors, and no call for none.
    conversation.open_count = 1
    assert used(12.0, 9.0)
    runtime.behind_until = 0.0
    assert not used(12.0, 10.0)
    conversation.open_count = 0
    assert used(13.0, 11.0)


@pytest.mark.xdist_group("toolbox")
def test_a_plugin_is_compiled_and_has_normal_priority(toolbox: PluginGateway):
    assert toolbox.tool_text("ask", what="llm", text="hi") == "hi"
    identifier = toolbox.plugins.find("default", "modelyard/toolbox").identifier
    folder = toolbox.parts.host.packages.folder(identifier)
    assert list((folder / "tools" / "__pycache__").glob("ask.*.pyc"))
    for pid in toolbox.parts.host.pids():
        group = Path(f"/proc/{pid}/autogroup")
        if group.is_file():
            assert group.read_text().split()[-1] == "0"


def programs(gateway: PluginGateway) -> list[str]:
    """Return what the processes of plugins run, in order."""
    return sorted(
        Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2].decode()
        for pid in gateway.parts.host.pids()
    )


def test_the_sdk_is_loaded_beforehand_if_plugins_share_it(
    plugged: Callable[..., PluginGateway],
):
    gateway = plugged()
    gateway.install("toolbox")
    assert gateway.tool_text("add", a=1, b=2) == "3"
    # One plugin is an interpreter of its own.
    assert "main" in programs(gateway)
    assert "--fork" not in programs(gateway)
    gateway.install("sixfold")
    data = {"provider": "sixfold", "credentials": {}}
    action = "validate_provider_credentials"
    assert gateway.call("modelyard/sixfold", "model", action, **data)
    # The second one has another supervisor, which forks it.
    assert "--fork" in programs(gateway)
    assert gateway.tool_text("add", a=1, b=2) == "3"


def test_a_plugin_that_is_installed_again_starts(plugged: Callable[..., PluginGateway]):
    gateway = plugged()
    gateway.install("toolbox")
    assert gateway.tool_text("add", a=1, b=2) == "3"
    uninstall = gateway.parts.installations.uninstall
    gateway.run_on_loop(uninstall("default", "modelyard/toolbox"))
    # Its folder is another one of the same name, which its supervisor has never seen.
    gateway.install("toolbox")
    assert gateway.tool_text("add", a=2, b=2) == "4"
