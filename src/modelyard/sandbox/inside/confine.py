"""Confine the current process with Landlock, seccomp and resource limits, using only
ctypes. Needs no root and no helper.

On kernels without Landlock, namespaces with a private root file system take its place.
What each layer prevents, and the measurements: docs/design/0008-sandbox.md.
"""

import ctypes
import fcntl
import os
import platform
import re
import resource
import struct
import sys
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_MACHINE = platform.machine()

# ----------------------------------------------------------------------------- Landlock

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture
# Constants of Linux' headers. They are written here, since Python has no names for them
# and the process imports nothing from elsewhere.
_ABI_FLAG = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_NET = 0b11  # bind, connect
_SCOPES = 0b11  # abstract sockets, signals


def landlock_abi() -> Any:
    """Return the kernel's Landlock ABI version; 0 if Landlock is not available."""
    version = _libc.syscall(_CREATE, None, 0, _ABI_FLAG)
    return max(0, version)


def _fs_rights(abi: Any) -> Any:
    """Return the file system rights of a Landlock ABI version as a bit mask."""
    # Each ABI version adds rights; a ruleset may only name those that the kernel knows.
    bits = 13
    if abi >= 2:
        bits = 14  # refer
    if abi >= 3:
        bits = 15  # truncate
    if abi >= 5:
        bits = 16  # ioctl on devices
    return (1 << bits) - 1


def ruleset(readable: Any, writable: Any = ()) -> Any:
    """Create a Landlock ruleset and return its file descriptor, which children inherit.

    Everything below `readable` may be read; the files in `writable` may be read and
    written. Raises OSError.
    """
    abi = landlock_abi()
    if not abi:
        raise OSError("This kernel does not support Landlock")
    handled = _fs_rights(abi)
    # Older kernels expect a shorter struct, without the network and scope fields.
    attributes = struct.pack(
        "=QQQ", handled, _NET if abi >= 4 else 0, _SCOPES if abi >= 6 else 0
    )
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    buffer = ctypes.create_string_buffer(attributes[:size], size)
    descriptor = _libc.syscall(_CREATE, buffer, size, 0)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "Creating the Landlock ruleset failed")
    for path, rights in [(path, _READ_FILE | _READ_DIR) for path in readable] + [
        (path, _READ_FILE | _WRITE_FILE) for path in writable
    ]:
        _allow(descriptor, path, rights)
    return descriptor


def _allow(descriptor: Any, path: Any, rights: Any) -> Any:
    """Add a rule that grants `rights` below a path to a Landlock ruleset.

    `descriptor` is the ruleset. For a file, rights that only directories have are
    removed; a path that cannot be opened is skipped. Raises OSError if the kernel
    refuses the rule.
    """
    try:
        where = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there need not be allowed
    try:
        # Rights for directories are invalid in a rule for a single file.
        if not os.path.isdir(path):
            rights &= _READ_FILE | _WRITE_FILE | _EXECUTE
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, where), 12)
        if _libc.syscall(_ADD, descriptor, 1, rule, 0) < 0:
            raise OSError(
                ctypes.get_errno(), f"Adding {path!r} to the Landlock ruleset failed"
            )
    finally:
        os.close(where)


# --------------------------------------------------------------------------- namespaces

_NEW_MOUNTS, _NEW_IPC, _NEW_USERS, _NEW_NETWORK = (
    0x20000,
    0x8000000,
    0x10000000,
    0x40000000,
)
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC, _REMOUNT = 1, 2, 4, 8, 32
_NO_ATIME, _NO_DIR_ATIME, _BIND, _RECURSIVE, _PRIVATE, _REL_ATIME = (
    1024,
    2048,
    4096,
    16384,
    1 << 18,
    1 << 21,
)
# Numbers of system calls differ between processors.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_NEW_ROOT = (  # what it is laid over cannot be read there any more, and nothing needs to be
    "/sys"
)


