"""Run the end-to-end tests of every plugin type, and the steps of the how-to guides."""

from tools.show.proof import Proof, tests


def prove() -> Proof:
    """Run each group of plugin tests and report its summary line."""
    proof = Proof()
    for label, path in (
        (
            "every kind, by gateway and daemon's interface",
            "tests/plugins/test_kinds.py",
        ),
        ("the how-to of MockGPT", "tests/plugins/test_howto.py"),
        ("in debug, and served by HTTP", "tests/plugins/test_elsewhere.py"),
        ("made by `init`, then tried", "tests/plugins/test_commands.py"),
    ):
        summary, ok = tests(path)
        proof.line(label, summary, ok)
        proof.figures[label] = summary
    return proof
