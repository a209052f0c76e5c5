"""All function-calling cases of BFCL through every chat format and back: tools, calls and results. What goes in must come
out. A scripted model then makes the accepted calls in an agent's loop; and the local model tries some, for the record."""

import asyncio
import gzip
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
from jsonschema_rs import Draft202012Validator
from tests.wire.formats import MODULES

from modelyard.agents.agent import Agent
from modelyard.agents.events import ToolFinished
from modelyard.app import Modelyard
from modelyard.base.settings import LocalSettings, Settings
from modelyard.models.llm import LLMChoice, LLMRequest, LLMResult, LLMUsage, fold
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageTool,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
)
from modelyard.models.types import ModelType
from modelyard.testing.agents import Replies
from modelyard.tools.entities import Tool, ToolContext, ToolEntity, text_message
from modelyard.tools.manager import ToolManager
from tools.show.proof import Proof, weights_folder

SETS = ("simple_python", "multiple", "parallel", "parallel_multiple", "live_simple")
FORMATS = [one for one in MODULES if one != "openai_completions"]
LIVE = int(os.environ.get("BFCL_LIVE", "40"))
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


def data_folder() -> Path:
    return Path(os.environ.get("MODELYARD_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "bfcl"


def lines(name: str) -> list[dict[str, Any]]:
    with gzip.open(data_folder() / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def schema(value: Any) -> Any:
    """The collection's own words for types as JSON schema's."""
    if isinstance(value, dict):
        found = {key: schema(one) for key, one in value.items()}
        if isinstance(found.get("type"), str):
            found["type"] = _TYPES.get(found["type"], found["type"])
        return found
    return [schema(one) for one in value] if isinstance(value, list) else value


def plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


def cases() -> list[tuple[str, LLMRequest, list[tuple[str, dict[str, Any]]]]]:
    """(set, request, the calls that are accepted: of several values the first)."""
    found: list[Any] = []
    for name in (*SETS, "irrelevance"):
        answers = {one["id"]: one["ground_truth"] for one in lines(f"{name}.answers")} if name in SETS else {}
        for case in lines(name):
            tools = [
                PromptMessageTool(
                    name=plain(one["name"]), description=one["description"], parameters=schema(one["parameters"])
                )
                for one in case["function"]
            ]
            messages: list[AnyPromptMessage] = [
                UserPromptMessage(content=one["content"])
                for turn in case["question"]
                for one in turn
                if one["role"] == "user"
            ]
            needed = {plain(one["name"]): one["parameters"].get("required") or () for one in case["function"]}
            calls = [
                (plain(name), _first(given, needed.get(plain(name), ())))
                for one in answers.get(case["id"], ())
                for name, given in one.items()
            ]
            found.append(
                (name, LLMRequest(messages=messages, tools=tools, model_parameters={"max_tokens": 256}), calls)
            )
    return found


def _first(given: Mapping[str, Any], required: Any = ()) -> dict[str, Any]:
    """Of the accepted values of each argument the first; an empty one says that it may be left out."""
    found: dict[str, Any] = {}
    for key, values in given.items():
        usable = [one for one in values if one != ""]
        if usable and ("" not in values or key in required):
            found[key] = _plainly(usable[0])
    return found


def _plainly(value: Any) -> Any:
    """Objects inside hold lists of accepted values too."""
    if isinstance(value, dict):
        is_options = all(isinstance(one, list) for one in value.values())
        return _first(value) if is_options else value
    return [_plainly(one) for one in value] if isinstance(value, list) else value


def through(value: Any) -> Any:
    return json.loads(json.dumps(value))


def translated(module: Any, request: LLMRequest, calls: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """What is not the same behind a format."""
    wrong: list[str] = []
    extra = {"stream": False} if module.FORMAT == "gemini" else {}
    again = module.parse_request(through(module.dump_request(request, "m", {})), **extra)
    for mine, theirs in zip(request.tools, again.tools, strict=True):
        if (mine.name, mine.description, mine.parameters) != (theirs.name, theirs.description, theirs.parameters):
            wrong.append(f"tool {mine.name}")
    made = [
        ToolCall(id=f"call_{at}", function=ToolCallFunction(name=name, arguments=msgspec.json.encode(given).decode()))
        for at, (name, given) in enumerate(calls)
    ]
    if not made:
        return wrong
    message = AssistantPromptMessage(tool_calls=made)
    result = LLMResult(
        id="r", model="m", choices=[LLMChoice(message=message, finish_reason="tool_calls")], usage=LLMUsage.of(5, 5)
    )
    wanted = [(one.function.name, json.loads(one.function.arguments)) for one in made]
    for how, got in (
        ("whole", module.parse_result(through(module.dump_result(result)))),
        ("streamed", fold(module.parse_stream(through(list(module.dump_stream(result.as_chunks())))))),
    ):
        if [(one.function.name, json.loads(one.function.arguments or "{}")) for one in got.tool_calls] != wanted:
            wrong.append(f"calls, {how}")
    turns: list[AnyPromptMessage] = [
        *request.messages, message,
        *(ToolPromptMessage(content=f"result {at}", tool_call_id=one.id, name=one.function.name) for at, one in enumerate(made)),
    ]  # fmt: skip
    asked = msgspec.structs.replace(request, messages=turns)
    back = module.parse_request(through(module.dump_request(asked, "m", {})), **extra)
    results = [one.text for one in back.messages if isinstance(one, ToolPromptMessage)]
    if results != [f"result {at}" for at in range(len(made))]:
        wrong.append("results")
    called = [(one.function.name, json.loads(one.function.arguments)) for each in back.messages
              if isinstance(each, AssistantPromptMessage) for one in each.tool_calls]  # fmt: skip
    if called != wanted:
        wrong.append("calls, told again")
    return wrong


class Recorded(Tool):
    """A case's tool: says what it was called with."""

    def __init__(self, tool: PromptMessageTool) -> None:
        self.entity = ToolEntity(name=tool.name, description=tool.description, schema=tool.parameters, kind="function")

    async def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> Any:
        yield text_message(json.dumps({self.name: parameters}, sort_keys=True))


def allowed(request: LLMRequest, calls: list[tuple[str, dict[str, Any]]]) -> bool:
    """Whether the accepted calls satisfy the tools' own schemas: a few do not."""
    schemas = {one.name: one.parameters for one in request.tools}
    return all(Draft202012Validator(schemas[name]).is_valid(given) for name, given in calls)


async def looped(request: LLMRequest, calls: list[tuple[str, dict[str, Any]]]) -> bool:
    """Whether an agent whose model makes these calls has each tool called with just that."""
    model = Replies(replies=[{"calls": [[name, given] for name, given in calls]}, "Done."], cut="signs")
    agent = Agent(model, ToolManager(), tools=[Recorded(one) for one in request.tools])
    seen: dict[str, ToolFinished] = {}
    async with aclosing(agent.stream(request.messages[-1].text)) as events:
        async for one in events:
            if isinstance(one, ToolFinished):
                seen[one.call.id] = one
    wanted = [json.dumps({name: given}, sort_keys=True) for name, given in calls]
    results = [one.text for one in model.requests[1].messages if isinstance(one, ToolPromptMessage)]
    return results == wanted


async def live(every: list[Any]) -> tuple[int, int, int, float]:
    """(right name, right call, tried, seconds) of the local model on the first simple cases."""
    settings = Settings(home=str(weights_folder().parent), local=LocalSettings(weights=str(weights_folder())))
    answers = {one["id"]: one["ground_truth"][0] for one in lines("simple_python.answers")}
    names = right = tried = 0
    began = time.monotonic()
    async with Modelyard(settings, environ={}) as yard:
        model = yard.services.calls.models.find("default", "default", ModelType.LLM)
        for case, (_, request, _) in zip(lines("simple_python")[:LIVE], every, strict=False):
            result = await model.invoke_llm(
                msgspec.structs.replace(request, model_parameters={"max_tokens": 200, "temperature": 0})
            )
            tried += 1
            name, accepted = next(iter(answers[case["id"]].items()))
            if not result.tool_calls or result.tool_calls[0].function.name != plain(name):
                continue
            names += 1
            try:
                given = json.loads(result.tool_calls[0].function.arguments)
            except ValueError:
                continue
            fits = all(given.get(key, "") in values for key, values in accepted.items()) and set(given) <= set(accepted)
            right += fits
    return names, right, tried, time.monotonic() - began


def prove() -> Proof:
    proof = Proof()
    every = cases()
    if not every:
        proof.line("data/bfcl", "is not here", ok=False)
        return proof
    by_set = Counter(name for name, _, _ in every)
    proof.line("cases", ", ".join(f"{name} {count}" for name, count in by_set.items()))
    for name in FORMATS:
        problems: Counter[str] = Counter()
        for _, request, calls in every:
            problems.update(one.partition(" ")[0] for one in translated(MODULES[name], request, calls))
        bad = sum(problems.values())
        proof.line(
            f"{name}: tools, calls whole and streamed, results",
            f"{len(every)} cases, {bad} that differ {dict(problems) or ''}",
            not bad,
        )
        proof.figures[name] = len(every) - bad
    with_calls = [one for one in every if one[2] and allowed(one[1], one[2])]
    forbidden = [one for one in every if one[2] and not allowed(one[1], one[2])]
    good = asyncio.run(_all_looped(with_calls))
    passed = asyncio.run(_all_looped(forbidden))
    told = f"{len(forbidden) - passed} of {len(forbidden)} refused"
    proof.line("accepted answers that the tools' own schemas forbid", told, passed == 0)
    proof.line(
        "in an agent's loop, sign by sign", f"{good} of {len(with_calls)} called as accepted", good == len(with_calls)
    )
    proof.figures |= {"cases": len(every), "looped": good}
    if LIVE:
        names, right, tried, seconds = asyncio.run(live(every))
        proof.line(
            "the local 0.5B model, for the record",
            f"{names} of {tried} the right tool, {right} the very call, {seconds:.0f} s",
        )
        proof.figures["live"] = {"right_tool": names, "right_call": right, "tried": tried}
    return proof


async def _all_looped(every: list[Any]) -> int:
    return sum([await looped(request, calls) for _, request, calls in every])
