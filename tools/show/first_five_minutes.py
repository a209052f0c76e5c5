"""A clean checkout, `make serve` as in the README, and OpenAI's official client."""

import time

from tools.show.journey import steps
from tools.show.proof import Proof, clean_checkout, free_port, running

_GOAL_SECONDS = 600


def prove() -> Proof:
    """Measure the first start from nothing, run the user's journey, and measure two
    later starts."""
    proof = Proof()
    with clean_checkout() as checkout:
        # The home folder is new, so the first start includes installation and download
        # of weights.
        home = checkout / "home"
        environ = {"MODELYARD_HOME": str(home)}
        port = free_port()
        with running(
            ["make", "--no-print-directory", "serve"],
            port,
            cwd=checkout,
            environ=environ,
        ) as (_, seconds):
            proof.line(
                "make serve in a clean checkout",
                f"ready after {seconds:.0f} s",
                seconds < _GOAL_SECONDS,
            )
            proof.figures["ready_seconds_from_nothing"] = round(seconds, 1)
            started_at = time.monotonic()
            for step in steps(f"http://127.0.0.1:{port}/v1"):
                proof.line(step.name, step.seen, step.ok)
                proof.figures |= step.figures
            proof.line("all steps", f"{time.monotonic() - started_at:.0f} s")
        port = free_port()
        with running(
            ["make", "--no-print-directory", "serve"],
            port,
            cwd=checkout,
            environ=environ,
        ) as (_, seconds):
            proof.line("make serve, again", f"ready after {seconds:.2f} s", seconds < 4)
            proof.figures["ready_seconds_again"] = round(seconds, 2)
        # Without `make` in between: the start time of the server alone.
        port = free_port()
        command = [str(checkout / ".venv/bin/modelyard"), "serve"]
        with running(command, port, cwd=checkout, environ=environ) as (_, seconds):
            proof.line(
                "modelyard serve, again", f"ready after {seconds:.2f} s", seconds < 2
            )
            proof.figures["ready_seconds_server_alone"] = round(seconds, 2)
    return proof
