"""Who owns what is being worked on: a process, named so that anybody on its machine can tell whether it is gone."""

import os
import socket
from pathlib import Path


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()[:8]
    except OSError:
        return ""


def _started_at(pid: int) -> str:
    """When a process began, in the kernel's count: a number that comes again is another process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def owner_name() -> str:
    """This process: machine, boot, number, beginning."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{_boot()}:{pid}:{_started_at(pid)}"


def is_gone(owner: str) -> bool | None:
    """Whether a process of this machine has ended; None for one of another machine."""
    host, boot, pid, started = ([*owner.split(":"), "", "", "", ""])[:4]
    if host != socket.gethostname():
        return None
    if boot != _boot():
        return True
    return not pid.isdigit() or _started_at(int(pid)) != started
