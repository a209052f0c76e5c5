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
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

from modelyard.jail.sandbox import Jail, JailError, JailLimits, JailUnavailableError
from tools.show.hostile_urls import CASES
from tools.show.prisoners import BENIGN, JAVASCRIPT, PYTHON, TEMPLATES, WITH_PACKAGES
from tools.show.proof import ROOT, Proof

Level = Literal["best", "namespaces"]
LIMITS = JailLimits(seconds=2.0, memory_mb=256)


def indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.splitlines())


@contextlib.contextmanager
def surroundings() -> Generator[dict[str, Any]]:
    """A secret, a folder, a process, a port and a socket that are worth attacking."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as listening, socket.socket(socket.AF_UNIX) as hidden:
        Path(folder).chmod(0o777)
        secret = Path(folder) / "modelyard.db"
        secret.write_text("canary")
        secret.chmod(0o666)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        hidden.bind(f"\0modelyard-canary-{os.getpid()}")
        hidden.listen()
        victim = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], env={"SECRET": "canary"}, stdout=subprocess.DEVNULL
        )
        try:
            yield {
                "secret": str(secret), "folder": folder, "victim": victim.pid, "port": listening.getsockname()[1],
                "abstract": f"\0modelyard-canary-{os.getpid()}",
            }  # fmt: skip
            assert victim.poll() is None, "the victim was killed"
            made = sorted(one.name for one in Path(folder).iterdir())
            assert made == ["modelyard.db"], f"files were made: {made}"
            assert secret.stat().st_mode & 0o777 == 0o666, "a mode was changed"
        finally:
            victim.kill()
            victim.wait()


def attack(name: str, code: str, language: str) -> tuple[str, str]:
    """The program that tries it."""
    if language == "javascript":
        return code, f"function main({{port}}) {{ {code} }}"
    names = "secret, folder, victim, port, abstract"
    body = indented(f"found = None\n{code}\nreturn {{'got': str(found)[:2_000_000_000]}}")
    return name, f"def main({names}):\n{body}\n"


async def tried(jail: Jail, name: str, code: str, language: str, around: dict[str, Any]) -> tuple[bool, str]:
    """(whether it was blocked, how)."""
    _, program = attack(name, code, language)
    try:
        got = await jail.run_code(language, program, around)
    except JailUnavailableError:
        raise
    except JailError as error:
        return True, f"{error.reason}: {str(error).splitlines()[-1][:80]}"
    return False, f"got {str(got)[:80]}"


async def bombed(jail: Jail, template: str) -> tuple[bool, str]:
    try:
        got = await jail.render(template, {}, most=400_000)
    except JailError as error:
        return True, f"{error.reason}: {str(error)[:80]}"
    return False, f"got {got[:80]}"


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
            seen["attacks"][f"template: {name}"] = await bombed(jail, template)
        # Another Python of this version, which an ordinary user can run, has no packages of ours.
        found = subprocess.run(
            [sys.executable, "-I", "-c", "import numpy, pandas, sympy"], capture_output=True, check=False
        )
        for code in [*BENIGN, *(WITH_PACKAGES if found.returncode == 0 else ())]:
            seen["benign"][code.splitlines()[0][:60]] = await harmless(slow, code)
    finally:
        await jail.aclose()
        await slow.aclose()
    return seen


def as_user() -> list[str]:
    """A command's beginning: Python, as nobody in particular."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    dropped = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        # It has to start itself again: a Python in somebody's home folder cannot.
        trial = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1)'], check=True)"
        done = subprocess.run([*dropped, python, "-c", trial], capture_output=True, check=False)
        if done.stdout.strip() == b"1":
            return [*dropped, python]
    return []


def packages() -> str:
    """Where this Python's packages lie, for another of the same version that an ordinary user can run."""
    return os.pathsep.join([str(ROOT / "src"), *(one for one in sys.path if "site-packages" in one)])


def prove() -> Proof:
    proof = Proof()
    began = time.monotonic()
    runs = {"root" if os.geteuid() == 0 else "this user": [sys.executable]}
    if command := as_user():
        runs["an ordinary user"] = command
    elif os.geteuid() == 0:
        proof.line("as an ordinary user", "no Python here that one could run", ok=False)
    for (who, command), level in itertools.product(runs.items(), ("best", "namespaces")):
        environ = {**os.environ, "HOME": "/tmp", "PYTHONPATH": packages(), "PYTHONDONTWRITEBYTECODE": "1"}
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
        proof.line("  blocked", f"{len(seen['attacks']) - len(through)} of {len(seen['attacks'])}", not through)
        for name, how in through.items():
            proof.line(f"    {name}", how, ok=False)
        proof.line(
            "  harmless programs that ran",
            f"{len(seen['benign']) - len(refused)} of {len(seen['benign'])}",
            not refused,
        )
        for name, how in refused.items():
            proof.line(f"    {name}", how, ok=False)
        proof.figures[f"{who}, {seen['level']}"] = {
            "attacks": len(seen["attacks"]), "blocked": len(seen["attacks"]) - len(through),
            "harmless": len(seen["benign"]), "ran": len(seen["benign"]) - len(refused),
        }  # fmt: skip
    urls(proof)
    proof.figures["seconds"] = round(time.monotonic() - began, 1)
    return proof


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
