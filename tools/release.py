"""What a release needs beside its wheel: an audit of the locked dependencies, and a
list of its components.

    python -m tools.release audit            # known vulnerabilities of all locks
    python -m tools.release sbom FOLDER      # one CycloneDX file for each lock

Both read the locks in `requirements/`, so they say what a user really installs, not
what happens to be installed here.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCKS = ("core", "serve", "image", "build", "node", "dev", "release", "mutants")
SHIPPED = ("core", "serve", "image")
"""Locks of what users install; the others are for building and testing."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The result of looking up one lock."""

    lock: str
    checked: Sequence[str]
    """`name version` of the packages whose advisories were read."""
    unknown: Sequence[str]
    """Names that the advisory service does not have."""
    vulnerabilities: Sequence[str]
    """`name version: advisory, fixed in …`, one for each advisory."""


def read_report(lock: str, report: Mapping[str, Any]) -> Audit:
    """Return what pip-audit's JSON report says about a lock.

    The format: https://github.com/pypa/pip-audit#json-format
    """
    checked: list[str] = []
    unknown: list[str] = []
    vulnerabilities: list[str] = []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unknown.append(package["name"])
            continue
        label = f"{package['name']} {package['version']}"
        checked.append(label)
        for advisory in package["vulns"]:
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            vulnerabilities.append(f"{label}: {advisory['id']}, fixed in {fixed}")
    return Audit(lock, checked, unknown, vulnerabilities)


def run_audit(lock: str) -> Audit:
    """Look up the packages of a lock. Raises RuntimeError if pip-audit fails."""
    completed = _run(
        "pip_audit",
        *("--requirement", f"requirements/{lock}.txt", "--require-hashes"),
        *("--disable-pip", "--format", "json", "--progress-spinner", "off"),
    )
    # Status 1 means that there are vulnerabilities; the report names them.
    if completed.returncode not in (0, 1) or not completed.stdout.startswith("{"):
        raise RuntimeError(completed.stderr[-2000:])
    return read_report(lock, json.loads(completed.stdout))


def audit() -> int:
    """Print the audit of every lock. Exit code 1 if there is a vulnerability.

    Without access to the advisories nothing is known, which is said and is no failure:
    a registry mirror often serves packages alone.
    """
    audits = [run_audit(lock) for lock in LOCKS]
    for result in audits:
        print(
            f"  {result.lock:<8} {len(result.checked):>3} packages checked, "
            f"{len(result.unknown):>3} without advisories, "
            f"{len(result.vulnerabilities)} vulnerabilities"
        )
        for vulnerability in result.vulnerabilities:
            print(f"    {vulnerability}")
    if not any(result.checked for result in audits):
        print("No advisories can be reached from here: nothing was checked.")
    return int(any(result.vulnerabilities for result in audits))


def sbom(folder: Path) -> int:
    """Write the components of each shipped lock as `modelyard-LOCK.cdx.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for lock in SHIPPED:
        target = folder / f"modelyard-{lock}.cdx.json"
        completed = _run(
            "cyclonedx_py",
            *("requirements", f"requirements/{lock}.txt"),
            *("--pyproject", "pyproject.toml", "--output-reproducible"),
            *("--spec-version", "1.6", "--output-file", str(target)),
        )
        if completed.returncode:
            raise RuntimeError(completed.stderr[-2000:])
        components = json.loads(target.read_text("utf-8"))["components"]
        print(f"  {target.name}: {len(components)} components")
    return 0


def _run(module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command named by the arguments. Exit code 2: unknown command."""
    match list(arguments):
        case ["audit"]:
            return audit()
        case ["sbom", folder]:
            return sbom(Path(folder))
        case _:
            print(__doc__)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
