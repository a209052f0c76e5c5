"""Plugins of every kind, end to end; the how-to, executed."""

from tools.show.proof import Proof, tests


def prove() -> Proof:
    proof = Proof()
    for what, path in (
        ("every kind, by gateway and daemon's interface", "tests/plugins/test_kinds.py"),
        ("the how-to of MockGPT", "tests/plugins/test_howto.py"),
        ("in debug, and served by HTTP", "tests/plugins/test_elsewhere.py"),
        ("made by `init`, then tried", "tests/plugins/test_commands.py"),
    ):
        seen, ok = tests(path)
        proof.line(what, seen, ok)
        proof.figures[what] = seen
    return proof
