"""The basic benchmarks, and the README's five-minute tour, which is executed by its
test."""

import subprocess
import sys
from typing import Any

from bench import gateway, starts
from bench.__main__ import run_basics
from bench.peers import PRODUCT, REFERENCE

from tools.show.proof import ROOT, Proof


def prove() -> Proof:
    """Run the basic benchmarks and the tour, and compare the figures with the targets."""
    proof = Proof()
    servers = (REFERENCE, PRODUCT)
    figures = {"gateway": gateway.measure(servers, rounds=3).figures(), **run_basics()}
    _report_starts(proof, figures)
    _report_gateway(proof, figures)
    _report_models(proof, figures)
    size = figures["core"]
    proof.line(
        "the core",
        f"{size['packages']} packages, {size['megabytes']} MB",
        size["packages"] <= starts.MAX_CORE_PACKAGES
        and size["megabytes"] <= starts.MAX_CORE_MEGABYTES,
    )
    tour = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/e2e/test_readme.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    proof.line(
        "the README's tour", tour.stdout.strip().splitlines()[-1], tour.returncode == 0
    )
    proof.figures |= figures
    return proof


def _report_starts(proof: Proof, figures: dict[str, Any]) -> None:
    """Report how fast commands start."""
    seconds = {row["what"]: row["seconds"] for row in figures["starts"]}
    for command, goal in (
        ("modelyard --help", 0.3),
        ("import modelyard", 0.15),
        ("serve until ready", 2.0),
    ):
        proof.line(
            command,
            f"{seconds[command]:.3f} s, target {goal} s",
            seconds[command] < goal,
        )


def _report_gateway(proof: Proof, figures: dict[str, Any]) -> None:
    """Report the cost of calls next to nginx's. Its goals are in `bench-gateway`."""
    for label, text, _ in gateway.table(figures["gateway"]):
        proof.line(label, text)


def _report_models(proof: Proof, figures: dict[str, Any]) -> None:
    """Report the speed of the local models."""
    for row in figures["models"]:
        proof.line(
            f"local {row['type']}", f"{row['speed']} {row['unit']}", row["speed"] > 0
        )
    proof.line(
        "local types measured", len(figures["models"]), len(figures["models"]) == 6
    )
