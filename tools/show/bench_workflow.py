"""What a node, a step and a run cost, beside graphon in the same run."""

from typing import Any

from bench import workflow

from tools.show.proof import Proof


def prove() -> Proof:
    proof = Proof()
    seen = workflow.measure()
    peer: Any = seen["graphon"]

    def beside(name: str, field: str = "cpu_ms") -> str:
        return f"; graphon {peer[name][field]:.1f} ms" if isinstance(peer, dict) else ""

    def aim(what: str, name: str, most: float, unit: str, more: str = "") -> None:
        proof.line(f"{what}, aim {most:g} {unit}", f"{seen[name]:.2f} {unit}{more}", seen[name] <= most)

    aim("a chain of 100 templates, CPU", "chain_cpu_ms", 10, "ms", beside("chain"))
    aim("100 templates side by side, CPU", "parallel_cpu_ms", 10, "ms", beside("parallel"))
    aim("18 diamonds in a row, CPU", "diamonds_cpu_ms", 10, "ms", beside("diamonds"))
    aim("a file of 100 nodes, read and built", "load_ms", 20, "ms", beside("chain", "load_ms"))
    aim("20 requests of 500 ms side by side", "http_s", 0.6, "s")
    aim("a code node, Python, warm", "python3_ms", 6, "ms", f"; p95 {seen['python3_p95_ms']:.1f}")
    aim("a code node, JavaScript, warm", "javascript_ms", 6, "ms", f"; p95 {seen['javascript_p95_ms']:.1f}")
    aim("stop while a model talks, worst of ten", "stop_ms", 100, "ms")
    proof.line(
        "durable steps a second, 20 writers, SQLite, aim 1,500", f"{seen['steps_s']:,.0f}", seen["steps_s"] >= 1500
    )
    proof.line("a run that waits for its model", f"{seen['idle_kb']:.1f} kB")
    if isinstance(peer, dict):
        proof.line("graphon, installed", f"{peer['megabytes']} MB")
    else:
        proof.line("graphon", peer, ok=None)
    proof.figures |= seen
    return proof
