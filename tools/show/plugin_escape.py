"""Attacks from inside a plugin and from its installation, on a real server, as root and as an ordinary user.

An attack counts as blocked where its line ran and was refused, or was ended; one that fell over its own feet does not.
Beside each that does no harm outside runs the same, not shut in: it has to work there.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx

from tools.show.attacks import as_user
from tools.show.plugin_attacks import INSIDE, PRELUDE, TOO_MUCH, attacker, wheel, wheelhouse
from tools.show.proof import ROOT, Proof, free_port, running, serve_command

KEY = "sk-escape-operator"
SETTINGS = """api_keys: [{key}]
local: {{enabled: false}}
plugins: {{debug_port: 0, wheelhouse: {wheels}, memory_mb: 200, processes: 16, disk_mb: 48, call_seconds: 6,
  start_seconds: 60}}
"""
_SHM = 64
HARMLESS_HERE = frozenset(INSIDE) - {
    "use a descriptor that was left open", "type into the terminal", "change the root", "mount",
    "make a program run as root", "become another user", "take back capabilities", "go out to a cloud's metadata",
    "go out to a private network", "find what it kept of another tenant", "find another tenant's temporary files",
    "write over the interpreter's library", "write over its own code", "replace its own code", "load a program into the kernel",
    "write beside the interpreter's packages",
    "kill by a signal on a descriptor", "connect without asking", "become root",
    "read the parent's environment", "open a file by its handle", "make a namespace by a fork",
    *(name for name in INSIDE if name.startswith("go out")),
}  # fmt: skip
"""Attacks that are tried outside, too. The others would do harm there, or need what only a plugin has."""


class Attacked:
    """A server with two tenants' plugins, and what is worth attacking around it."""

    def __init__(self, folder: Path, home: Path, origin: str, around: dict[str, Any], server: int) -> None:
        self.folder, self.home, self.origin, self.around, self.server = folder, home, origin, around, server
        self.key = (home / "plugin.key").read_text().strip()

    def tell(
        self, tenant: str, code: str, *, plugin: str = "attacker", seconds: float = 40, patience: int = 20
    ) -> list[Any]:
        """What a plugin said to a piece of code; the last is the server's word where the plugin came to its end."""
        parameters = {"code": PRELUDE + code, "around": self.around}
        data = {"provider": plugin, "tool": "odd", "credentials": {}, "tool_parameters": parameters}
        answer = httpx.post(
            f"{self.origin}/plugin/{tenant}/dispatch/tool/invoke", json={"user_id": "u", "data": data},
            headers={"x-api-key": self.key, "x-plugin-id": f"odd/{plugin}"}, timeout=seconds,
        )  # fmt: skip
        if answer.status_code == 404 and patience:  # another process installed it: this one hears of it in a moment
            time.sleep(0.5)
            return self.tell(tenant, code, plugin=plugin, seconds=seconds, patience=patience - 1)
        return [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: ")]

    def tried(self, tenant: str, code: str) -> tuple[bool, str]:
        """(whether it was blocked, how)."""
        until = time.monotonic() + 30
        while "not started again" in str(events := self.tell(tenant, code)) and time.monotonic() < until:
            time.sleep(0.5)
        said = [one["data"]["message"]["text"] for one in events if one["code"] == 0]
        if said[:1] != ["began"]:
            return False, f"its line did not run: {events}"[:300]
        if len(said) < 2:
            return True, f"ended: {json.loads(events[-1]['message'])['message']}"[:160]
        answer = json.loads(said[1])
        if "got" in answer:
            return False, f"got {answer['got']}"
        if not answer["refused"] or answer["errno"] == 22:
            return False, f"its line did not run: {answer['how']}"
        return True, answer["how"]


@contextlib.contextmanager
def attacked() -> Generator[Attacked]:
    with tempfile.TemporaryDirectory(prefix="modelyard-escape-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        home, wheels = folder / "home", wheelhouse(folder / "wheels")
        home.mkdir()
        (home / "modelyard.yaml").write_text(SETTINGS.format(key=KEY, wheels=wheels), "utf-8")
        environ = {**os.environ, "MODELYARD_HOME": str(home)}
        for tenant, plugin in (("acme", "attacker"), ("globex", "attacker"), ("globex", "other")):
            made = attacker(folder / "plugins", plugin)
            command = [
                sys.executable,
                "-m",
                "modelyard",
                "plugin",
                "install",
                str(made),
                "--tenant",
                tenant,
                "--unsigned",
            ]
            subprocess.run(command, env=environ, check=True, capture_output=True)
        with surroundings(folder) as around:
            port = free_port()
            with running(serve_command(), port, environ=environ) as (process, _):
                origin = f"http://127.0.0.1:{port}"
                one = Attacked(folder, home, origin, around, process.pid)
                around |= of_server(one, home, origin, process.pid)
                yield one
                assert process.poll() is None, "the server was killed"


def of_server(one: Attacked, home: Path, origin: str, pid: int) -> dict[str, Any]:
    """What lies in the home folder, with something of another tenant's."""
    one.tell("globex", "open(os.environ['HOME'] + '/canary', 'w').write('canary')")
    one.tell("globex", "import builtins\nbuiltins.canary = 'canary'")
    one.tell("globex", "open(os.environ['TMPDIR'] + '/canary', 'w')")
    one.tell("globex", "open('/tmp/canary', 'w'); open('/dev/shm/canary', 'w')")
    one.tell("globex", "text = 'canary of globex'; os.write(1, (text + '\\n').encode())")
    theirs = next(path for path in home.glob("plugins/work/globex/*attacker/*/canary"))
    code = next(path for path in home.glob("plugins/code/odd/other-*/main.py"))
    venv = next(path for path in home.glob("plugins/environments/*/bin")).parent
    key = home / "master.key"
    return {
        "key": str(key), "database": str(home / "modelyard.db"), "home": str(home), "theirs": str(theirs),
        "their_code": str(code), "venv": str(venv.resolve()), "server": pid, "origin": origin,
    }  # fmt: skip


@contextlib.contextmanager
def surroundings(folder: Path) -> Generator[dict[str, Any]]:
    import ctypes

    libc = ctypes.CDLL(None)
    shared = libc.shmget(0, 4096, 0o1666)
    segment = Path("/dev/shm") / f"modelyard-canary-{os.getpid()}"
    segment.write_text("canary")
    segment.chmod(0o666)
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], env={"SECRET": "canary"})
    with contextlib.ExitStack() as stack:
        listening, six, hidden, abstract, datagrams, udp = (
            stack.enter_context(socket.socket(family, kind)) for family, kind in (
                (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_DGRAM),
            )
        )  # fmt: skip
        listening.bind(("127.0.0.1", 0))
        six.bind(("::1", 0))
        udp.bind(("127.0.0.1", 0))
        hidden.bind(str(folder / "hidden.sock"))
        datagrams.bind(str(folder / "datagrams.sock"))
        abstract.bind(f"\0modelyard-escape-{os.getpid()}")
        for path in ("hidden.sock", "datagrams.sock"):
            (folder / path).chmod(0o777)
        for one in (listening, six, hidden, abstract):
            one.listen(128)
        try:
            yield {
                "victim": victim.pid, "port": listening.getsockname()[1], "port6": six.getsockname()[1],
                "udp": udp.getsockname()[1], "hidden": str(folder / "hidden.sock"),
                "datagrams": str(folder / "datagrams.sock"), "abstract": f"\0modelyard-escape-{os.getpid()}",
                "segment": str(segment), "shared": shared,
            }  # fmt: skip
            assert victim.poll() is None, "the neighbour was killed"
        finally:
            victim.kill()
            victim.wait()
            segment.unlink(missing_ok=True)
            libc.shmctl(shared, 0, None)


