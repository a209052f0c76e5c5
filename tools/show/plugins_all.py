"""Pack, install, start and call every plugin of a repository, and start the same plugins
as plain processes beside it.

The variables of `real_plugins` choose the plugins. `MODELYARD_PLUGINS_COUNT` limits their
number, `MODELYARD_PLUGINS_ONLY` names some, separated by commas,
`MODELYARD_PLUGINS_BUSY` is a number of busy loops that run beside the starts, and
`MODELYARD_PLUGINS_AT_ONCE` lets several start at once, which is faster and does not
measure their memory.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from modelyard.app import Modelyard
from modelyard.base.errors import ModelyardError, PluginError
from modelyard.plugins.connection import PluginCall
from modelyard.plugins.declaration import Declaration, load_declaration
from modelyard.plugins.package import Package, package_folder
from modelyard.tenant_plugins.plugins import Installed
from tools.show.plain_plugins import (
    Ending,
    first_answer,
    plain_environment,
    plain_plugin,
)
from tools.show.plugged import plugin_settings, proportional_memory_mb
from tools.show.proof import Proof, ready_home
from tools.show.real_plugins import first_call, plugin_folders

GOAL = 0.99
"""The least fraction of the plugins that start plainly and have to start here."""
_INSTALLS_AT_ONCE = 2


@dataclass(slots=True)
class Outcome:
    """What happened to one plugin. Seconds and megabytes are 0 if it was not reached."""

    name: str
    kind: str = ""
    problem: str = ""
    """Why the host cannot pack, install, start or call it; empty if it can."""
    stage: str = "packed"
    ending: str = ""
    install_seconds: float = 0.0
    seconds: float = 0.0
    """From the first call to its answer, with the start of the process."""
    memory_mb: float = 0.0
    plain_problem: str = ""
    plain_ending: str = ""
    plain_ready_seconds: float = 0.0
    """Until its first heartbeat."""
    plain_seconds: float = 0.0
    plain_mb: float = 0.0

    @property
    def is_fault(self) -> bool:
        """Whether it starts plainly, and not here."""
        return bool(self.problem) and not self.plain_problem


@dataclass(slots=True)
class _Shared:
    """What the plugins of a run share."""

    yard: Modelyard
    folder: Path
    installing: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(_INSTALLS_AT_ONCE)
    )
    # Packages are read ahead of the starts, but not all of them.
    examining: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(4 * _INSTALLS_AT_ONCE)
    )
    # One start at a time as a rule, so that seconds and memory are those of one plugin.
    starts_at_once: int = field(
        default_factory=lambda: int(os.environ.get("MODELYARD_PLUGINS_AT_ONCE", "1"))
    )
    starting: asyncio.Semaphore = field(init=False)
    turn: int = 0
    names: dict[str, asyncio.Lock] = field(default_factory=dict[str, asyncio.Lock])

    def __post_init__(self) -> None:
        self.starting = asyncio.Semaphore(self.starts_at_once)


async def examine(shared: _Shared, folder: Path) -> Outcome:
    """Pack, install, start and call a plugin, then start it plainly."""
    outcome = Outcome(name="/".join(folder.parts[-2:]))
    try:
        async with shared.examining:
            package = await asyncio.to_thread(package_folder, folder)
    except ModelyardError as error:
        outcome.problem = str(error)
        async with shared.starting:
            await _start_unpacked(shared, folder, outcome)
        _report(outcome)
        return outcome
    outcome.kind = package.manifest.category
    # Two plugins of one name would replace each other.
    name = shared.names.setdefault(package.manifest.id, asyncio.Lock())
    async with name, shared.examining:
        await _examine_package(shared, folder, package, outcome)
    _report(outcome)
    return outcome


async def _examine_package(
    shared: _Shared, folder: Path, package: Package, outcome: Outcome
) -> None:
    """Install and start a packed plugin, here and plainly."""
    installed = await _installed(shared, package, outcome)
    declaration = installed.declaration if installed else load_declaration(folder)
    async with shared.starting:
        shared.turn += 1
        # The first start reads files that are in memory for the second, so each way is
        # first in turn.
        is_plain_first = bool(shared.turn % 2)
        if is_plain_first:
            await _start_plainly(shared, folder, package, declaration, outcome)
        if installed is not None:
            await _start_here(shared, installed, outcome)
        if not is_plain_first:
            await _start_plainly(shared, folder, package, declaration, outcome)
    if installed is not None:
        parts = shared.yard.services.plugins
        await parts.installations.uninstall("default", installed.plugin_id)


async def _installed(
    shared: _Shared, package: Package, outcome: Outcome
) -> Installed | None:
    """Install a plugin and note how long it took; None with the reason in `outcome`."""
    installations = shared.yard.services.plugins.installations
    async with shared.installing:
        started_at = time.perf_counter()
        try:
            installed = await installations.add("default", package)
        except ModelyardError as error:
            outcome.problem = str(error)
            return None
    outcome.install_seconds = round(time.perf_counter() - started_at, 2)
    outcome.stage = "installed"
    return installed


async def _start_here(shared: _Shared, installed: Installed, outcome: Outcome) -> None:
    """Make the first call of an installed plugin, which starts it."""
    parts = shared.yard.services.plugins
    before = set(parts.host.pids())
    call = first_call(installed.declaration)
    started_at = time.perf_counter()
    answers = parts.plugins.call(
        "default", installed.plugin_id, call.type, call.action, call.data
    )
    ending = await first_answer(answers)
    outcome.seconds = round(time.perf_counter() - started_at, 2)
    outcome.ending = ending.text
    if not ending.is_answered:
        outcome.problem = ending.text
        return
    outcome.stage = "answered"
    # With several starts at once it is not known whose process is whose.
    if shared.starts_at_once == 1:
        processes = [pid for pid in parts.host.pids() if pid not in before]
        outcome.memory_mb = round(proportional_memory_mb(processes), 1)
    await parts.host.stop("default", installed.identifier)


async def _start_plainly(
    shared: _Shared,
    folder: Path,
    package: Package,
    declaration: Declaration,
    outcome: Outcome,
) -> None:
    """Start the same plugin as a plain process and make the same call.

    In the environment that the host has made, or in one that its author would make if
    the host could not, or the plugin does not start in it.
    """
    host = shared.yard.services.plugins.host
    module = declaration.manifest.meta.runner.entrypoint
    call = first_call(declaration)
    try:
        environment = await host.packages.environment(str(package.identifier))
        await _plain_answer(outcome, folder, environment.python, module, call)
        # If it does not answer in time, another environment changes nothing.
        if not outcome.plain_problem or outcome.plain_ready_seconds:
            return
    except ModelyardError:
        pass  # the host could not install it
    with tempfile.TemporaryDirectory(prefix="modelyard-plain-") as name:
        try:
            base = (await host.environments.pythons())[0].path
            python = await plain_environment(folder, Path(name), base)
            await _plain_answer(outcome, folder, python, module, call)
        except PluginError as error:
            outcome.plain_problem = outcome.plain_problem or error.reason


async def _start_unpacked(shared: _Shared, folder: Path, outcome: Outcome) -> None:
    """Start a plugin plainly that cannot be packed, and note whether it gets ready; what
    it declares is not known, so that it is not called."""
    host = shared.yard.services.plugins.host
    with tempfile.TemporaryDirectory(prefix="modelyard-plain-") as name:
        try:
            base = (await host.environments.pythons())[0].path
            python = await plain_environment(folder, Path(name), base)
            async with plain_plugin(folder, python, "main") as plugin:
                await plugin.wait_until_ready()
        except PluginError as error:
            outcome.plain_problem = error.reason


async def _plain_answer(
    outcome: Outcome, folder: Path, python: Path, module: str, call: PluginCall
) -> None:
    """Start a plain process, make a call, and note how it ended."""
    started_at = time.perf_counter()
    async with plain_plugin(folder, python, module) as plugin:
        try:
            await plugin.wait_until_ready()
            ready_at = time.perf_counter()
            outcome.plain_ready_seconds = round(ready_at - started_at, 2)
            ending = await first_answer(plugin.call(call))
        except PluginError as error:
            ending = Ending(is_answered=False, text=error.reason)
        outcome.plain_seconds = round(time.perf_counter() - started_at, 2)
        outcome.plain_mb = round(proportional_memory_mb([plugin.pid]), 1)
    outcome.plain_ending = ending.text
    outcome.plain_problem = "" if ending.is_answered else ending.text


def _report(outcome: Outcome) -> None:
    """Print what happened to a plugin, for the log of a run that takes long."""
    print(json.dumps(asdict(outcome), ensure_ascii=False), file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------- the run


@contextmanager
def busy_loops(count: int) -> Generator[None]:
    """Keep processors busy during a block."""
    # A loop must not outlive a proof that is killed.
    loop = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
    command = [sys.executable, "-c", loop]
    processes = [
        subprocess.Popen(command, start_new_session=True) for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def run(folders: Sequence[Path], folder: Path) -> list[Outcome]:
    """Examine plugins; `folder` is for everything that is written meanwhile."""
    home = ready_home(folder / "home")
    async with Modelyard(plugin_settings(home)) as yard:
        shared = _Shared(yard, folder)
        return list(
            await asyncio.gather(*(examine(shared, plugin) for plugin in folders))
        )


def _chosen(folders: Sequence[Path]) -> Sequence[Path]:
    """Return the plugins that the variables choose."""
    only = os.environ.get("MODELYARD_PLUGINS_ONLY", "")
    if only:
        names = set(only.split(","))
        return [path for path in folders if "/".join(path.parts[-2:]) in names]
    count = int(os.environ.get("MODELYARD_PLUGINS_COUNT", "0"))
    return folders[: count or len(folders)]


def prove() -> Proof:
    """Examine the chosen plugins and report them by kind."""
    proof = Proof()
    busy = int(os.environ.get("MODELYARD_PLUGINS_BUSY", "0"))
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-show-") as name,
        busy_loops(busy),
    ):
        folders = _chosen(plugin_folders(Path(name) / "made"))
        outcomes = asyncio.run(run(folders, Path(name)))
    _report_kinds(proof, outcomes)
    _report_faults(proof, outcomes)
    _report_costs(proof, outcomes)
    proof.figures |= {"plugins": len(outcomes), "busy_loops": busy}
    return proof


def _report_kinds(proof: Proof, outcomes: Sequence[Outcome]) -> None:
    """Report how many plugins of each kind start here and plainly, and the goal."""
    for kind in sorted({outcome.kind for outcome in outcomes}):
        alike = [outcome for outcome in outcomes if outcome.kind == kind]
        counts = [*_counts(alike), len(alike)]
        text = f"{counts[0]} of {counts[2]} answer; plainly {counts[1]}"
        proof.line(kind or "not packed", text)
        proof.figures[kind or "not_packed"] = counts
    plain = [outcome for outcome in outcomes if not outcome.plain_problem]
    answered, _ = _counts(plain)
    share = answered / max(1, len(plain))
    text = f"{answered} of {len(plain)}, {share:.1%}"
    proof.line("of those that start plainly, answer here", text, share >= GOAL)


def _counts(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    """Return how many plugins (answer here, start plainly)."""
    return (
        sum(not outcome.problem for outcome in outcomes),
        sum(not outcome.plain_problem for outcome in outcomes),
    )


def _report_faults(proof: Proof, outcomes: Sequence[Outcome]) -> None:
    """Report each plugin that does not answer here, with the reason."""
    for outcome in outcomes:
        if outcome.problem:
            label = f"{outcome.name}: {outcome.stage}"
            suffix = "" if outcome.is_fault else " (nor plainly)"
            proof.line(label, " ".join(outcome.problem.split())[:200] + suffix)


def _report_costs(proof: Proof, outcomes: Sequence[Outcome]) -> None:
    """Report seconds and memory beside the plain processes, over those that answered
    both ways."""
    both = [item for item in outcomes if not item.problem and not item.plain_problem]
    if not both:
        return
    columns = {
        "seconds to the first answer": ("seconds", "plain_seconds"),
        "megabytes of one plugin": ("memory_mb", "plain_mb"),
    }
    for label, (column, plain_column) in columns.items():
        ours = statistics.median(getattr(outcome, column) for outcome in both)
        theirs = statistics.median(getattr(outcome, plain_column) for outcome in both)
        proof.line(f"{label}, median", f"{ours:.2f}; plainly {theirs:.2f}")
        proof.figures[column] = [round(ours, 2), round(theirs, 2)]
    installs = [outcome.install_seconds for outcome in both]
    proof.line("seconds to install, median", f"{statistics.median(installs):.2f}")
