"""Starts, calls, streams and installations of plugins, compared with the plain way in
one run."""

from bench import plugins

from tools.show.proof import Proof


def prove() -> Proof:
    """Run the benchmark of plugins and compare its figures with the targets."""
    proof = Proof()
    figures = plugins.measure()
    proof.line(
        "a first call to a plugin that does not run",
        f"{figures['start_one_s']:.2f} s, {figures['start_one_mb']:.0f} MB",
    )
    ten = figures["start_ten_s"], figures["start_ten_mb"]
    proof.line(
        "ten different ones at once, aim 3 s and 160 MB",
        f"{ten[0]:.2f} s, {ten[1]:.0f} MB",
        ten[0] <= 3 and ten[1] <= 160,
    )
    proof.line(
        "the same, the plain way",
        f"{figures['plain_ten_s']:.2f} s, {figures['plain_ten_mb']:.0f} MB",
    )
    proof.line(
        "a call that does nothing, aim 0.6 ms",
        f"{figures['noop_ms']:.2f} ms",
        figures["noop_ms"] <= 0.6,
    )
    # The direct provider calls the same server, so the difference is the plugin's own
    # cost.
    overhead_ms = figures["llm_ms"] - figures["direct_ms"]
    proof.line(
        "a chat through a plugin, over the direct provider, aim 3 ms",
        f"{overhead_ms:.2f} ms",
        overhead_ms <= 3,
    )
    proof.line(
        "chunks a second, aim 6,000",
        f"{figures['chunks_s']:,}",
        figures["chunks_s"] >= 6000,
    )
    proof.line(
        "answers a second, sixteen at once, one process", figures["answers_s_one"]
    )
    proof.line("with four", figures["answers_s_four"])
    proof.line(
        "an install, offline, aim 2 s",
        f"{figures['install_offline_s']:.2f} s",
        figures["install_offline_s"] <= 2,
    )
    proof.figures |= figures
    return proof
