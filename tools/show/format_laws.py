"""Property-based round trips (Hypothesis) of every wire format, and validation of the
gateway's output with OpenAI's own types."""

from tools.show.proof import Proof, tests


def prove() -> Proof:
    """Run the tests of the wire formats and report each group."""
    proof = Proof()
    for description, paths in (
        (
            "written and read again is the same, in nine formats",
            ["tests/wire/test_laws.py"],
        ),
        (
            "what is recorded reads and writes the same",
            ["tests/wire/test_recordings.py"],
        ),
        ("OpenAI's types hold what we emit", ["tests/wire/test_openai_types.py"]),
        ("thoughts between tags, however cut", ["tests/unit/models/test_thinking.py"]),
    ):
        summary, ok = tests(*paths)
        proof.line(description, summary, ok)
        proof.figures[description] = summary
    return proof
