"""A clean checkout, `make serve` as the README says, and the official client."""

import time

from tools.show.journey import steps
from tools.show.proof import Proof, clean_checkout, free_port, running

_GOAL_SECONDS = 600


def prove() -> Proof:
    proof = Proof()
    with clean_checkout() as checkout:
        home = checkout / "home"
        environ = {"MODELYARD_HOME": str(home)}
        port = free_port()
        with running(["make", "--no-print-directory", "serve"], port, cwd=checkout, environ=environ) as (_, seconds):
            proof.line("make serve, from nothing", f"ready after {seconds:.0f} s", seconds < _GOAL_SECONDS)
            proof.figures["ready_seconds_from_nothing"] = round(seconds, 1)
            begun = time.monotonic()
            for step in steps(f"http://127.0.0.1:{port}/v1"):
                proof.line(step.name, step.seen, step.ok)
                proof.figures |= step.figures
            proof.line("the whole journey", f"{time.monotonic() - begun:.0f} s")
        port = free_port()
        with running(["make", "--no-print-directory", "serve"], port, cwd=checkout, environ=environ) as (_, seconds):
            proof.line("make serve, again", f"ready after {seconds:.2f} s", seconds < 4)
            proof.figures["ready_seconds_again"] = round(seconds, 2)
        port = free_port()
        command = [str(checkout / ".venv/bin/modelyard"), "serve"]
        with running(command, port, cwd=checkout, environ=environ) as (_, seconds):
            proof.line("modelyard serve, again", f"ready after {seconds:.2f} s", seconds < 2)
            proof.figures["ready_seconds_server_alone"] = round(seconds, 2)
    return proof
