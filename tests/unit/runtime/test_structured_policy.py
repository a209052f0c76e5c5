"""Structured output: what models are asked, the second attempt, and what callers get."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.models.answer_formats import AnswerModes
from modelyard.models.entities import ModelFeature
from modelyard.models.llm import (
    LLMChoice,
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMUsage,
    fold,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    UserPromptMessage,
)
from modelyard.models.rerank import RerankRequest
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.policies.structured import ANSWER_TOOL, Structured, extract_json
from modelyard.testing import chunk, last_chunk

NATIVE = [ModelFeature.STRUCTURED_OUTPUT]
TOOLS = [ModelFeature.TOOL_CALL]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 9}},
    "required": ["city"],
}
QUESTION = UserPromptMessage(content="Where?")
GOOD, BAD = '{"city": "Oslo"}', '{"town": 1}'
MISSING = 'the answer: "city" is a required property'
REFUSED = "[p] Response does not match the JSON schema: "


def response_format(schema: Any = SCHEMA) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def new_call(parameters: dict[str, Any] | None = None, **fields: Any) -> Invocation:
    if parameters is None:
        parameters = {"response_format": response_format(), "temperature": 0}
    request = LLMRequest(messages=[QUESTION], model_parameters=parameters, **fields)
    return Invocation(
        tenant="t", provider="p", model="m", model_type=ModelType.LLM, request=request
    )


def text_result(text: str, reason: str = "stop", **message: Any) -> LLMResult:
    choice = LLMChoice(
        message=AssistantPromptMessage(content=text, **message), finish_reason=reason
    )
    usage = LLMUsage.of(2, 3, total_price=Decimal(1))
    return LLMResult(choices=[choice], usage=usage, id="answer", model="m")


def tool_result(arguments: str, name: str = ANSWER_TOOL) -> LLMResult:
    function = ToolCallFunction(name=name, arguments=arguments)
    return text_result(
        "Here.", "tool_calls", tool_calls=[ToolCall(id="c", function=function)]
    )


class Model:
    """Gives these answers, one for each call."""

    def __init__(self, *answers: LLMResult | Sequence[LLMResultChunk]) -> None:
        self._answers = list(answers)
        self.seen: list[Invocation] = []

    async def __call__(self, invocation: Invocation) -> Chunks:
        self.seen.append(invocation)
        answer = self._answers.pop(0)
        chunks = answer.as_chunks() if isinstance(answer, LLMResult) else answer
        for item in chunks:
            yield item

    @property
    def requests(self) -> list[LLMRequest]:
        return [invocation.request for invocation in self.seen]


def ask(
    model: Model,
    features: Sequence[ModelFeature] | None,
    invocation: Invocation | None = None,
    **modes: Any,
) -> list[LLMResultChunk]:
    """Return the chunks that the caller receives, and also those before an error.

    `modes` are those that the model's server is known to offer or not.
    """

    async def work() -> list[LLMResultChunk]:
        policy = Structured(lambda _: features, lambda _: AnswerModes(**modes))
        async with aclosing(policy(invocation or new_call(), model)) as chunks:
            return [item async for item in chunks]

    return asyncio.run(work())


def error_of(model: Model, features: Sequence[ModelFeature] | None) -> str:
    with pytest.raises(InvokeServerUnavailableError) as caught:
        ask(model, features)
    assert caught.value.provider == "p"
    return str(caught.value)


# Which calls it concerns.


@pytest.mark.parametrize(
    "invocation",
    [
        new_call({}),
        new_call({"response_format": "json"}),
        new_call({"response_format": {"type": "json_object"}}),
        new_call({"response_format": {}}),
        replace(
            new_call({}),
            model_type=ModelType.RERANK,
            request=RerankRequest(query="q", docs=[]),
        ),
    ],
)
def test_a_call_without_a_schema_is_passed_on_as_it_is(invocation: Invocation):
    policy: Any = Structured(lambda _: NATIVE)
    assert policy(invocation, lambda passed: passed) is invocation


@pytest.mark.parametrize("features", [NATIVE, None, [*TOOLS, *NATIVE]])
def test_a_model_with_native_support_is_asked_as_the_caller_asked(
    features: list[ModelFeature] | None,
):
    steps = [chunk('{"city": '), chunk('"Oslo"}'), last_chunk(2, 3)]
    model, invocation = Model(steps), new_call()
    assert ask(model, features, invocation) == steps
    assert model.seen == [invocation]


# What the model's server offers.

ANY_OBJECT = {"response_format": {"type": "json_object"}, "seed": 5}


@pytest.mark.parametrize("features", [NATIVE, TOOLS, [], None])
def test_json_mode_is_asked_for_in_the_prompt_where_the_server_has_none(
    features: list[ModelFeature] | None,
):
    model = Model(text_result(f"Sure: {BAD}."))
    (received,) = ask(model, features, new_call(ANY_OBJECT), json_object=False)
    # Any object is what JSON mode promises.
    assert received.text == BAD
    (request,) = model.requests
    assert request.model_parameters == {"seed": 5}
    assert (request.tools, request.messages[1:]) == ([], [QUESTION])
    assert request.messages[0].text.endswith('\n{"type": "object"}')


def test_an_answer_in_json_mode_has_to_be_an_object():
    model = Model(text_result("[1]"), text_result(GOOD))
    (received,) = ask(model, [], new_call(ANY_OBJECT), json_object=False)
    assert (received.text, len(model.seen)) == (GOOD, 2)
    correction = "the answer: [1] is not of type"
    assert correction in model.requests[1].messages[-1].text


@pytest.mark.parametrize(
    ("features", "is_native"), [([], True), (NATIVE, False), (None, False)]
)
def test_what_the_server_offers_counts_more_than_the_models_features(
    features: list[ModelFeature] | None, *, is_native: bool
):
    model, invocation = Model(text_result(GOOD)), new_call()
    ask(model, features, invocation, json_schema=is_native)
    assert (model.seen == [invocation]) is is_native
    assert ("response_format" in model.requests[0].model_parameters) is is_native


def test_a_server_that_forces_no_tool_gets_the_schema_in_the_prompt():
    model = Model(text_result(GOOD))
    ask(model, TOOLS, forced_tool=False)
    (request,) = model.requests
    assert (request.tools, request.tool_choice) == ([], None)
    assert isinstance(request.messages[0], SystemPromptMessage)


def test_a_call_of_the_callers_own_tool_is_no_answer():
    own = PromptMessageTool(name="look")
    answer = tool_result("{}", "look")
    received = ask(Model(answer), TOOLS, new_call(tools=[own]))
    assert received == list(answer.as_chunks())


# Native support.


def test_a_native_answer_that_does_not_fit_is_an_error_at_its_end():
    model, received = Model([chunk(BAD), last_chunk()]), list[LLMResultChunk]()

    async def work() -> None:
        policy = Structured(lambda _: NATIVE)
        async with aclosing(policy(new_call(), model)) as chunks:
            async for item in chunks:
                received.append(item)

    with pytest.raises(InvokeServerUnavailableError) as caught:
        asyncio.run(work())
    assert str(caught.value) == REFUSED + MISSING
    assert len(received) == 2
    # A native answer is not asked for again.
    assert len(model.seen) == 1


@pytest.mark.parametrize(
    "answer",
    [
        text_result(BAD, "length"),
        text_result(BAD, "content_filter"),
        text_result(BAD, refusal="No."),
        tool_result("{}", "look"),
    ],
)
def test_native_answers_that_cannot_fit_are_passed_on(answer: LLMResult):
    assert ask(Model(answer), NATIVE) == list(answer.as_chunks())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Oslo", "it is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("", "it is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"city": 5}', "city: 5 is not of type"),
        ('{"city": "Oslo, Norway"}', "city: "),
        ("[" * 40_000 + "]" * 40_000, "it is nested too deeply"),
        ("[" * 100_000, "it is not JSON: more than 50,000 lists and objects"),
        ("5", "the answer: 5 is not of type"),
    ],
)
def test_a_problem_is_named(text: str, problem: str):
    assert error_of(Model(text_result(text)), NATIVE).startswith(REFUSED + problem)


def test_an_answer_that_is_too_much_work_is_refused():
    schema: dict[str, Any] = {"$ref": "#/$defs/0", "$defs": {"40": {}}}
    for number in range(40):
        reference = {"$ref": f"#/$defs/{number + 1}"}
        schema["$defs"][str(number)] = {"allOf": [reference, reference]}
    invocation = new_call({"response_format": response_format(schema)})
    answer = json.dumps([[1] * 1000] * 250)
    with pytest.raises(InvokeServerUnavailableError) as caught:
        ask(Model(text_result(answer)), NATIVE, invocation)
    expected = "Too much work to validate against this JSON schema"
    assert str(caught.value) == REFUSED + expected


@pytest.mark.parametrize("features", [NATIVE, TOOLS, []])
def test_an_invalid_schema_is_refused_before_the_call(features: list[ModelFeature]):
    model = Model(text_result(GOOD))
    invocation = new_call({"response_format": response_format({"type": "odd"})})
    with pytest.raises(InvokeBadRequestError) as caught:
        ask(model, features, invocation)
    assert str(caught.value).startswith(
        "'response_format.json_schema.schema' is not a valid JSON schema: "
    )
    assert caught.value.param == "response_format.json_schema.schema"
    assert model.seen == []


def test_a_schema_that_refers_to_itself_is_refused():
    invocation = new_call({"response_format": response_format({"$ref": "#"})})
    with pytest.raises(InvokeBadRequestError) as caught:
        ask(Model(text_result(GOOD)), NATIVE, invocation)
    assert str(caught.value) == (
        "The schema of 'response_format' cannot be resolved: Circular $ref in the"
        " schema"
    )


# A tool that takes the answer.


def test_a_model_with_tools_has_to_call_the_one_for_the_answer():
    model = Model(tool_result(GOOD))
    (received,) = ask(model, TOOLS, new_call(stream=True, tool_choice="auto"))
    (request,) = model.requests
    tool = PromptMessageTool(
        name="give_answer",
        description="Give the answer here, and nowhere else.",
        parameters=SCHEMA,
    )
    assert request == LLMRequest(
        messages=[QUESTION],
        model_parameters={"temperature": 0},
        tools=[tool],
        tool_choice={"name": "give_answer"},
        stream=False,
    )
    assert (received.text, received.delta.finish_reason) == (GOOD, "stop")
    assert received.delta.message.tool_calls == []
    assert (received.id, received.model) == ("answer", "m")
    assert received.delta.usage == LLMUsage.of(2, 3, total_price=Decimal(1))


def test_a_model_that_ignores_the_tool_may_answer_in_text():
    (received,) = ask(Model(text_result(f"Sure: {GOOD}.")), TOOLS)
    assert (received.text, received.delta.finish_reason) == (GOOD, "stop")


def test_the_tools_of_the_caller_stay_callable():
    own = PromptMessageTool(name="look")
    model = Model(text_result(GOOD))
    ask(model, TOOLS, new_call(tools=[own], tool_choice="auto"))
    (request,) = model.requests
    assert (request.tools, request.tool_choice) == ([own], "auto")
    assert isinstance(request.messages[0], SystemPromptMessage)


# A schema in the prompt.


def test_any_other_model_is_told_the_schema():
    model = Model(text_result(GOOD))
    schema = {**SCHEMA, "description": "Städte"}
    parameters = {"response_format": response_format(schema), "seed": 5}
    (received,) = ask(model, [], new_call(parameters, stream=True))
    instructions = (
        "Answer with one JSON document that satisfies this JSON schema, and with"
        " nothing else: no explanation, no code fence.\n"
    ) + json.dumps(schema, ensure_ascii=False)
    assert model.requests == [
        LLMRequest(
            messages=[SystemPromptMessage(content=instructions), QUESTION],
            model_parameters={"seed": 5},
        )
    ]
    assert "Städte" in instructions
    assert received.text == GOOD


def test_reasoning_is_passed_on_and_other_parts_are_not():
    thinking = ThinkingPromptMessageContent(data="Hm.")
    text = TextPromptMessageContent(data=GOOD)
    choice = LLMChoice(
        message=AssistantPromptMessage(content=[thinking, text]),
        finish_reason="stop",
        extra={"x": {"signature": "s"}},
    )
    (received,) = ask(Model(LLMResult(choices=[choice])), [])
    message = received.delta.message
    assert (message.content, message.reasoning_content) == (GOOD, "Hm.")
    assert received.delta.extra == {}
    (received,) = ask(Model(text_result(GOOD)), [])
    assert received.delta.message.reasoning_content is None


# The second attempt.


def test_an_answer_that_does_not_fit_is_asked_for_once_more():
    model = Model(text_result(f"Well: {BAD}"), text_result(GOOD))
    (received,) = ask(model, [])
    first, second = model.requests
    correction = (
        f"This does not satisfy the schema: {MISSING}. Give the whole answer again,"
        " mended."
    )
    assert second == replace(
        first,
        messages=[
            *first.messages,
            AssistantPromptMessage(content=BAD),
            UserPromptMessage(content=correction),
        ],
    )
    assert received.text == GOOD
    # Both calls were made and have to be paid for.
    assert received.delta.usage == LLMUsage.of(4, 6, total_price=Decimal(2))


def test_an_empty_answer_is_sent_back_as_an_empty_object():
    model = Model(text_result(""), text_result(GOOD))
    ask(model, [])
    assert model.requests[1].messages[-2] == AssistantPromptMessage(content="{}")


def test_a_second_attempt_uses_the_tool_as_well():
    model = Model(tool_result(BAD), tool_result(GOOD))
    (received,) = ask(model, TOOLS)
    assert model.requests[1].tool_choice == {"name": "give_answer"}
    assert model.requests[1].messages[1] == AssistantPromptMessage(content=BAD)
    assert received.text == GOOD


def test_there_is_no_third_attempt():
    model = Model(text_result(BAD), text_result('{"city": 5}'), text_result(GOOD))
    assert error_of(model, []).startswith(REFUSED + "city: 5 is not of type")
    assert len(model.seen) == 2


@pytest.mark.parametrize(
    "answer",
    [
        text_result(BAD, "length"),
        text_result(BAD, "content_filter"),
        text_result("", refusal="No."),
    ],
)
def test_an_answer_that_would_not_improve_is_passed_on(answer: LLMResult):
    model = Model(answer)
    result = fold(ask(model, []))
    assert len(model.seen) == 1
    assert (result.text, result.finish_reason) == (answer.text, answer.finish_reason)
    assert result.message.refusal == answer.message.refusal
    assert result.usage == answer.usage


def test_a_second_attempt_that_was_cut_is_passed_on():
    model = Model(text_result(BAD), text_result('{"ci', "length"))
    (received,) = ask(model, [])
    assert (received.text, received.delta.finish_reason) == ('{"ci', "length")


# JSON in texts.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('  {"a": 1}\n', '{"a": 1}'),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('```\n{"a": 1}\n```', '{"a": 1}'),
        ('First:\n```json\n{"a": 1}\n```\nOr:\n```json\n{"b": 2}\n```', '{"a": 1}'),
        ('Here: {"a": [1]} as asked', '{"a": [1]}'),
        ('Here: [{"a": 1}] as asked', '[{"a": 1}]'),
        ('Here: [1, {"a": 1}', '[1, {"a": 1}'),
        ('{"a": "} and ] here"} trailing', '{"a": "} and ] here"} trailing'),
        ('"a {text}"', '"a {text}"'),
        ("[1] and [2]", "[1] and [2]"),
        ("}{", "}{"),
        ("a ] b [ c", "a ] b [ c"),
        ('Here: {"a": {"b": 1}} as asked', '{"a": {"b": 1}}'),
        ("Here: [[1], [2]] as asked", "[[1], [2]]"),
        ('```json\n"x"\n```', '"x"'),
        ("```\n5\n```", "5"),
        ("X{}", "{}"),
        ("x{}", "{}"),
        ("x[]", "[]"),
        ("no JSON", "no JSON"),
        ("", ""),
    ],
)
def test_the_json_is_taken_out_of_its_text(text: str, expected: str):
    assert extract_json(text) == expected
