"""Attacks on the sandbox, as root and as an ordinary user, and hostile URLs in a
separate network in which the metadata addresses of clouds answer.

No attack may read anything or reach anything.
"""

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
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Literal

from modelyard.sandbox.program_network import NO_NETWORK, NetworkAccess
from modelyard.sandbox.runner import (
    Sandbox,
    SandboxError,
    SandboxLimits,
    SandboxUnavailableError,
)
from modelyard.transport.egress import EgressRules
from modelyard.transport.egress_proxy import EgressProxy
from tools.show.hostile_urls import CASES
from tools.show.prisoners import (
    BENIGN,
    JAVASCRIPT,
    JAVASCRIPT_ENDS,
    JAVASCRIPT_REFUSALS,
    NEEDS_PRIVILEGE,
    PYTHON,
    PYTHON_ENDS,
    SANDBOX_ONLY,
    TEMPLATE_ENDS,
    TEMPLATES,
    WITH_NETWORK,
    WITH_PACKAGES,
)
from tools.show.proof import ROOT, Proof

Level = Literal["best", "namespaces"]
_numbers = itertools.count()
LIMITS = SandboxLimits(seconds=2.0, memory_mb=256)


def indented(code: str) -> str:
    """Return the code indented by four spaces."""
    return "\n".join(f"    {line}" for line in code.splitlines())