def unshare_namespaces() -> Any:
    """Move the process into new mount, IPC and network namespaces. Raises OSError if
    the kernel refuses.

    Must be called before the process starts a thread.
    """
    # Without privileges, a new user namespace is needed for the others.
    kinds = _NEW_MOUNTS | _NEW_IPC | _NEW_NETWORK
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(kinds) == 0:
        return
    if _libc.unshare(kinds | _NEW_USERS) != 0:
        raise OSError(
            ctypes.get_errno(),
            "This kernel supports neither Landlock nor unprivileged namespaces",
        )
    # Map the user to itself; `setgroups` must be denied before an unprivileged gid map
    # is accepted.
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", "%d %d 1" % (user, user)),
        ("gid_map", "%d %d 1" % (group, group)),
    ):
        with open("/proc/self/" + name, "w") as file:
            file.write(content)


def build_root_filesystem(readable: Any, devices: Any) -> Any:
    """Replace the root file system, irrevocably, by one that holds only the given
    folders (read-only) and devices."""
    # Private propagation: mounts made here must not appear on the host.
    _mount(None, "/", _RECURSIVE | _PRIVATE)
    _mount("tmpfs", _NEW_ROOT, _NO_SUID | _NO_DEVICES, "tmpfs")
    for path in readable:
        _bind(path)
    for path in devices:
        _bind(path, is_device=True)
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
        raise OSError(ctypes.get_errno(), "pivot_root failed")
    os.chdir("/")


def _mount(source: Any, target: Any, flags: Any, fs_type: Any = None) -> Any:
    """Call mount(2). Raises OSError if the kernel refuses.

    `flags` are the kernel's MS_ constants; arguments that are None are passed as NULL.
    """
    encoded = [
        os.fsencode(argument) if argument else None
        for argument in (source, target, fs_type)
    ]
    if _libc.mount(*encoded, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), "Mounting %r failed" % (source or target))


