"""Official clients, and libraries built on them, against the gateway: with a simulated
provider and with local models."""

from tools.show.proof import Proof, tests


def prove() -> Proof:
    """Run the client tests and report one line per group."""
    proof = Proof()
    for label, paths in (
        (
            "openai, anthropic, google-genai, cohere, langchain-openai, pydantic-ai",
            ["tests/gateway/test_clients.py"],
        ),
        (
            "openai-agents, in both of its formats, with every kind of provider",
            ["tests/gateway/test_agents_sdk.py"],
        ),
        (
            "google-genai's and anthropic's lists of models, openai's client for Azure",
            ["tests/gateway/test_model_lists.py"],
        ),
        (
            "the same clients with the local models",
            ["tests/e2e/test_clients_with_local_models.py"],
        ),
        (
            "openai against the other routes and faults",
            ["tests/gateway/test_gateway.py"],
        ),
    ):
        summary, ok = tests(*paths)
        proof.line(label, summary, ok)
        proof.figures[label] = summary
    return proof
