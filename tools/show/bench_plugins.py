"""Starts, calls, streams and installations of plugins, compared with the plain way in
one run."""

from collections.abc import Mapping
from typing import Any

from bench import plugins, real_plugins

from tools.show.proof import Proof
from tools.show.real_plugins import repository


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
    folder = repository()
    if folder is not None:
        real = real_plugins.measure(folder)
        _report_real(proof, real)
        proof.figures |= real
    return proof


def _report_real(proof: Proof, real: Mapping[str, Any]) -> None:
    """Compare ten real plugins with plain processes."""
    count = len(real["real_names"])
    proof.line(
        f"{count} real plugins, {real['real_environments']} environments",
        ", ".join(real["real_names"]),
    )
    ours, plain = real["real_ten_s"], real["real_plain_ten_s"]
    proof.line(
        "all at once until their first answers, target 1.2 times plain processes",
        f"{ours:.2f} s; plainly {plain:.2f} s: {ours / plain:.2f} times",
        ours <= 1.2 * plain,
    )
    ours, plain = real["real_ten_cpu_s"], real["real_plain_ten_cpu_s"]
    proof.line(
        "the processor time of that",
        f"{ours:.2f} s; plainly {plain:.2f} s: {ours / plain:.2f} times",
    )
    ours, plain = real["real_ten_mb"], real["real_plain_ten_mb"]
    proof.line(
        "their memory, target 0.6 times plain processes",
        f"{ours:.0f} MB; plainly {plain:.0f} MB: {ours / plain:.2f} times",
        ours <= 0.6 * plain,
    )
    overhead = real["warm_call_ms"] - real["warm_direct_ms"]
    proof.line(
        "a warm call over a direct one, target 1 ms",
        f"{overhead:.2f} ms",
        overhead <= 1,
    )
    seconds = real["real_first_answer_p50_s"]
    proof.line(
        "installation to first answer, median, target 2.5 s",
        f"{seconds:.2f} s",
        seconds <= 2.5,
    )
