"""Three third-party clients of the knowledge API from PyPI, each in its own
environment, against the server."""

from tools.show.app_clients import prove_clients
from tools.show.proof import Proof

CLIENTS = {
    "dify-dataset-sdk": ("calls_dify_dataset_sdk.py", (3, 11)),
    "dify-knowledge-sdk": ("calls_dify_knowledge_sdk.py", (3, 11)),
    "dify-api-client": ("calls_dify_api_client.py", (3, 11)),
}


def prove() -> Proof:
    """Run the calls of every client."""
    return prove_clients(CLIENTS)
