"""The bench figures, and the README's five-minute tour executed by its test."""

import subprocess
import sys

from bench.__main__ import run

from tools.show.proof import ROOT, Proof


def prove() -> Proof:
    proof = Proof()
    figures = run()
    starts = {one["what"]: one["seconds"] for one in figures["starts"]}
    for what, goal in (("modelyard --help", 0.3), ("import modelyard", 0.15), ("serve until ready", 2.0)):
        proof.line(what, f"{starts[what]:.3f} s, goal {goal} s", starts[what] < goal)
    for one in figures["gateway"]:
        proof.line(
            f"{one['system']}, {one['connections']} connections",
            f"{one['cpu_us_per_request']} µs of CPU a request, {one['cpu_us_per_chunk']} µs a chunk",
        )
    relay, gateway = (
        next(one for one in figures["gateway"] if one["system"] == name and one["connections"] == 64)
        for name in ("relay", "gateway")
    )
    ratio = gateway["cpu_us_per_request"] / relay["cpu_us_per_request"]
    proof.line("gateway over a bare relay, 64 connections", f"{ratio:.1f} times", ratio < 5)
    spent = gateway["cpu_us_per_request"]
    proof.line(
        "aimed at: 100 µs a chat call",
        "reached"
        if spent <= 100
        else f"missed: {spent} µs, {relay['cpu_us_per_request']} of them are the server's and the client's",
    )
    for one in figures["models"]:
        proof.line(f"local {one['type']}", f"{one['speed']} {one['unit']}", one["speed"] > 0)
    proof.line("local types measured", len(figures["models"]), len(figures["models"]) == 6)
    size = figures["core"]
    proof.line(
        "the core",
        f"{size['packages']} packages, {size['megabytes']} MB",
        size["packages"] <= 20 and size["megabytes"] < 30,
    )
    tour = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/e2e/test_readme.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    proof.line("the README's tour", tour.stdout.strip().splitlines()[-1], tour.returncode == 0)
    proof.figures |= figures
    return proof
