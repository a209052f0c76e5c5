"""Run attacks from inside a plugin and during its installation against a real server,
as root and as an ordinary user.

An attack counts as blocked if its code ran and was refused or stopped. Code that failed
for another reason does not count. Attacks that are harmless outside the sandbox also
run there as a control: outside they have to succeed.
"""

import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx

from tools.show.attacks import as_user
from tools.show.plugin_attacks import (
    ISOLATION_ATTACKS,
    PRELUDE,
    RESOURCE_ATTACKS,
    attacker,
    wheel,
    wheelhouse,
)
from tools.show.plugin_controls import controls
from tools.show.proof import ROOT, Proof, free_port, running, serve_command

KEY = "sk-escape-operator"
SETTINGS = """api_keys: [{key}]
local: {{enabled: false}}
plugins: {{debug_port: {debug_port}, wheelhouse: {wheels}, memory_mb: 200, processes: 16, disk_mb: 48,
  call_seconds: 6, start_seconds: 60, idle_seconds: 600}}
egress: {{private: ["127.0.0.1:{allowed}"]}}
"""
_STORAGE = "{storage: {enabled: true, size: 1048576}}"
INSTALLED: tuple[tuple[str, ...], ...] = (
    ("acme", "attacker", "{}"),
    ("acme", "beside", "{}"),
    ("acme", "muted", "{}", "--no-network"),
    ("acme", "named", "{network: {hosts: [api.example]}}"),
    ("acme", "keeper", _STORAGE),
    ("globex", "attacker", "{}"),
    ("globex", "other", "{}"),
    ("globex", "keeper", _STORAGE, "--none"),
)
"""Tenant, plugin, what its manifest requests, and options that refuse some of it."""


class AttackedServer:
    """A server with plugins of two tenants, and the targets around it that are worth
    attacking."""

    def __init__(
        self,
        folder: Path,
        home: Path,
        origin: str,
        targets: dict[str, Any],
        server: int,
    ) -> None:
        self.folder, self.home, self.origin, self.around, self.server = (
            folder,
            home,
            origin,
            targets,
            server,
        )
        self.key = (home / "plugin.key").read_text().strip()

    def run_code(
        self,
        tenant: str,
        code: str,
        *,
        plugin: str = "attacker",
        seconds: float = 40,
        patience: int = 20,
    ) -> list[Any]:
        """Run code in a tenant's plugin and return the events of the response.

        If the plugin exits, the last event is the server's error. `patience` is the
        number of retries while the server does not know the plugin yet.
        """
        parameters = {"code": PRELUDE + code, "around": self.around}
        data = {
            "provider": plugin,
            "tool": "odd",
            "credentials": {},
            "tool_parameters": parameters,
        }
        answer = httpx.post(
            f"{self.origin}/plugin/{tenant}/dispatch/tool/invoke",
            json={"user_id": "u", "data": data},
            headers={"x-api-key": self.key, "x-plugin-id": f"odd/{plugin}"},
            timeout=seconds,
        )
        if (
            answer.status_code == 404 and patience
        ):  # another process installed it: this one hears of it in a moment
            time.sleep(0.5)
            return self.run_code(
                tenant, code, plugin=plugin, seconds=seconds, patience=patience - 1
            )
        return [
            json.loads(line[6:])
            for line in answer.text.split("\n\n")
            if line.startswith("data: ")
        ]

    def attack(self, tenant: str, code: str) -> tuple[bool, str]:
        """Run one attack and return (whether it was blocked, how it ended)."""
        # After a crash the host waits before it restarts a plugin; try again until it
        # runs.
        until = time.monotonic() + 30
        while (
            "Not restarted for" in str(events := self.run_code(tenant, code))
            and time.monotonic() < until
        ):
            time.sleep(0.5)
        texts = [
            event["data"]["message"]["text"] for event in events if event["code"] == 0
        ]
        if texts[:1] != ["began"]:
            return False, f"its line did not run: {events}"[:300]
        # The plugin reported its start but no result, so the host ended it.
        if len(texts) < 2:
            return True, f"ended: {json.loads(events[-1]['message'])['message']}"[:160]
        answer = json.loads(texts[1])
        if "got" in answer:
            return False, f"got {answer['got']}"
        # Error number 22 (EINVAL) means that the arguments of the system call were
        # invalid: the attack itself is wrong.
        if not answer["refused"] or answer["errno"] == 22:
            return False, f"its line did not run: {answer['how']}"
        return True, answer["how"]


