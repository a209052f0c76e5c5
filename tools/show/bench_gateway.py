"""Cost of a call with all features on, compared in one run with the peers that can be
installed."""

from bench import peers

from tools.show.proof import Proof


def _event(cost: float | None) -> str:
    """Return the cost of a streamed event as text; None means that the peer's streams
    do not work here."""
    return "streams do not work here" if cost is None else f"{cost:>6.2f} µs an event"


def prove() -> Proof:
    """Run the gateway benchmark with its peers and compare Modelyard's figures with the
    targets."""
    proof = Proof()
    table = peers.measure()
    for row in table:
        if "left_out" in row:
            proof.line(row["system"], f"left out: {row['left_out']}")
            continue
        proof.line(
            row["system"],
            f"{row['cpu_us_32']:>8.1f} µs at 32 connections, {row['cpu_us_1']:>8.1f} at one, "
            f"{row['requests_s']:>6} a second, {_event(row['cpu_us_event'])}, {row['mb_after']:.0f} MB",
        )
    own_row = next(row for row in table if row["system"].startswith("modelyard"))
    relay_row = next(row for row in table if row["system"].startswith("bare"))
    # The memory of slow streams is measured apart, with a server of its own.
    streams = peers.slow_streams()
    proof.line(
        "a call with all features enabled, target 100 µs",
        f"{own_row['cpu_us_32']:.1f} µs",
        own_row["cpu_us_32"] <= 100,
    )
    proof.line(
        "the same, as a multiple of a bare relay",
        f"{own_row['cpu_us_32'] / relay_row['cpu_us_32']:.2f}",
    )
    proof.line(
        "a streamed event, target 4 µs",
        f"{own_row['cpu_us_event']:.2f} µs",
        own_row["cpu_us_event"] <= 4,
    )
    proof.line(
        "resident memory, target 80 MB",
        f"{own_row['mb_after']:.1f} MB",
        own_row["mb_after"] <= 80,
    )
    proof.line(
        "ready, target 1 s", f"{own_row['ready_s']:.2f} s", own_row["ready_s"] < 1
    )
    proof.line(
        f"{streams['streams']} slow streams, target 30 kB each",
        f"{streams['kb_each']} kB, {streams['complete']} complete",
        streams["kb_each"] <= 30 and streams["complete"] == streams["streams"],
    )
    proof.figures |= {"table": table, "streams": streams}
    return proof
