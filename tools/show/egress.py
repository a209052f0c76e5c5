"""Every form of an inner address through every feature that names one, in a network where everything inside answers."""

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
    proof = Proof()
    if os.geteuid() != 0:
        proof.line("a network of its own", "needs root", ok=False)
        return proof
    command = ["unshare", "-n", sys.executable, "-m", "tools.show.egress_world"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        proof.line("a network of its own", (done.stderr or done.stdout)[-1500:], ok=False)
        return proof
    seen = json.loads(done.stdout.splitlines()[-1])
    for name, one in seen.items():
        said = f"{len(CASES)} forms twice: {one['connects']} connects, {len(one['reached'])} answers from inside"
        said += f", {len(one['unhandled'])} unhandled" + (f" ({one['unhandled'][0]})" if one["unhandled"] else "")
        said += f"; public address {'reached' if one['public'] else 'NOT reached'}"
        is_shut = not one["connects"] and not one["reached"] and not one["unhandled"]
        proof.line(name, said, is_shut and one["public"])
    for name, why in _NOT_TRIED.items():
        proof.line(name, f"not tried: {why}")
    proof.figures |= {
        "features": len(seen), "forms": len(CASES),
        "connects": sum(one["connects"] for one in seen.values()),
        "reached": sum(len(one["reached"]) for one in seen.values()),
        "unhandled": sum(len(one["unhandled"]) for one in seen.values()),
        "public": sum(one["public"] for one in seen.values()),
    }  # fmt: skip
    return proof
