"""Ten real plugins at once, compared with plain processes in the same run, and the time
from their installation to the first answer."""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

from tools.show.plain_plugins import first_answer, plain_plugin
from tools.show.plugged import EXAMPLES, plugin_settings, proportional_memory_mb
from tools.show.proof import ready_home
from tools.show.real_plugins import first_call, spread

from modelyard.app import Modelyard
from modelyard.base.errors import ModelyardError
from modelyard.plugins.connection import PluginCall
from modelyard.plugins.manifest import MANIFEST
from modelyard.plugins.package import package_folder
from modelyard.tenant_plugins.plugins import Installed

COUNT = 10
_WARM_CALLS = 300


class _Plugin:
    """An installed plugin with what starts it plainly."""

    def __init__(self, source: Path, installed: Installed, python: Path) -> None:
        self.source = source
        self.installed = installed
        self.python = python
        self.call = first_call(installed.declaration)


async def _install(yard: Modelyard, folders: Sequence[Path]) -> list[_Plugin]:
    """Install plugins until there are enough; those that cannot be are left out."""
    parts = yard.services.plugins
    plugins: list[_Plugin] = []
    for folder in folders:
        try:
            installed = await parts.installations.add("default", package_folder(folder))
        except ModelyardError:
            continue
        environment = await parts.host.packages.environment(installed.identifier)
        plugins.append(_Plugin(folder, installed, environment.python))
        if len(plugins) == COUNT:
            break
    return plugins


async def _here(yard: Modelyard, plugins: Sequence[_Plugin]) -> tuple[float, float]:
    """Return (seconds until all have answered, their memory in MB)."""
    parts = yard.services.plugins

    async def call(plugin: _Plugin) -> None:
        """Make the first call, which starts the plugin."""
        call = plugin.call
        answers = parts.plugins.call(
            "default", plugin.installed.plugin_id, call.type, call.action, call.data
        )
        await first_answer(answers)

    started_at = time.perf_counter()
    await asyncio.gather(*map(call, plugins))
    seconds = time.perf_counter() - started_at
    memory = proportional_memory_mb(parts.host.pids())
    for plugin in plugins:
        await parts.host.stop("default", plugin.installed.identifier)
    return seconds, memory


async def _plainly(plugins: Sequence[_Plugin]) -> tuple[float, float]:
    """Return the same for plain processes, all started at once."""
    async with AsyncExitStack() as stack:

        async def call(plugin: _Plugin) -> int:
            """Start the process, make the call and return the process's id."""
            module = plugin.installed.declaration.manifest.meta.runner.entrypoint
            process = await stack.enter_async_context(
                plain_plugin(plugin.source, plugin.python, module)
            )
            await process.wait_until_ready()
            await first_answer(process.call(plugin.call))
            return process.pid

        started_at = time.perf_counter()
        pids = await asyncio.gather(*map(call, plugins))
        seconds = time.perf_counter() - started_at
        return seconds, proportional_memory_mb(pids)


async def _first_answers(home: Path, plugins: Sequence[_Plugin]) -> list[float]:
    """Return the seconds from each plugin's installation to its first answer, in
    environments that are made for this, with the packages in uv's cache."""
    seconds: list[float] = []
    async with Modelyard(plugin_settings(home)) as yard:
        parts = yard.services.plugins
        for plugin in plugins:
            package = package_folder(plugin.source)
            started_at = time.perf_counter()
            installed = await parts.installations.add("default", package)
            call = plugin.call
            answers = parts.plugins.call(
                "default", installed.plugin_id, call.type, call.action, call.data
            )
            await first_answer(answers)
            seconds.append(time.perf_counter() - started_at)
    return seconds


async def _warm_calls(yard: Modelyard) -> tuple[float, float]:
    """Return the median ms of a call that does nothing: through the host, and directly
    to a plain process."""
    parts = yard.services.plugins
    source = EXAMPLES / "mockgpt"
    installed = await parts.installations.add("default", package_folder(source))
    environment = await parts.host.packages.environment(installed.identifier)
    data: dict[str, Any] = {
        "provider": "mockgpt",
        "model_type": "llm",
        "model": "mock-gpt-v1",
        "credentials": {},
        "prompt_messages": [{"role": "user", "content": "hi"}],
        "tools": None,
    }
    call = PluginCall(
        tenant="default", type="model", action="get_llm_num_tokens", data=data
    )
    async with plain_plugin(source, environment.python, "main") as plain:
        await plain.wait_until_ready()
        through = await _median(
            lambda: parts.plugins.call(
                "default", installed.plugin_id, call.type, call.action, data
            )
        )
        direct = await _median(lambda: plain.call(call))
    return through, direct


async def _median(call: Any) -> float:
    """Return the median ms of a call; the first ones start the plugin."""
    times: list[float] = []
    for _ in range(_WARM_CALLS):
        started_at = time.perf_counter()
        async with aclosing(call()) as answers:
            async for _ in answers:
                pass
        times.append((time.perf_counter() - started_at) * 1000)
    return statistics.median(times[20:])


async def _measure(repository: Path, name: Path) -> dict[str, Any]:
    """Measure everything in a temporary folder."""
    folders = [path.parent for path in sorted(repository.rglob(MANIFEST))]
    # The environments of this machine, as far as there are any: only starts and
    # installations are measured, not downloads.
    home = ready_home(name / "home")
    async with Modelyard(plugin_settings(home)) as yard:
        plugins = await _install(yard, spread(folders, 2 * COUNT))
        # Once before the clock, so that files are in memory for both ways.
        await _here(yard, plugins[:2])
        seconds, memory = await _here(yard, plugins)
        plain_seconds, plain_memory = await _plainly(plugins)
        through, direct = await _warm_calls(yard)
    cache = home / "plugins" / "environments" / ".cache"
    fresh = name / "fresh"
    (fresh / "plugins" / "environments").mkdir(parents=True)
    (fresh / "plugins" / "environments" / ".cache").symlink_to(cache)
    answers = await _first_answers(fresh, plugins)
    environments = {plugin.python for plugin in plugins}
    return {
        "real_names": ["/".join(plugin.source.parts[-2:]) for plugin in plugins],
        "real_environments": len(environments),
        "real_ten_s": round(seconds, 2),
        "real_ten_mb": round(memory, 1),
        "real_plain_ten_s": round(plain_seconds, 2),
        "real_plain_ten_mb": round(plain_memory, 1),
        "real_first_answer_p50_s": round(statistics.median(answers), 2),
        "warm_call_ms": round(through, 3),
        "warm_direct_ms": round(direct, 3),
        "cores": os.cpu_count(),
    }


def measure(repository: Path) -> dict[str, Any]:
    """Measure ten plugins of a repository, evenly spread over their names; return the
    figures with their units in the names."""
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as name:
        return asyncio.run(_measure(repository, Path(name)))
