"""Public suites and schemas against the gateway: llm-comply in four formats, the fields
that vendors' schemas require, the paths that official clients know, and schemathesis
over the published description."""

from tools.show.proof import Proof, tests


def prove() -> Proof:
    """Run the suites and report one line for each."""
    proof = Proof()
    for label, path in (
        ("llm-comply: chat, Responses, Messages, Gemini", "test_public_suites.py"),
        ("required fields of published schemas", "test_public_schemas.py"),
        ("paths of the official clients", "test_unknown_paths.py"),
        ("schemathesis: the published description", "test_described_answers.py"),
    ):
        summary, ok = tests(f"tests/gateway/{path}")
        proof.line(label, summary, ok)
        proof.figures[label] = summary
    return proof
