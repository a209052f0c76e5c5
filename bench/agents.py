"""Cost of the agent loop itself, without its model and tools.

The same script runs in pydantic-ai's loop in the same run, as a reference.
"""

import asyncio
import gc
import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from modelyard.agents.agent import Agent
from modelyard.agents.events import TextDelta
from modelyard.agents.state import AgentLimits
from modelyard.models.llm import (
    LLMRequest,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import AssistantPromptMessage, ToolCall, ToolCallFunction
from modelyard.tools.function import tool
from modelyard.tools.manager import ToolManager

# Turns of the scripted model in the measured run; each turn has one tool call.
STEPS = 50


class ScriptedModel:
    """A scripted chat model that calls a tool for `turns` turns, then answers.

    `calls` is the number of tool calls per turn, `wait` the delay before each reply in
    seconds.
    """

    def __init__(
        self, turns: int, *, calls: int = 1, wait: float = 0.0, name: str = "add"
    ) -> None:
        self.turns = turns
        self.calls = calls
        self.wait = wait
        self.name = name
        self.answered_at = 0.0

    async def stream_llm(
        self, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Stream one turn of the script: tool calls first, then the final answer in
        four chunks."""
        if self.wait:
            await asyncio.sleep(self.wait)
        # The script has no state: the number of assistant messages in the request tells
        # which turn this is.
        turn_count = sum(
            message.role.value == "assistant" for message in request.messages
        )
        if turn_count < self.turns:
            calls = [
                ToolCall(
                    id=f"c{turn_count}.{call_index}",
                    index=call_index,
                    function=ToolCallFunction(
                        # The argument names are the parameter names of the tools below.
                        name=self.name,
                        arguments=json.dumps({"one": turn_count, "other": call_index}),
                    ),
                )
                for call_index in range(self.calls)
            ]
            delta = LLMResultChunkDelta(
                message=AssistantPromptMessage(tool_calls=calls),
                finish_reason="tool_calls",
                usage=LLMUsage.of(9, 3),
            )
            yield LLMResultChunk(model="scripted", delta=delta)
            return
        # `_first_delta_ms` measures from here to the first text delta at the caller.
        self.answered_at = time.perf_counter()
        for text in ("The ", "answer ", "is ", "here."):
            yield LLMResultChunk(
                model="scripted",
                delta=LLMResultChunkDelta(message=AssistantPromptMessage(content=text)),
            )
        yield LLMResultChunk(
            model="scripted",
            delta=LLMResultChunkDelta(finish_reason="stop", usage=LLMUsage.of(9, 3)),
        )


@tool
async def add(one: float, other: float) -> float:
    """The sum of two numbers."""
    return one + other


@tool
async def half_a_second(one: float = 0, other: float = 0) -> str:
    """Takes half a second."""
    await asyncio.sleep(0.5)
    return f"{one}"


@tool
async def tenth(one: float = 0, other: float = 0) -> str:
    """Takes a tenth of a second."""
    await asyncio.sleep(0.1)
    return f"{one}"


@tool
async def never_returns(one: float = 0, other: float = 0) -> str:
    """Takes for ever."""
    await asyncio.sleep(3600)
    return ""


async def _steps(turns: int) -> float:
    """Return the CPU milliseconds of one step: a model turn with one call, and its
    tool.

    Best of five runs, after one warm-up run.
    """
    agent = Agent(
        ScriptedModel(turns),
        ToolManager(),
        tools=[add],
        limits=AgentLimits(iterations=99, tool_calls=0),
    )
    await agent.run("go")
    best_seconds = 1e9
    for _ in range(5):
        started_at = time.process_time()
        result = await agent.run("go")
        best_seconds = min(best_seconds, time.process_time() - started_at)
        if len(result.calls) != turns:
            raise RuntimeError(f"{len(result.calls)} calls of {turns}")
    return best_seconds * 1000 / turns


async def _first_delta_ms() -> float:
    """Return the median milliseconds from the model's first answer chunk to the
    caller's first text delta."""
    model = ScriptedModel(2)
    agent = Agent(model, ToolManager(), tools=[add])
    times: list[float] = []
    for _ in range(200):
        async with aclosing(agent.stream("go")) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    times.append((time.perf_counter() - model.answered_at) * 1000)
                    # Only the first delta counts; `aclosing` ends the rest of the run.
                    break
    return sorted(times)[len(times) // 2]


async def _parallel_seconds() -> float:
    """Return the seconds of a run whose single turn makes ten half-second calls.

    If the calls run in parallel, this is about half a second.
    """
    model = ScriptedModel(1, calls=10, name="half_a_second")
    agent = Agent(model, ToolManager(), tools=[half_a_second])
    started_at = time.perf_counter()
    await agent.run("go")
    return time.perf_counter() - started_at


async def _concurrent_agents(count: int) -> tuple[float, float]:
    """Return (seconds for `count` concurrent agents, seconds for a single agent)."""

    async def run_agent() -> None:
        """Run one agent for two turns; its model and its tool both wait."""
        agent = Agent(
            ScriptedModel(2, wait=0.2, name="tenth"), ToolManager(), tools=[tenth]
        )
        await agent.run("go")

    started_at = time.perf_counter()
    await run_agent()
    alone = time.perf_counter() - started_at
    started_at = time.perf_counter()
    await asyncio.gather(*(run_agent() for _ in range(count)))
    return time.perf_counter() - started_at, alone


async def _waiting_kilobytes(count: int) -> float:
    """Return the kilobytes of memory of an agent that waits for its model."""

    def resident() -> int:
        """Return the resident memory of this process in bytes."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGESIZE"
        )

    # Collect garbage before both readings, so that only live agents make the
    # difference.
    gc.collect()
    bytes_before = resident()
    agents = [
        Agent(ScriptedModel(1, wait=3600), ToolManager(), tools=[add])
        for _ in range(count)
    ]
    tasks = [asyncio.ensure_future(agent.run("go")) for agent in agents]
    # Half a second is enough for every run to reach its model and wait there.
    await asyncio.sleep(0.5)
    gc.collect()
    bytes_after = resident()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return (bytes_after - bytes_before) / 1024 / count


async def _cancel_ms() -> float:
    """Return the worst of twenty: milliseconds from cancelling a run until it has
    ended.

    Half of the runs wait for the model, the other half for ten tool calls.
    """
    worst_ms = 0.0
    for index in range(20):
        # Odd rounds cancel during tool calls, even rounds during a model call.
        model = (
            ScriptedModel(1, calls=10, name="never_returns")
            if index % 2
            else ScriptedModel(0, wait=3600)
        )
        agent = Agent(model, ToolManager(), tools=[never_returns])
        task = asyncio.ensure_future(agent.run("go"))
        await asyncio.sleep(0.05)
        started_at = time.perf_counter()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        worst_ms = max(worst_ms, (time.perf_counter() - started_at) * 1000)
    return worst_ms


async def _peer(turns: int) -> float | str:
    """Return the CPU milliseconds per step of the same script in pydantic-ai's loop.

    Returns the reason as a string if pydantic-ai is not installed.
    """
    try:
        from pydantic_ai import Agent as Theirs
        from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
        from pydantic_ai.models.function import FunctionModel
        from pydantic_ai.usage import UsageLimits
    except ImportError as error:
        return f"not here: {error}"

    def answer(messages: list[Any], info: Any) -> Any:
        """Return the next reply of the script: a tool call, or the answer after `turns`
        turns."""
        del info
        turn_count = sum(isinstance(message, ModelResponse) for message in messages)
        if turn_count < turns:
            return ModelResponse(
                parts=[
                    ToolCallPart(
                        "add",
                        {"one": turn_count, "other": 0},
                        tool_call_id=f"c{turn_count}",
                    )
                ]
            )
        return ModelResponse(parts=[TextPart("The answer is here.")])

    peer_agent: Any = Theirs(FunctionModel(answer))

    @peer_agent.tool_plain
    async def add(one: float, other: float) -> float:
        """Return the sum of two numbers."""
        return one + other

    best_seconds = 1e9
    for _ in range(4):
        started_at = time.process_time()
        # pydantic-ai's default limit of requests is too low for all turns and the
        # answer.
        await peer_agent.run("go", usage_limits=UsageLimits(request_limit=turns + 5))
        best_seconds = min(best_seconds, time.process_time() - started_at)
    return best_seconds * 1000 / turns


def measure() -> dict[str, Any]:
    """Measure the agent loop and return the figures; the unit is the suffix of each
    name."""

    async def measure_all() -> dict[str, Any]:
        """Run all measurements one after the other, so that they do not disturb each
        other."""
        step = await _steps(STEPS)
        together, alone = await _concurrent_agents(200)
        return {
            "step_ms": round(step, 3),
            "pydantic_ai_step_ms": await _peer(STEPS),
            "parallel_s": round(await _parallel_seconds(), 3),
            "first_word_ms": round(await _first_delta_ms(), 3),
            "agents_200_s": round(together, 3),
            "agent_alone_s": round(alone, 3),
            "waiting_kb": round(await _waiting_kilobytes(1000), 1),
            "stop_ms": round(await _cancel_ms(), 1),
        }

    return asyncio.run(measure_all())


def main() -> None:
    """Print the figures as JSON."""
    print(json.dumps(measure(), indent=2))


if __name__ == "__main__":
    main()
