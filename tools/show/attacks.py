"""Attacks on the jail, as root and as an ordinary user; hostile addresses, in a network of their own where clouds'
metadata addresses answer. Nothing may be got, nothing may be reached."""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Literal

from modelyard.jail.sandbox import Jail, JailError, JailLimits, JailUnavailableError
from tools.show.hostile_urls import CASES
from tools.show.prisoners import (
    BENIGN,
    JAVASCRIPT,
    JAVASCRIPT_ENDS,
    JAVASCRIPT_REFUSALS,
    NOT_HARMLESS,
    ONLY_SOMETIMES,
    PYTHON,
    PYTHON_ENDS,
    TEMPLATE_ENDS,
    TEMPLATES,
    WITH_PACKAGES,
)
from tools.show.proof import ROOT, Proof

Level = Literal["best", "namespaces"]
_numbers = itertools.count()
LIMITS = JailLimits(seconds=2.0, memory_mb=256)


def indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.splitlines())


@contextlib.contextmanager
def surroundings(*, is_checked: bool = True) -> Generator[dict[str, Any]]:
    """A secret, a folder, a process, a port and sockets that are worth attacking. `is_checked`: nothing of it may be
    changed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket() as listening,
        socket.socket(socket.AF_UNIX) as hidden,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log,
    ):
        Path(folder).chmod(0o777)
        secret = Path(folder) / "modelyard.db"
        secret.write_text("canary")
        secret.chmod(0o666)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        abstract = f"\0modelyard-canary-{os.getpid()}-{next(_numbers)}"
        hidden.bind(abstract)
        hidden.listen()
        log.bind(f"{folder}/log")
        log.setblocking(False)
        victim = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], env={"SECRET": "canary"}, stdout=subprocess.DEVNULL
        )
        try:
            yield {
                "secret": str(secret), "folder": folder, "victim": victim.pid, "port": listening.getsockname()[1],
                "abstract": abstract, "log": f"{folder}/log",
            }  # fmt: skip
            if is_checked:
                assert victim.poll() is None, "the victim was killed"
                made = sorted(one.name for one in Path(folder).iterdir())
                assert made == ["log", "modelyard.db"], f"files were made: {made}"
                assert secret.stat().st_mode & 0o777 == 0o666, "a mode was changed"
                with contextlib.suppress(BlockingIOError):
                    raise AssertionError(f"the log was sent {log.recv(100)!r}")
        finally:
            victim.kill()
            victim.wait()


NAMES = "secret, folder, victim, port, abstract, log"


def attack(code: str, language: str, *, is_lead: bool = False) -> str:
    """The program that tries it, and says how the attacking line ended. `is_lead`: it says that it got there instead."""
    if language == "javascript":
        tries = "return {reached: true};" if is_lead else f"return {{got: String(await (async () => {{ {code} }})())}};"
        caught = "return {refused: [error && error.name, String(error)].map(String)};"
        return f"async function main({{port}}) {{ try {{ {tries} }} catch (error) {{ {caught} }} }}"
    begins = "        return {'reached': True}\n" if is_lead else ""
    body = indented(indented(code))
    return (
        f"def main({NAMES}):\n    found = None\n    try:\n{begins}{body}\n    except BaseException as error:\n"
        "        kinds = [one.__name__ for one in type(error).__mro__]\n"
        "        return {'refused': [*kinds, str(error)[:200]]}\n"
        "    return {'got': str(found)[:2_000_000_000]}\n"
    )


async def tried(jail: Jail, name: str, code: str, language: str, around: dict[str, Any]) -> tuple[bool, str]:
    """(whether it was blocked, how). Blocked is only what got to the attacking line, and was refused there as it must
    be: a program that did not run proves nothing."""
    try:
        lead = await jail.run_code(language, attack(code, language, is_lead=True), around)
    except JailUnavailableError:
        raise
    except JailError as error:
        return False, f"the program does not run: {str(error)[:200]}"
    if lead != {"reached": True}:
        return False, f"the attacking line was not reached: {str(lead)[:200]}"
    is_script = language == "javascript"
    of_whole = (JAVASCRIPT_ENDS if is_script else PYTHON_ENDS).get(name, ())
    of_line = of_whole or (JAVASCRIPT_REFUSALS if is_script else ["OSError"])
    try:
        said = await jail.run_code(language, attack(code, language), around)
    except JailUnavailableError:
        raise
    except JailError as error:
        text = str(error)
        is_meant = error.reason in of_whole or (error.reason == "error" and any(one in text for one in of_whole))
        return is_meant, f"{error.reason}: {text.splitlines()[-1][:80]}"
    if "refused" not in said:
        return False, f"got {str(said)[:80]}"
    how = " ".join(map(str, said["refused"]))[:120]
    return any(one in said["refused"] for one in of_line), how


async def bombed(jail: Jail, name: str, template: str) -> tuple[bool, str]:
    try:
        if await jail.render("{{ 'rea' ~ 'ched' }}", {}, most=100) != "reached":
            return False, "templates are not rendered"
        got = await jail.render(template, {}, most=400_000)
    except JailError as error:
        is_meant = any(one == error.reason or one in str(error) for one in TEMPLATE_ENDS[name])
        return is_meant, f"{error.reason}: {str(error)[:80]}"
    return False, f"got {got[:80]}"


def control(name: str, code: str) -> tuple[bool, str]:
    """(whether the attack works outside of the jail, how it ended): what it is worth inside."""
    program = f"import json, os, subprocess, sys\n{attack(code, 'python3')}\nprint(json.dumps(main(**json.loads(sys.argv[1]))))"
    kept, other = os.pipe()
    try:
        with surroundings(is_checked=False) as around:
            done = subprocess.run(
                [sys.executable, "-c", program, json.dumps(around)], capture_output=True, text=True, check=False,
                env={"SECRET": "canary", "PATH": "/usr/bin:/bin"}, pass_fds=[kept], timeout=60,
            )  # fmt: skip
    finally:
        os.close(kept)
        os.close(other)
    if name == "become another program":
        return done.returncode == 0 and not done.stdout, done.stderr[-100:]
    return done.returncode == 0 and '"got"' in done.stdout, (done.stdout or done.stderr)[-200:]


def controls() -> dict[str, tuple[bool, str]]:
    harmless_ones = {name: code for name, code in PYTHON.items() if name not in NOT_HARMLESS}
    return {name: control(name, code) for name, code in harmless_ones.items()}


async def harmless(jail: Jail, code: str) -> tuple[bool, str]:
    try:
        await jail.run_code("python3", f"def main():\n{indented(code)}\n    return {{'ok': str(found)}}", {})
    except JailError as error:
        return False, str(error)[:200]
    return True, ""


async def suite(level: Level) -> dict[str, Any]:
    """Everything, in this process's own rights."""
    seen: dict[str, Any] = {"attacks": {}, "benign": {}}
    jail = Jail(LIMITS, level=level)
    slow = Jail(JailLimits(seconds=30.0, memory_mb=512), level=level)
    try:
        with surroundings() as around:
            seen["level"] = await jail.check()
            for language, cases in (("python3", PYTHON), ("javascript", JAVASCRIPT)):
                for name, code in cases.items():
                    seen["attacks"][f"{language}: {name}"] = await tried(jail, name, code, language, around)
        for name, template in TEMPLATES.items():
            seen["attacks"][f"template: {name}"] = await bombed(jail, name, template)
        for code in [*BENIGN, *WITH_PACKAGES]:
            seen["benign"][code.splitlines()[0][:60]] = await harmless(slow, code)
    finally:
        await jail.aclose()
        await slow.aclose()
    seen["controls"] = controls() if level == "best" else {}
    return seen