def _bind(path: Any, is_device: Any = False) -> Any:
    """Bind-mount a path of the machine at the same place below the new root.

    It is read-only and without set-user-id programs and devices, unless `is_device`. A
    path that does not exist is skipped. Raises OSError if the kernel refuses a mount.
    """
    target = _NEW_ROOT + path
    try:
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.stat(path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if not os.path.exists(target):
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    except OSError:
        # what is not there need not be seen; what lies within another folder is there
        # already
        return
    _mount(path, target, _BIND)
    # The kernel refuses a remount that clears restrictive flags of the original mount,
    # so they are repeated.
    mount_flags = os.statvfs(path).f_flag
    preserved_flags = mount_flags & (
        _NO_SUID | _NO_DEVICES | _NO_EXEC | _NO_ATIME | _NO_DIR_ATIME
    ) | (_REL_ATIME if mount_flags & 4096 else 0)
    if not is_device:
        _mount(
            None,
            target,
            _BIND | _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEVICES | preserved_flags,
        )


# ------------------------------------------------------------------------------ seccomp

# System call numbers per architecture. Only the calls in this table can be allowed.
_SYSCALL_NUMBERS = {
    "x86_64": {
        "read": 0,
        "write": 1,
        "open": 2,
        "close": 3,
        "stat": 4,
        "fstat": 5,
        "lstat": 6,
        "poll": 7,
        "lseek": 8,
        "mmap": 9,
        "mprotect": 10,
        "munmap": 11,
        "brk": 12,
        "rt_sigaction": 13,
        "rt_sigprocmask": 14,
        "rt_sigreturn": 15,
        "ioctl": 16,
        "pread64": 17,
        "pwrite64": 18,
        "readv": 19,
        "writev": 20,
        "access": 21,
        "pipe": 22,
        "select": 23,
        "sched_yield": 24,
        "mremap": 25,
        "mincore": 27,
        "madvise": 28,
        "dup": 32,
        "dup2": 33,
        "pause": 34,
        "nanosleep": 35,
        "getitimer": 36,
        "alarm": 37,
        "setitimer": 38,
        "getpid": 39,
        "sendto": 44,
        "recvfrom": 45,
        "sendmsg": 46,
        "recvmsg": 47,
        "shutdown": 48,
        "getsockname": 51,
        "getpeername": 52,
        "socketpair": 53,
        "setsockopt": 54,
        "getsockopt": 55,
        "clone": 56,
        "fork": 57,
        "vfork": 58,
        "exit": 60,
        "wait4": 61,
        "kill": 62,
        "uname": 63,
        "fcntl": 72,
        "fsync": 74,
        "fdatasync": 75,
        "ftruncate": 77,
        "getdents": 78,
        "getcwd": 79,
        "readlink": 89,
        "gettimeofday": 96,
        "getrlimit": 97,
        "getrusage": 98,
        "sysinfo": 99,
        "times": 100,
        "getuid": 102,
        "getgid": 104,
        "geteuid": 107,
        "getegid": 108,
        "getppid": 110,
        "getpgrp": 111,
        "getgroups": 115,
        "getresuid": 118,
        "getresgid": 120,
        "getpgid": 121,
        "getsid": 124,
        "sigaltstack": 131,
        "prctl": 157,
        "arch_prctl": 158,
        "gettid": 186,
        "time": 201,
        "futex": 202,
        "sched_getaffinity": 204,
        "epoll_create": 213,
        "getdents64": 217,
        "set_tid_address": 218,
        "restart_syscall": 219,
        "clock_gettime": 228,
        "clock_getres": 229,
        "clock_nanosleep": 230,
        "exit_group": 231,
        "epoll_wait": 232,
        "epoll_ctl": 233,
        "tgkill": 234,
        "openat": 257,
        "newfstatat": 262,
        "readlinkat": 267,
        "faccessat": 269,
        "pselect6": 270,
        "ppoll": 271,
        "set_robust_list": 273,
        "get_robust_list": 274,
        "epoll_pwait": 281,
        "eventfd2": 290,
        "epoll_create1": 291,
        "dup3": 292,
        "pipe2": 293,
        "prlimit64": 302,
        "getcpu": 309,
        "getrandom": 318,
        "membarrier": 324,
        "statx": 332,
        "rseq": 334,
        "clone3": 435,
        "faccessat2": 439,
        "sched_getparam": 143,
        "sched_getscheduler": 145,
        "sched_get_priority_max": 146,
        "sched_get_priority_min": 147,
    },
    "aarch64": {
        "getcwd": 17,
        "eventfd2": 19,
        "epoll_create1": 20,
        "epoll_ctl": 21,
        "epoll_pwait": 22,
        "dup": 23,
        "dup3": 24,
        "fcntl": 25,
        "ioctl": 29,
        "ftruncate": 46,
        "faccessat": 48,
        "openat": 56,
        "close": 57,
        "pipe2": 59,
        "getdents64": 61,
        "lseek": 62,
        "read": 63,
        "write": 64,
        "readv": 65,
        "writev": 66,
        "pread64": 67,
        "pwrite64": 68,
        "pselect6": 72,
        "ppoll": 73,
        "readlinkat": 78,
        "newfstatat": 79,
        "fstat": 80,
        "fsync": 82,
        "fdatasync": 83,
        "exit": 93,
        "exit_group": 94,
        "set_tid_address": 96,
        "futex": 98,
        "set_robust_list": 99,
        "get_robust_list": 100,
        "nanosleep": 101,
        "getitimer": 102,
        "setitimer": 103,
        "clock_gettime": 113,
        "clock_getres": 114,
        "clock_nanosleep": 115,
        "sched_getaffinity": 123,
        "sched_yield": 124,
        "restart_syscall": 128,
        "kill": 129,
        "tgkill": 131,
        "sigaltstack": 132,
        "rt_sigaction": 134,
        "rt_sigprocmask": 135,
        "rt_sigreturn": 139,
        "getresuid": 148,
        "getresgid": 150,
        "times": 153,
        "getpgid": 155,
        "getsid": 156,
        "getgroups": 158,
        "uname": 160,
        "getrlimit": 163,
        "getrusage": 165,
        "prctl": 167,
        "getcpu": 168,
        "gettimeofday": 169,
        "getpid": 172,
        "getppid": 173,
        "getuid": 174,
        "geteuid": 175,
        "getgid": 176,
        "getegid": 177,
        "gettid": 178,
        "sysinfo": 179,
        "socketpair": 199,
        "getsockname": 204,
        "getpeername": 205,
        "sendto": 206,
        "recvfrom": 207,
        "setsockopt": 208,
        "getsockopt": 209,
        "shutdown": 210,
        "sendmsg": 211,
        "recvmsg": 212,
        "brk": 214,
        "munmap": 215,
        "mremap": 216,
        "clone": 220,
        "mmap": 222,
        "mprotect": 226,
        "mincore": 232,
        "madvise": 233,
        "wait4": 260,
        "prlimit64": 261,
        "getrandom": 278,
        "membarrier": 283,
        "statx": 291,
        "rseq": 293,
        "clone3": 435,
        "faccessat2": 439,
        "sched_getparam": 121,
        "sched_getscheduler": 120,
        "sched_get_priority_max": 125,
        "sched_get_priority_min": 126,
    },
}
# A process can make calls of another architecture, whose numbers mean something else.
# The filter refuses those.
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Calls that are checked by their arguments instead of being allowed in general.
_CHECKED_CALLS = (
    "ioctl",
    "fcntl",
    "clone",
    "fork",
    "vfork",
    "clone3",
    "kill",
    "tgkill",
    "prctl",
    "prlimit64",
    "socketpair",
    "sendto",
)
_ALLOWED_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030)  # none that says who is to get signals
# Terminal size, FIONREAD, FIONBIO and close-on-exec: harmless requests that Python
# makes.
_ALLOWED_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_ALLOWED_PRCTL = (15, 16)  # a thread's name
# Threads are allowed, processes are not.
_CLONE_THREAD = 0x10000
_AF_UNIX = 1
# Also with SOCK_NONBLOCK and SOCK_CLOEXEC.
_STREAM_SOCKET_TYPES = tuple(1 | flags for flags in (0, 0x800, 0x80000, 0x80800))
# The upper half is the action, the lower one the error number that the call returns.
_ALLOW, _ERRNO, _ASK = 0x7FFF0000, 0x00050000, 0x7FC00000
_EPERM, _ENOSYS = 1, 38