@contextlib.contextmanager
def surroundings(*, is_checked: bool = True) -> Generator[dict[str, Any]]:
    """Create a secret, a folder, a process, a port and sockets that are worth
    attacking, and yield their addresses.

    With `is_checked`, raise AssertionError if an attack changed any of them.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket() as listening,
        socket.socket(socket.AF_UNIX) as hidden,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log,
    ):
        # Everything is writable for anyone: only the sandbox protects it, not the file
        # modes.
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
            [sys.executable, "-c", "import time; time.sleep(600)"],
            env={"SECRET": "canary"},
            stdout=subprocess.DEVNULL,
        )
        try:
            yield {
                "secret": str(secret),
                "folder": folder,
                "victim": victim.pid,
                "port": listening.getsockname()[1],
                "abstract": abstract,
                "log": f"{folder}/log",
            }
            if is_checked:
                assert victim.poll() is None, "the victim was killed"
                # An attack that created, removed or renamed a file leaves a trace here.
                file_names = sorted(path.name for path in Path(folder).iterdir())
                assert file_names == ["log", "modelyard.db"], (
                    f"files were made: {file_names}"
                )
                assert secret.stat().st_mode & 0o777 == 0o666, "a mode was changed"
                # Nothing must have arrived at the log socket.
                with contextlib.suppress(BlockingIOError):
                    raise AssertionError(f"the log was sent {log.recv(100)!r}")
        finally:
            victim.kill()
            victim.wait()


NAMES = "secret, folder, victim, port, abstract, log"


def attack(code: str, language: str, *, is_lead: bool = False) -> str:
    """Return a program that performs the attack and reports how the attacking line
    ended.

    With `is_lead`, the program stops before the attacking line and reports that it got
    there.
    """
    if language == "javascript":
        tries = (
            "return {reached: true};"
            if is_lead
            else f"return {{got: String(await (async () => {{ {code} }})())}};"
        )
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


def no_network() -> NetworkAccess:
    """Return what a program may use without network access."""
    return NO_NETWORK


def public_network() -> NetworkAccess:
    """Return access to the public network, as code nodes have it if it is on."""
    return NetworkAccess(connector=EgressProxy(EgressRules, lambda: ""))


async def try_attack(
    sandbox: Sandbox,
    name: str,
    code: str,
    language: str,
    targets: dict[str, Any],
    network: Callable[[], NetworkAccess] = no_network,
) -> tuple[bool, str]:
    """Run an attack and return (whether it was blocked, how).

    It counts as blocked only if the program got to the attacking line and was refused
    there in the expected way: a program that does not run proves nothing.
    """
    try:
        probe_result = await sandbox.run_code(
            language, attack(code, language, is_lead=True), targets, network=network()
        )
    except SandboxUnavailableError:
        raise
    except SandboxError as error:
        return False, f"the program does not run: {str(error)[:200]}"
    if probe_result != {"reached": True}:
        return False, f"the attacking line was not reached: {str(probe_result)[:200]}"
    is_script = language == "javascript"
    # Some attacks end the whole program instead of raising an error at their line.
    allowed_endings = (JAVASCRIPT_ENDS if is_script else PYTHON_ENDS).get(name, ())
    of_line = allowed_endings or (JAVASCRIPT_REFUSALS if is_script else ["OSError"])
    try:
        outcome = await sandbox.run_code(
            language, attack(code, language), targets, network=network()
        )
    except SandboxUnavailableError:
        raise
    except SandboxError as error:
        text = str(error)
        is_meant = error.reason in allowed_endings or (
            error.reason == "error"
            and any(ending in text for ending in allowed_endings)
        )
        return is_meant, f"{error.reason}: {text.splitlines()[-1][:80]}"
    if "refused" not in outcome:
        return False, f"got {str(outcome)[:80]}"
    # The class names of the error and its bases, and its text.
    refusal_text = " ".join(map(str, outcome["refused"]))[:120]
    return any(
        allowed_name in outcome["refused"] for allowed_name in of_line
    ), refusal_text


async def try_template(sandbox: Sandbox, name: str, template: str) -> tuple[bool, str]:
    """Render a template that consumes too much and return (whether it was stopped as
    expected, how)."""
    try:
        # First a harmless template: if rendering does not work at all, the attack
        # proves nothing.
        if await sandbox.render("{{ 'rea' ~ 'ched' }}", {}, max_chars=100) != "reached":
            return False, "templates are not rendered"
        rendered = await sandbox.render(template, {}, max_chars=400_000)
    except SandboxError as error:
        is_meant = any(
            ending == error.reason or ending in str(error)
            for ending in TEMPLATE_ENDS[name]
        )
        return is_meant, f"{error.reason}: {str(error)[:80]}"
    return False, f"got {rendered[:80]}"


def run_outside(name: str, code: str) -> tuple[bool, str]:
    """Run an attack outside the sandbox and return (whether it works there, how it
    ended).

    An attack that fails even there proves nothing about the sandbox.
    """
    program = f"import json, os, subprocess, sys\n{attack(code, 'python3')}\nprint(json.dumps(main(**json.loads(sys.argv[1]))))"
    # Some attacks use an inherited file descriptor, so the program gets one.
    read_end, write_end = os.pipe()
    try:
        with surroundings(is_checked=False) as targets:
            completed = subprocess.run(
                [sys.executable, "-c", program, json.dumps(targets)],
                capture_output=True,
                text=True,
                check=False,
                env={"SECRET": "canary", "PATH": "/usr/bin:/bin"},
                pass_fds=[read_end],
                timeout=60,
            )
    finally:
        os.close(read_end)
        os.close(write_end)
    # This attack replaces the program, so it cannot print a result.
    if name == "become another program":
        return completed.returncode == 0 and not completed.stdout, completed.stderr[
            -100:
        ]
    return completed.returncode == 0 and '"got"' in completed.stdout, (
        completed.stdout or completed.stderr
    )[-200:]


def run_all_outside() -> dict[str, tuple[bool, str]]:
    """Run all attacks outside the sandbox that do no lasting harm there."""
    harmless_attacks = {
        name: code for name, code in PYTHON.items() if name not in SANDBOX_ONLY
    }
    return {name: run_outside(name, code) for name, code in harmless_attacks.items()}


async def run_harmless(sandbox: Sandbox, code: str) -> tuple[bool, str]:
    """Run a harmless program in the sandbox and return (whether it succeeded, its
    error)."""
    try:
        await sandbox.run_code(
            "python3",
            f"def main():\n{indented(code)}\n    return {{'ok': str(found)}}",
            {},
        )
    except SandboxError as error:
        return False, str(error)[:200]
    return True, ""


async def suite(level: Level) -> dict[str, Any]:
    """Run all attacks and harmless programs with the rights of this process and return
    the results."""
    results: dict[str, Any] = {"attacks": {}, "benign": {}}
    sandbox = Sandbox(LIMITS, level=level)
    # Harmless programs get more time and memory, because they import large packages.
    slow = Sandbox(SandboxLimits(seconds=30.0, memory_mb=512), level=level)
    try:
        with surroundings() as targets:
            results["level"] = await sandbox.check()
            for language, cases in (("python3", PYTHON), ("javascript", JAVASCRIPT)):
                for name, code in cases.items():
                    results["attacks"][f"{language}: {name}"] = await try_attack(
                        sandbox, name, code, language, targets
                    )
            for name in WITH_NETWORK:
                results["attacks"][f"with network: {name}"] = await try_attack(
                    sandbox, name, PYTHON[name], "python3", targets, public_network
                )
        for name, template in TEMPLATES.items():
            results["attacks"][f"template: {name}"] = await try_template(
                sandbox, name, template
            )
        for code in [*BENIGN, *WITH_PACKAGES]:
            results["benign"][code.splitlines()[0][:60]] = await run_harmless(
                slow, code
            )
    finally:
        await sandbox.aclose()
        await slow.aclose()
    results["controls"] = run_all_outside() if level == "best" else {}
    return results


DROPPED = (
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
)


def as_user(folder: Path) -> list[str]:
    """Return the start of a command that runs Python with these packages as an
    unprivileged user.

    Empty if this process is not root or no such Python exists. A virtual environment
    may be created in `folder`.
    """
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        # The Python must be able to start itself again without its environment
        # variables; one in a user's home folder cannot.
        trial = "import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', 'import jinja2, quickjs; print(1)'])"
        interpreter = (
            python
            if python == sys.executable
            else environment(folder / version, Path(python), version)
        )
        completed = subprocess.run(
            [*DROPPED, interpreter, "-c", trial], capture_output=True, check=False
        )
        if completed.stdout.strip() == b"1":
            return [*DROPPED, interpreter]
    return []


def environment(folder: Path, python: Path, version: str) -> str:
    """Create a virtual environment that every user can run, with the packages of the
    current one, and return its Python."""
    site = folder / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(python)
    (folder / "pyvenv.cfg").write_text(
        f"home = {python.parent}\ninclude-system-site-packages = false\n"
    )
    packages = [
        str(ROOT / "src"),
        *(path for path in sys.path if "site-packages" in path),
    ]
    # A .pth file adds the current packages without copying them.
    (site / "packages.pth").write_text("\n".join(packages) + "\n")
    return str(folder / "bin" / "python")


def prove() -> Proof:
    """Run the proof in a temporary folder that other users can read."""
    with tempfile.TemporaryDirectory() as folder:
        # TemporaryDirectory creates folders for the owner only; the unprivileged user
        # has to read this one.
        Path(folder).chmod(0o755)
        return _prove(Path(folder))


def _prove(folder: Path) -> Proof:
    """Run the attacks for each user and isolation level, then the hostile URLs, and
    report them."""
    proof = Proof()
    started_at = time.monotonic()
    commands = {"root" if os.geteuid() == 0 else "this user": [sys.executable]}
    if command := as_user(folder):
        commands["an ordinary user"] = command
    elif os.geteuid() == 0:
        proof.line(
            "as an ordinary user", "no Python that an ordinary user can run", ok=False
        )
    # Each combination runs in a new process, because the rights are dropped before
    # Python starts.
    for user, command in commands.items():
        for level in ("best", "namespaces"):
            _run_attacks(proof, user, command, level)
    urls(proof)
    proof.figures["seconds"] = round(time.monotonic() - started_at, 1)
    return proof


def _run_attacks(proof: Proof, user: str, command: list[str], level: str) -> None:
    """Run all attacks as one user at one isolation level, and report them."""
    environ = {**os.environ, "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    completed = subprocess.run(
        [*command, "-m", "tools.show.attacks", level],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )
    if completed.returncode:
        output = completed.stderr or completed.stdout
        proof.line(f"as {user}, {level}", output[-400:], ok=False)
        return
    results = json.loads(completed.stdout.splitlines()[-1])
    attacks = results["attacks"]
    # The numbers show that no group of attacks was skipped.
    counts = [
        sum(name.startswith(prefix) for name in attacks)
        for prefix in ("python3", "javascript", "template", "with network")
    ]
    proof.line(
        f"as {user}, level {results['level']}",
        "attacks: {} Python, {} JavaScript, {} templates, {} with network".format(
            *counts
        ),
    )
    blocked = _report_group(proof, "refused at their attacking line", attacks)
    ran = _report_group(proof, "harmless programs that ran", results["benign"])
    worked = report_controls(proof, results["controls"])
    proof.figures[f"{user}, {results['level']}"] = {
        "succeed_outside": worked,
        "attacks": len(attacks),
        "blocked": blocked,
        "harmless": len(results["benign"]),
        "ran": ran,
    }


def _report_group(proof: Proof, label: str, results: dict[str, Any]) -> int:
    """Report the programs of one group with their failures; return how many passed.
    `results` has (passed, detail) of each program."""
    failures = {name: detail for name, (ok, detail) in results.items() if not ok}
    passed = len(results) - len(failures)
    proof.line(f"  {label}", f"{passed} of {len(results)}", not failures)
    for name, detail in failures.items():
        proof.line(f"    {name}", detail, ok=False)
    return passed


def report_controls(
    proof: Proof, control_results: Mapping[str, tuple[bool, str]]
) -> int:
    """Report how many attacks succeed without a sandbox and return that number.

    All must succeed, except those that need more rights than this user has.
    """
    # The controls run at the level `best` only.
    if not control_results:
        return 0
    failed = {
        name: detail for name, (works, detail) in control_results.items() if not works
    }
    unexpected_failures = {
        name: detail for name, detail in failed.items() if name not in NEEDS_PRIVILEGE
    }
    rights_note = (
        f"; not with this user's rights: {', '.join(sorted(failed.keys() - unexpected_failures.keys()))}"
        if failed
        else ""
    )
    proof.line(
        "  succeed outside of the sandbox",
        f"{len(control_results) - len(failed)} of {len(control_results)}{rights_note}",
        not unexpected_failures,
    )
    for name, detail in unexpected_failures.items():
        proof.line(f"    {name}", detail, ok=False)
    return len(control_results) - len(failed)


def urls(proof: Proof) -> None:
    """Run the hostile URLs in a new network namespace and report what they reached."""
    if os.geteuid() != 0:
        proof.line(
            "hostile addresses", "need root to create a separate network", ok=None
        )
        return
    command = ["unshare", "-n", sys.executable, "-m", "tools.show.hostile_urls"]
    completed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if completed.returncode:
        proof.line(
            "hostile addresses", (completed.stderr or completed.stdout)[-600:], ok=False
        )
        return
    results = json.loads(completed.stdout.splitlines()[-1])
    # The plain client shows that the addresses really answer without the filter.
    proof.line(
        "hostile addresses",
        f"{len(CASES)} forms; an unprotected client reaches {results['naive']} of them",
        results["naive"] > 20,
    )
    proof.line(
        "  answered by an internal host", results["reached"], not results["reached"]
    )
    proof.line(
        "  connected to an internal host", results["connects"], results["connects"] == 0
    )
    proof.line(
        "  the allowed public address",
        results["public"],
        results["public"] == 200,
    )
    proof.line(
        "  reached by code nodes with network access",
        results["program_reached"],
        not results["program_reached"] and results["program_connects"] == 0,
    )
    proof.line(
        "  the public address, by code nodes",
        results["program_public"],
        results["program_public"],
    )
    proof.figures |= {
        "hostile_urls": len(CASES),
        "reached": len(results["reached"]),
        "connects": results["connects"],
    }


if __name__ == "__main__":
    print(
        json.dumps(
            asyncio.run(suite("namespaces" if "namespaces" in sys.argv else "best"))
        )
    )
