"""Tests for the sandbox: fair slots, ending helper processes, limited threads.

Sandboxed code cannot send anything to other processes.
"""

import ast
import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from modelyard.sandbox import runner
from modelyard.sandbox.runner import (
    Sandbox,
    SandboxError,
    SandboxLimits,
    SandboxUnavailableError,
)
from modelyard.sandbox.slots import Slots

SOURCE = Path(runner.__file__).parents[1]
ENDLESS = "def main():\n    while True: pass"
MANY_THREADS = """
import threading, time
def main():
    threading.stack_size(32768)
    started = 0
    try:
        for _ in range(2000):
            threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
            started += 1
    except RuntimeError:
        pass
    return started
"""
THREADS_THAT_END = """
import threading
def main():
    for _ in range(200):
        one = threading.Thread(target=abs, args=(1,))
        one.start()
        one.join()
    return "all"
"""
DATAGRAM = """
import socket
def main(kind):
    one, other = socket.socketpair(socket.AF_UNIX, getattr(socket, kind))
    one.sendto(b"x", "/dev/log")
"""


def in_sandbox(
    work: Callable[[Sandbox], Awaitable[Any]],
    limits: SandboxLimits | None = None,
    level: Any = "best",
) -> Any:
    async def run() -> Any:
        sandbox = Sandbox(limits or SandboxLimits(), level=level)
        try:
            return await work(sandbox)
        except SandboxUnavailableError as error:
            if level == "namespaces" and "unprivileged namespaces" in str(error):
                pytest.skip(str(error))
            raise
        finally:
            await sandbox.aclose()

    return asyncio.run(run())


def test_endless_programs_of_one_tenant_do_not_hold_up_another():
    async def work(sandbox: Sandbox) -> tuple[Any, int]:
        await sandbox.check()
        noisy = [
            asyncio.ensure_future(
                sandbox.run_code("python3", ENDLESS, {}, tenant="acme")
            )
            for _ in range(40)
        ]
        await asyncio.sleep(0.2)
        result = await sandbox.run_code(
            "python3", "def main(): return 'here'", {}, tenant="globex"
        )
        ended = sum(task.done() for task in noisy)
        for task in noisy:
            task.cancel()
        await asyncio.gather(*noisy, return_exceptions=True)
        return result, ended

    assert in_sandbox(work, SandboxLimits(seconds=30.0)) == ("here", 0)


def test_slots_are_shared_fairly_between_tenants():
    async def work() -> list[str]:
        slots = Slots(4)
        order: list[str] = []
        release = asyncio.Event()

        async def hold(tenant: str) -> None:
            async with slots.acquire(tenant):
                order.append(tenant)
                await release.wait()

        tasks = [asyncio.ensure_future(hold("acme")) for _ in range(6)]
        await asyncio.sleep(0)
        tasks += [
            asyncio.ensure_future(hold(tenant))
            for tenant in ("globex", "globex", "initech")
        ]
        await asyncio.sleep(0)
        order_before = list(order)
        release.set()
        await asyncio.gather(*tasks)
        assert sorted(order) == ["acme"] * 6 + ["globex"] * 2 + ["initech"]
        return [*order_before, "|", order[4]]

    # Three of four slots for one tenant, the last for another; then the tenant with the
    # fewest running is next.
    assert asyncio.run(work()) == ["acme", "acme", "acme", "globex", "|", "initech"]


@pytest.mark.parametrize("capacity", [1, 2, 3, 8])
def test_slots_of_cancelled_calls_are_released(capacity: int):
    async def work() -> None:
        slots = Slots(capacity)
        release = asyncio.Event()

        async def hold(tenant: str) -> None:
            async with slots.acquire(tenant):
                await release.wait()

        tasks = [
            asyncio.ensure_future(hold(f"tenant {number % 3}")) for number in range(24)
        ]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not slots._running  # type: ignore[attr-defined]
        assert not slots._waiting  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            await hold("last")

    asyncio.run(work())


def test_helpers_are_limited_and_the_largest_tenants_are_evicted_first():
    modules = ("json", "csv", "math", "random", "string")

    async def work(sandbox: Sandbox) -> set[str]:
        sandbox._preload = set(modules)  # type: ignore[attr-defined]
        await sandbox.run_code(
            "python3", "import json\ndef main(): return 1", {}, tenant="globex"
        )
        for module_name in modules[1:]:
            await sandbox.run_code(
                "python3",
                f"import {module_name}\ndef main(): return 1",
                {},
                tenant="acme",
            )
            assert len(sandbox._zygotes) <= 3  # type: ignore[attr-defined]
        return set(sandbox._zygotes)  # type: ignore[attr-defined]

    assert in_sandbox(work, SandboxLimits(helpers=3)) == {
        "code",
        "code+json",
        "code+string",
    }


