"""Starts, calls, streams and installs of plugins, beside the plain way, in one run."""

from bench import plugins

from tools.show.proof import Proof


def prove() -> Proof:
    proof = Proof()
    seen = plugins.measure()
    proof.line(
        "a first call to a plugin that does not run", f"{seen['start_one_s']:.2f} s, {seen['start_one_mb']:.0f} MB"
    )
    ten = seen["start_ten_s"], seen["start_ten_mb"]
    proof.line("ten different ones at once, aim 3 s and 160 MB", f"{ten[0]:.2f} s, {ten[1]:.0f} MB",
               ten[0] <= 3 and ten[1] <= 160)  # fmt: skip
    proof.line("the same, the plain way", f"{seen['plain_ten_s']:.2f} s, {seen['plain_ten_mb']:.0f} MB")
    proof.line("a call that does nothing, aim 0.6 ms", f"{seen['noop_ms']:.2f} ms", seen["noop_ms"] <= 0.6)
    over = seen["llm_ms"] - seen["direct_ms"]
    proof.line("a chat through a plugin, over the direct provider, aim 3 ms", f"{over:.2f} ms", over <= 3)
    proof.line("chunks a second, aim 6,000", f"{seen['chunks_s']:,}", seen["chunks_s"] >= 6000)
    proof.line("answers a second, sixteen at once, one process", seen["answers_s_one"])
    proof.line("with four", seen["answers_s_four"])
    proof.line("an install, offline, aim 2 s", f"{seen['install_offline_s']:.2f} s", seen["install_offline_s"] <= 2)
    proof.figures |= seen
    return proof