def outside(around: dict[str, Any], code: str) -> tuple[bool, str]:
    """The same, not shut in: whether it works."""
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={"SECRET": "canary"})
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        scope = json.dumps({**around, "victim": victim.pid})
        program = f"import json\nglobals().update(json.loads({scope!r}))\n{PRELUDE}{code}\nassert found is not None\n"
        try:
            done = subprocess.run(
                [sys.executable, "-c", program], cwd=folder, env={**os.environ, "HOME": folder, "TMPDIR": folder},
                capture_output=True, text=True, timeout=20, check=False,
            )  # fmt: skip
        finally:
            victim.kill()
            victim.wait()
    return done.returncode == 0, (done.stderr.strip().splitlines() or [""])[-1][:160]


def installs(one: Attacked) -> dict[str, tuple[bool, str]]:
    """Packages whose installation would run, read or take what it must not."""
    witness = one.folder / "ran"
    setup = f"open({str(witness)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='evil')\n"
    found: dict[str, tuple[bool, str]] = {}
    cases = {
        "a folder in its requirements": "dify_plugin\n./evil\n",
        "a folder by its address": f"dify_plugin\nevil @ file://{one.folder}/evil\n",
        "itself, editable": "dify_plugin\n-e .\n",
        "a repository": f"dify_plugin\ngit+file://{one.folder}/evil\n",
        "another file of requirements": "dify_plugin\n-r evil/requirements.txt\n",
        "another index": "-i http://127.0.0.1:9/simple\ndify_plugin\n",
        "another folder of wheels": f"--find-links {one.folder}\ndify_plugin\n",
        "a source distribution": "dify_plugin\nevil_source\n",
        "an archive": f"dify_plugin\n{one.folder}/wheels/evil_source-1.0.tar.gz\n",
    }
    source_distribution(one.folder / "wheels", setup)
    for number, (name, text) in enumerate(cases.items()):
        made = attacker(one.folder / "installs", f"evil{number}", text)
        (made / "evil").mkdir(exist_ok=True)
        for path in ("evil/setup.py", "setup.py"):
            (made / path).write_text(setup)
        shutil.copytree(made / "evil", one.folder / "evil", dirs_exist_ok=True)
        (made / "evil" / "requirements.txt").write_text(f"evil @ file://{one.folder}/evil\n")
        found[f"install: {name}"] = install(one, made, witness)
    for name, tables in {
        "a folder named in pyproject.toml": '[tool.uv.sources]\nevil = { path = "./evil" }\n',
        "a build of its own": '[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
        '[tool.uv]\npackage = true\n',
    }.items():  # fmt: skip
        made = attacker(one.folder / "installs", "project" + str(len(found)))
        (made / "requirements.txt").unlink()
        needs = '"dify_plugin", "evil"' if "evil" in tables else '"dify_plugin"'
        (made / "pyproject.toml").write_text(
            f'[project]\nname = "x"\nversion = "1"\ndependencies = [{needs}]\n{tables}'
        )
        (made / "setup.py").write_text(setup)
        is_fine = "evil" not in tables  # it may install: what must not be is that anything of it runs
        found[f"install: {name}"] = install(one, made, witness, may_install=is_fine)
    found |= hostile_wheel(one)
    return found


