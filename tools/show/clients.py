"""Official clients and libraries on top of them, against the gateway: with a played provider, and with local models."""

from tools.show.proof import Proof, tests


def prove() -> Proof:
    proof = Proof()
    for what, paths in (
        ("openai, anthropic, google-genai, cohere, langchain-openai, pydantic-ai", ["tests/gateway/test_clients.py"]),
        ("the same clients with the local models", ["tests/e2e/test_clients_with_local_models.py"]),
        ("openai against the other routes and faults", ["tests/gateway/test_gateway.py"]),
    ):
        said, ok = tests(*paths)
        proof.line(what, said, ok)
        proof.figures[what] = said
    return proof