def _instruction(code: Any, value: Any, yes: Any = 0, no: Any = 0) -> Any:
    """Return one instruction of a BPF program, as `struct sock_filter`."""
    return struct.pack("=HBBI", code, yes, no, value & 0xFFFFFFFF)


_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def _argument_offset(number: Any) -> Any:
    """Return where an argument of a system call is in `struct seccomp_data`."""
    return 16 + 8 * number  # its lower half, on little-endian machines


def _allow_values(number: Any, argument: Any, values: Any) -> Any:
    """Return BPF code that allows a system call only if an argument equals one of the
    values."""
    body = [_instruction(_LOAD, _argument_offset(argument))]
    count = len(values)
    for index, value in enumerate(values):
        # Jump offsets count the remaining comparisons, up to the final ALLOW.
        body.append(_instruction(_EQUAL, value, count - index, 0))
    body += [_instruction(_RETURN, _ERRNO | _EPERM), _instruction(_RETURN, _ALLOW)]
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def _allow_stream_socketpair(number: Any) -> Any:
    """Return BPF code that allows socketpair for Unix stream sockets only.

    A datagram socket could send to any address, for example to the system log.
    """
    count = len(_STREAM_SOCKET_TYPES)
    body = [
        _instruction(_LOAD, _argument_offset(0)),
        _instruction(_EQUAL, _AF_UNIX, 0, count + 1),
        _instruction(_LOAD, _argument_offset(1)),
        *(
            _instruction(_EQUAL, socket_type, count - index, 0)
            for index, socket_type in enumerate(_STREAM_SOCKET_TYPES)
        ),
        _instruction(_RETURN, _ERRNO | _EPERM),
        _instruction(_RETURN, _ALLOW),
    ]
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def _allow_null_pointer(number: Any, argument: Any) -> Any:
    """Return BPF code that allows a system call only if a pointer argument is NULL,
    checking both halves."""
    body = [
        _instruction(_LOAD, _argument_offset(argument)),
        _instruction(_EQUAL, 0, 0, 3),
        _instruction(_LOAD, _argument_offset(argument) + 4),
        _instruction(_EQUAL, 0, 0, 1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _ERRNO | _EPERM),
    ]
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def seccomp_filter(pid: Any, is_counted: Any) -> Any:
    """Return the seccomp program: an allow list of system calls; everything else fails
    with EPERM.

    `kill` and similar calls are limited to the process `pid`. With `is_counted` each
    new thread is decided by the holder of the filter's listener.
    """
    numbers = _SYSCALL_NUMBERS.get(_MACHINE)
    if numbers is None:
        raise OSError(f"seccomp: unsupported machine type {_MACHINE}")
    # A process that switches the architecture would use other call numbers, so that is
    # refused first.
    program = [
        _instruction(_LOAD, 4),
        _instruction(_EQUAL, _ARCH[_MACHINE], 1, 0),
        _instruction(_RETURN, _ERRNO | _EPERM),
        _instruction(_LOAD, 0),
        _instruction(_AT_LEAST, 0x40000000, 0, 1),  # the x32 calls
        _instruction(_RETURN, _ERRNO | _EPERM),
    ]
    for name, argument, values in (
        ("fcntl", 1, _ALLOWED_FCNTL),
        ("ioctl", 1, _ALLOWED_IOCTL),
        ("prctl", 0, _ALLOWED_PRCTL),
        ("kill", 0, (pid,)),
        ("tgkill", 0, (pid,)),
        ("prlimit64", 0, (0, pid)),
    ):
        program += _allow_values(numbers[name], argument, values)
    program += _allow_stream_socketpair(numbers["socketpair"])
    program += _allow_null_pointer(numbers["sendto"], 4)
    # Threads are allowed, processes are not. libc tries clone3 first; ENOSYS makes it
    # fall back to clone, whose flags BPF can inspect.
    program += [
        _instruction(_EQUAL, numbers["clone3"], 0, 1),
        _instruction(_RETURN, _ERRNO | _ENOSYS),
        _instruction(_EQUAL, numbers["clone"], 0, 4),
        _instruction(_LOAD, _argument_offset(0)),
        _instruction(_ANY_BIT, _CLONE_THREAD, 1, 0),
        _instruction(_RETURN, _ERRNO | _EPERM),
        _instruction(_RETURN, _ASK if is_counted else _ALLOW),
    ]
    # All other calls in the table are allowed whatever their arguments.
    plain = [number for name, number in numbers.items() if name not in _CHECKED_CALLS]
    for number in plain:
        program += [_instruction(_EQUAL, number, 0, 1), _instruction(_RETURN, _ALLOW)]
    program.append(_instruction(_RETURN, _ERRNO | _EPERM))
    return b"".join(program)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _install_filter(is_counted: Any) -> Any:
    """Install the seccomp filter. Returns the listener's descriptor, or -1 if threads
    are not counted. Raises OSError."""
    code = seccomp_filter(os.getpid(), is_counted)
    buffer = ctypes.create_string_buffer(code, len(code))
    # The length counts instructions of eight bytes.
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    flags = _NEW_LISTENER if is_counted else 0
    listener = _libc.syscall(
        _SECCOMP[_MACHINE], 1, ctypes.c_ulong(flags), ctypes.byref(program)
    )
    if listener < 0:
        raise OSError(ctypes.get_errno(), "Installing the seccomp filter failed")
    return listener if is_counted else -1


