"""Confine a plugin's process with a private root file system, Landlock, seccomp and a
separate user, using only ctypes.

It runs before anything of the plugin is loaded, because a wheel may execute code as
soon as its Python starts. Plugins need threads, processes, files and connections, so
the system call list here is a deny list, while the sandbox for code has an allow list.
What each layer prevents: docs/design/0015-plugin-confinement.md.
"""

import ctypes
import fcntl
import os
import platform
import resource
import socket
import struct
import sys
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_MACHINE = platform.machine()


def _os_error(description: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{description}: {os.strerror(number)}")


# ----------------------------------------------------------------------------- Landlock

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_MAKE_DEVICES = (1 << 6) | (1 << 11)  # character and block devices
_MAKE_SOCKETS = 1 << 9
_MAKE_LINKS = 1 << 12
_BIND, _CONNECT = 1, 2
_RULE_PATH, _RULE_PORT = 1, 2


def landlock_abi() -> int:
    """Return the kernel's Landlock ABI version; 0 if Landlock is not available."""
    return max(0, _libc.syscall(_CREATE, None, 0, 1))


def enter_landlock(
    read: list[str],
    write: list[str],
    devices: list[str],
    port: int | None,
    *,
    may_link: bool = True,
) -> None:
    """Restrict file access, irrevocably: `read` folders may be read and executed,
    `write` folders written, `devices` used.

    Without `may_link`, no symbolic links can be made: a program with more rights that
    works in the same folders would follow them. With `port`, TCP connections are only
    possible to that port; without it, Landlock does not restrict connections. Raises
    OSError.
    """
    abi = landlock_abi()
    if not abi:
        raise OSError("This kernel does not support Landlock")
    # Each ABI version adds rights; a ruleset may only name those that the kernel knows.
    handled = (1 << (13 if abi == 1 else 14 if abi == 2 else 15 if abi < 5 else 16)) - 1
    net = _BIND | _CONNECT if port is not None and abi >= 4 else 0
    rules = _create_ruleset(abi, handled, net)
    try:
        for path in read:
            _allow(rules, path, _READ)
        for path in write:
            # Writable folders cannot hold programs, devices or sockets: what is written
            # there is never executed.
            refused = _EXECUTE | _MAKE_DEVICES | _MAKE_SOCKETS
            refused |= 0 if may_link else _MAKE_LINKS
            _allow(rules, path, handled & ~refused)
        for path in devices:
            # Bit 15 is the right to use ioctl, from ABI 5 on.
            _allow(rules, path, _READ_FILE | _WRITE_FILE | (handled & (1 << 15)))
        if net:
            rule = ctypes.create_string_buffer(struct.pack("=QQ", _CONNECT, port), 16)
            if _libc.syscall(_ADD, rules, _RULE_PORT, rule, 0) < 0:
                raise _os_error("Adding the port to the Landlock ruleset failed")
        if _libc.syscall(_RESTRICT, rules, 0) != 0:
            raise _os_error("Entering the Landlock ruleset failed")
    finally:
        os.close(rules)


def _create_ruleset(abi: int, handled: int, net: int) -> int:
    """Return the descriptor of a new ruleset for these file and network rights. Raises
    OSError."""
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    attributes = struct.pack("=QQQ", handled, net, 3 if abi >= 6 else 0)[:size]
    rules = _libc.syscall(
        _CREATE, ctypes.create_string_buffer(attributes, size), size, 0
    )
    if rules < 0:
        raise _os_error("Creating the Landlock ruleset failed")
    return rules


def _allow(rules: int, path: str, rights: int) -> None:
    """Add a rule that grants `rights` below a path to a Landlock ruleset.

    `rules` is the ruleset's descriptor. For a file, rights that only directories have
    are removed; a path that cannot be opened is skipped. Raises OSError if the kernel
    refuses the rule.
    """
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a path that does not exist needs no rule
    try:
        # Rights for directories are invalid in a rule for a single file.
        if not os.path.isdir(path):
            rights &= _ON_FILES | (1 << 15)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
        if _libc.syscall(_ADD, rules, _RULE_PATH, rule, 0) < 0:
            raise _os_error(f"Adding {path!r} to the Landlock ruleset failed")
    finally:
        os.close(descriptor)


# --------------------------------------------------------------------------- namespaces

_NEW_MOUNTS, _NEW_IPC, _NEW_USERS, _NEW_NETWORK = (
    0x20000,
    0x8000000,
    0x10000000,
    0x40000000,
)
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC, _REMOUNT = 1, 2, 4, 8, 32
_NO_ATIME, _NO_DIR_ATIME, _BIND_MOUNT, _RECURSIVE, _PRIVATE, _REL_ATIME = (
    1024,
    2048,
    4096,
    16384,
    1 << 18,
    1 << 21,
)
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_NEW_ROOT = (  # what it is laid over cannot be read there any more, and no plugin needs it
    "/sys"
)


SYNTHETIC_FILES = {
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/nsswitch.conf": "hosts: files\n",
}
"""Files of the private root file system that replace the machine's own."""


def extra_writable_folders(needed: list[str]) -> list[str]:
    """Return the writable folders of the private root in addition to those requested.

    /tmp is left out if needed paths are inside it, because it would hide them.
    """
    is_tmp_needed = any(path == "/tmp" or path.startswith("/tmp/") for path in needed)
    return ["/dev/shm", *([] if is_tmp_needed else ["/tmp"])]


def unshare_namespaces() -> None:
    """Move the process into new mount, IPC and network namespaces. Raises OSError if
    the kernel refuses."""
    # Root can create the namespaces directly; other users need a user namespace.
    kinds = _NEW_MOUNTS | _NEW_IPC | _NEW_NETWORK
    user, group = os.geteuid(), os.getegid()
    if user == 0 and _libc.unshare(kinds) == 0:
        return
    if _libc.unshare(kinds | _NEW_USERS) != 0:
        raise _os_error("Creating namespaces failed")
    # Map the user to itself; `setgroups` must be denied before an unprivileged gid map
    # is accepted.
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open("/proc/self/" + name, "w") as file:
            file.write(content)


def build_root_filesystem(
    read: list[str], write: list[str], devices: list[str], tmp: str
) -> None:
    """Replace the root file system, irrevocably, by one with only these paths; the
    folder `tmp` becomes /tmp.

    Raises OSError.
    """
    # Private propagation: mounts made here must not appear on the host.
    _mount(None, "/", _RECURSIVE | _PRIVATE)
    _mount("tmpfs", _NEW_ROOT, _NO_SUID | _NO_DEVICES, "tmpfs", "mode=755,size=1m")
    for path in read:
        _bind(path, path)
    for path in write:
        _bind(path, path, is_writable=True)
    for path in devices:
        _bind(path, path, is_device=True)
    if "/tmp" in extra_writable_folders(read + write):
        _bind(tmp, "/tmp", is_writable=True)
    # Shared memory is private and limited in size; multiprocessing needs it.
    os.makedirs(_NEW_ROOT + "/dev/shm", exist_ok=True)
    _mount(
        "tmpfs",
        _NEW_ROOT + "/dev/shm",
        _NO_SUID | _NO_DEVICES | _NO_EXEC,
        "tmpfs",
        "mode=1777,size=64m",
    )
    for path, text in SYNTHETIC_FILES.items():
        _write_synthetic_file(path, text)
    # Only now can the root be made read-only: the bind mounts needed their mount
    # points.
    _mount(None, _NEW_ROOT, _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEVICES)
    os.chdir(_NEW_ROOT)
    # Pivot onto the current directory: the old root is stacked on the new one for a
    # moment and is then detached.
    if (
        _libc.syscall(_PIVOT_ROOT[_MACHINE], b".", b".") != 0
        or _libc.umount2(b".", 2) != 0
    ):
        raise _os_error("pivot_root failed")
    os.chdir("/")


def _write_synthetic_file(path: str, text: str) -> None:
    """Write a file below the new root, creating its folders.

    `path` is its absolute path as seen after the change of root. Raises OSError.
    """
    target = _NEW_ROOT + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "w") as file:
        file.write(text)


