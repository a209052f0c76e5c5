"""Round trips by hypothesis in every format, and OpenAI's own types holding what the gateway emits."""

from tools.show.proof import Proof, tests


def prove() -> Proof:
    proof = Proof()
    for what, paths in (
        ("written and read again is the same, in nine formats", ["tests/wire/test_laws.py"]),
        ("what is recorded reads and writes the same", ["tests/wire/test_recordings.py"]),
        ("OpenAI's types hold what we emit", ["tests/wire/test_openai_types.py"]),
        ("thoughts between tags, however cut", ["tests/unit/models/test_thinking.py"]),
    ):
        said, ok = tests(*paths)
        proof.line(what, said, ok)
        proof.figures[what] = said
    return proof
