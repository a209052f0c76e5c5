"""OpenAI's Agents SDK against the gateway, with stand-ins that are as strict as the
vendors: parallel tools, a handoff, a typed result, in both of its formats."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    RunResult,
    RunResultStreaming,
    function_tool,
)
from modelyard.testing import Handler, Upstream
from tests.gateway.conftest import Running
from tests.gateway.test_agent_sessions import TARGETS, World
from tests.stand_ins.session import Answer, Conversation, Session, ToolCall

pytestmark = [
    pytest.mark.proof("clients"),
    # Third-party libraries may emit warnings.
    pytest.mark.filterwarnings("default"),
]

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
CITIES = ["Oslo", 'Ærø "Süd"']
# The SDK asks a chat stream for its usage only where it knows OpenAI's own address.
_SETTINGS = ModelSettings(include_usage=True)
REPORT = {"title": "Rain – „überall“", "days": 2}


class Report(BaseModel):
    """What the second agent returns."""

    title: str
    days: int


class Team(Session):
    """A model that looks at two cities at once, hands over, and answers in JSON."""

    def answer(self, conversation: Conversation) -> Answer:
        """Return the next answer; it follows from the conversation alone."""
        thinking = "I think." if conversation.wants_thinking else ""
        match len(conversation.turns):
            case 0:
                calls = [
                    ToolCall("weather", {"city": city}, f"0_{number}")
                    for number, city in enumerate(CITIES)
                ]
                return Answer("I look.", thinking, calls)
            case 1:
                results = [result.text for result in conversation.results.values()]
                assert results == [f"rain in {city}" for city in CITIES]
                name = next(t.name for t in conversation.tools if "transfer" in t.name)
                return Answer("", thinking, [ToolCall(name, {}, "1_0")])
            case _:
                return Answer(json.dumps(REPORT, ensure_ascii=False), thinking)


def _triage(model: Any, cities: list[str]) -> Agent[Any]:
    """Return an agent with a tool, and a second agent to hand over to."""

    @function_tool
    def weather(city: str) -> str:
        """Return the weather of a city."""
        cities.append(city)
        return f"rain in {city}"

    writer = Agent(
        name="Writer",
        instructions="Write the report.",
        model=model,
        model_settings=_SETTINGS,
        output_type=Report,
    )
    return Agent(
        name="Triage",
        instructions="Look at the weather, then hand over.",
        model=model,
        model_settings=_SETTINGS,
        tools=[weather],
        handoffs=[writer],
    )


async def _run(
    running: Running, name: str, api: str, is_streamed: bool, cities: list[str]
) -> RunResult | RunResultStreaming:
    """Run the agents with one of the SDK's two models."""
    kinds = {"responses": OpenAIResponsesModel, "chat": OpenAIChatCompletionsModel}
    config = RunConfig(tracing_disabled=True)
    async with openai.AsyncOpenAI(
        base_url=running.url, api_key="none", max_retries=0
    ) as client:
        agent = _triage(kinds[api](model=name, openai_client=client), cities)
        if not is_streamed:
            return await Runner.run(agent, "How is it?", run_config=config)
        result = Runner.run_streamed(agent, "How is it?", run_config=config)
        async for _ in result.stream_events():
            pass
        return result


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_openais_agents_sdk_runs_tools_and_hands_over(
    start_gateway: Start, upstream: Play, target: str, api: str, is_streamed: bool
):
    setup = World(target, start_gateway, upstream, Team("/none"))
    cities: list[str] = []
    result = asyncio.run(_run(setup.running, setup.model, api, is_streamed, cities))
    assert sorted(cities) == sorted(CITIES)
    assert result.last_agent.name == "Writer"
    assert result.final_output == Report(**REPORT)
    refusals = setup.stand_in.refusals
    # The gateway learns from a server that it does not know, once for each field.
    assert len(refusals) == len({*refusals})
    assert refusals == [] or target == "plain"
    assert result.context_wrapper.usage.input_tokens == setup.stand_in.cache_use.total
