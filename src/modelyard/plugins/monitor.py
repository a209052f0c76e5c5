"""What plugins' processes take of the machine, two looks a second; those that take too much are ended."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.plugins.process import BEHIND, Instance, LocalRuntime, step_back

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_MUCH, _MUCH_FOR_NOTHING = 0.6, 0.15
"""Of a processor: a plugin that takes so much, or so much with nothing to do, lets others go first."""
_SPAN = 0.4
_BEHIND_SECONDS = 20.0
_END_AFTER = 15.0
_MOST_COUNTED = 1000


@dataclass(slots=True)
class Taken:
    """By a plugin's process and all that it started."""

    bytes: int = 0
    """Resident: what several share is counted for each, unless that is more than one may take."""
    processes: list[int] = field(default_factory=list[int])
    seconds: float = 0.0
    """Of processors, since they began."""


def taken(sessions: Mapping[int, int], wardens: Iterable[int], proc: Path = Path("/proc")) -> dict[int, Taken]:
    """By session, as each plugin leads one; given is what each may take, in bytes.

    Only plugins and what they started are looked at, not every process of the machine: this runs beside calls, which
    wait while Python looks around. What lost its parent has fallen to a warden.
    """
    found: dict[int, Taken] = {}
    for session in sessions:
        one = found[session] = Taken()
        _add(one, session, proc)
    for warden in wardens:
        for pid in _children(warden, proc):
            if pid not in sessions and (stat := _stat(pid, proc)) and (one := found.get(int(stat[3]))) is not None:
                _add(one, pid, proc)
    for session, one in found.items():
        if one.bytes > sessions[session]:
            one.bytes = _own_bytes(one.processes, proc)
    return found


def _add(one: Taken, pid: int, proc: Path) -> None:
    """A process and its children, and theirs."""
    waiting = [pid]
    while waiting:
        pid = waiting.pop()
        stat = _stat(pid, proc)
        if not stat or stat[0] == b"Z" or len(one.processes) > _MOST_COUNTED:
            continue
        one.processes.append(pid)
        one.bytes += int(stat[21]) * _PAGE
        one.seconds += (int(stat[11]) + int(stat[12])) / _TICKS
        waiting += _children(pid, proc)


def _stat(pid: int, proc: Path) -> list[bytes]:
    """State, parent, group, session and the rest; nothing where it is gone."""
    try:
        return (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _children(pid: int, proc: Path) -> list[int]:
    """Those that any of its threads started."""
    found: list[int] = []
    try:
        for thread in (proc / str(pid) / "task").iterdir():
            found += [int(one) for one in (thread / "children").read_bytes().split()]
    except OSError:
        return found
    return found


def _own_bytes(processes: Iterable[int], proc: Path) -> int:
    """Memory of processes, of what they share with others their share alone. Dear: the kernel walks every page."""
    total = 0
    for pid in processes:
        try:
            lines = (proc / str(pid) / "smaps_rollup").read_bytes().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith(b"Pss:")), 0) * 1024
    return total


class Monitor:
    """Remembers what each took at the last look."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[float, float]] = {}

    def judge(self, runtime: LocalRuntime, found: dict[int, Taken], now: float) -> None:
        """End what takes more than its plugin may."""
        for instance in list(runtime.instances):
            pid = instance.spawned.pid
            one = found.get(pid)
            if one is None:
                continue
            options = runtime.options
            count = len(one.processes)
            if count > options.max_processes:
                runtime.evict(instance, f"it ran {count} processes; {options.max_processes} are allowed")
            elif runtime.disk_bytes > options.max_disk:
                runtime.evict(instance, f"it filled {options.max_disk >> 20:,} MB of the disk, all that is allowed")
            elif one.bytes > options.max_memory:
                mega = 1 << 20
                why = f"it took {one.bytes // mega:,} MB of memory; {options.max_memory // mega:,} are allowed"
                runtime.evict(instance, why)
            else:
                self._yield(runtime, instance, one, now)

    def _yield(self, runtime: LocalRuntime, instance: Instance, one: Taken, now: float) -> None:
        """One that keeps a processor busy steps back behind the others; with nothing to do, it comes to its end."""
        pid = instance.spawned.pid
        at, seconds = self._before.get(pid, (now, one.seconds))
        if now - at < _SPAN and pid in self._before:
            return
        self._before[pid] = (now, one.seconds)
        share = (one.seconds - seconds) / (now - at) if now > at else 0.0
        is_idle = not instance.conversation.open and instance.conversation.ready.done()
        is_much = share > (_MUCH_FOR_NOTHING if is_idle else _MUCH)
        if is_much:
            runtime.behind_until = now + _BEHIND_SECONDS
        is_behind = now < runtime.behind_until
        if is_behind != instance.is_behind:
            instance.is_behind = is_behind
            step_back(pid, BEHIND if is_behind else 0)
        if not is_idle or not is_much:
            instance.spins_since = None
        elif instance.spins_since is None:
            instance.spins_since = now
        elif now - instance.spins_since > _END_AFTER:
            runtime.evict(instance, f"it kept a processor busy for {_END_AFTER:.0f} s with nothing to do")

    def forget(self, living: set[int]) -> None:
        for pid in [pid for pid in self._before if pid not in living]:
            del self._before[pid]
