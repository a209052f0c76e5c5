"""Tests for costs as `tools/show` reads them: sums over `modelyard usage` amounts.

The amounts may be spelled in any way.
"""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from tools.show.foreign_yaml import FOLDER
from tools.show.proof import cost_by_group

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.testing import Handler, Upstream, chat_answer, error_answer
from tests.gateway.conftest import Running

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]


def ask(running: Running, model: str) -> None:
    api = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": "hi"}]
    api.chat.completions.create(model=model, messages=messages)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a command that uses the home of `start_gateway`."""
    return {"MODELYARD_HOME": str(tmp_path)}


def test_each_credential_is_charged_for_what_it_served(
    start_gateway: Start, upstream: Play, environ: dict[str, str]
):
    answers = {
        "limited": error_answer(429, retry_after="60"),
        "works": chat_answer("ok", prompt=1000, completion=500),
    }
    server = upstream(lambda request: answers[request.key])
    credentials = [
        CredentialSettings(name=name, values={"api_key": name}) for name in answers
    ]
    running = start_gateway(
        providers=[
            ProviderSettings(
                name="openai", base_url=server.url, credentials=credentials
            )
        ]
    )
    for _ in range(2):
        ask(running, "openai/gpt-5-mini")
    running.flush()
    assert cost_by_group("credential", "status", environ=environ) == {
        ("works", "ok"): (2 * Decimal("0.00125"), "USD"),
        ("limited", "rate_limit_exceeded"): (Decimal(0), "USD"),
    }


def test_a_provider_from_a_folder_is_charged_by_its_file(
    start_gateway: Start, upstream: Play, environ: dict[str, str]
):
    server = upstream(
        lambda request: chat_answer("Rain.", prompt=1_000_000, completion=500_000)
    )
    credential = CredentialSettings(values={"api_key": "sk-nimbus"})
    running = start_gateway(
        providers=[
            ProviderSettings(
                path=str(FOLDER), base_url=server.url, credentials=[credential]
            )
        ]
    )
    ask(running, "nimbus/nimbus-large")
    running.flush()
    assert cost_by_group("provider", "model", environ=environ) == {
        ("nimbus", "nimbus-large"): (Decimal("1.2"), "RMB")
    }
