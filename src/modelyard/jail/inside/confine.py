"""Confinement of one process by the kernel, with nothing but ctypes: Landlock, seccomp, resource limits. Needs no root
and no helper; where there is no Landlock, namespaces with a root of their own take its place.

What each part keeps away, and what was measured: docs/design/0008-jail.md.
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

# ------------------------------------------------------------------------------------------------ Landlock

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture
_ABI_FLAG = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_NET = 0b11  # bind, connect
_SCOPES = 0b11  # abstract sockets, signals


def landlock_abi() -> Any:
    """The kernel's version of Landlock; 0 where there is none."""
    found = _libc.syscall(_CREATE, None, 0, _ABI_FLAG)
    return max(0, found)


def _fs_rights(abi: Any) -> Any:
    bits = 13
    if abi >= 2:
        bits = 14  # refer
    if abi >= 3:
        bits = 15  # truncate
    if abi >= 5:
        bits = 16  # ioctl on devices
    return (1 << bits) - 1


def ruleset(readable: Any, writable: Any = ()) -> Any:
    """A Landlock ruleset, as a descriptor that children inherit: these folders may be read, those files written."""
    abi = landlock_abi()
    if not abi:
        raise OSError("this kernel has no Landlock")
    handled = _fs_rights(abi)
    attributes = struct.pack("=QQQ", handled, _NET if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    buffer = ctypes.create_string_buffer(attributes[:size], size)
    descriptor = _libc.syscall(_CREATE, buffer, size, 0)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused its rules")
    for path, rights in [(one, _READ_FILE | _READ_DIR) for one in readable] + [
        (one, _READ_FILE | _WRITE_FILE) for one in writable
    ]:
        _allow(descriptor, path, rights)
    return descriptor


def _allow(descriptor: Any, path: Any, rights: Any) -> Any:
    try:
        where = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there need not be allowed
    try:
        if not os.path.isdir(path):
            rights &= _READ_FILE | _WRITE_FILE | _EXECUTE
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, where), 12)
        if _libc.syscall(_ADD, descriptor, 1, rule, 0) < 0:
            raise OSError(ctypes.get_errno(), f"Landlock refused {path!r}")
    finally:
        os.close(where)


# ------------------------------------------------------------------------------------------------ namespaces

_NEW_MOUNTS, _NEW_IPC, _NEW_USERS, _NEW_NETWORK = 0x20000, 0x8000000, 0x10000000, 0x40000000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC, _REMOUNT = 1, 2, 4, 8, 32
_NO_ATIME, _NO_DIR_ATIME, _BIND, _RECURSIVE, _PRIVATE, _REL_ATIME = 1024, 2048, 4096, 16384, 1 << 18, 1 << 21
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_NEW_ROOT = "/sys"  # what it is laid over cannot be read there any more, and nothing needs to be


def set_apart() -> Any:
    """A network, mounts and shared memory of its own. A process that has threads already cannot do it."""
    kinds = _NEW_MOUNTS | _NEW_IPC | _NEW_NETWORK
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(kinds) == 0:
        return
    if _libc.unshare(kinds | _NEW_USERS) != 0:
        raise OSError(ctypes.get_errno(), "this kernel has no Landlock, and namespaces are refused")
    for name, content in (
        ("setgroups", "deny"), ("uid_map", "%d %d 1" % (user, user)), ("gid_map", "%d %d 1" % (group, group)),
    ):  # fmt: skip
        with open("/proc/self/" + name, "w") as file:
            file.write(content)


def enclose(readable: Any, devices: Any) -> Any:
    """A root that holds these folders, to be read, and these devices, and nothing else; for good."""
    _mount(None, "/", _RECURSIVE | _PRIVATE)
    _mount("tmpfs", _NEW_ROOT, _NO_SUID | _NO_DEVICES, "tmpfs")
    for path in readable:
        _bind(path)
    for path in devices:
        _bind(path, is_device=True)
    _mount(None, _NEW_ROOT, _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEVICES)
    os.chdir(_NEW_ROOT)
    # The new root takes the old one's place, which lies on top of it for a moment, and is let go of.
    if _libc.syscall(_PIVOT_ROOT[_MACHINE], b".", b".") != 0 or _libc.umount2(b".", 2) != 0:
        raise OSError(ctypes.get_errno(), "the root could not be changed")
    os.chdir("/")


def _mount(source: Any, target: Any, flags: Any, kind: Any = None) -> Any:
    encoded = [os.fsencode(one) if one else None for one in (source, target, kind)]
    if _libc.mount(*encoded, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), "%r could not be mounted" % (source or target))