@contextlib.contextmanager
def attacked() -> Generator[AttackedServer]:
    """Start a server with attacker plugins of two tenants and everything that the
    attacks aim at."""
    with tempfile.TemporaryDirectory(
        prefix="modelyard-escape-", dir="/var/tmp"
    ) as name:
        folder = Path(name)
        # The ordinary user has to reach the folder, so that only the sandbox stands in
        # the way.
        folder.chmod(0o755)
        home, wheels = folder / "home", wheelhouse(folder / "wheels")
        home.mkdir()
        debug_port, allowed_port = free_port(), free_port()
        (home / "modelyard.yaml").write_text(
            SETTINGS.format(
                key=KEY, wheels=wheels, debug_port=debug_port, allowed=allowed_port
            ),
            "utf-8",
        )
        environ = {**os.environ, "MODELYARD_HOME": str(home)}
        for tenant, plugin, permission, *decision in INSTALLED:
            plugin_folder = attacker(folder / "plugins", plugin, permission=permission)
            command = [
                sys.executable,
                "-m",
                "modelyard",
                "plugin",
                "install",
                str(plugin_folder),
                "--tenant",
                tenant,
                "--unsigned",
                *decision,
            ]
            subprocess.run(command, env=environ, check=True, capture_output=True)
        with machine_targets(folder) as targets, allowed_service(allowed_port):
            targets |= {"debug_port": debug_port, "allowed_port": allowed_port}
            port = free_port()
            with running(serve_command(), port, environ=environ) as (process, _):
                origin = f"http://127.0.0.1:{port}"
                gateway = AttackedServer(folder, home, origin, targets, process.pid)
                # These targets exist only once the server runs; the attacks read the
                # same dictionary.
                targets |= server_targets(gateway, home, origin, process.pid)
                yield gateway
                assert process.poll() is None, "the server was killed"


def server_targets(
    gateway: AttackedServer, home: Path, origin: str, pid: int
) -> dict[str, Any]:
    """Plant canaries as the other tenant and return the attack targets in the home
    folder."""
    gateway.run_code(
        "globex", "open(os.environ['HOME'] + '/canary', 'w').write('canary')"
    )
    gateway.run_code("globex", "import builtins\nbuiltins.canary = 'canary'")
    gateway.run_code("globex", "open(os.environ['TMPDIR'] + '/canary', 'w')")
    gateway.run_code("globex", "open('/tmp/canary', 'w'); open('/dev/shm/canary', 'w')")
    gateway.run_code(
        "globex", "text = 'canary of globex'; os.write(1, (text + '\\n').encode())"
    )
    other_tenant_file = next(
        path for path in home.glob("plugins/work/globex/*attacker/*/canary")
    )
    code = next(path for path in home.glob("plugins/code/odd/other-*/main.py"))
    beside = gateway.run_code(
        "acme",
        "open(os.environ['HOME'] + '/beside', 'w').write('canary')\nfound = os.getpid()",
        plugin="beside",
    )
    venv = next(path for path in home.glob("plugins/environments/*/bin")).parent
    key = home / "master.key"
    return {
        "key": str(key),
        "database": str(home / "modelyard.db"),
        "home": str(home),
        "theirs": str(other_tenant_file),
        "their_code": str(code),
        "beside_file": str(next(home.glob("plugins/work/acme/*beside/*/beside"))),
        "beside_code": str(next(home.glob("plugins/code/odd/beside-*/main.py"))),
        "beside_pid": int(json.loads(beside[1]["data"]["message"]["text"])["got"]),
        "venv": str(venv.resolve()),
        "server": pid,
        "origin": origin,
    }