def test_the_memory_of_all_helpers_is_limited():
    async def work(sandbox: Sandbox) -> set[str]:
        sandbox._preload = {"json", "csv"}  # type: ignore[attr-defined]
        for module_name in ("json", "csv"):
            await sandbox.run_code(
                "python3", f"import {module_name}\ndef main(): return 1", {}
            )
            assert all(zygote.memory > 0 for zygote in sandbox._zygotes.values())  # type: ignore[attr-defined]
        return set(sandbox._zygotes)  # type: ignore[attr-defined]

    assert in_sandbox(work, SandboxLimits(helpers_mb=1)) == {"code", "code+csv"}


def test_an_idle_helper_ends():
    async def work(sandbox: Sandbox) -> None:
        sandbox._preload = {"json"}  # type: ignore[attr-defined]
        await sandbox.run_code("python3", "import json\ndef main(): return 1", {})
        process = sandbox._zygotes["code+json"].process  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            await process.wait()
        assert set(sandbox._zygotes) == {"code"}  # type: ignore[attr-defined]
        assert (
            await sandbox.run_code("python3", "import json\ndef main(): return 2", {})
            == 2
        )

    in_sandbox(work, SandboxLimits(idle_seconds=0.2))


@pytest.mark.parametrize("level", ["best", "namespaces"])
def test_the_threads_of_a_program_are_limited(level: str):
    async def work(sandbox: Sandbox) -> None:
        assert await sandbox.run_code("python3", MANY_THREADS, {}) == 63
        assert await sandbox.run_code("python3", THREADS_THAT_END, {}) == "all"

    in_sandbox(work, level=level)


def test_threads_are_counted_without_seccomp_notifications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inside_folder = tmp_path / "inside"
    shutil.copytree(SOURCE / "sandbox" / "inside", inside_folder)
    text = (inside_folder / "confine.py").read_text()
    changed = text.replace("if _supports_listener():", "if False:")
    assert changed != text
    (inside_folder / "confine.py").write_text(changed)
    monkeypatch.setattr(runner, "_ZYGOTE_PROGRAM", inside_folder / "zygote.py")

    async def work(sandbox: Sandbox) -> None:
        with pytest.raises(
            SandboxError, match="limit of 64 threads exceeded"
        ) as raised:
            await sandbox.run_code(
                "python3",
                f"{MANY_THREADS}\n    time.sleep(20)".replace("return started", ""),
                {},
            )
        assert raised.value.reason == "threads"
        assert await sandbox.run_code("python3", THREADS_THAT_END, {}) == "all"

    in_sandbox(work)


@pytest.mark.parametrize("level", ["best", "namespaces"])
@pytest.mark.parametrize("socket_type", ["SOCK_DGRAM", "SOCK_SEQPACKET", "SOCK_STREAM"])
def test_local_datagrams_are_refused(level: str, socket_type: str):
    async def work(sandbox: Sandbox) -> None:
        with pytest.raises(SandboxError, match="Operation not permitted"):
            await sandbox.run_code("python3", DATAGRAM, {"kind": socket_type})

    in_sandbox(work, level=level)


def test_every_sandbox_call_names_its_tenant():
    """Every call of the sandbox names the tenant whose share it uses."""
    calls = 0
    for file in SOURCE.rglob("*.py"):
        # The sandbox of workflow nodes is already bound to a tenant.
        if file.is_relative_to(SOURCE / "workflow" / "nodes"):
            continue
        if file.is_relative_to(SOURCE / "sandbox"):
            continue
        source = file.read_text("utf-8")
        if not any(f".{method}(" in source for method in _SANDBOX_METHODS):
            continue
        for call in filter(_is_sandbox_call, ast.walk(ast.parse(source))):
            assert isinstance(call, ast.Call)
            calls += 1
            assert "tenant" in {keyword.arg for keyword in call.keywords}, (
                f"{file}:{call.lineno} names no tenant"
            )
    assert calls >= 8


_SANDBOX_METHODS = ("run_code", "render", "extract", "read", "render_pages")
_SANDBOX_NAMES = ("sandbox", "self._sandbox", "self.sandbox", "parts.sandbox")


def _is_sandbox_call(node: ast.AST) -> bool:
    """Return whether a node calls a method that runs a program in the sandbox."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    is_method = node.func.attr in _SANDBOX_METHODS
    return is_method and ast.unparse(node.func.value) in _SANDBOX_NAMES
