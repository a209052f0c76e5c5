"""The official A2A client, in an environment of its own, against apps as agents."""

import json
import subprocess
import tempfile
from pathlib import Path

import httpx

from tools.show.app_api import apps
from tools.show.app_clients import environment, serving
from tools.show.proof import ROOT, Proof


def prove() -> Proof:
    proof = Proof()
    script = ROOT / "tools" / "show" / "app_client_scripts" / "calls_a2a.py"
    with serving(apps()) as told, tempfile.TemporaryDirectory() as folder:
        told["origin"] = told["base"].removesuffix("/v1")
        for one in httpx.get(f"{told['origin']}/admin/v1/apps").json()["data"]:
            told[f"{one['name']}.id"] = one["id"]
        python = environment("a2a", (3, 11), Path(folder))
        command = [str(python), str(script), json.dumps(told)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        proof.line("a2a-sdk", f"broke: {done.stderr[-900:]}", ok=False)
        return proof
    seen = json.loads(done.stdout.splitlines()[-1])
    for what, ok, more in seen:
        proof.line(f"a2a-sdk: {what}", more, ok)
    proof.figures["a2a-sdk"] = f"{sum(ok for _, ok, _ in seen)} of {len(seen)}"
    return proof