@contextlib.contextmanager
def allowed_service(port: int) -> Generator[None]:
    """Serve HTTP at a port that the operator lets tenants reach."""

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers each request with a canary."""

        def do_GET(self) -> None:
            """Send the canary."""
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"canary")

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


# Says what a plugin says to store a value, in the session of the call itself.
_STORE = """session = sys._getframe(1).f_locals['session']
request = {'type': 'storage', 'backwards_request_id': 'a' * 32,
           'request': {'opt': 'set', 'key': 'evil', 'value': '6576696c'}}
message = {'event': 'session', 'session_id': session, 'data': {'type': 'invoke', 'data': request}}
os.write(1, (json.dumps(message) + '\\n').encode())
time.sleep(1)
found = 'asked'"""


def permission_attacks(gateway: AttackedServer) -> dict[str, tuple[bool, str]]:
    """Let plugins do what their manifests or their tenants do not permit; return attack
    → (blocked, detail). Beside each, another plugin does the same with the permission:
    it has to succeed."""
    port = gateway.around["allowed_port"]
    get = f"found = proxied('GET http://127.0.0.1:{port}/ HTTP/1.1\\r\\nHost: x\\r\\n')"

    def answer(plugin: str) -> str:
        """Return what a plugin of acme gets from the service."""
        return str(gateway.run_code("acme", get, plugin=plugin))

    permitted = answer("beside")
    outcomes: dict[str, tuple[bool, str]] = {}
    for plugin, name in (
        ("muted", "use the network that the tenant refused"),
        ("named", "go out to a host that the manifest does not name"),
    ):
        reply = answer(plugin)
        # The same request has to succeed where it is permitted.
        is_blocked = "canary" in permitted and "canary" not in reply
        outcomes[name] = (is_blocked, f"{reply[-200:]} beside {permitted[-200:]}")
    for tenant in ("acme", "globex"):
        gateway.run_code(tenant, _STORE, plugin="keeper")
    gateway.run_code("acme", _STORE)
    with contextlib.closing(sqlite3.connect(gateway.around["database"])) as database:
        query = "SELECT tenant, plugin FROM plugin_storage WHERE name = 'evil'"
        stored = sorted(database.execute(query).fetchall())
    outcomes["store what the tenant refused"] = (
        stored == [("acme", "odd/keeper")],
        f"stored: {stored}",
    )
    return outcomes


@contextlib.contextmanager
def machine_targets(folder: Path) -> Generator[dict[str, Any]]:
    """Provide targets on this machine: listening sockets, shared memory and a process
    to attack."""
    import ctypes

    libc = ctypes.CDLL(None)
    shared = libc.shmget(0, 4096, 0o1666)
    # Readable for everybody: only the sandbox may prevent access.
    segment = Path("/dev/shm") / f"modelyard-canary-{os.getpid()}"
    segment.write_text("canary")
    segment.chmod(0o666)
    victim = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(3600)"],
        env={"SECRET": "canary"},
    )
    with contextlib.ExitStack() as stack:
        listening, six, hidden, abstract, datagrams, udp = (
            stack.enter_context(socket.socket(family, socket_type))
            for family, socket_type in (
                (socket.AF_INET, socket.SOCK_STREAM),
                (socket.AF_INET6, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_DGRAM),
                (socket.AF_INET, socket.SOCK_DGRAM),
            )
        )
        listening.bind(("127.0.0.1", 0))
        six.bind(("::1", 0))
        udp.bind(("127.0.0.1", 0))
        hidden.bind(str(folder / "hidden.sock"))
        datagrams.bind(str(folder / "datagrams.sock"))
        abstract.bind(f"\0modelyard-escape-{os.getpid()}")
        for path in ("hidden.sock", "datagrams.sock"):
            (folder / path).chmod(0o777)
        for listener in (listening, six, hidden, abstract):
            listener.listen(128)
        try:
            yield {
                "victim": victim.pid,
                "port": listening.getsockname()[1],
                "port6": six.getsockname()[1],
                "udp": udp.getsockname()[1],
                "hidden": str(folder / "hidden.sock"),
                "datagrams": str(folder / "datagrams.sock"),
                "abstract": f"\0modelyard-escape-{os.getpid()}",
                "segment": str(segment),
                "shared": shared,
            }
            # An attack that killed the process would otherwise be counted as blocked.
            assert victim.poll() is None, "the neighbour was killed"
        finally:
            victim.kill()
            victim.wait()
            segment.unlink(missing_ok=True)
            libc.shmctl(shared, 0, None)


def installation_attacks(gateway: AttackedServer) -> dict[str, tuple[bool, str]]:
    """Install packages that try to run code, read files or fetch from elsewhere; return
    attack to (blocked, detail)."""
    witness = gateway.folder / "ran"
    setup = f"open({str(witness)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='evil')\n"
    outcomes: dict[str, tuple[bool, str]] = {}
    cases = {
        "a folder in its requirements": "dify_plugin\n./evil\n",
        "a folder by its address": f"dify_plugin\nevil @ file://{gateway.folder}/evil\n",
        "itself, editable": "dify_plugin\n-e .\n",
        "a repository": f"dify_plugin\ngit+file://{gateway.folder}/evil\n",
        "another file of requirements": "dify_plugin\n-r evil/requirements.txt\n",
        "another index": "-i http://127.0.0.1:9/simple\ndify_plugin\n",
        "another folder of wheels": f"--find-links {gateway.folder}\ndify_plugin\n",
        "a source distribution": "dify_plugin\nevil_source\n",
        "an archive": f"dify_plugin\n{gateway.folder}/wheels/evil_source-1.0.tar.gz\n",
    }
    # A source distribution has to be built to be installed, which would run its
    # setup.py.
    source_distribution(gateway.folder / "wheels", setup)
    for number, (name, text) in enumerate(cases.items()):
        plugin_folder = attacker(gateway.folder / "installs", f"evil{number}", text)
        (plugin_folder / "evil").mkdir(exist_ok=True)
        for path in ("evil/setup.py", "setup.py"):
            (plugin_folder / path).write_text(setup)
        # Some requirements name this folder by an absolute address, so it has to exist
        # there too.
        shutil.copytree(
            plugin_folder / "evil", gateway.folder / "evil", dirs_exist_ok=True
        )
        (plugin_folder / "evil" / "requirements.txt").write_text(
            f"evil @ file://{gateway.folder}/evil\n"
        )
        outcomes[f"install: {name}"] = install(gateway, plugin_folder, witness)
    for name, tables in {
        "a folder named in pyproject.toml": '[tool.uv.sources]\nevil = { path = "./evil" }\n',
        "a build of its own": '[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
        "[tool.uv]\npackage = true\n",
    }.items():
        plugin_folder = attacker(
            gateway.folder / "installs", "project" + str(len(outcomes))
        )
        (plugin_folder / "requirements.txt").unlink()
        needs = '"dify_plugin", "evil"' if "evil" in tables else '"dify_plugin"'
        (plugin_folder / "pyproject.toml").write_text(
            f'[project]\nname = "x"\nversion = "1"\ndependencies = [{needs}]\n{tables}'
        )
        (plugin_folder / "setup.py").write_text(setup)
        is_fine = (
            "evil" not in tables
        )  # it may install: what must not be is that anything of it runs
        outcomes[f"install: {name}"] = install(
            gateway, plugin_folder, witness, may_install=is_fine
        )
    outcomes |= hostile_wheel(gateway)
    return outcomes


def install(
    gateway: AttackedServer,
    plugin_folder: Path,
    witness: Path,
    *,
    may_install: bool = False,
) -> tuple[bool, str]:
    """Install a plugin for tenant acme; return (whether the attack was blocked, last
    line of the errors).

    `witness` is a file that the attack creates if its code runs. `may_install` accepts
    a successful installation.
    """
    environ = {**os.environ, "MODELYARD_HOME": str(gateway.home)}
    command = [
        sys.executable,
        "-m",
        "modelyard",
        "plugin",
        "install",
        str(plugin_folder),
        "--tenant",
        "acme",
        "--unsigned",
    ]
    completed = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=False
    )
    last_error_line = (completed.stderr.strip().splitlines() or [""])[-1][:160]
    if witness.exists():
        witness.unlink()
        return False, "its code ran"
    if completed.returncode == 0 and not may_install:
        return False, "it was installed"
    return ("cannot be installed" in completed.stderr or may_install), last_error_line


def source_distribution(folder: Path, setup: str) -> None:
    """Write a source distribution whose setup.py is the attack."""
    import io
    import tarfile

    with tarfile.open(folder / "evil_source-1.0.tar.gz", "w:gz") as archive:
        for name, text in (
            ("setup.py", setup),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: evil_source\nVersion: 1.0\n"),
        ):
            info = tarfile.TarInfo(f"evil_source-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))


def hostile_wheel(gateway: AttackedServer) -> dict[str, tuple[bool, str]]:
    """Install a wheel that runs code at interpreter start, and one that replaces the
    environment's interpreter."""
    _build_starting_wheel(gateway)
    witness = gateway.folder / "python-ran"
    _build_overwriting_wheel(gateway, witness)
    overwriting = _try_overwriting_wheel(gateway, witness)
    return {
        "install: a wheel that replaces Python": overwriting,
        **_try_starting_wheel(gateway),
    }


