"""Three credentials of one provider: one is refused, one is rate limited, one works.
Then the whole provider goes down."""

import time
from decimal import Decimal

import openai

from modelyard.testing import Upstream, chat_answer, error_answer
from tools.show.proof import (
    Proof,
    cost_by_group,
    free_port,
    modelyard,
    running,
    serve_command,
    temporary_home,
)

_SETTINGS = """
failover: {{openai/gpt-5-mini: [local/qwen2.5-coder-0.5b]}}
retries: 0
providers:
  - name: openai
    base_url: {url}
    credentials:
      - {{name: refused, values: {{api_key: sk-refused}}}}
      - {{name: limited, values: {{api_key: sk-limited}}}}
      - {{name: works, values: {{api_key: sk-works}}}}
"""


def prove() -> Proof:
    """Check the order of the credentials, the cooldown, the failover and the costs in
    the ledger."""
    proof = Proof()
    answers = {
        "sk-refused": error_answer(401, "this key was revoked"),
        "sk-limited": error_answer(429, "too many requests", retry_after="3"),
        "sk-works": chat_answer("It works.", prompt=1000, completion=500),
    }
    with Upstream(lambda request: answers[request.key]) as upstream:
        port = free_port()
        with (
            temporary_home(modelyard=_SETTINGS.format(url=upstream.url)) as environ,
            running(serve_command(), port, environ=environ),
        ):
            client = openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
            )
            _check_order(proof, client, upstream)
            answers["sk-limited"] = chat_answer(
                "The limit is over.", prompt=1000, completion=500
            )
            _check_return(proof, client)
            for key in answers:
                answers[key] = error_answer(503, "down for maintenance")
            text = _ask(client)
            proof.line(
                "the provider down, failover to a local model", repr(text), bool(text)
            )
            # Ledger rows are written in batches; let the last one be written.
            time.sleep(0.2)
            _check_ledger(proof, environ)
            costs = cost_by_group("provider", "credential", "status", environ=environ)
    summary = "; ".join(
        f"{' '.join(key)} {amount:f} {currency}"
        for key, (amount, currency) in sorted(costs.items())
    )
    proof.line("the cost", summary, costs == _EXPECTED_COSTS)
    # Four calls with all credentials, four after the cooldown, one by failover.
    proof.figures["answered"] = 9
    return proof


# 8 successful calls of 1,000 input tokens at 0.25 dollars per million and 500 output
# tokens at 2; refused calls cost nothing.
_EXPECTED_COSTS = {
    ("openai", "works", "ok"): (6 * Decimal("0.00125"), "USD"),
    ("openai", "limited", "ok"): (2 * Decimal("0.00125"), "USD"),
    ("openai", "limited", "rate_limit_exceeded"): (Decimal(0), "USD"),
    ("openai", "refused", "upstream_authorization"): (Decimal(0), "USD"),
    ("openai", "works", "upstream_unavailable"): (Decimal(0), "USD"),
    ("local", "-", "ok"): (Decimal(0), "USD"),
}


def _ask(client: openai.OpenAI) -> str:
    """Send one chat request and return the text of the answer."""
    answer = client.chat.completions.create(
        model="openai/gpt-5-mini",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=8,
    )
    return answer.choices[0].message.content or ""


def _check_order(proof: Proof, client: openai.OpenAI, upstream: Upstream) -> None:
    """Make four calls: the refused and the limited credential are tried once each;
    after that they are in cooldown."""
    texts = [_ask(client) for _ in range(4)]
    order = [request.key.removeprefix("sk-") for request in upstream.requests]
    expected_order = ["refused", "limited", "works", "works", "works", "works"]
    proof.line("four calls, all answered", texts, texts == ["It works."] * 4)
    proof.line("credentials tried", ", ".join(order), order == expected_order)
    proof.figures["asked"] = order


def _check_return(proof: Proof, client: openai.OpenAI) -> None:
    """Wait for the limited credential's Retry-After; then both credentials serve."""
    time.sleep(3.1)
    texts = {_ask(client) for _ in range(4)}
    proof.line(
        "after Retry-After, 3 s",
        f"both serve: {sorted(texts)}",
        texts == {"It works.", "The limit is over."},
    )


def _check_ledger(proof: Proof, environ: dict[str, str]) -> None:
    """Print the ledger, and check that it has every outcome."""
    rows = modelyard("usage", "--rows", "20", environ=environ)
    usage_table = modelyard(
        "usage", "--by", "provider,credential,status", environ=environ
    )
    print(rows)
    print(usage_table)
    expected = (
        "upstream_authorization",
        "rate_limit_exceeded",
        "upstream_unavailable",
        "local",
    )
    proof.line(
        "the ledger",
        "has the refusal, the limit, the outage and the failover",
        all(term in usage_table for term in expected),
    )