def _supports_listener() -> Any:
    """Return whether the kernel lets a listener continue a system call (Linux 5.5)."""
    numbers = re.findall(r"\d+", os.uname().release)
    return tuple(map(int, numbers[:2])) >= (5, 5)


# ------------------------------------------------------------------------------ threads

# libc has no function for it, so it is called by its number.
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_NEW_LISTENER = 8
# The numbers of ioctls contain the size of their structure.
_RECEIVE, _ANSWER, _GO_ON = 0xC0502100, 0xC0182101, 1
_EAGAIN = 11


def answer_thread_request(listener: Any, is_allowed: Any) -> Any:
    """Answer one request for a new thread at the listener: continue the call, or fail
    it with EAGAIN.

    `is_allowed` is called after the request has been received. Raises OSError if the
    requester has exited.
    """
    notification = bytearray(80)
    # The ioctl numbers are SECCOMP_IOCTL_NOTIF_RECV and SECCOMP_IOCTL_NOTIF_SEND.
    fcntl.ioctl(listener, _RECEIVE, notification)
    (number,) = struct.unpack_from("=Q", notification)
    error, flags = (0, _GO_ON) if is_allowed() else (-_EAGAIN, 0)
    answer = struct.pack("=QqiI", number, 0, error, flags)
    fcntl.ioctl(listener, _ANSWER, bytearray(answer))


