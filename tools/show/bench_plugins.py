"""Starts, calls, streams and installations of plugins, compared with the plain way in
one run."""

from bench import plugins

from tools.show.proof import Proof


def prove() -> Proof:
    """Run the benchmark of plugins and compare its figures with the targets."""
    proof = Proof()
    figures = plugins.measure()
    proof.line(
        "a first call to a plugin that is not running",
        f"{figures['start_one_s']:.2f} s, {figures['start_one_mb']:.0f} MB",
    )
    ten = figures["start_ten_s"], figures["start_ten_mb"]
    proof.line(
        "ten different plugins at once, target 3 s and 160 MB",
        f"{ten[0]:.2f} s, {ten[1]:.0f} MB",
        ten[0] <= 3 and ten[1] <= 160,
    )
    proof.line(
        "the same with plain Python processes",
        f"{figures['plain_ten_s']:.2f} s, {figures['plain_ten_mb']:.0f} MB",
    )
    proof.line(
        "an empty call, target 0.6 ms",
        f"{figures['noop_ms']:.2f} ms",
        figures["noop_ms"] <= 0.6,
    )
    # The direct provider calls the same server, so the difference is the plugin's own
    # cost.
    overhead_ms = figures["llm_ms"] - figures["direct_ms"]
    proof.line(
        "a chat through a plugin, overhead over the direct provider, target 3 ms",
        f"{overhead_ms:.2f} ms",
        overhead_ms <= 3,
    )
    proof.line(
        "chunks a second, target 6,000",
        f"{figures['chunks_s']:,}",
        figures["chunks_s"] >= 6000,
    )
    proof.line(
        "answers a second, sixteen concurrent calls, one process",
        figures["answers_s_one"],
    )
    proof.line("the same with four processes", figures["answers_s_four"])
    proof.line(
        "an offline installation, target 2 s",
        f"{figures['install_offline_s']:.2f} s",
        figures["install_offline_s"] <= 2,
    )
    proof.figures |= figures
    return proof
