"""Tests for the customer service example with a scripted model: every branch."""

import asyncio
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.testing.agents import ScriptedChatModel
from modelyard.testing.knowledge import HashEmbedder
from modelyard.testing.workflows import scripted_models

pytestmark = pytest.mark.proof("customer-service-app")

PLACE = (
    Path(__file__).parents[2] / "examples" / "customer-service" / "customer_service.py"
)


@pytest.fixture(scope="module")
def example() -> Any:
    spec = util.spec_from_file_location("customer_service_example", PLACE)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("call", "observed"), [
    (["order_lookup", {"order_id": "1042"}], "on its way"), (["refund_process", {"order_id": "1077"}], "has begun"),
    (["refund_process", {"order_id": "1"}], "There is no order 1"), (["technical_support", {"problem": "It flickers."}], "is open"),
])  # fmt: skip
def test_an_agent_acts_and_a_model_answers(
    tmp_path: Path, example: Any, call: list[Any], observed: str
):
    model = ScriptedChatModel(
        replies=[{"calls": [call]}, "It was done.", "Dear customer, it was done."]
    )

    async def go() -> Any:
        definition, builder = scripted_models(model)  # type: ignore[arg-type]
        settings = Settings(home=str(tmp_path), defaults={"llm": "scripted/model"})
        async with Modelyard(
            settings,
            definitions=[definition],
            builders={"scripted": builder},
            environ={},
            embedder=HashEmbedder(),
        ) as yard:
            await example.prepare(yard)
            await example.prepare(yard)  # the second time changes nothing
            return await example.handle_customer_query(
                yard, "What about my order?", "1042"
            )

    answer = asyncio.run(go())
    assert answer.text == "Dear customer, it was done."
    assert set(answer.sources) <= {"customer_faq/faq.md", "product_manual/lamp.md"}
    assert answer.sources
    assert answer.usage["tokens"] > 0
    assert [action["tool"] for action in answer.actions] == [call[0]]
    assert observed in answer.actions[0]["observation"]
