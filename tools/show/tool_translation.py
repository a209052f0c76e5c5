"""Translate all function-calling cases of BFCL (Berkeley Function Calling Leaderboard)
into every chat format and back: tools, calls and results must be unchanged.

A scripted model then makes the accepted calls in an agent loop, and the local model
tries some cases for information.
"""

import asyncio
import gzip
import itertools
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from modelyard.models.capabilities import DEFAULT_CAPABILITIES
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
from modelyard.testing.agents import ScriptedChatModel
from modelyard.tools.entities import Tool, ToolContext, ToolEntity, text_message
from modelyard.tools.manager import ToolManager
from tools.show.proof import Proof, weights_folder

SETS = ("simple_python", "multiple", "parallel", "parallel_multiple", "live_simple")
FORMATS = [
    format_name for format_name in MODULES if format_name != "openai_completions"
]
Case = tuple[str, LLMRequest, list[tuple[str, dict[str, Any]]]]
"""(set, request, accepted calls)"""
LIVE = int(os.environ.get("BFCL_LIVE", "40"))
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


def data_folder() -> Path:
    """Return the folder with the BFCL cases; MODELYARD_TEST_DATA overrides its parent."""
    default = Path(__file__).parents[3] / "shared" / "data"
    return Path(os.environ.get("MODELYARD_TEST_DATA", default)) / "bfcl"


