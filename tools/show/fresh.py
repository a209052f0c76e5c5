"""`make test` in a clean checkout with a home folder of its own, twice."""

import os
import re
import subprocess
import time

from tools.show.proof import Proof, clean_checkout

_GOAL_SECONDS = 300


def prove() -> Proof:
    proof = Proof()
    with clean_checkout() as checkout:
        environ = {**os.environ, "MODELYARD_HOME": str(checkout / "home")}
        for turn, goal in (("first", None), ("second", _GOAL_SECONDS)):
            begun = time.monotonic()
            done = subprocess.run(
                ["make", "test"], cwd=checkout, env=environ, capture_output=True, text=True, check=False
            )
            seconds = time.monotonic() - begun
            passed = re.search(r"(\d+) passed", done.stdout)
            is_green = done.returncode == 0 and passed is not None
            last = next((line for line in done.stdout.splitlines() if " passed" in line), done.stderr[-300:])
            proof.line(
                f"make test, the {turn} time", f"{seconds:.0f} s: {last}", is_green and (not goal or seconds < goal)
            )
            proof.figures |= {f"{turn}_seconds": round(seconds), "passed": int(passed[1]) if passed else 0}
            if not is_green:
                print(done.stdout[-6000:], done.stderr[-2000:])
    return proof