def _bind(path: Any, is_device: Any = False) -> Any:
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
        return  # what is not there need not be seen; what lies within another folder is there already
    _mount(path, target, _BIND)
    # What a mount forbids already has to be said again, or the kernel refuses.
    has = os.statvfs(path).f_flag
    kept = has & (_NO_SUID | _NO_DEVICES | _NO_EXEC | _NO_ATIME | _NO_DIR_ATIME) | (_REL_ATIME if has & 4096 else 0)
    if not is_device:
        _mount(None, target, _BIND | _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEVICES | kept)


# ------------------------------------------------------------------------------------------------ seccomp

_NUMBERS = {
    "x86_64": {
        "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8,
        "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
        "rt_sigreturn": 15, "ioctl": 16, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21,
        "pipe": 22, "select": 23, "sched_yield": 24, "mremap": 25, "mincore": 27, "madvise": 28, "dup": 32, "dup2": 33,
        "pause": 34, "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38, "getpid": 39, "sendto": 44,
        "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "getsockname": 51, "getpeername": 52,
        "socketpair": 53, "setsockopt": 54, "getsockopt": 55, "clone": 56, "fork": 57, "vfork": 58, "exit": 60,
        "wait4": 61, "kill": 62, "uname": 63, "fcntl": 72, "fsync": 74, "fdatasync": 75, "ftruncate": 77,
        "getdents": 78, "getcwd": 79, "readlink": 89, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98,
        "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110,
        "getpgrp": 111, "getgroups": 115, "getresuid": 118, "getresgid": 120, "getpgid": 121, "getsid": 124,
        "sigaltstack": 131, "prctl": 157, "arch_prctl": 158, "gettid": 186, "time": 201, "futex": 202,
        "sched_getaffinity": 204, "epoll_create": 213, "getdents64": 217, "set_tid_address": 218,
        "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231,
        "epoll_wait": 232, "epoll_ctl": 233, "tgkill": 234, "openat": 257, "newfstatat": 262, "readlinkat": 267,
        "faccessat": 269, "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "get_robust_list": 274,
        "epoll_pwait": 281, "eventfd2": 290, "epoll_create1": 291, "dup3": 292, "pipe2": 293, "prlimit64": 302,
        "getcpu": 309, "getrandom": 318, "membarrier": 324, "statx": 332, "rseq": 334, "clone3": 435,
        "faccessat2": 439, "sched_getparam": 143, "sched_getscheduler": 145, "sched_get_priority_max": 146,
        "sched_get_priority_min": 147,
    },
    "aarch64": {
        "getcwd": 17, "eventfd2": 19, "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "dup": 23, "dup3": 24,
        "fcntl": 25, "ioctl": 29, "ftruncate": 46, "faccessat": 48, "openat": 56, "close": 57, "pipe2": 59,
        "getdents64": 61, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67,
        "pwrite64": 68, "pselect6": 72, "ppoll": 73, "readlinkat": 78, "newfstatat": 79, "fstat": 80, "fsync": 82,
        "fdatasync": 83, "exit": 93, "exit_group": 94, "set_tid_address": 96, "futex": 98, "set_robust_list": 99,
        "get_robust_list": 100, "nanosleep": 101, "getitimer": 102, "setitimer": 103, "clock_gettime": 113,
        "clock_getres": 114, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124,
        "restart_syscall": 128, "kill": 129, "tgkill": 131, "sigaltstack": 132, "rt_sigaction": 134,
        "rt_sigprocmask": 135, "rt_sigreturn": 139, "getresuid": 148, "getresgid": 150, "times": 153, "getpgid": 155,
        "getsid": 156, "getgroups": 158, "uname": 160, "getrlimit": 163, "getrusage": 165, "prctl": 167, "getcpu": 168,
        "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176,
        "getegid": 177, "gettid": 178, "sysinfo": 179, "socketpair": 199, "getsockname": 204, "getpeername": 205,
        "sendto": 206, "recvfrom": 207, "setsockopt": 208, "getsockopt": 209, "shutdown": 210, "sendmsg": 211,
        "recvmsg": 212, "brk": 214, "munmap": 215, "mremap": 216, "clone": 220, "mmap": 222, "mprotect": 226,
        "mincore": 232, "madvise": 233, "wait4": 260, "prlimit64": 261, "getrandom": 278, "membarrier": 283,
        "statx": 291, "rseq": 293, "clone3": 435, "faccessat2": 439, "sched_getparam": 121, "sched_getscheduler": 120,
        "sched_get_priority_max": 125, "sched_get_priority_min": 126,
    },
}  # fmt: skip
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_GUARDED = (
    "ioctl", "fcntl", "clone", "fork", "vfork", "clone3", "kill", "tgkill", "prctl", "prlimit64", "socketpair",
    "sendto",
)  # fmt: skip
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030)  # none that says who is to get signals
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_PRCTL = (15, 16)  # a thread's name
_THREAD = 0x10000
_UNIX = 1
_STREAM = tuple(1 | flags for flags in (0, 0x800, 0x80000, 0x80800))  # with SOCK_NONBLOCK, SOCK_CLOEXEC
_ALLOW, _ERRNO, _ASK = 0x7FFF0000, 0x00050000, 0x7FC00000
_EPERM, _ENOSYS = 1, 38