def lines(name: str) -> list[dict[str, Any]]:
    """Return the rows of one compressed file of the collection."""
    with gzip.open(data_folder() / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def schema(value: Any) -> Any:
    """Translate the collection's type names into those of JSON Schema, at every level."""
    if isinstance(value, dict):
        converted = {key: schema(child) for key, child in value.items()}
        if isinstance(converted.get("type"), str):
            converted["type"] = _TYPES.get(converted["type"], converted["type"])
        return converted
    return [schema(child) for child in value] if isinstance(value, list) else value


def model_safe_name(name: str) -> str:
    """Return a function name that all vendors accept: letters, digits, `_` and `-`, at
    most 64 characters."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


def cases() -> list[Case]:
    """Return (set, request, accepted calls); if several values are accepted, the first
    is used."""
    all_cases: list[Any] = []
    for name in (*SETS, "irrelevance"):
        # Cases of "irrelevance" have no answers: no tool fits, so no call is accepted.
        answers = (
            {row["id"]: row["ground_truth"] for row in lines(f"{name}.answers")}
            if name in SETS
            else {}
        )
        for case in lines(name):
            calls = _accepted_calls(case["function"], answers.get(case["id"], ()))
            all_cases.append((name, _request_of(case), calls))
    return all_cases


def _request_of(case: dict[str, Any]) -> LLMRequest:
    """Return the request of a case: its tools and the messages of its user."""
    tools = [
        PromptMessageTool(
            name=model_safe_name(function["name"]),
            description=function["description"],
            parameters=schema(function["parameters"]),
        )
        for function in case["function"]
    ]
    messages: list[AnyPromptMessage] = [
        UserPromptMessage(content=message["content"])
        for message in itertools.chain.from_iterable(case["question"])
        if message["role"] == "user"
    ]
    return LLMRequest(
        messages=messages, tools=tools, model_parameters={"max_tokens": 256}
    )


def _accepted_calls(
    functions: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]
) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, arguments) of each call in the answers of a case."""
    # Required arguments must be present even if the answer also accepts their absence.
    required = {
        model_safe_name(function["name"]): function["parameters"].get("required") or ()
        for function in functions
    }
    calls: list[tuple[str, dict[str, Any]]] = []
    for answer in answers:
        for original_name, accepted_values in answer.items():
            name = model_safe_name(original_name)
            arguments = _first_accepted(accepted_values, required.get(name, ()))
            calls.append((name, arguments))
    return calls


def _first_accepted(
    accepted_values: Mapping[str, Any], required: Any = ()
) -> dict[str, Any]:
    """Return the first accepted value of each argument.

    An empty string among the accepted values means that the argument may be omitted.
    """
    arguments: dict[str, Any] = {}
    for key, values in accepted_values.items():
        usable = [value for value in values if value != ""]
        if usable and ("" not in values or key in required):
            arguments[key] = _resolve_options(usable[0])
    return arguments


def _resolve_options(value: Any) -> Any:
    """Resolve lists of accepted values inside nested objects."""
    if isinstance(value, dict):
        is_options = all(isinstance(option, list) for option in value.values())
        return _first_accepted(value) if is_options else value
    if isinstance(value, list):
        return [_resolve_options(element) for element in value]
    return value


def json_round_trip(value: Any) -> Any:
    """Return the value after a JSON round trip, as it would arrive over the network."""
    return json.loads(json.dumps(value))


def translated(
    module: Any, request: LLMRequest, calls: list[tuple[str, dict[str, Any]]]
) -> list[str]:
    """Return what one format changed: names of tools, calls or results that differ
    after the round trip."""
    mismatches = _changed_tools(module, request)
    tool_calls = [
        ToolCall(
            id=f"call_{index}",
            function=ToolCallFunction(
                name=name, arguments=msgspec.json.encode(arguments).decode()
            ),
        )
        for index, (name, arguments) in enumerate(calls)
    ]
    if not tool_calls:
        return mismatches
    message = AssistantPromptMessage(tool_calls=tool_calls)
    mismatches += _changed_answers(module, message)
    mismatches += _changed_history(module, request, message)
    return mismatches


def _changed_tools(module: Any, request: LLMRequest) -> list[str]:
    """Return the tools of a request that one format changed."""
    parsed_request = _parsed_request(module, request)
    pairs = zip(request.tools, parsed_request.tools, strict=True)
    return [
        f"tool {original.name}"
        for original, parsed in pairs
        if (original.name, original.description, original.parameters)
        != (parsed.name, parsed.description, parsed.parameters)
    ]


def _parsed_request(module: Any, request: LLMRequest) -> LLMRequest:
    """Return a request after a round trip through one format."""
    # Gemini has the choice of streaming in the URL and not in the body.
    extra = {"stream": False} if module.FORMAT == "gemini" else {}
    return module.parse_request(
        json_round_trip(module.dump_request(request, "m", DEFAULT_CAPABILITIES)),
        **extra,
    )


def _changed_answers(module: Any, message: AssistantPromptMessage) -> list[str]:
    """Return in which modes, complete and streamed, one format changed the calls of an
    answer."""
    result = LLMResult(
        id="r",
        model="m",
        choices=[LLMChoice(message=message, finish_reason="tool_calls")],
        usage=LLMUsage.of(5, 5),
    )
    complete = module.parse_result(json_round_trip(module.dump_result(result)))
    events = json_round_trip(list(module.dump_stream(result.as_chunks())))
    streamed = fold(module.parse_stream(events))
    expected_calls = _names_and_arguments(message.tool_calls)
    return [
        f"calls, {mode}"
        for mode, parsed_result in (("whole", complete), ("streamed", streamed))
        if _names_and_arguments(parsed_result.tool_calls, may_be_empty=True)
        != expected_calls
    ]


def _names_and_arguments(
    tool_calls: Iterable[ToolCall], *, may_be_empty: bool = False
) -> list[tuple[str, Any]]:
    """Return (name, parsed arguments) of each call. Empty text counts as no arguments
    if `may_be_empty`, and raises ValueError otherwise."""
    default = "{}" if may_be_empty else ""
    return [
        (call.function.name, json.loads(call.function.arguments or default))
        for call in tool_calls
    ]


def _changed_history(
    module: Any, request: LLMRequest, message: AssistantPromptMessage
) -> list[str]:
    """Return whether one format changed the results or the repeated calls in the next
    request of a conversation, which has both."""
    expected_results = [f"result {index}" for index in range(len(message.tool_calls))]
    results = [
        ToolPromptMessage(
            content=content, tool_call_id=call.id, name=call.function.name
        )
        for call, content in zip(message.tool_calls, expected_results, strict=True)
    ]
    messages: list[AnyPromptMessage] = [*request.messages, message, *results]
    parsed = _parsed_request(
        module, msgspec.structs.replace(request, messages=messages)
    )
    mismatches: list[str] = []
    parsed_results = [
        parsed_message.text
        for parsed_message in parsed.messages
        if isinstance(parsed_message, ToolPromptMessage)
    ]
    if parsed_results != expected_results:
        mismatches.append("results")
    repeated_calls = [
        call
        for parsed_message in parsed.messages
        if isinstance(parsed_message, AssistantPromptMessage)
        for call in parsed_message.tool_calls
    ]
    expected_calls = _names_and_arguments(message.tool_calls)
    if _names_and_arguments(repeated_calls) != expected_calls:
        mismatches.append("calls, repeated")
    return mismatches


class EchoTool(Tool):
    """A tool of a case that returns its name and arguments as its result."""

    def __init__(self, tool: PromptMessageTool) -> None:
        self.entity = ToolEntity(
            name=tool.name,
            description=tool.description,
            schema=tool.parameters,
            kind="function",
        )

    async def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> Any:
        """Return the call's arguments as JSON text."""
        yield text_message(json.dumps({self.name: parameters}, sort_keys=True))


def allowed(request: LLMRequest, calls: list[tuple[str, dict[str, Any]]]) -> bool:
    """Return whether the accepted calls satisfy the tools' own schemas; in a few cases
    they do not."""
    schemas = {tool.name: tool.parameters for tool in request.tools}
    return all(
        Draft202012Validator(schemas[name]).is_valid(arguments)
        for name, arguments in calls
    )


async def run_agent_loop(
    request: LLMRequest, calls: list[tuple[str, dict[str, Any]]]
) -> bool:
    """Return whether an agent calls the tools with exactly the arguments that its
    scripted model generates."""
    # The scripted model streams character by character, the hardest case for the
    # parser.
    model = ScriptedChatModel(
        replies=[{"calls": [[name, arguments] for name, arguments in calls]}, "Done."],
        cut="signs",
    )
    agent = Agent(
        model, ToolManager(), tools=[EchoTool(tool) for tool in request.tools]
    )
    finished_calls: dict[str, ToolFinished] = {}
    async with aclosing(agent.stream(request.messages[-1].text)) as events:
        async for event in events:
            if isinstance(event, ToolFinished):
                finished_calls[event.call.id] = event
    expected_results = [
        json.dumps({name: arguments}, sort_keys=True) for name, arguments in calls
    ]
    # The second request of the model contains the results of the tools.
    results = [
        message.text
        for message in model.requests[1].messages
        if isinstance(message, ToolPromptMessage)
    ]
    return results == expected_results


async def live(all_cases: Sequence[Case]) -> tuple[int, int, int, float]:
    """Run the local model on the first simple cases; return (right name, right call,
    tried, seconds)."""
    settings = Settings(
        home=str(weights_folder().parent),
        local=LocalSettings(weights=str(weights_folder())),
    )
    answers = {
        row["id"]: row["ground_truth"][0] for row in lines("simple_python.answers")
    }
    names = correct_calls = case_count = 0
    started_at = time.monotonic()
    async with Modelyard(settings, environ={}) as yard:
        model = yard.services.calls.models.find("default", "default", ModelType.LLM)
        for case, (_, request, _) in zip(
            lines("simple_python")[:LIVE], all_cases, strict=False
        ):
            result = await model.invoke_llm(
                msgspec.structs.replace(
                    request, model_parameters={"max_tokens": 200, "temperature": 0}
                )
            )
            case_count += 1
            name, accepted = next(iter(answers[case["id"]].items()))
            if not result.tool_calls or result.tool_calls[
                0
            ].function.name != model_safe_name(name):
                continue
            names += 1
            # A small model may generate arguments that are not valid JSON.
            try:
                arguments = json.loads(result.tool_calls[0].function.arguments)
            except ValueError:
                continue
            is_accepted = all(
                arguments.get(key, "") in values for key, values in accepted.items()
            ) and set(arguments) <= set(accepted)
            correct_calls += is_accepted
    return names, correct_calls, case_count, time.monotonic() - started_at


def prove() -> Proof:
    """Check every format with every case, then the agent loop, then the local model."""
    proof = Proof()
    all_cases = cases()
    if not all_cases:
        proof.line("data/bfcl", "is not installed", ok=False)
        return proof
    by_set = Counter(name for name, _, _ in all_cases)
    proof.line("cases", ", ".join(f"{name} {count}" for name, count in by_set.items()))
    for name in FORMATS:
        _check_format(proof, name, all_cases)
    _check_agent_loop(proof, all_cases)
    proof.figures["cases"] = len(all_cases)
    if LIVE:
        _try_local_model(proof, all_cases)
    return proof


def _check_format(proof: Proof, name: str, all_cases: Sequence[Case]) -> None:
    """Report the differences of one format, counted by what differs."""
    problems: Counter[str] = Counter()
    for _, request, calls in all_cases:
        mismatches = translated(MODULES[name], request, calls)
        problems.update(mismatch.partition(" ")[0] for mismatch in mismatches)
    mismatch_count = sum(problems.values())
    proof.line(
        f"{name}: tools, calls complete and streamed, results",
        f"{len(all_cases)} cases, {mismatch_count} differences {dict(problems) or ''}",
        not mismatch_count,
    )
    proof.figures[name] = len(all_cases) - mismatch_count


def _check_agent_loop(proof: Proof, all_cases: Sequence[Case]) -> None:
    """Report whether an agent executes all accepted calls, and refuses those that
    violate their own schema."""
    with_calls = [case for case in all_cases if case[2]]
    valid = [case for case in with_calls if allowed(case[1], case[2])]
    invalid = [case for case in with_calls if not allowed(case[1], case[2])]
    matching_count = asyncio.run(_all_looped(valid))
    passed = asyncio.run(_all_looped(invalid))
    proof.line(
        "accepted answers that violate the tools' own schemas",
        f"{len(invalid) - passed} of {len(invalid)} refused",
        passed == 0,
    )
    proof.line(
        "in an agent's loop, character by character",
        f"{matching_count} of {len(valid)} called as accepted",
        matching_count == len(valid),
    )
    proof.figures["looped"] = matching_count


def _try_local_model(proof: Proof, all_cases: Sequence[Case]) -> None:
    """Report how well the local model chooses tools. The line is only informative."""
    names, correct_calls, case_count, seconds = asyncio.run(live(all_cases))
    proof.line(
        "the local 0.5B model, for information",
        f"{names} of {case_count} the right tool, {correct_calls} the exact call,"
        f" {seconds:.0f} s",
    )
    proof.figures["live"] = {
        "right_tool": names,
        "right_call": correct_calls,
        "tried": case_count,
    }


async def _all_looped(all_cases: Sequence[Case]) -> int:
    """Return how many cases passed the agent loop."""
    return sum(
        [await run_agent_loop(request, calls) for _, request, calls in all_cases]
    )
