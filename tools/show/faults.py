"""Every failure mode of a provider, streaming and non-streaming, in three wire formats:
with and without a failover model."""

from tests.faults.test_faults import CASES, EXPECTED
from tests.faults.upstream import FORMATS

from tools.show.proof import Proof, tests


def prove() -> Proof:
    """Check that all failure modes are covered and run their tests."""
    proof = Proof()
    proof.line(
        "modes", ", ".join(sorted(set(EXPECTED) - {"healthy"})), len(EXPECTED) - 1 >= 22
    )
    # Each failure mode is tested in each format, streaming and non-streaming.
    proof.line(
        "formats, cases",
        f"{', '.join(FORMATS)}; {len(CASES)}",
        len(CASES) == len(EXPECTED) * len(FORMATS) * 2,
    )
    for description, name in (
        (
            "in time, the right error, the right row",
            "test_a_fault_is_an_error_in_time_and_one_row",
        ),
        ("another model answers", "test_another_model_answers_where_nothing_had_begun"),
        ("nothing is left open", "test_nothing_is_left_open"),
    ):
        summary, ok = tests(f"tests/faults/test_faults.py::{name}")
        proof.line(description, summary, ok)
        proof.figures[name] = summary
    return proof
