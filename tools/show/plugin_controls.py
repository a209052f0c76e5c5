"""Run the attacks of `plugin_attacks` without confinement, to show that they would
succeed: an attack that fails there too proves nothing about the sandbox.

Some need a world in which they are harmless: a copy of what they overwrite, mounts or a
network of their own, or a proxy that forwards anything.
"""

import contextlib
import fcntl
import json
import os
import pty
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.show.plugin_attacks import ISOLATION_ATTACKS, PRELUDE

ALIASES = {"lo:1": "169.254.169.254", "lo:2": "10.0.0.1"}
"""Addresses of a private network namespace: a cloud's metadata, and a private host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """How an attack is run without confinement."""

    setup: str = ""
    """Statements that run before the attack, for example to play another tenant."""
    command: Sequence[str] = ()
    """Program that starts Python, for namespaces in which the attack does no harm."""
    has_terminal: bool = False
    has_open_descriptor: bool = False
    copies: Mapping[str, str] | None = None
    """Target → statement that returns the path of a copy."""


_PLAIN = Control()
_OWN_CODE = Control(setup="open('main.py', 'w').close()")
_PROXY = "from tools.show.plugin_controls import serve_open_proxy\nserve_open_proxy()\n"
_OPEN_PROXY = Control(setup=_PROXY)
_OPEN_NETWORK = Control(
    setup="from tools.show.plugin_controls import raise_addresses\nraise_addresses()\n"
    + _PROXY,
    command=("unshare", "-n"),
)
_ADAPTED: dict[str, Control] = {
    "use a descriptor that was left open": Control(has_open_descriptor=True),
    "type into the terminal": Control(has_terminal=True),
    "mount": Control(command=("unshare", "-m")),
    "go out to a cloud's metadata": _OPEN_NETWORK,
    "go out to a private network": _OPEN_NETWORK,
    # One process for both tenants, as it would be without one each.
    "find what it kept of another tenant": Control(
        setup="import builtins\nbuiltins.canary = 'canary'"
    ),
    "find another tenant's temporary files": Control(
        setup="open(os.environ['TMPDIR'] + '/canary', 'w').close()"
    ),
    "write over its own code": _OWN_CODE,
    "replace its own code": _OWN_CODE,
    "write beside the interpreter's packages": Control(
        setup="os.makedirs('env/lib/python3.9/site-packages')\nvenv = os.path.abspath('env')"
    ),
}
UNSAFE = frozenset({"make a program run as root", "take back capabilities"})
"""Attacks without a control: the first needs a right that it is about to gain, the
second one that a container does not give to root either."""


def control_of(name: str) -> Control | None:
    """Return how to run an attack without confinement; None if that is not possible."""
    if name in UNSAFE:
        return None
    otherwise = _OPEN_PROXY if name.startswith("go out") else _PLAIN
    return _ADAPTED.get(name, otherwise)


def run_unsandboxed(
    targets: dict[str, Any], code: str, control: Control = _PLAIN
) -> tuple[bool, str]:
    """Run an attack outside the sandbox; return (whether it worked, last line of its
    errors)."""
    # A process of its own as the target: a successful attack may kill it.
    victim = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env={"SECRET": "canary"}
    )
    scope = json.dumps({**targets, "victim": victim.pid, "beside_pid": victim.pid})
    program = (
        f"import json\nglobals().update(json.loads({scope!r}))\n{PRELUDE}"
        f"{control.setup}\n{code}\nassert found is not None\n"
    )
    try:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            return _run(program, Path(folder), control)
    finally:
        victim.kill()
        victim.wait()


def _run(program: str, folder: Path, control: Control) -> tuple[bool, str]:
    """Run a program in a folder of its own; return (whether it succeeded, last line of
    its errors)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    leader, terminal = pty.openpty()
    try:
        completed = subprocess.run(
            [*control.command, sys.executable, "-c", program],
            cwd=folder,
            env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
            stdin=terminal if control.has_terminal else subprocess.DEVNULL,
            pass_fds=[theirs.fileno()] if control.has_open_descriptor else [],
            start_new_session=True,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, "no end within 30 s"
    finally:
        ours.close()
        theirs.close()
        os.close(leader)
        os.close(terminal)
    last_line = (completed.stderr.strip().splitlines() or [""])[-1]
    return completed.returncode == 0, last_line[:160]


def controls(targets: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    """Return attack → (whether it worked without confinement, last line of its
    errors)."""
    return {
        name: run_unsandboxed(targets, code, control)
        for name, code in ISOLATION_ATTACKS.items()
        if (control := control_of(name)) is not None
    }


# ------------------------------------------------------------- in the attack's process


def raise_addresses() -> None:
    """Give this process's network namespace the addresses that attacks look for, each
    with a server that answers with a canary."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as control:
        # SIOCSIFFLAGS: up, running.
        fcntl.ioctl(control, 0x8914, struct.pack("16sH22x", b"lo", 0x41))
        for name, address in ALIASES.items():
            packed = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
            # SIOCSIFADDR.
            fcntl.ioctl(control, 0x8916, struct.pack("16s16s8x", name.encode(), packed))
    for port in (80, 443):
        server = socket.create_server(("0.0.0.0", port))
        threading.Thread(target=_answer_all, args=(server,), daemon=True).start()


def _answer_all(server: socket.socket) -> None:
    """Answer each connection with a canary."""
    while True:
        connection, _ = server.accept()
        with contextlib.suppress(OSError), connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\ncanary")


def serve_open_proxy() -> None:
    """Serve a proxy that forwards to any address, and set the variables that name it.

    It is what plugins would have without the egress proxy's checks.
    """
    server = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    os.environ.update(http_proxy=address, HTTP_PROXY=address)

    def serve() -> None:
        """Forward one connection after the other."""
        while True:
            connection, _ = server.accept()
            with contextlib.suppress(OSError), connection:
                _forward(connection)

    threading.Thread(target=serve, daemon=True).start()


def _forward(connection: socket.socket) -> None:
    """Connect to the host that a request names, send it the request, and return what it
    says. A connection that is made counts as an answer."""
    data = connection.recv(65536)
    method, target, _ = data.split(b"\r\n")[0].decode().split(" ")
    authority = target if method == "CONNECT" else target.split("/")[2]
    host, _, port = authority.rpartition(":")
    # Without a port it is that of HTTP.
    if not host:
        host, port = port, "80"
    with socket.create_connection((host.strip("[]"), int(port)), 5) as upstream:
        upstream.settimeout(1)
        if method != "CONNECT":
            # A server ends the connection after the last of several requests.
            upstream.sendall(data)
        answer = b""
        with contextlib.suppress(OSError):
            while chunk := upstream.recv(65536):
                answer += chunk
        connection.sendall(answer or b"HTTP/1.1 200 Reached\r\n\r\n")
