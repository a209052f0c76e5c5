"""Cost of a call with all features on, as a multiple of nginx's in the same rounds,
next to the other gateways that can be installed."""

from typing import Any

from bench import gateway
from bench.peers import PRODUCT

from tools.show.proof import Proof

_MIN_WORKER_GAIN = 1.8
_MAX_MEGABYTES = 80
_MAX_READY_SECONDS = 1.0
_MAX_STREAM_KB = 30


def prove() -> Proof:
    """Run the gateway benchmark and compare Modelyard's figures with the goals."""
    proof, figures = Proof(), gateway.measure_selected()
    for label, text, ok in gateway.table(figures):
        proof.line(label, text, ok)
    proof.figures |= figures
    _report_server(proof, figures)
    try:
        _report_workers(proof, gateway.worker_gain())
        _report_streams(proof, gateway.slow_streams())
    except (RuntimeError, gateway.RefusedError) as error:
        proof.line("workers and slow streams", str(error), ok=False)
    proof.line("profile by stage", "python -m bench.stages")
    return proof


def _report_server(proof: Proof, figures: dict[str, Any]) -> None:
    """Report the memory of the servers, and how soon they were ready."""
    for name, megabytes in figures["memory_mb"].items():
        seconds, ok = figures["ready_seconds"][name], None
        if name == PRODUCT:
            ok = megabytes <= _MAX_MEGABYTES and seconds <= _MAX_READY_SECONDS
        proof.line(
            f"{name}: memory after the run, time until ready",
            f"{megabytes:.1f} MB, {seconds:.2f} s",
            ok,
        )


def _report_workers(proof: Proof, workers: dict[str, Any]) -> None:
    """Report what a second worker brings. What cannot be measured is no success."""
    proof.figures["workers"] = workers
    label = f"two workers over one, goal {_MIN_WORKER_GAIN} ×"
    if workers["gain"] is None:
        proof.line(label, f"not measurable here: {workers['reason']}")
        return
    gain = workers["gain"]
    proof.line(label, f"{gain:.2f} × the calls per second", gain >= _MIN_WORKER_GAIN)


def _report_streams(proof: Proof, streams: dict[str, Any]) -> None:
    """Report the memory that slow streams take."""
    proof.figures["streams"] = streams
    proof.line(
        f"{streams['streams']} slow streams, goal {_MAX_STREAM_KB} kB each",
        f"{streams['kb_each']} kB, {streams['complete']} complete",
        streams["kb_each"] <= _MAX_STREAM_KB
        and streams["complete"] == streams["streams"],
    )