def thread_count(pid: Any, proc: Any) -> Any:
    """Return the number of threads of a process; None if it cannot be read. `proc` is a
    descriptor of /proc."""
    try:
        file = os.open("%d/status" % pid, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return None
    try:
        match = re.search(rb"^Threads:\s*(\d+)", os.read(file, 8192), re.MULTILINE)
    except OSError:
        return None
    finally:
        os.close(file)
    return int(match[1]) if match else None


# ------------------------------------------------------------------------- all together

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = (
    1,
    4,
    24,
    38,
)
# Huge pages would count in full against the limit on memory.
_PR_SET_THP_DISABLE = 41
_KILL = 9


def _prctl(*arguments: Any) -> Any:
    """Call prctl. Raises OSError if the kernel refuses it."""
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:5]]
    if _libc.prctl(*padded) != 0:
        raise OSError(ctypes.get_errno(), "prctl(%d) failed" % arguments[0])


def _drop_capabilities() -> Any:
    """Drop all capabilities, so that root has no more rights than another user."""
    # The loop ends at the first capability that the kernel does not know.
    for number in range(64):
        if (
            _libc.prctl(
                *[
                    ctypes.c_ulong(argument)
                    for argument in (_PR_CAPBSET_DROP, number, 0, 0, 0)
                ]
            )
            != 0
        ):
            break
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    data = ctypes.create_string_buffer(24)
    if _libc.syscall(126 if _MACHINE == "x86_64" else 91, header, data) != 0:
        raise OSError(ctypes.get_errno(), "Dropping capabilities failed")


def address_space() -> Any:
    """Return the size in bytes of this process's address space."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def confine(rules: Any, limits: Any, base_memory: Any) -> Any:
    """Confine this process irrevocably.

    `rules` is a Landlock ruleset, or -1 if namespaces confine the process.
    `base_memory` is added to the memory limit: the bytes that were mapped before.
    Returns the seccomp listener's descriptor, or -1 without one. Raises OSError if any
    layer is refused.
    """
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, _KILL)
    # The parent may have exited before the death signal was set.
    if os.getppid() != parent:
        os._exit(1)
    # No core dumps, no file growth, few descriptors.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20))
    memory = base_memory + limits["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # Rounded up, because the kernel counts CPU time in whole seconds.
    seconds = max(1, int(limits["seconds"] + 0.999))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    # The process limit counts per user and is not enforced for root.
    if os.getuid() != 0:
        resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))
    # Required before an unprivileged process may install seccomp or Landlock rules.
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Not dumpable: other sandboxed processes cannot read its memory through /proc.
    _prctl(_PR_SET_DUMPABLE, 0)
    if os.geteuid() == 0 or rules < 0:
        _drop_capabilities()
    if rules >= 0:
        if _libc.syscall(_RESTRICT, rules, 0) != 0:
            raise OSError(ctypes.get_errno(), "Entering the Landlock ruleset failed")
        os.close(rules)
    # With a listener, threads are limited exactly; otherwise the parent polls the
    # number.
    if _supports_listener():
        try:
            return _install_filter(True)
        except OSError:
            # another listener is there already, or the container refuses; then they are
            # watched instead
            pass
    return _install_filter(False)


def readable_folders() -> Any:
    """Return the folders that a Python process must read at run time: libraries and
    system data, no user files."""
    folders = {folder for folder in sys.path if folder and os.path.isdir(folder)}
    for name in ("prefix", "base_prefix", "exec_prefix", "base_exec_prefix"):
        folders.add(os.path.join(getattr(sys, name), "lib"))
    folders |= {
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/share/zoneinfo",
        "/usr/share/fonts",
        # Certificates of authorities, for TLS.
        "/etc/ssl/certs",
        "/etc/ssl/cert.pem",
        "/etc/ssl/ca-bundle.pem",
        "/etc/pki/tls/certs",
        "/etc/pki/ca-trust/extracted",
        "/usr/share/ca-certificates",
        "/etc/localtime",
    }
    folders.discard("/")
    return sorted(folders)


# What many programs and libraries open; none of them leads out of the sandbox.
DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")
