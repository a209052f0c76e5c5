"""Identity of a process, written so that any process on the same machine can tell
whether it has exited."""

import os
import socket
from pathlib import Path


def _boot() -> str:
    """Return the first eight characters of the kernel's boot id.

    It changes at each start of the machine. Empty where the system has no such file, as
    outside of Linux.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()[:8]
    except OSError:
        return ""


def _started_at(pid: int) -> str:
    """Return a process's start time in kernel ticks, which distinguishes it from a
    later process with the same id.

    Returns an empty string if it does not exist.
    """
    try:
        # The command name in parentheses may contain spaces, so fields are counted
        # after the last one. Field 22 of stat is `starttime` (proc(5)).
        return (
            Path(f"/proc/{pid}/stat")
            .read_text("ascii", "replace")
            .rpartition(")")[2]
            .split()[19]
        )
    except (OSError, IndexError):
        return ""


def owner_name() -> str:
    """Return the identity of this process: `host:boot:pid:start time`."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{_boot()}:{pid}:{_started_at(pid)}"


def has_exited(owner: str) -> bool | None:
    """Return whether the process that `owner_name` identified has exited.

    `owner` is that function's text. A process from before the machine's last start has
    exited, as has one whose id now belongs to a process with another start time.
    Returns None for a process of another machine.
    """
    host, boot, pid, started = ([*owner.split(":"), "", "", "", ""])[:4]
    if host != socket.gethostname():
        return None
    # After a reboot no process of the earlier boot exists, even if its id does.
    if boot != _boot():
        return True
    return not pid.isdigit() or _started_at(int(pid)) != started
