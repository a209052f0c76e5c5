"""What a call costs with everything on, beside the peers that install, in one run."""

from bench import peers

from tools.show.proof import Proof


def _event(cost: float | None) -> str:
    return "streams do not work here" if cost is None else f"{cost:>6.2f} µs an event"


def prove() -> Proof:
    proof = Proof()
    table = peers.measure()
    for one in table:
        if "left_out" in one:
            proof.line(one["system"], f"left out: {one['left_out']}")
            continue
        proof.line(
            one["system"],
            f"{one['cpu_us_32']:>8.1f} µs at 32 connections, {one['cpu_us_1']:>8.1f} at one, "
            f"{one['requests_s']:>6} a second, {_event(one['cpu_us_event'])}, {one['mb_after']:.0f} MB",
        )
    ours = next(one for one in table if one["system"].startswith("modelyard"))
    bare = next(one for one in table if one["system"].startswith("bare"))
    streams = peers.slow_streams()
    proof.line("a call with everything on, aim 100 µs", f"{ours['cpu_us_32']:.1f} µs", ours["cpu_us_32"] <= 100)
    proof.line("the same, in bare relays", f"{ours['cpu_us_32'] / bare['cpu_us_32']:.2f}")
    proof.line("a streamed event, aim 4 µs", f"{ours['cpu_us_event']:.2f} µs", ours["cpu_us_event"] <= 4)
    proof.line("resident, aim 80 MB", f"{ours['mb_after']:.1f} MB", ours["mb_after"] <= 80)
    proof.line("ready, aim 1 s", f"{ours['ready_s']:.2f} s", ours["ready_s"] < 1)
    proof.line(
        f"{streams['streams']} slow streams, aim 30 kB each",
        f"{streams['kb_each']} kB, {streams['complete']} complete",
        streams["kb_each"] <= 30 and streams["complete"] == streams["streams"],
    )  # fmt: skip
    proof.figures |= {"table": table, "streams": streams}
    return proof
