"""The README's first steps, with the official client and only `base_url` set."""

import openai
import pytest
from tools.show import journey

from tests.e2e.conftest import Served

pytestmark = pytest.mark.proof("first-five-minutes")


@pytest.mark.parametrize(
    "step",
    [
        journey.chat,
        journey.tool_call,
        journey.structured,
        journey.embeddings,
        journey.rerank,
        journey.speech,
        journey.chinese_speech,
        journey.moderation,
    ],
)
def test_every_step_of_the_journey_works(served: Served, step: "object"):
    client = openai.OpenAI(
        base_url=served.url, api_key="none", max_retries=0, timeout=120
    )
    name, observation, ok, _ = step(client)  # type: ignore[operator]
    client.close()
    assert ok, f"{name}: {observation}"
