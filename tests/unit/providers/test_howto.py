"""The provider of docs/how-to/add-a-provider.md as it is: loaded, called, priced."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.app import Modelyard
from modelyard.base.settings import CredentialSettings, ProviderSettings, Settings
from modelyard.testing import (
    Answer,
    Handler,
    Upstream,
    UpstreamRequest,
    chat_answer,
    json_answer,
)

pytestmark = pytest.mark.proof("catalogue")

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "add-a-provider.md"


def answered(request: UpstreamRequest) -> Answer:
    if request.path == "/v1/search/rerank":
        return json_answer(
            {
                "results": [
                    {"index": 1, "relevance_score": 0.9},
                    {"index": 0, "relevance_score": 0.1},
                ]
            }
        )
    return chat_answer("<think>easy</think>Yes.", prompt=70_000, completion=10)


def test_the_provider_of_the_how_to_works(
    upstream: Callable[[Handler], Upstream], settings: Settings, tmp_path: Path
):
    text = next(
        block
        for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)
        if "nimbus" in block
    )
    (tmp_path / "nimbus.yaml").write_text(text)
    server = upstream(answered)
    credential = CredentialSettings(values={"api_key": "k", "project": "p1"})
    provider = ProviderSettings(
        path=str(tmp_path / "nimbus.yaml"),
        base_url=server.url,
        credentials=[credential],
    )

    async def work() -> tuple[Any, Any]:
        async with Modelyard(
            msgspec.structs.replace(settings, providers=[provider]), environ={}
        ) as yard:
            answer = await yard.chat(
                "Is it so?", model="nimbus-large", max_tokens=5, seed=1
            )
            ranked = await yard.rerank("q", ["a", "b"], model="nimbus-rank")
            return answer, ranked

    answer, ranked = asyncio.run(work())
    assert (answer.text, answer.message.reasoning_content) == ("Yes.", "easy")
    # Above the tier's threshold, per million: 70,000 × 0.80 and 10 × 3.20.
    assert str(answer.usage.total_price) == "0.0560320"
    assert ([doc.index for doc in ranked.docs], str(ranked.usage.total_price)) == (
        [1, 0],
        "0.0020000",
    )
    chat, rank = server.requests
    assert (chat.headers["x-nimbus-key"], chat.headers["x-nimbus-project"]) == (
        "k",
        "p1",
    )
    assert (chat.json["max_completion_tokens"], "seed" in chat.json) == (5, False)
    assert rank.path == "/v1/search/rerank"
