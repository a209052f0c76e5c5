"""Run `make test` twice in a clean checkout with its own home folder."""

import os
import re
import subprocess
import time

from tools.show.proof import Proof, clean_checkout

_GOAL_SECONDS = 300


def prove() -> Proof:
    """Run the tests twice. Only the second run has a time limit, because the first one
    installs everything."""
    proof = Proof()
    with clean_checkout() as checkout:
        environ = {**os.environ, "MODELYARD_HOME": str(checkout / "home")}
        for run_name, goal in (("first", None), ("second", _GOAL_SECONDS)):
            started_at = time.monotonic()
            process = subprocess.run(
                ["make", "test"],
                cwd=checkout,
                env=environ,
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.monotonic() - started_at
            # The exit code alone is not enough: at least one test must have passed.
            passed = re.search(r"(\d+) passed", process.stdout)
            is_green = process.returncode == 0 and passed is not None
            last = next(
                (line for line in process.stdout.splitlines() if " passed" in line),
                process.stderr[-300:],
            )
            proof.line(
                f"make test, the {run_name} time",
                f"{seconds:.0f} s: {last}",
                is_green and (not goal or seconds < goal),
            )
            proof.figures |= {
                f"{run_name}_seconds": round(seconds),
                "passed": int(passed[1]) if passed else 0,
            }
            if not is_green:
                print(process.stdout[-6000:], process.stderr[-2000:])
    return proof
