"""Load a provider definition in Dify's format unchanged from a folder, list its models
and call them against a local upstream."""

from decimal import Decimal

import openai

from modelyard.testing import Upstream, chat_answer, embedding_answer
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

    def answer(request):  # type: ignore[no-untyped-def]
        """Answer as the simulated provider, with token counts that make the price easy
        to verify."""
        if request.path == "/v1/embeddings":
            return embedding_answer([[0.6, 0.8]])
        return chat_answer("Rain.", prompt=1_000_000, completion=500_000)

    with (
        Upstream(answer) as upstream,
        temporary_home(
            modelyard=_SETTINGS.format(folder=FOLDER, url=upstream.url)
        ) as environ,
    ):
        listed = modelyard("models", environ=environ)
        lines = [line for line in listed.splitlines() if line.startswith("nimbus/")]
        for line in lines:
            proof.line("modelyard models", line)
        proof.line("listed", f"{len(lines)} models of 4 files", len(lines) == 4)
        port = free_port()
        with running(serve_command(), port, environ=environ):
            client = openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
            )
            completion = client.chat.completions.create(
                model="nimbus/nimbus-large",
                messages=[{"role": "user", "content": "Weather?"}],
                temperature=1.234,
            )
            sent = upstream.requests[-1].json
            proof.line(
                "called",
                f"{completion.choices[0].message.content!r}",
                completion.choices[0].message.content == "Rain.",
            )
            proof.line(
                "with the credential of its form",
                upstream.requests[-1].key,
                upstream.requests[-1].key == "sk-nimbus",
            )
            # The parameter rule allows two decimal places.
            proof.line(
                "temperature rounded by its rule",
                sent["temperature"],
                sent["temperature"] == 1.23,
            )
            # The rule's maximum is 1.5, so a higher temperature must be refused before
            # the upstream is called.
            try:
                client.chat.completions.create(
                    model="nimbus-large",
                    messages=[{"role": "user", "content": "?"}],
                    temperature=1.9,
                )
                proof.line("a parameter beyond its rule", "was let through", ok=False)
            except openai.BadRequestError as error:
                proof.line(
                    "a parameter beyond its rule",
                    error.message,
                    "at most 1.5" in error.message,
                )
            vector = (
                client.embeddings.create(model="nimbus-embed", input="x")
                .data[0]
                .embedding
            )
            proof.line(
                "its embedding model",
                [round(number, 3) for number in vector],
                len(vector) == 2,
            )
        print(modelyard("usage", environ=environ))
        amount, currency = cost_by_group("provider", "model", environ=environ)[
            "nimbus", "nimbus-large"
        ]
    # One million input tokens × 0.40 plus half a million output tokens × 1.60, in the
    # file's currency.
    is_exact = (amount, currency) == (Decimal("1.2"), "RMB")
    proof.line(
        "priced by its file",
        f"1M × 0.40 + 0.5M × 1.60 RMB = 1.2; charged {amount:f} {currency}",
        is_exact,
    )
    proof.figures |= {"models": len(lines)}
    return proof