def _mount(
    source: str | None,
    target: str,
    flags: int,
    fs_type: str | None = None,
    options: str | None = None,
) -> None:
    """Call mount(2). Raises OSError if the kernel refuses.

    `flags` are the kernel's MS_ constants; arguments that are None are passed as NULL.
    """
    encoded = [
        os.fsencode(argument) if argument else None
        for argument in (source, target, fs_type)
    ]
    data = options.encode() if options else None
    if _libc.mount(*encoded, ctypes.c_ulong(flags), data) != 0:
        raise _os_error(f"Mounting {source or target!r} failed")


def _bind(
    path: str, inner_path: str, *, is_writable: bool = False, is_device: bool = False
) -> None:
    """Bind-mount a path of the machine at `inner_path` below the new root.

    It is read-only unless `is_writable`, and without set-user-id programs and devices
    unless `is_device`. A path that does not exist is skipped. Raises OSError if the
    kernel refuses a mount.
    """
    target = _NEW_ROOT + inner_path
    try:
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.stat(path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if not os.path.exists(target):
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    except OSError:
        # what is not there need not be seen; what lies within another folder is there
        # already
        return
    _mount(path, target, _BIND_MOUNT)
    if is_device:
        return
    # The kernel refuses a remount that clears restrictive flags of the original mount,
    # so they are repeated.
    mount_flags = os.statvfs(path).f_flag
    remount_flags = mount_flags & (
        _NO_SUID | _NO_DEVICES | _NO_EXEC | _NO_ATIME | _NO_DIR_ATIME
    ) | (_REL_ATIME if mount_flags & 4096 else 0)
    remount_flags |= 0 if is_writable else _READ_ONLY
    _mount(
        None, target, _BIND_MOUNT | _REMOUNT | _NO_SUID | _NO_DEVICES | remount_flags
    )


def raise_loopback() -> None:
    """Enable the loopback interface of a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as control_socket:
        # SIOCSIFFLAGS: up, running.
        fcntl.ioctl(control_socket, 0x8914, struct.pack("16sH22x", b"lo", 0x1 | 0x40))


# ------------------------------------------------------------------------------ seccomp

# Introspection of other processes, kernel interfaces, mounting, System V IPC, changes
# of user.
_REFUSED_CALLS = {
    # name: (x86_64, aarch64); None where an architecture has no such call.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "lookup_dcookie": (212, 18),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "setgroups": (116, 159),
    "capset": (126, 91),
    "nfsservctl": (180, 42),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sysfs": (139, None),
    "ustat": (136, None),
    "uselib": (134, None),
    "vmsplice": (278, 75),
    "seccomp": (317, 277),
    "ioprio_set": (251, 30),
    "memfd_secret": (447, 447),
}
_ATTRIBUTE_CALLS = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
"""Calls that Landlock does not restrict. They would let a plugin change other files of
the same user."""
_CHECKED_CALLS = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "clone3": (435, 435),
    "ioctl": (16, 29),
    "fcntl": (72, 25),
    "prctl": (157, 167),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NAMESPACE_FLAGS = (
    0x02000000
    | 0x20000
    | 0x4000000
    | 0x8000000
    | 0x10000000
    | 0x20000000
    | 0x40000000
    | 0x80
)
_FCNTL_OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: who gets signals
# TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP
_IOCTL_REFUSED = (0x5412, 0x541C, 0x8901, 0x8902)
# Memory map, ptracer, keep/drop capabilities, seccomp, ambient.
_PRCTL_REFUSED = (35, 0x59616D61, 8, 22, 24, 28, 47)
_FAST_OPEN = 0x20000000
_ALLOW, _ERRNO, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050000, 1, 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_LOAD_NUMBER = 0


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    # struct sock_filter: opcode, jump if true, jump if false, operand.
    return struct.pack("=HBBI", code, yes, no, value & 0xFFFFFFFF)


def _syscall_number(calls: Any) -> int | None:
    return calls[0 if _MACHINE == "x86_64" else 1]


def _refuse_call(number: int | None, errno: int = _EPERM) -> list[bytes]:
    """Return BPF code that lets a call fail with `errno`. With 0 the call has no effect
    but seems to succeed."""
    if number is None:
        return []
    return [_instruction(_EQUAL, number, 0, 1), _instruction(_RETURN, _ERRNO | errno)]


def _check_call(name: str, body: list[bytes]) -> list[bytes]:
    """Return BPF code that applies `body` to one call; every path through `body` must
    return."""
    return [
        _instruction(_EQUAL, _syscall_number(_CHECKED_CALLS[name]) or 0, 0, len(body)),
        *body,
    ]


def _load_argument(index: int) -> bytes:
    # The lower half of the argument, on little-endian machines.
    return _instruction(_LOAD, 16 + 8 * index)


def _refuse_values(name: str, index: int, values: tuple[int, ...]) -> list[bytes]:
    """Return BPF code that refuses a call if an argument equals one of the values."""
    body = [_load_argument(index)]
    for n, value in enumerate(values):
        body.append(_instruction(_EQUAL, value, len(values) - n, 0))
    return _check_call(
        name,
        [*body, _instruction(_RETURN, _ALLOW), _instruction(_RETURN, _ERRNO | _EPERM)],
    )


def _allow_values(name: str, index: int, values: tuple[int, ...]) -> list[bytes]:
    """Return BPF code that refuses a call unless an argument equals one of the values."""
    body = [_load_argument(index)]
    for n, value in enumerate(values):
        body.append(_instruction(_EQUAL, value, len(values) - n, 0))
    return _check_call(
        name,
        [*body, _instruction(_RETURN, _ERRNO | _EPERM), _instruction(_RETURN, _ALLOW)],
    )


def _refuse_bits(name: str, index: int, bits: int) -> list[bytes]:
    """Return BPF code that refuses a call if an argument has one of the bits.

    `index` is the argument's position, whose lower 32 bits are checked. The refused
    call fails with EPERM.
    """
    body = [
        _load_argument(index),
        _instruction(_ANY_BIT, bits, 1, 0),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _ERRNO | _EPERM),
    ]
    return _check_call(name, body)


def _restrict_sockets(*, has_network: bool) -> list[bytes]:
    """Return BPF code that allows TCP sockets (with network) and stream socket pairs
    only."""
    refuse, allow = (
        _instruction(_RETURN, _ERRNO | _EPERM),
        _instruction(_RETURN, _ALLOW),
    )
    if has_network:
        body = [
            _load_argument(0),
            _instruction(_EQUAL, 2, 2, 0),
            _instruction(_EQUAL, 10, 1, 0),
            refuse,  # IPv4, IPv6
            # The type's upper bits hold SOCK_NONBLOCK and SOCK_CLOEXEC, hence the mask.
            _load_argument(1),
            _instruction(_AND, 0xF),
            _instruction(_EQUAL, 1, 1, 0),
            refuse,  # streams
            _load_argument(2),
            _instruction(_EQUAL, 0, 2, 0),
            _instruction(_EQUAL, 6, 1, 0),
            refuse,
            allow,  # TCP
        ]
    else:
        body = [refuse]
    pair = [
        _load_argument(0),
        _instruction(_EQUAL, 1, 1, 0),
        refuse,  # within the machine
        _load_argument(1),
        _instruction(_AND, 0xF),
        _instruction(_EQUAL, 1, 2, 0),
        _instruction(_EQUAL, 5, 1, 0),
        refuse,
        allow,
    ]
    return [*_check_call("socket", body), *_check_call("socketpair", pair)]


def enter_seccomp(*, is_apart: bool, has_network: bool, has_scopes: bool) -> None:
    """Refuse system calls that no plugin needs, irrevocably, for this process and its
    children. Raises OSError."""
    if _MACHINE not in _ARCH:
        raise OSError(f"seccomp: unsupported machine type {_MACHINE}")
    program = [
        # A process that switches the architecture would use other call numbers, so that
        # is refused first.
        _instruction(_LOAD, 4),
        _instruction(_EQUAL, _ARCH[_MACHINE], 1, 0),
        _instruction(_RETURN, _ERRNO | _EPERM),
        _instruction(_LOAD, _LOAD_NUMBER),
        _instruction(_AT_LEAST, 0x40000000, 0, 1),
        _instruction(_RETURN, _ERRNO | _EPERM),  # x32
    ]
    for calls in _REFUSED_CALLS.values():
        program += _refuse_call(_syscall_number(calls))
    # In a private root, other users' files are not visible, so changing attributes is
    # harmless.
    if not is_apart:
        for calls in _ATTRIBUTE_CALLS.values():
            program += _refuse_call(_syscall_number(calls), 0)
    # Without clone3, libc falls back to clone, whose flags can be inspected.
    program += _refuse_call(_syscall_number(_CHECKED_CALLS["clone3"]), _ENOSYS)
    # No new namespaces through clone.
    program += _refuse_bits("clone", 0, _NAMESPACE_FLAGS)
    program += _restrict_sockets(has_network=has_network)
    program += _refuse_values("fcntl", 1, _FCNTL_OWNERS)
    program += _refuse_values("ioctl", 1, _IOCTL_REFUSED)
    program += _refuse_values("prctl", 0, _PRCTL_REFUSED)
    program += _restrict_scheduling()
    # TCP Fast Open connects without a check by Landlock.
    for name, index in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        program += _refuse_bits(name, index, _FAST_OPEN)
    if not has_scopes:
        # Without Landlock's signal scope, seccomp cannot see whose process is the
        # target, and the server could be killed. So signals are limited to the plugin's
        # own process group.
        program += _allow_values("kill", 0, (0,))
        for name in ("tkill", "tgkill"):
            program += _refuse_call(_syscall_number(_CHECKED_CALLS[name]))
    program.append(_instruction(_RETURN, _ALLOW))
    code = b"".join(program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filled = _Program(len(code) // 8, ctypes.addressof(buffer))
    zero = ctypes.c_ulong(0)
    if _libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(filled), zero, zero) != 0:
        raise _os_error("Installing the seccomp filter failed")


def _restrict_scheduling() -> list[bytes]:
    """Return the instructions that limit scheduling and resource limits to the process
    itself: another process of the same user may be the server."""
    program: list[bytes] = []
    for name in (
        "prlimit64",
        "sched_setaffinity",
        "sched_setscheduler",
        "sched_setparam",
        "sched_setattr",
    ):
        program += _allow_values(name, 0, (0,))
    # Only PRIO_PROCESS with pid 0: the process may change its own priority.
    own_process = [
        _load_argument(0),
        _instruction(_EQUAL, 0, 0, 3),
        _load_argument(1),
        _instruction(_EQUAL, 0, 0, 1),
        _instruction(_RETURN, _ALLOW),
    ]
    refusal = _instruction(_RETURN, _ERRNO | _EPERM)
    return [*program, *_check_call("setpriority", [*own_process, refusal])]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


# -------------------------------------------------------------------- rights and limits


def _prctl(*arguments: int) -> None:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:5]]
    if _libc.prctl(*padded) != 0:
        raise _os_error(f"prctl({arguments[0]}) failed")


def drop_rights(user: int | None) -> bool:
    """Become another user if possible, and drop all capabilities, irrevocably. Returns
    whether the user was changed.

    Raises OSError if capabilities cannot be dropped.
    """
    has_changed_user = False
    # Capabilities first, while the process still has the right to drop them.
    for number in range(64):
        # PR_CAPBSET_DROP: the bounding set.
        arguments = [ctypes.c_ulong(argument) for argument in (24, number, 0, 0, 0)]
        if _libc.prctl(*arguments) != 0:
            break
    if user is not None and os.geteuid() == 0:
        try:
            # Groups before users: afterwards groups cannot be changed any more.
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            has_changed_user = True
        except OSError:
            has_changed_user = (
                False  # a container that may not change users: Landlock holds alone
            )
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    if (
        _libc.syscall(
            126 if _MACHINE == "x86_64" else 91, header, ctypes.create_string_buffer(24)
        )
        != 0
    ):
        raise _os_error("Dropping capabilities failed")
    _prctl(38, 1)  # no new privileges
    return has_changed_user


def set_not_dumpable() -> None:
    """Prevent other processes of the same user from reading this one's memory through
    /proc."""
    _prctl(4, 0)


def limit(limits: dict[str, int]) -> None:
    """Set resource limits of this process, as soft and hard limits alike.

    `limits` maps lower-case names without the prefix RLIMIT_, such as `nofile`, to
    values. A limit is never raised above its present hard limit. Raises AttributeError
    for an unknown name.
    """
    for name, value in limits.items():
        resource_id = getattr(resource, f"RLIMIT_{name.upper()}")
        hard = resource.getrlimit(resource_id)[1]
        # Raising a hard limit would need privileges.
        new_limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(resource_id, (new_limit, new_limit))


DEVICES = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]


def system_folders() -> list[str]:
    """Return the system paths that programs need to read: libraries, programs,
    certificates, time zones. No user data."""
    folders = [
        "/bin",
        "/sbin",
        "/lib",
        "/lib64",
        "/usr/bin",
        "/usr/sbin",
        "/usr/lib",
        "/usr/lib64",
        "/usr/libexec",
        "/usr/share",
        "/usr/local/bin",
        "/usr/local/lib",
        "/usr/local/share",
        "/etc/ssl/certs",
        "/etc/ssl/openssl.cnf",
        "/etc/pki/tls",
        "/etc/pki/ca-trust",
        "/etc/ca-certificates",
        "/etc/localtime",
        "/etc/timezone",
        "/etc/mime.types",
        "/etc/fonts",
        "/etc/alternatives",
        "/etc/ld.so.cache",
        "/etc/magic",
    ]
    # The base interpreter may be outside the system folders, for example below /opt.
    for prefix in (sys.base_prefix, sys.base_exec_prefix):
        for folder in (prefix, os.path.realpath(prefix)):
            folders += [
                os.path.join(folder, part)
                for part in ("bin", "lib", "lib64", "include", "share")
            ]
    return [path for path in dict.fromkeys(folders) if os.path.exists(path)]