def install(one: Attacked, made: Path, witness: Path, *, may_install: bool = False) -> tuple[bool, str]:
    environ = {**os.environ, "MODELYARD_HOME": str(one.home)}
    command = [sys.executable, "-m", "modelyard", "plugin", "install", str(made), "--tenant", "acme", "--unsigned"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    how = (done.stderr.strip().splitlines() or [""])[-1][:160]
    if witness.exists():
        witness.unlink()
        return False, "its code ran"
    if done.returncode == 0 and not may_install:
        return False, "it was installed"
    return ("cannot be installed" in done.stderr or may_install), how


def source_distribution(folder: Path, setup: str) -> None:
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


def hostile_wheel(one: Attacked) -> dict[str, tuple[bool, str]]:
    """One that runs code as soon as its Python starts, and that lies over the environment's own Python."""
    tries = {"read the key": "open(KEY).read()", "signal the server": "__import__('os').kill(SERVER, 0)",
             "call the server": "__import__('socket').create_connection(('127.0.0.1', PORT), 2)"}  # fmt: skip
    lines = "\n".join(
        f"try: {code}; seen[{name!r}] = 'worked'\nexcept OSError as e: seen[{name!r}] = 'refused: ' + str(e)\n"
        f"except BaseException as e: seen[{name!r}] = 'fell: ' + repr(e)"
        for name, code in tries.items()
    )
    port = int(one.origin.rpartition(":")[2])
    module = f"import builtins\nKEY, SERVER, PORT = {one.around['key']!r}, {one.server}, {port}\nseen = {{}}\n{lines}\nbuiltins.seen = seen\n"
    witness = one.folder / "python-ran"
    wheel(one.folder / "wheels", "evil_wheel", "1.0", {"evil_start.py": module, "evil.pth": "import evil_start\n"})
    program = f'#!/bin/sh\ntouch {witness}\nexec {sys.executable} "$@"\n'
    wheel(one.folder / "wheels", "evil_python", "1.0", {"evil_python-1.0.data/data/bin/python": program})
    over = attacker(one.folder / "installs", "over", "dify_plugin\nevil_python\n")
    done = install(one, over, one.folder / "ran", may_install=True)
    is_refused = "reserved name" in done[1]  # by uv; else it runs, shut in
    told = done[1] if is_refused else str(one.tell("acme", "found = 1", plugin="over"))
    ran = is_refused or "odd/over" in told or "began" in told
    found = {"install: a wheel that lies over Python": (not witness.exists() and ran, told[:160])}
    made = attacker(one.folder / "installs", "wheels", "dify_plugin\nevil_wheel\n")
    done = install(one, made, one.folder / "ran", may_install=True)
    events = one.tell("acme", "import builtins\nfound = json.dumps(builtins.seen)", plugin="wheels")
    said = [each["data"]["message"]["text"] for each in events if each["code"] == 0]
    if len(said) < 2:
        events = [done, *events]
        return found | {
            f"a wheel that starts: {name}": (False, f"its line did not run: {events}"[:300]) for name in tries
        }
    seen = json.loads(json.loads(said[1])["got"])
    for name, how in seen.items():
        found[f"a wheel that starts: {name}"] = (how.startswith("refused"), how)
    return found


def others(one: Attacked) -> dict[str, tuple[bool, str]]:
    """What has to be looked at from outside."""
    found: dict[str, tuple[bool, str]] = {}
    headers = {"authorization": f"Bearer {KEY}"}

    def logs(tenant: str) -> str:
        admin = f"{one.origin}/admin/v1/plugins"
        listed = httpx.get(f"{admin}?tenant={tenant}", headers=headers).json()["data"]
        name = next(each["id"] for each in listed if each["plugin_id"] == "odd/attacker")
        return httpx.get(f"{admin}/{name}/logs?tenant={tenant}", headers=headers).text

    one.tell("acme", "os.kill(-1, signal.SIGKILL)")
    alive = [each["code"] for each in one.tell("globex", "found = 1")] == [0, 0] and Path(
        f"/proc/{one.around['victim']}"
    ).exists()
    found["kill all that it may"] = (alive, "nobody else was hurt")
    theirs, ours = logs("globex"), logs("acme")
    found["read another tenant's logs"] = (
        "canary of globex" in theirs and "canary of globex" not in ours,
        "own lines alone",
    )
    mark = f"modelyard-orphan-{os.getpid()}"
    orphan = f"for _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(3600)', {mark!r}])\n        os._exit(0)\ntime.sleep(1)\nos.kill(0, 9) if 0 else os._exit(9)"
    one.tell("acme", orphan)
    until = time.monotonic() + 10
    while (left := with_argument(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    found["outlive its process"] = (not left, f"left: {left}")
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return found


def with_argument(mark: str) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit() and mark.encode() in (path / "cmdline").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return found


def neighbour_waits(one: Attacked) -> float:
    """Seconds that another tenant's call takes beside a plugin that spins."""
    import threading

    spinning = threading.Thread(target=one.tell, args=("acme", "while True: pass"))
    spinning.start()
    time.sleep(1.0)
    begun = time.monotonic()
    one.tell("globex", "found = 1")
    took = time.monotonic() - begun
    spinning.join()
    return took


def suite() -> dict[str, Any]:
    seen: dict[str, Any] = {"attacks": {}, "control": {}}
    with attacked() as one:
        for name, code in INSIDE.items():
            seen["attacks"][name] = one.tried("acme", code)
            if name in HARMLESS_HERE:
                seen["control"][name] = outside(one.around, code)
        for name, code in TOO_MUCH.items():
            seen["attacks"][name] = one.tried("acme", code)
            answered = [each["code"] for each in one.tell("globex", "found = 1")]
            if answered != [0, 0]:
                seen["attacks"][f"{name}, and hold others up"] = (False, str(answered))
        seen["attacks"] |= others(one)
        seen["neighbour"] = round(neighbour_waits(one), 2)
        seen["attacks"] |= installs(one)
        mode = Path(one.around["key"]).stat().st_mode & 0o777
        seen["attacks"]["change the key's mode"] = (mode == 0o600, oct(mode))
    return seen


def prove() -> Proof:
    proof = Proof()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="modelyard-escape-python-") as folder:
        Path(folder).chmod(0o755)
        runs = {"root" if os.geteuid() == 0 else "this user": [sys.executable]}
        if command := as_user(Path(folder)):
            runs["an ordinary user"] = command
        for who, command in runs.items():
            _tried(proof, who, command)
    proof.figures["seconds"] = round(time.monotonic() - began, 1)
    return proof


def _tried(proof: Proof, who: str, command: list[str]) -> None:
    packages = [str(ROOT / "src"), *(one for one in sys.path if "site-packages" in one), str(ROOT)]
    with tempfile.TemporaryDirectory(prefix="modelyard-escape-home-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o777)
        environ = {
            **os.environ, "HOME": home, "PYTHONPATH": os.pathsep.join(packages), "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": f"/usr/local/bin:/usr/bin:/bin:{ROOT / '.venv' / 'bin'}",
        }  # fmt: skip
        inside = [*command, "-m", "tools.show.plugin_escape"]
        done = subprocess.run(inside, cwd=ROOT, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        proof.line(f"as {who}", (done.stderr or done.stdout)[-1500:], ok=False)
    else:
        report(proof, who, json.loads(done.stdout.splitlines()[-1]))


def report(proof: Proof, who: str, seen: dict[str, Any]) -> None:
    through = {name: how for name, (blocked, how) in seen["attacks"].items() if not blocked}
    total, worked = len(seen["attacks"]), [name for name, (works, _) in seen["control"].items() if works]
    proof.line(
        f"as {who}: attacks that were blocked", f"{total - len(through)} of {total}", not through and total >= 40
    )
    for name, how in through.items():
        proof.line(f"  {name}", how, ok=False)
    is_root = who == "root"
    proof.line(
        "  the same, not shut in, that worked", f"{len(worked)} of {len(seen['control'])}",
        len(worked) == len(seen["control"]) if is_root else None,
    )  # fmt: skip
    for name, (works, how) in seen["control"].items():
        if not works and is_root:
            proof.line(f"    {name}", how, ok=False)
    proof.line("  another tenant's call beside one that spins", f"{seen['neighbour']} s", seen["neighbour"] < 2)
    proof.figures[who] = {"attacks": total, "blocked": total - len(through), "control": len(worked)}


if __name__ == "__main__":
    print(json.dumps(suite()))
