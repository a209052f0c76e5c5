"""Ten real plugins at once, compared with plain processes in the same run, and the time
from their installation to the first answer."""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.show.plain_plugins import plain_plugin
from tools.show.plugged import (
    EXAMPLES,
    cpu_seconds,
    plugin_settings,
    proportional_memory_mb,
)
from tools.show.proof import ready_home
from tools.show.real_plugins import first_call, spread

from modelyard.app import Modelyard
from modelyard.base.errors import ModelyardError
from modelyard.models.types import JSON
from modelyard.plugins.connection import PluginCall
from modelyard.plugins.manifest import MANIFEST
from modelyard.plugins.package import package_folder
from modelyard.tenant_plugins.plugins import Installed

COUNT = 10
ROUNDS = 3
"""How often both ways are measured, one after the other; the medians count, because other
programs disturb single rounds."""
_WARM_CALLS = 300
_CALL_SECONDS = 60.0


class _Plugin:
    """An installed plugin with what starts it plainly."""

    def __init__(self, source: Path, installed: Installed, python: Path) -> None:
        self.source = source
        self.installed = installed
        self.python = python
        self.call = first_call(installed.declaration)


async def _answered(answers: AsyncGenerator[JSON, None]) -> None:
    """Wait for the end of a call, whatever the plugin answers. A call that is given up
    would end its process."""
    async with aclosing(answers):
        with suppress(ModelyardError, TimeoutError):
            async with asyncio.timeout(_CALL_SECONDS):
                async for _ in answers:
                    pass


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


@dataclass(frozen=True, slots=True)
class _Start:
    """What it took to start plugins at once."""

    seconds: float
    """Until all have answered."""
    memory_mb: float
    cpu_seconds: float
    """Of all processes of the plugins and of what starts them."""


async def _here(home: Path, plugins: Sequence[_Plugin]) -> _Start:
    """Start plugins in a host that has not run any yet."""
    async with Modelyard(plugin_settings(home)) as yard:
        return await _start_here(yard, plugins)


async def _start_here(yard: Modelyard, plugins: Sequence[_Plugin]) -> _Start:
    parts = yard.services.plugins

    async def call(plugin: _Plugin) -> None:
        """Make the first call, which starts the plugin."""
        call = plugin.call
        answers = parts.plugins.call(
            "default", plugin.installed.plugin_id, call.type, call.action, call.data
        )
        await _answered(answers)

    started_at = time.perf_counter()
    await asyncio.gather(*map(call, plugins))
    seconds = time.perf_counter() - started_at
    pids = parts.host.pids()
    return _Start(seconds, proportional_memory_mb(pids), cpu_seconds(pids))


async def _plainly(plugins: Sequence[_Plugin]) -> _Start:
    """Return the same for plain processes, all started at once."""
    async with AsyncExitStack() as stack:

        async def call(plugin: _Plugin) -> int:
            """Start the process, make the call and return the process's id."""
            module = plugin.installed.declaration.manifest.meta.runner.entrypoint
            process = await stack.enter_async_context(
                plain_plugin(plugin.source, plugin.python, module)
            )
            await process.wait_until_ready()
            await _answered(process.call(plugin.call))
            return process.pid

        started_at = time.perf_counter()
        pids = await asyncio.gather(*map(call, plugins))
        seconds = time.perf_counter() - started_at
        return _Start(seconds, proportional_memory_mb(pids), cpu_seconds(pids))


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
            await _answered(answers)
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
    # Others follow in case that some cannot be installed.
    chosen = spread(folders, COUNT)
    chosen += [folder for folder in folders if folder not in chosen]
    # The environments of this machine, as far as there are any: only starts and
    # installations are measured, not downloads.
    home = ready_home(name / "home")
    async with Modelyard(plugin_settings(home)) as yard:
        plugins = await _install(yard, chosen)
    # Once before the clock, so that files are in memory for both ways.
    await _plainly(plugins)
    pairs = [
        (await _here(home, plugins), await _plainly(plugins)) for _ in range(ROUNDS)
    ]
    async with Modelyard(plugin_settings(home)) as yard:
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
        **_medians("real_ten", [here for here, _ in pairs]),
        **_medians("real_plain_ten", [plain for _, plain in pairs]),
        "real_first_answer_p50_s": round(statistics.median(answers), 2),
        "warm_call_ms": round(through, 3),
        "warm_direct_ms": round(direct, 3),
        "cores": os.cpu_count(),
    }


def _medians(name: str, starts: Sequence[_Start]) -> dict[str, float]:
    """Return the medians of several starts."""
    return {
        f"{name}_s": round(statistics.median(start.seconds for start in starts), 2),
        f"{name}_mb": round(statistics.median(start.memory_mb for start in starts), 1),
        f"{name}_cpu_s": round(
            statistics.median(start.cpu_seconds for start in starts), 2
        ),
    }


def measure(repository: Path) -> dict[str, Any]:
    """Measure ten plugins of a repository, evenly spread over their names; return the
    figures with their units in the names."""
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as name:
        return asyncio.run(_measure(repository, Path(name)))
