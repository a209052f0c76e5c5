"""What an agent's loop costs beside its model and its tools, with pydantic-ai's loop on the same script in the same run."""

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
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.messages import AssistantPromptMessage, ToolCall, ToolCallFunction
from modelyard.tools.function import tool
from modelyard.tools.manager import ToolManager

STEPS = 50


class Scripted:
    """Calls tools for so many turns, then answers."""

    def __init__(self, turns: int, *, calls: int = 1, wait: float = 0.0, name: str = "add") -> None:
        self.turns = turns
        self.calls = calls
        self.wait = wait
        self.name = name
        self.said_at = 0.0

    async def stream_llm(self, request: LLMRequest) -> AsyncGenerator[LLMResultChunk, None]:
        if self.wait:
            await asyncio.sleep(self.wait)
        done = sum(one.role.value == "assistant" for one in request.messages)
        if done < self.turns:
            calls = [
                ToolCall(id=f"c{done}.{at}", index=at, function=ToolCallFunction(
                    name=self.name, arguments=json.dumps({"one": done, "other": at})
                ))
                for at in range(self.calls)
            ]  # fmt: skip
            delta = LLMResultChunkDelta(
                message=AssistantPromptMessage(tool_calls=calls), finish_reason="tool_calls", usage=LLMUsage.of(9, 3)
            )
            yield LLMResultChunk(model="scripted", delta=delta)
            return
        self.said_at = time.perf_counter()
        for word in ("The ", "answer ", "is ", "here."):
            yield LLMResultChunk(
                model="scripted", delta=LLMResultChunkDelta(message=AssistantPromptMessage(content=word))
            )
        yield LLMResultChunk(model="scripted", delta=LLMResultChunkDelta(finish_reason="stop", usage=LLMUsage.of(9, 3)))


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
async def for_ever(one: float = 0, other: float = 0) -> str:
    """Takes for ever."""
    await asyncio.sleep(3600)
    return ""


async def _steps(turns: int) -> float:
    """CPU milliseconds a step: a turn of the model with one call, and the tool."""
    agent = Agent(Scripted(turns), ToolManager(), tools=[add], limits=AgentLimits(iterations=99, tool_calls=0))
    await agent.run("go")
    best = 1e9
    for _ in range(5):
        began = time.process_time()
        result = await agent.run("go")
        best = min(best, time.process_time() - began)
        if len(result.calls) != turns:
            raise RuntimeError(f"{len(result.calls)} calls of {turns}")
    return best * 1000 / turns


async def _first_word() -> float:
    """Milliseconds from the model's first word of the answer to the caller's."""
    model = Scripted(2)
    agent = Agent(model, ToolManager(), tools=[add])
    times: list[float] = []
    for _ in range(200):
        async with aclosing(agent.stream("go")) as events:
            async for one in events:
                if isinstance(one, TextDelta):
                    times.append((time.perf_counter() - model.said_at) * 1000)
                    break
    return sorted(times)[len(times) // 2]


async def _parallel() -> float:
    agent = Agent(Scripted(1, calls=10, name="half_a_second"), ToolManager(), tools=[half_a_second])
    began = time.perf_counter()
    await agent.run("go")
    return time.perf_counter() - began


async def _many(count: int) -> tuple[float, float]:
    """(seconds for all of so many agents at once, seconds that one by itself takes)."""

    async def one() -> None:
        agent = Agent(Scripted(2, wait=0.2, name="tenth"), ToolManager(), tools=[tenth])
        await agent.run("go")

    began = time.perf_counter()
    await one()
    alone = time.perf_counter() - began
    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return time.perf_counter() - began, alone


async def _waiting(count: int) -> float:
    """Kilobytes of an agent that waits for its model."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    gc.collect()
    before = resident()
    agents = [Agent(Scripted(1, wait=3600), ToolManager(), tools=[add]) for _ in range(count)]
    tasks = [asyncio.ensure_future(one.run("go")) for one in agents]
    await asyncio.sleep(0.5)
    gc.collect()
    after = resident()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return (after - before) / 1024 / count


async def _stop() -> float:
    """Milliseconds until a run that is cancelled has let go, model or tools; the worst of twenty."""
    worst = 0.0
    for at in range(20):
        model = Scripted(1, calls=10, name="for_ever") if at % 2 else Scripted(0, wait=3600)
        agent = Agent(model, ToolManager(), tools=[for_ever])
        task = asyncio.ensure_future(agent.run("go"))
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        worst = max(worst, (time.perf_counter() - began) * 1000)
    return worst


async def _peer(turns: int) -> float | str:
    """The same script in pydantic-ai's loop."""
    try:
        from pydantic_ai import Agent as Theirs
        from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
        from pydantic_ai.models.function import FunctionModel
        from pydantic_ai.usage import UsageLimits
    except ImportError as error:
        return f"not here: {error}"

    def answer(messages: list[Any], info: Any) -> Any:
        del info
        done = sum(isinstance(one, ModelResponse) for one in messages)
        if done < turns:
            return ModelResponse(parts=[ToolCallPart("add", {"one": done, "other": 0}, tool_call_id=f"c{done}")])
        return ModelResponse(parts=[TextPart("The answer is here.")])

    theirs: Any = Theirs(FunctionModel(answer))

    @theirs.tool_plain
    async def add(one: float, other: float) -> float:
        return one + other

    best = 1e9
    for _ in range(4):
        began = time.process_time()
        await theirs.run("go", usage_limits=UsageLimits(request_limit=turns + 5))
        best = min(best, time.process_time() - began)
    return best * 1000 / turns


def measure() -> dict[str, Any]:
    async def all_of_it() -> dict[str, Any]:
        step = await _steps(STEPS)
        together, alone = await _many(200)
        return {
            "step_ms": round(step, 3), "pydantic_ai_step_ms": await _peer(STEPS), "parallel_s": round(await _parallel(), 3),
            "first_word_ms": round(await _first_word(), 3), "agents_200_s": round(together, 3), "agent_alone_s": round(alone, 3),
            "waiting_kb": round(await _waiting(1000), 1), "stop_ms": round(await _stop(), 1),
        }  # fmt: skip

    return asyncio.run(all_of_it())


def main() -> None:
    print(json.dumps(measure(), indent=2))


if __name__ == "__main__":
    main()
