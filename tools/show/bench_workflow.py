"""Cost of a workflow node, a step and a run, compared with graphon in the same run."""

from typing import Any

from bench import workflow

from tools.show.proof import Proof


def prove() -> Proof:
    """Run the workflow benchmark and compare its figures with the targets."""
    proof = Proof()
    figures = workflow.measure()
    peer: Any = figures["graphon"]
    for label, name, limit, unit, peer_figure in _TARGETS:
        note = _peer_note(peer, *peer_figure)
        # The workers of code nodes have a 95th percentile too.
        if percentile := figures.get(f"{name.removesuffix('_ms')}_p95_ms"):
            note = f"; p95 {percentile:.1f}"
        proof.line(
            f"{label}, target {limit:g} {unit}",
            f"{figures[name]:.2f} {unit}{note}",
            figures[name] <= limit,
        )
    proof.line(
        "durable steps a second, 20 writers, SQLite, target 1,500",
        f"{figures['steps_s']:,.0f}",
        figures["steps_s"] >= 1500,
    )
    proof.line(
        "memory of a run that waits for its model", f"{figures['idle_kb']:.1f} kB"
    )
    if isinstance(peer, dict):
        proof.line("graphon, installed", f"{peer['megabytes']} MB")
    else:
        proof.line("graphon", peer, ok=None)
    proof.figures |= figures
    return proof


_TARGETS: tuple[tuple[str, str, float, str, tuple[str, ...]], ...] = (
    ("a chain of 100 templates, CPU", "chain_cpu_ms", 10, "ms", ("chain", "cpu_ms")),
    (
        "100 parallel templates, CPU",
        "parallel_cpu_ms",
        10,
        "ms",
        ("parallel", "cpu_ms"),
    ),
    ("18 diamonds in a row, CPU", "diamonds_cpu_ms", 10, "ms", ("diamonds", "cpu_ms")),
    ("a file of 100 nodes, loaded", "load_ms", 20, "ms", ("chain", "load_ms")),
    ("20 parallel requests of 500 ms", "http_s", 0.6, "s", ()),
    ("a code node, Python, warm", "python3_ms", 6, "ms", ()),
    ("a code node, JavaScript, warm", "javascript_ms", 6, "ms", ()),
    ("stop while a model generates, slowest of ten", "stop_ms", 100, "ms", ()),
)
"""(label, figure, limit, unit, (graph, figure) of graphon) of each target."""


def _peer_note(peer: Any, graph: str = "", name: str = "") -> str:
    """Return graphon's value of a figure as text; empty if there is none, or if graphon
    could not be measured."""
    if not graph or not isinstance(peer, dict):
        return ""
    return f"; graphon {peer[graph][name]:.1f} ms"
