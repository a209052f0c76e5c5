"""Identity of a process, written so that any process on the same machine can tell
whether it has exited."""

import os
import secrets
import socket
from pathlib import Path

_FIELDS = 6
"""Number of fields of a process's identity."""


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


def _namespace() -> str:
    """Return the namespace in which this process's ids are counted.

    Containers of one machine have namespaces of their own, and perhaps the same host
    name. Empty where the system has none, as outside of Linux.
    """
    try:
        return str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        return ""


_TOKEN = secrets.token_hex(8)
"""Differs for each start of a process, whatever its host name and id are."""


def owner_name() -> str:
    """Return the identity of this process:
    `host:boot:namespace of ids:pid:start time:token`."""
    pid = os.getpid()
    host = socket.gethostname()
    return f"{host}:{_boot()}:{_namespace()}:{pid}:{_started_at(pid)}:{_TOKEN}"


def has_exited(owner: str) -> bool | None:
    """Return whether the process that `owner_name` identified has exited.

    `owner` is that function's text. A process has exited if its id now belongs to none,
    or to one with another start time. Returns None where that cannot be seen: on
    another machine, before the last start of this one, or in another container.
    """
    fields = owner.rsplit(":", 5)
    if len(fields) != _FIELDS:
        return None
    _, boot, namespace, pid, started, _ = fields
    # The boot id tells machines apart as well: it is random.
    if not boot or (boot, namespace) != (_boot(), _namespace()):
        return None
    return not pid.isdigit() or _started_at(int(pid)) != started
