"""Measures the resources of plugins' processes twice per second and ends those that
exceed their limits."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.plugins.process import LOW_PRIORITY, Instance, LocalRuntime, set_niceness

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_SHARE_OF_CALL, _IDLE_BUSY_SHARE = 1.1, 0.15
"""Shares of a processor: a plugin above the first for each call that it works on, or
above the second while idle, gets the lowest priority."""
_MIN_INTERVAL = 0.4
_BEHIND_SECONDS = 20.0
_END_AFTER = 15.0
_MAX_PROCESSES = 1000


@dataclass(slots=True)
class ResourceUsage:
    """Resources used by a plugin's process and its descendants."""

    bytes: int = 0
    """Resident memory. Shared pages are counted for each process, unless the sum
    exceeds the limit."""
    processes: list[int] = field(default_factory=list[int])
    seconds: float = 0.0
    """Processor time since the processes started."""


def measure_usage(
    sessions: Mapping[int, int], supervisors: Iterable[int], proc: Path = Path("/proc")
) -> dict[int, ResourceUsage]:
    """Return the resource usage by session. `sessions` maps each plugin's session to
    its memory limit in bytes.

    Only plugins and their descendants are examined, not all processes of the machine,
    because calls wait meanwhile. Processes that lost their parent are children of a
    supervisor.
    """
    usages: dict[int, ResourceUsage] = {}
    for session in sessions:
        usage = usages[session] = ResourceUsage()
        _add_tree(usage, session, proc)
    # Orphans are attributed to a plugin by their session.
    for supervisor in supervisors:
        for pid in _children(supervisor, proc):
            if (
                pid not in sessions
                and (stat := _stat(pid, proc))
                and (usage := usages.get(int(stat[3]))) is not None
            ):
                _add_tree(usage, pid, proc)
    # Resident size counts shared pages several times, so the exact value is only read
    # above the limit.
    for session, usage in usages.items():
        if usage.bytes > sessions[session]:
            usage.bytes = _proportional_bytes(usage.processes, proc)
    return usages


def _add_tree(usage: ResourceUsage, pid: int, proc: Path) -> None:
    """Add a process and its descendants to the usage."""
    waiting = [pid]
    while waiting:
        pid = waiting.pop()
        stat = _stat(pid, proc)
        # Zombies use nothing; a fork bomb must not make this loop endless.
        if not stat or stat[0] == b"Z" or len(usage.processes) > _MAX_PROCESSES:
            continue
        usage.processes.append(pid)
        usage.bytes += int(stat[21]) * _PAGE
        usage.seconds += (int(stat[11]) + int(stat[12])) / _TICKS
        waiting += _children(pid, proc)


def _stat(pid: int, proc: Path) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the state on; an empty list if the
    process is gone."""
    try:
        # The command name may contain spaces and parentheses, so the split starts after
        # its last one.
        return (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _children(pid: int, proc: Path) -> list[int]:
    """Return the children of all threads of a process."""
    children: list[int] = []
    try:
        for thread in (proc / str(pid) / "task").iterdir():
            children += [
                int(child_pid)
                for child_pid in (thread / "children").read_bytes().split()
            ]
    except OSError:
        return children
    return children


def _proportional_bytes(processes: Iterable[int], proc: Path) -> int:
    """Return the proportional memory of processes (PSS). Expensive, because the kernel
    walks every page."""
    total = 0
    for pid in processes:
        try:
            lines = (proc / str(pid) / "smaps_rollup").read_bytes().splitlines()
        except OSError:
            continue
        total += (
            next(
                (int(line.split()[1]) for line in lines if line.startswith(b"Pss:")), 0
            )
            * 1024
        )
    return total


class Monitor:
    """Remembers the last measurement of each plugin."""

    def __init__(self) -> None:
        self._measurements: dict[int, tuple[float, float]] = {}

    def enforce_limits(
        self,
        runtime: LocalRuntime,
        usages: dict[int, ResourceUsage],
        current_time: float,
    ) -> None:
        """End the instances that exceed the limits of their plugin."""
        for instance in list(runtime.instances):
            pid = instance.spawned.pid
            usage = usages.get(pid)
            if usage is None:
                continue
            options = runtime.options
            count = len(usage.processes)
            # Checked in this order, because the first exceeded limit becomes the
            # reported reason.
            if count > options.max_processes:
                runtime.evict(
                    instance,
                    f"{count} processes exceed the limit of {options.max_processes}",
                )
            elif runtime.disk_bytes > options.max_disk:
                runtime.evict(
                    instance,
                    f"Disk limit of {options.max_disk >> 20:,} MB exceeded",
                )
            elif usage.bytes > options.max_memory:
                mega = 1 << 20
                reason = (
                    f"{usage.bytes // mega:,} MB of memory exceed the limit of"
                    f" {options.max_memory // mega:,} MB"
                )
                runtime.evict(instance, reason)
            else:
                self._adjust_priority(runtime, instance, usage, current_time)

    def _adjust_priority(
        self,
        runtime: LocalRuntime,
        instance: Instance,
        usage: ResourceUsage,
        current_time: float,
    ) -> None:
        """Lower the priority of an instance that uses more of the processors than its
        calls ask for; end it if it does so for long while idle."""
        pid = instance.spawned.pid
        # Imports need the processor. Fairness begins when the plugin serves.
        if not instance.conversation.ready.done():
            self._measurements[pid] = (current_time, usage.seconds)
            return
        cpu_share = self._measure_cpu_share(pid, usage, current_time)
        if cpu_share is None:
            return
        calls = instance.conversation.open_count
        is_idle = not calls
        # A tool that computes is no offence.
        is_excessive = cpu_share > max(_IDLE_BUSY_SHARE, calls * _SHARE_OF_CALL)
        if is_excessive:
            runtime.behind_until = current_time + _BEHIND_SECONDS
        # The plugin keeps the low priority for a while, so that it does not oscillate.
        is_behind = current_time < runtime.behind_until
        if is_behind != instance.is_behind:
            instance.is_behind = is_behind
            set_niceness(pid, LOW_PRIORITY if is_behind else 0)
        # Only uninterrupted spinning counts.
        if not is_idle or not is_excessive:
            instance.spins_since = None
        elif instance.spins_since is None:
            instance.spins_since = current_time
        elif current_time - instance.spins_since > _END_AFTER:
            runtime.evict(
                instance,
                f"A processor was busy for {_END_AFTER:.0f} s while the plugin was idle",
            )

    def _measure_cpu_share(
        self, pid: int, usage: ResourceUsage, current_time: float
    ) -> float | None:
        """Return the share of a processor used since the last measurement; None if that
        was too recent."""
        measured_at, seconds = self._measurements.get(
            pid, (current_time, usage.seconds)
        )
        # A longer interval gives a reliable average; shorter ones are skipped.
        if current_time - measured_at < _MIN_INTERVAL and pid in self._measurements:
            return None
        self._measurements[pid] = (current_time, usage.seconds)
        if current_time <= measured_at:
            return 0.0
        return (usage.seconds - seconds) / (current_time - measured_at)

    def forget(self, living: set[int]) -> None:
        """Forget the measurements of processes that no longer exist."""
        for pid in [pid for pid in self._measurements if pid not in living]:
            del self._measurements[pid]
