"""Load a provider definition in Dify's format unchanged from a folder, list its models
and call them against a local upstream."""

from decimal import Decimal

import openai

from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    embedding_answer,
)
from tools.show.proof import (
    ROOT,
    Proof,
    cost_by_group,
    free_port,
    modelyard,
    running,
    serve_command,
    temporary_home,
)

FOLDER = ROOT / "tests" / "data" / "dify_nimbus"
_SETTINGS = """
providers:
  - path: {folder}
    base_url: {url}
    credentials: [{{values: {{api_key: sk-nimbus}}}}]
"""


def prove() -> Proof:
    """Check listing, credentials, parameter rules, embeddings and pricing of the
    provider."""
    proof = Proof()
    with (
        Upstream(_answer) as upstream,
        temporary_home(
            modelyard=_SETTINGS.format(folder=FOLDER, url=upstream.url)
        ) as environ,
    ):
        _check_listing(proof, environ)
        port = free_port()
        with running(serve_command(), port, environ=environ):
            client = openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
            )
            _check_chat(proof, client, upstream)
            _check_parameter_limit(proof, client)
            _check_embedding(proof, client)
        print(modelyard("usage", environ=environ))
        costs = cost_by_group("provider", "model", environ=environ)
        amount, currency = costs["nimbus", "nimbus-large"]
    # One million input tokens × 0.40 plus half a million output tokens × 1.60, in the
    # file's currency.
    is_exact = (amount, currency) == (Decimal("1.2"), "RMB")
    proof.line(
        "priced by its file",
        f"1M × 0.40 + 0.5M × 1.60 RMB = 1.2; charged {amount:f} {currency}",
        is_exact,
    )
    return proof


def _answer(request: UpstreamRequest) -> Answer:
    """Answer as the simulated provider, with token counts that make the price easy to
    verify."""
    if request.path == "/v1/embeddings":
        return embedding_answer([[0.6, 0.8]])
    return chat_answer("Rain.", prompt=1_000_000, completion=500_000)


def _check_listing(proof: Proof, environ: dict[str, str]) -> None:
    """List the models of the provider's files."""
    listed = modelyard("models", environ=environ)
    lines = [line for line in listed.splitlines() if line.startswith("nimbus/")]
    for line in lines:
        proof.line("modelyard models", line)
    proof.line("listed", f"{len(lines)} models of 4 files", len(lines) == 4)
    proof.figures["models"] = len(lines)


def _check_chat(proof: Proof, client: openai.OpenAI, upstream: Upstream) -> None:
    """Call a chat model; check the credential and the temperature that were sent."""
    completion = client.chat.completions.create(
        model="nimbus/nimbus-large",
        messages=[{"role": "user", "content": "Weather?"}],
        temperature=1.234,
    )
    text = completion.choices[0].message.content
    request = upstream.requests[-1]
    temperature = request.json["temperature"]
    proof.line("called", f"{text!r}", text == "Rain.")
    proof.line(
        "with the credential from its form", request.key, request.key == "sk-nimbus"
    )
    # The parameter rule allows two decimal places.
    proof.line("temperature rounded by its rule", temperature, temperature == 1.23)


def _check_parameter_limit(proof: Proof, client: openai.OpenAI) -> None:
    """The rule's maximum is 1.5, so a higher temperature must be refused before the
    upstream is called."""
    label = "a parameter above the maximum of its rule"
    try:
        client.chat.completions.create(
            model="nimbus-large",
            messages=[{"role": "user", "content": "?"}],
            temperature=1.9,
        )
        proof.line(label, "was accepted", ok=False)
    except openai.BadRequestError as error:
        proof.line(label, error.message, "at most 1.5" in error.message)


def _check_embedding(proof: Proof, client: openai.OpenAI) -> None:
    """Call the provider's embedding model."""
    response = client.embeddings.create(model="nimbus-embed", input="x")
    vector = [round(number, 3) for number in response.data[0].embedding]
    proof.line("its embedding model", vector, len(vector) == 2)
