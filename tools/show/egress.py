"""Try every spelling of an internal address through every feature that accepts an
address, in a network namespace in which all internal addresses answer."""

import json
import os
import subprocess
import sys

from tools.show.hostile_urls import CASES
from tools.show.proof import ROOT, Proof

_NOT_TRIED = {
    "images and audio in messages": "their addresses are passed on to providers as they are; nothing here fetches them",
    "push notifications of A2A": "not offered: refused before an address is read",
    "references in JSON schemas": "never retrieved; a test of the law of ways out has no module that could",
    "plugins' own requests": "made by the plugin's process, which is confined elsewhere",
    "packages that plugins require": "installed by uv from the operator's index",
    "Qdrant, traces, weights, serverless plugins": "addresses that the operator writes in the settings alone",
}


def prove() -> Proof:
    """Run `egress_world` in its own network namespace and report the result of each
    feature. Needs root."""
    proof = Proof()
    if os.geteuid() != 0:
        proof.line("a separate network", "needs root", ok=False)
        return proof
    # `unshare -n` gives the process its own network, in which internal addresses can be
    # simulated.
    command = ["unshare", "-n", sys.executable, "-m", "tools.show.egress_world"]
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if process.returncode:
        proof.line(
            "a separate network", (process.stderr or process.stdout)[-1500:], ok=False
        )
        return proof
    # The last line of the output is the JSON report; earlier lines may be logs.
    results = json.loads(process.stdout.splitlines()[-1])
    for name, result in results.items():
        summary = f"{len(CASES)} forms twice: {result['connects']} connects, {len(result['reached'])} answers from inside"
        summary += f", {len(result['unhandled'])} unhandled" + (
            f" ({result['unhandled'][0]})" if result["unhandled"] else ""
        )
        summary += (
            f"; public address {'reached' if result['public'] else 'NOT reached'}"
        )
        # A feature passes if it blocks all internal addresses and still reaches the
        # public one.
        is_shut = (
            not result["connects"] and not result["reached"] and not result["unhandled"]
        )
        proof.line(name, summary, is_shut and result["public"])
    for name, reason in _NOT_TRIED.items():
        proof.line(name, f"not tried: {reason}")
    proof.figures |= {
        "features": len(results),
        "forms": len(CASES),
        "connects": sum(result["connects"] for result in results.values()),
        "reached": sum(len(result["reached"]) for result in results.values()),
        "unhandled": sum(len(result["unhandled"]) for result in results.values()),
        "public": sum(result["public"] for result in results.values()),
    }
    return proof
