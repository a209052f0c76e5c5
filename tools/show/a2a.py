"""The official A2A client, in its own environment, against apps that are served as
agents."""

import json
import subprocess
import tempfile
from pathlib import Path

import httpx

from tools.show.app_api import apps
from tools.show.app_clients import environment, serving
from tools.show.proof import ROOT, Proof


def prove() -> Proof:
    """Run the A2A client's script against a server and report each of its checks."""
    proof = Proof()
    script = ROOT / "tools" / "show" / "app_client_scripts" / "calls_a2a.py"
    with serving(apps()) as server_info, tempfile.TemporaryDirectory() as folder:
        server_info["origin"] = server_info["base"].removesuffix("/v1")
        # The script addresses an agent by its app id, so it needs the ids as well as
        # the keys.
        for app in httpx.get(f"{server_info['origin']}/admin/v1/apps").json()["data"]:
            server_info[f"{app['name']}.id"] = app["id"]
        python = environment("a2a", (3, 11), Path(folder))
        command = [str(python), str(script), json.dumps(server_info)]
        completed = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120
        )
    # The script exits with an error only if it breaks; failed checks are part of its
    # output.
    if completed.returncode:
        proof.line("a2a-sdk", f"broke: {completed.stderr[-900:]}", ok=False)
        return proof
    results = json.loads(completed.stdout.splitlines()[-1])
    for check_name, ok, detail in results:
        proof.line(f"a2a-sdk: {check_name}", detail, ok)
    proof.figures["a2a-sdk"] = f"{sum(ok for _, ok, _ in results)} of {len(results)}"
    return proof