# The code of a `.pth` file runs before the plugin does, so it has to be inside the
# sandbox already.
_START_ATTACKS = {
    "read the key": "open(KEY).read()",
    "signal the server": "__import__('os').kill(SERVER, 0)",
    "call the server": "__import__('socket').create_connection(('127.0.0.1', PORT), 2)",
}


def _build_starting_wheel(gateway: AttackedServer) -> None:
    """Build a wheel whose code runs when the interpreter starts."""
    lines = "\n".join(
        f"try: {code}; seen[{name!r}] = 'worked'\nexcept OSError as e: seen[{name!r}] = 'refused: ' + str(e)\n"
        f"except BaseException as e: seen[{name!r}] = 'fell: ' + repr(e)"
        for name, code in _START_ATTACKS.items()
    )
    port = int(gateway.origin.rpartition(":")[2])
    module = f"import builtins\nKEY, SERVER, PORT = {gateway.around['key']!r}, {gateway.server}, {port}\nseen = {{}}\n{lines}\nbuiltins.seen = seen\n"
    wheel(
        gateway.folder / "wheels",
        "evil_wheel",
        "1.0",
        {"evil_start.py": module, "evil.pth": "import evil_start\n"},
    )


def _build_overwriting_wheel(gateway: AttackedServer, witness: Path) -> None:
    """Build a wheel with an interpreter that creates the file `witness`. A wheel's
    `data/bin` folder is installed into `bin` of the environment, over the
    interpreter."""
    program = f'#!/bin/sh\ntouch {witness}\nexec {sys.executable} "$@"\n'
    wheel(
        gateway.folder / "wheels",
        "evil_python",
        "1.0",
        {"evil_python-1.0.data/data/bin/python": program},
    )


