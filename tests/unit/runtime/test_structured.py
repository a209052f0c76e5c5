"""Tests for structured output: answers that match a schema, from any kind of model."""

import json
from typing import Any

import pytest

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.models.entities import ModelFeature
from modelyard.models.llm import LLMChoice, LLMRequest, LLMResult, LLMUsage
from modelyard.models.messages import (
    AssistantPromptMessage,
    ToolCall,
    ToolCallFunction,
    UserPromptMessage,
)
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.policies.structured import ANSWER_TOOL, Structured, extract_json

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


class Model:
    """A mock model that returns these answers, one per call."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.seen: list[LLMRequest] = []

    async def __call__(self, invocation: Invocation) -> Chunks:
        self.seen.append(invocation.request)
        next_answer = self._answers.pop(0)
        calls = [
            ToolCall(
                id="c",
                function=ToolCallFunction(
                    name=ANSWER_TOOL, arguments=json.dumps(next_answer)
                ),
            )
        ]
        message = (
            AssistantPromptMessage(content=next_answer)
            if isinstance(next_answer, str)
            else AssistantPromptMessage(tool_calls=calls)
        )
        choice = LLMChoice(
            message=message,
            finish_reason="stop" if isinstance(next_answer, str) else "tool_calls",
        )
        for chunk in LLMResult(choices=[choice], usage=LLMUsage.of(2, 3)).as_chunks():
            yield chunk


async def answer(model: Model, features: Any, response_format: Any = FORM) -> LLMResult:
    request = LLMRequest(
        messages=[UserPromptMessage(content="where?")],
        model_parameters={"response_format": response_format},
    )
    invocation = Invocation(
        tenant="t", provider="p", model="m", model_type=ModelType.LLM, request=request
    )
    return await LLMResult.collect(Structured(lambda _: features)(invocation, model))


def run(work: Any) -> Any:
    import asyncio

    return asyncio.run(work)


def test_a_model_with_structured_output_gets_the_format_unchanged():
    model = Model('{"city": "Oslo"}')
    assert (
        run(answer(model, [ModelFeature.STRUCTURED_OUTPUT])).text == '{"city": "Oslo"}'
    )
    assert model.seen[0].model_parameters["response_format"] == FORM
    assert run(answer(Model('{"city": "Oslo"}'), None)).text == '{"city": "Oslo"}'


def test_a_model_with_tools_is_forced_to_call_a_hidden_tool():
    model = Model({"city": "Oslo"})
    result = run(answer(model, [ModelFeature.TOOL_CALL]))
    assert (json.loads(result.text), result.finish_reason, result.tool_calls) == (
        {"city": "Oslo"},
        "stop",
        [],
    )
    assert model.seen[0].tool_choice == {"name": ANSWER_TOOL}
    assert "response_format" not in model.seen[0].model_parameters


def test_other_models_are_prompted_with_the_schema():
    model = Model('Sure:\n```json\n{"city": "Oslo"}\n```')
    assert json.loads(run(answer(model, [])).text) == {"city": "Oslo"}
    assert '"city"' in model.seen[0].messages[0].text


def test_an_invalid_answer_is_repaired_once_and_both_calls_are_counted():
    model = Model('{"town": 1}', '{"city": "Oslo"}')
    result = run(answer(model, []))
    assert json.loads(result.text) == {"city": "Oslo"}
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (4, 6)
    assert '"city" is a required property' in model.seen[1].messages[-1].text


@pytest.mark.parametrize(
    ("answers", "features"),
    [
        (["{}"], [ModelFeature.STRUCTURED_OUTPUT]),
        (["{}", "nonsense"], []),
        ([{}, {"city": 5}], [ModelFeature.TOOL_CALL]),
    ],
)
def test_an_answer_that_stays_invalid_is_an_error(
    answers: list[Any], features: list[ModelFeature]
):
    with pytest.raises(
        InvokeServerUnavailableError, match="does not match the JSON schema"
    ):
        run(answer(Model(*answers), features))


@pytest.mark.parametrize(
    "schema", [{"type": "odd"}, {"$ref": "https://example.com/schema.json"}]
)
def test_invalid_schemas_and_external_references_are_refused(schema: Any):
    response_format = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": schema},
    }
    with pytest.raises(InvokeBadRequestError):
        run(answer(Model("{}"), [ModelFeature.STRUCTURED_OUTPUT], response_format))


def test_a_catastrophic_pattern_is_matched_in_linear_time():
    response_format = {
        "type": "json_schema",
        "json_schema": {
            "name": "x",
            "schema": {"type": "string", "pattern": "^(a+)+$"},
        },
    }
    assert run(answer(Model(json.dumps("a" * 40)), None, response_format)).text
    with pytest.raises(InvokeServerUnavailableError, match="does not match"):
        run(answer(Model(json.dumps("a" * 40 + "b")), None, response_format))


@pytest.mark.parametrize(
    ("text", "expected_json"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("```\n[1]\n```", "[1]"),
        ('It is {"a": 1}.', '{"a": 1}'),
        ("none", "none"),
        ('"x"', '"x"'),
    ],
)
def test_json_is_extracted_from_surrounding_text(text: str, expected_json: str):
    assert extract_json(text) == expected_json
