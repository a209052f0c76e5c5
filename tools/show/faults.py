"""Every way in which a provider fails, streamed and not, in three wire formats: alone, and with a model behind it."""

from tests.faults.test_faults import CASES, EXPECTED
from tests.faults.upstream import FORMATS

from tools.show.proof import Proof, tests


def prove() -> Proof:
    proof = Proof()
    proof.line("modes", ", ".join(sorted(set(EXPECTED) - {"healthy"})), len(EXPECTED) - 1 >= 22)
    proof.line("formats, cases", f"{', '.join(FORMATS)}; {len(CASES)}", len(CASES) == len(EXPECTED) * len(FORMATS) * 2)
    for what, name in (
        ("in time, the right error, the right row", "test_a_fault_is_an_error_in_time_and_one_row"),
        ("another model answers", "test_another_model_answers_where_nothing_had_begun"),
        ("nothing is left open", "test_nothing_is_left_open"),
    ):
        said, ok = tests(f"tests/faults/test_faults.py::{name}")
        proof.line(what, said, ok)
        proof.figures[name] = said
    return proof