def _try_overwriting_wheel(gateway: AttackedServer, witness: Path) -> tuple[bool, str]:
    """Install a plugin with the overwriting wheel; return (blocked, description)."""
    plugin_folder = attacker(
        gateway.folder / "installs", "over", "dify_plugin\nevil_python\n"
    )
    outcome = install(gateway, plugin_folder, gateway.folder / "ran", may_install=True)
    # uv refuses this wheel; if it did not, its interpreter would have to run inside the
    # sandbox.
    if "reserved name" in outcome[1]:
        return not witness.exists(), outcome[1][:160]
    description = str(gateway.run_code("acme", "found = 1", plugin="over"))
    ran = "odd/over" in description or "began" in description
    return not witness.exists() and ran, description[:160]


def _try_starting_wheel(gateway: AttackedServer) -> dict[str, tuple[bool, str]]:
    """Install and start a plugin with the starting wheel; return (blocked, result) of
    each attack."""
    plugin_folder = attacker(
        gateway.folder / "installs", "wheels", "dify_plugin\nevil_wheel\n"
    )
    outcome = install(gateway, plugin_folder, gateway.folder / "ran", may_install=True)
    events = gateway.run_code(
        "acme", "import builtins\nfound = json.dumps(builtins.seen)", plugin="wheels"
    )
    texts = [event["data"]["message"]["text"] for event in events if event["code"] == 0]
    if len(texts) < 2:
        problem = f"its line did not run: {[outcome, *events]}"[:300]
        results = dict.fromkeys(_START_ATTACKS, problem)
    else:
        results = json.loads(json.loads(texts[1])["got"])
    return {
        f"a wheel that starts: {name}": (result.startswith("refused"), result)
        for name, result in results.items()
    }