DROPPED = (
    "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
)  # fmt: skip


def as_user(folder: Path) -> list[str]:
    """A command's beginning: Python with these packages, as nobody in particular. `folder` may be filled."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        # It has to start itself again, without an environment: a Python in somebody's home folder cannot.
        trial = (
            "import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', 'import jinja2, quickjs; print(1)'])"
        )
        made = python if python == sys.executable else environment(folder / version, Path(python), version)
        done = subprocess.run([*DROPPED, made, "-c", trial], capture_output=True, check=False)
        if done.stdout.strip() == b"1":
            return [*DROPPED, made]
    return []


def environment(folder: Path, python: Path, version: str) -> str:
    """A Python of this version that everybody can run, with the packages of the one that runs now."""
    site = folder / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(python)
    (folder / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = false\n")
    packages = [str(ROOT / "src"), *(one for one in sys.path if "site-packages" in one)]
    (site / "packages.pth").write_text("\n".join(packages) + "\n")
    return str(folder / "bin" / "python")


def prove() -> Proof:
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        return _prove(Path(made))


def _prove(folder: Path) -> Proof:
    proof = Proof()
    began = time.monotonic()
    runs = {"root" if os.geteuid() == 0 else "this user": [sys.executable]}
    if command := as_user(folder):
        runs["an ordinary user"] = command
    elif os.geteuid() == 0:
        proof.line("as an ordinary user", "no Python here that one could run", ok=False)
    for (who, command), level in itertools.product(runs.items(), ("best", "namespaces")):
        environ = {**os.environ, "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [*command, "-m", "tools.show.attacks", level],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=environ,
        )
        if done.returncode:
            proof.line(f"as {who}, {level}", (done.stderr or done.stdout)[-400:], ok=False)
            continue
        seen = json.loads(done.stdout.splitlines()[-1])
        through = {name: how for name, (blocked, how) in seen["attacks"].items() if not blocked}
        refused = {name: how for name, (fine, how) in seen["benign"].items() if not fine}
        kinds = [
            sum(name.startswith(kind) for name in seen["attacks"]) for kind in ("python3", "javascript", "template")
        ]
        proof.line(f"as {who}, level {seen['level']}", "attacks: {} Python, {} JavaScript, {} templates".format(*kinds))
        proof.line(
            "  got to the attacking line and were refused there",
            f"{len(seen['attacks']) - len(through)} of {len(seen['attacks'])}",
            not through,
        )
        for name, how in through.items():
            proof.line(f"    {name}", how, ok=False)
        proof.line(
            "  harmless programs that ran",
            f"{len(seen['benign']) - len(refused)} of {len(seen['benign'])}",
            not refused,
        )
        for name, how in refused.items():
            proof.line(f"    {name}", how, ok=False)
        worked = outside(proof, seen["controls"])
        proof.figures[f"{who}, {seen['level']}"] = {
            "succeed_outside": worked,
            "attacks": len(seen["attacks"]), "blocked": len(seen["attacks"]) - len(through),
            "harmless": len(seen["benign"]), "ran": len(seen["benign"]) - len(refused),
        }  # fmt: skip
    urls(proof)
    proof.figures["seconds"] = round(time.monotonic() - began, 1)
    return proof


def outside(proof: Proof, seen: Mapping[str, tuple[bool, str]]) -> int:
    """How many of the harmless attacks succeed where there is no jail: all must, but for those that need more rights."""
    if not seen:
        return 0
    failed = {name: how for name, (works, how) in seen.items() if not works}
    wrong = {name: how for name, how in failed.items() if name not in ONLY_SOMETIMES}
    without = f"; not with this user's rights: {', '.join(sorted(failed.keys() - wrong.keys()))}" if failed else ""
    proof.line("  succeed outside of the jail", f"{len(seen) - len(failed)} of {len(seen)}{without}", not wrong)
    for name, how in wrong.items():
        proof.line(f"    {name}", how, ok=False)
    return len(seen) - len(failed)


def urls(proof: Proof) -> None:
    if os.geteuid() != 0:
        proof.line("hostile addresses", "need root, for a network of their own", ok=None)
        return
    command = ["unshare", "-n", sys.executable, "-m", "tools.show.hostile_urls"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        proof.line("hostile addresses", (done.stderr or done.stdout)[-600:], ok=False)
        return
    seen = json.loads(done.stdout.splitlines()[-1])
    proof.line(
        "hostile addresses", f"{len(CASES)} forms; a plain client reaches {seen['naive']} of them", seen["naive"] > 20
    )
    proof.line("  answered by something inside", seen["reached"], not seen["reached"])
    proof.line("  connected to something inside", seen["connects"], seen["connects"] == 0)
    proof.line("  the public address that is allowed", seen["public"], seen["public"] == 200)
    proof.figures |= {"hostile_urls": len(CASES), "reached": len(seen["reached"]), "connects": seen["connects"]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(suite("namespaces" if "namespaces" in sys.argv else "best"))))