def _instruction(code: Any, value: Any, yes: Any = 0, no: Any = 0) -> Any:
    return struct.pack("=HBBI", code, yes, no, value & 0xFFFFFFFF)


_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def _argument(number: Any) -> Any:
    return 16 + 8 * number  # its lower half, on little-endian machines


def _one_of(number: Any, argument: Any, values: Any) -> Any:
    """Allow a call where an argument is one of some values."""
    body = [_instruction(_LOAD, _argument(argument))]
    count = len(values)
    for place, value in enumerate(values):
        body.append(_instruction(_EQUAL, value, count - place, 0))
    body += [_instruction(_RETURN, _ERRNO | _EPERM), _instruction(_RETURN, _ALLOW)]
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def _stream_pairs(number: Any) -> Any:
    """Allow pairs of stream sockets alone: a datagram socket may be sent from to any address, as that of the log."""
    count = len(_STREAM)
    body = [
        _instruction(_LOAD, _argument(0)),
        _instruction(_EQUAL, _UNIX, 0, count + 1),
        _instruction(_LOAD, _argument(1)),
        *(_instruction(_EQUAL, kind, count - place, 0) for place, kind in enumerate(_STREAM)),
        _instruction(_RETURN, _ERRNO | _EPERM),
        _instruction(_RETURN, _ALLOW),
    ]
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def _no_address(number: Any, argument: Any) -> Any:
    """Allow a call where a pointer is NULL, in both of its halves."""
    body = [
        _instruction(_LOAD, _argument(argument)),
        _instruction(_EQUAL, 0, 0, 3),
        _instruction(_LOAD, _argument(argument) + 4),
        _instruction(_EQUAL, 0, 0, 1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _ERRNO | _EPERM),
    ]
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def seccomp_filter(pid: Any, is_counted: Any) -> Any:
    """The program for a process of that id: a list of what may be called, all else is refused. Where threads are
    counted, whoever holds the filter's listener is asked before each one."""
    numbers = _NUMBERS.get(_MACHINE)
    if numbers is None:
        raise OSError(f"no list of system calls for {_MACHINE}")
    program = [
        _instruction(_LOAD, 4),
        _instruction(_EQUAL, _ARCH[_MACHINE], 1, 0),
        _instruction(_RETURN, _ERRNO | _EPERM),
        _instruction(_LOAD, 0),
        _instruction(_AT_LEAST, 0x40000000, 0, 1),  # the x32 calls
        _instruction(_RETURN, _ERRNO | _EPERM),
    ]
    for name, argument, values in (
        ("fcntl", 1, _FCNTL), ("ioctl", 1, _IOCTL), ("prctl", 0, _PRCTL), ("kill", 0, (pid,)), ("tgkill", 0, (pid,)),
        ("prlimit64", 0, (0, pid)),
    ):  # fmt: skip
        program += _one_of(numbers[name], argument, values)
    program += _stream_pairs(numbers["socketpair"])
    program += _no_address(numbers["sendto"], 4)
    # Threads may be made, processes may not; libc asks with clone3 first, and must be told that there is none.
    program += [
        _instruction(_EQUAL, numbers["clone3"], 0, 1),
        _instruction(_RETURN, _ERRNO | _ENOSYS),
        _instruction(_EQUAL, numbers["clone"], 0, 4),
        _instruction(_LOAD, _argument(0)),
        _instruction(_ANY_BIT, _THREAD, 1, 0),
        _instruction(_RETURN, _ERRNO | _EPERM),
        _instruction(_RETURN, _ASK if is_counted else _ALLOW),
    ]
    plain = [number for name, number in numbers.items() if name not in _GUARDED]
    for number in plain:
        program += [_instruction(_EQUAL, number, 0, 1), _instruction(_RETURN, _ALLOW)]
    program.append(_instruction(_RETURN, _ERRNO | _EPERM))
    return b"".join(program)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _enter_filter(is_counted: Any) -> Any:
    """The listener's descriptor; -1 where threads are not counted. Raises OSError."""
    code = seccomp_filter(os.getpid(), is_counted)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    flags = _NEW_LISTENER if is_counted else 0
    found = _libc.syscall(_SECCOMP[_MACHINE], 1, ctypes.c_ulong(flags), ctypes.byref(program))
    if found < 0:
        raise OSError(ctypes.get_errno(), "seccomp refused its program")
    return found if is_counted else -1


