"""The two C programs of the gateway benchmark, compiled when they are needed: the load
generator (load.c) and the simulated provider (upstream.c).

They are in C so that they take little of the machine that the gateways are measured on.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
CACHE = Path(
    os.environ.get("MODELYARD_BENCH_CACHE", "~/.cache/modelyard-bench")
).expanduser()
"""What benchmarks compile and install is stored here, outside of the repository."""


def compiler() -> str | None:
    """Return the path of a C compiler, or None if there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compiled(name: str) -> str:
    """Return the path of the program `name`; compile it unless its source is unchanged.

    Raises RuntimeError if there is no C compiler, or if it reports an error.
    """
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    program = CACHE / "native" / f"{name}-{digest}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        _compile(source, program)
    return str(program)


def _compile(source: Path, program: Path) -> None:
    compiler_path = compiler()
    if compiler_path is None:
        raise RuntimeError(
            "The gateway benchmark needs a C compiler (cc, gcc or clang) for "
            f"{source.name}"
        )
    # Compiled under another name first: another run may be looking for the program.
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        output = Path(folder) / program.name
        command = [compiler_path, "-O2", "-o", str(output), str(source)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        if completed.returncode:
            raise RuntimeError(f"{source.name}: {completed.stderr[-800:]}")
        output.rename(program)