def external_attacks(gateway: AttackedServer) -> dict[str, tuple[bool, str]]:
    """Run the attacks whose effect can only be observed from outside the plugin."""
    outcomes: dict[str, tuple[bool, str]] = {}
    headers = {"authorization": f"Bearer {KEY}"}

    def logs(tenant: str) -> str:
        """Return the log of a tenant's attacker plugin, as the admin API shows it."""
        admin = f"{gateway.origin}/admin/v1/plugins"
        listed = httpx.get(f"{admin}?tenant={tenant}", headers=headers).json()["data"]
        name = next(
            plugin["id"] for plugin in listed if plugin["plugin_id"] == "odd/attacker"
        )
        return httpx.get(f"{admin}/{name}/logs?tenant={tenant}", headers=headers).text

    # Signal -1 reaches every process that the plugin is allowed to signal.
    gateway.run_code("acme", "os.kill(-1, signal.SIGKILL)")
    alive = [event["code"] for event in gateway.run_code("globex", "found = 1")] == [
        0,
        0,
    ] and Path(f"/proc/{gateway.around['victim']}").exists()
    outcomes["kill all that it may"] = (alive, "nobody else was hurt")
    other_tenant_logs, own_logs = logs("globex"), logs("acme")
    outcomes["read another tenant's logs"] = (
        "canary of globex" in other_tenant_logs and "canary of globex" not in own_logs,
        "own lines alone",
    )
    # The mark in the command line identifies the detached grandchildren among all
    # processes.
    mark = f"modelyard-orphan-{os.getpid()}"
    orphan = f"for _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(3600)', {mark!r}])\n        os._exit(0)\ntime.sleep(1)\nos.kill(0, 9) if 0 else os._exit(9)"
    gateway.run_code("acme", orphan)
    until = time.monotonic() + 10
    while (left := with_argument(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    outcomes["outlive its process"] = (not left, f"left: {left}")
    # Do not leave processes behind if the attack succeeded.
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return outcomes


def with_argument(mark: str) -> list[int]:
    """Return the ids of the processes that have `mark` as one of their arguments."""
    pids: list[int] = []
    for path in Path("/proc").iterdir():
        # A process may end while it is read.
        with contextlib.suppress(OSError):
            if path.name.isdigit() and mark.encode() in _arguments_of(path):
                pids.append(int(path.name))
    return pids


def _arguments_of(process: Path) -> list[bytes]:
    """Return the arguments of a process, by its folder in /proc."""
    return (process / "cmdline").read_bytes().split(b"\0")


def neighbour_latency(gateway: AttackedServer) -> float:
    """Return the seconds that a call of another tenant takes while a plugin uses all
    its CPU time."""
    spinning = threading.Thread(
        target=gateway.run_code, args=("acme", "while True: pass")
    )
    spinning.start()
    time.sleep(1.0)
    started_at = time.monotonic()
    gateway.run_code("globex", "found = 1")
    took = time.monotonic() - started_at
    spinning.join()
    return took


def suite() -> dict[str, Any]:
    """Run all attacks and controls in this process and return their results as
    JSON-compatible values."""
    results: dict[str, Any] = {"attacks": {}, "control": {}}
    with attacked() as gateway:
        for name, code in ISOLATION_ATTACKS.items():
            results["attacks"][name] = gateway.attack("acme", code)
        results["control"] = controls(gateway.around)
        for name, code in RESOURCE_ATTACKS.items():
            results["attacks"][name] = gateway.attack("acme", code)
            # After each resource attack the other tenant's plugin must still answer.
            answered = [
                event["code"] for event in gateway.run_code("globex", "found = 1")
            ]
            if answered != [0, 0]:
                results["attacks"][f"{name}, and hold others up"] = (
                    False,
                    str(answered),
                )
        results["attacks"] |= permission_attacks(gateway)
        results["attacks"] |= external_attacks(gateway)
        results["neighbour"] = round(neighbour_latency(gateway), 2)
        results["attacks"] |= installation_attacks(gateway)
        mode = Path(gateway.around["key"]).stat().st_mode & 0o777
        results["attacks"]["change the key's mode"] = (mode == 0o600, oct(mode))
    return results


def prove() -> Proof:
    """Run the suite as this user and as an ordinary user, and report both."""
    proof = Proof()
    started_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="modelyard-escape-python-") as folder:
        Path(folder).chmod(0o755)
        runs = {"root" if os.geteuid() == 0 else "this user": [sys.executable]}
        if command := as_user(Path(folder)):
            runs["an ordinary user"] = command
        for who, command in runs.items():
            _run_suite_as(proof, who, command)
    proof.figures["seconds"] = round(time.monotonic() - started_at, 1)
    return proof


def _run_suite_as(proof: Proof, who: str, command: list[str]) -> None:
    """Run the suite as a subprocess with this command and report its result."""
    # The command's interpreter may belong to another user, so it gets the import path
    # of this one.
    packages = [
        str(ROOT / "src"),
        *(import_path for import_path in sys.path if "site-packages" in import_path),
        str(ROOT),
    ]
    with tempfile.TemporaryDirectory(
        prefix="modelyard-escape-home-", ignore_cleanup_errors=True
    ) as home:
        Path(home).chmod(0o777)
        environ = {
            **os.environ,
            "HOME": home,
            "PYTHONPATH": os.pathsep.join(packages),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": f"/usr/local/bin:/usr/bin:/bin:{ROOT / '.venv' / 'bin'}",
        }
        suite_command = [*command, "-m", "tools.show.plugin_escape"]
        completed = subprocess.run(
            suite_command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=environ,
        )
    if completed.returncode:
        proof.line(
            f"as {who}", (completed.stderr or completed.stdout)[-1500:], ok=False
        )
    else:
        report(proof, who, json.loads(completed.stdout.splitlines()[-1]))


def report(proof: Proof, who: str, results: dict[str, Any]) -> None:
    """Add the lines and figures of one suite run to the proof."""
    successful_attacks = {
        name: detail
        for name, (blocked, detail) in results["attacks"].items()
        if not blocked
    }
    total, worked = (
        len(results["attacks"]),
        [name for name, (works, _) in results["control"].items() if works],
    )
    proof.line(
        f"as {who}: attacks that were blocked",
        f"{total - len(successful_attacks)} of {total}",
        not successful_attacks and total >= 40,
    )
    for name, detail in successful_attacks.items():
        proof.line(f"  {name}", detail, ok=False)
    is_root = who == "root"
    # The controls are required only as root: an ordinary user is refused some of them
    # anyway.
    proof.line(
        "  the same attacks without a sandbox that succeeded",
        f"{len(worked)} of {len(results['control'])}",
        len(worked) == len(results["control"]) if is_root else None,
    )
    for name, (works, detail) in results["control"].items():
        if not works and is_root:
            proof.line(f"    {name}", detail, ok=False)
    proof.line(
        "  another tenant's call during an endless loop",
        f"{results['neighbour']} s",
        results["neighbour"] < 2,
    )
    proof.figures[who] = {
        "attacks": total,
        "blocked": total - len(successful_attacks),
        "control": len(worked),
    }


if __name__ == "__main__":
    print(json.dumps(suite()))