def _can_ask() -> Any:
    """Whether this kernel lets a listener say that a call may go on: Linux 5.5."""
    numbers = re.findall(r"\d+", os.uname().release)
    return tuple(map(int, numbers[:2])) >= (5, 5)


# ------------------------------------------------------------------------------------------------ threads

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_NEW_LISTENER = 8
_RECEIVE, _ANSWER, _GO_ON = 0xC0502100, 0xC0182101, 1
_EAGAIN = 11


def answer_thread(listener: Any, may: Any) -> Any:
    """Whoever waits at the listener gets its thread, or is told that there are no more. `may` is called once there is
    somebody. Raises OSError where nobody waits any more."""
    asked = bytearray(80)
    fcntl.ioctl(listener, _RECEIVE, asked)
    (number,) = struct.unpack_from("=Q", asked)
    error, flags = (0, _GO_ON) if may() else (-_EAGAIN, 0)
    fcntl.ioctl(listener, _ANSWER, bytearray(struct.pack("=QqiI", number, 0, error, flags)))


def threads_of(pid: Any, proc: Any) -> Any:
    """How many a process has; None where that cannot be seen. `proc` is a descriptor of /proc."""
    try:
        file = os.open("%d/status" % pid, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return None
    try:
        found = re.search(rb"^Threads:\s*(\d+)", os.read(file, 8192), re.MULTILINE)
    except OSError:
        return None
    finally:
        os.close(file)
    return int(found[1]) if found else None


# ------------------------------------------------------------------------------------------------ all together

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PR_SET_THP_DISABLE = 41
_KILL = 9


def _prctl(*arguments: Any) -> Any:
    padded = [ctypes.c_ulong(one) for one in (*arguments, 0, 0, 0, 0)[:5]]
    if _libc.prctl(*padded) != 0:
        raise OSError(ctypes.get_errno(), "prctl %d was refused" % arguments[0])


def _drop_capabilities() -> Any:
    """Root without its powers."""
    for number in range(64):
        if _libc.prctl(*[ctypes.c_ulong(one) for one in (_PR_CAPBSET_DROP, number, 0, 0, 0)]) != 0:
            break
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    data = ctypes.create_string_buffer(24)
    if _libc.syscall(126 if _MACHINE == "x86_64" else 91, header, data) != 0:
        raise OSError(ctypes.get_errno(), "capabilities could not be dropped")


def address_space() -> Any:
    """Bytes of it that this process has taken."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def confine(rules: Any, limits: Any, taken: Any) -> Any:
    """Shut this process in, for good. `rules` are Landlock's; -1 in a process that namespaces enclose. A descriptor at
    which somebody must be asked for each thread; -1 where there is none. Raises OSError where any part is refused."""
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, _KILL)
    if os.getppid() != parent:
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20))
    memory = taken + limits["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    seconds = max(1, int(limits["seconds"] + 0.999))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    if os.getuid() != 0:
        resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    if os.geteuid() == 0 or rules < 0:
        _drop_capabilities()
    if rules >= 0:
        if _libc.syscall(_RESTRICT, rules, 0) != 0:
            raise OSError(ctypes.get_errno(), "Landlock could not be entered")
        os.close(rules)
    if _can_ask():
        try:
            return _enter_filter(True)
        except OSError:
            pass  # another listener is there already, or the container refuses; then they are watched instead
    return _enter_filter(False)


def readable_folders() -> Any:
    """What a Python needs to read while it runs: its libraries, and nothing of its users'."""
    folders = {one for one in sys.path if one and os.path.isdir(one)}
    for name in ("prefix", "base_prefix", "exec_prefix", "base_exec_prefix"):
        folders.add(os.path.join(getattr(sys, name), "lib"))
    folders |= {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/usr/share/fonts", "/etc/localtime"}
    folders.discard("/")
    return sorted(folders)


DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")
