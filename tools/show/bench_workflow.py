"""Cost of a workflow node, a step and a run, compared with graphon in the same run."""

from typing import Any

from bench import workflow

from tools.show.proof import Proof


def prove() -> Proof:
    """Run the workflow benchmark and compare its figures with the targets."""
    proof = Proof()
    figures = workflow.measure()
    peer: Any = figures["graphon"]

    def graphon_text(name: str, field: str = "cpu_ms") -> str:
        """Return graphon's value of a figure as text; empty if graphon could not be
        measured."""
        return f"; graphon {peer[name][field]:.1f} ms" if isinstance(peer, dict) else ""

    def aim(label: str, name: str, limit: float, unit: str, note: str = "") -> None:
        """Report a figure that must not exceed `limit`."""
        proof.line(
            f"{label}, aim {limit:g} {unit}",
            f"{figures[name]:.2f} {unit}{note}",
            figures[name] <= limit,
        )

    aim(
        "a chain of 100 templates, CPU", "chain_cpu_ms", 10, "ms", graphon_text("chain")
    )
    aim(
        "100 templates side by side, CPU",
        "parallel_cpu_ms",
        10,
        "ms",
        graphon_text("parallel"),
    )
    aim(
        "18 diamonds in a row, CPU",
        "diamonds_cpu_ms",
        10,
        "ms",
        graphon_text("diamonds"),
    )
    aim(
        "a file of 100 nodes, read and built",
        "load_ms",
        20,
        "ms",
        graphon_text("chain", "load_ms"),
    )
    aim("20 requests of 500 ms side by side", "http_s", 0.6, "s")
    aim(
        "a code node, Python, warm",
        "python3_ms",
        6,
        "ms",
        f"; p95 {figures['python3_p95_ms']:.1f}",
    )
    aim(
        "a code node, JavaScript, warm",
        "javascript_ms",
        6,
        "ms",
        f"; p95 {figures['javascript_p95_ms']:.1f}",
    )
    aim("stop while a model talks, worst of ten", "stop_ms", 100, "ms")
    proof.line(
        "durable steps a second, 20 writers, SQLite, aim 1,500",
        f"{figures['steps_s']:,.0f}",
        figures["steps_s"] >= 1500,
    )
    proof.line("a run that waits for its model", f"{figures['idle_kb']:.1f} kB")
    if isinstance(peer, dict):
        proof.line("graphon, installed", f"{peer['megabytes']} MB")
    else:
        proof.line("graphon", peer, ok=None)
    proof.figures |= figures
    return proof
